//! What a node shows to others, and how it checks what they show.
//!
//! Owner of state: the certificate that is shown now, replaced in place when it is renewed.
//! Connections that stand keep what they began with.

use std::{
    fmt, io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use darter_api::{HostId, NodeKey};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::{CertifiedKey, SigningKey},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{Certificate, CertificateError, SparseStream, certificate, host_of, provider};

/// A node has nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The certificate or the authority's can't be read.
    #[error("the certificate can't be used")]
    Certificate(#[from] CertificateError),
    /// The certificate is for another key than the node's.
    #[error("the certificate is for host {found}, and this node is {own}")]
    OtherHost {
        /// Whose certificate it is.
        found: HostId,
        /// Whose key it is.
        own: HostId,
    },
    /// The certificate has ended.
    #[error("the certificate has expired")]
    Expired,
    /// rustls refuses key, certificate or authority.
    #[error("key, certificate and authority don't work together")]
    Tls(#[from] rustls::Error),
    /// The certificate is not the authority's.
    #[error("the certificate is not of the cluster's authority")]
    OtherAuthority(#[source] rustls::Error),
    /// The authority's certificate can't be trusted.
    #[error("the authority's certificate can't be used")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// A node's key with its certificate, and the authority that others are checked against.
/// Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    host: HostId,
    signing: Arc<dyn SigningKey>,
    shown: Arc<Shown>,
    roots: Arc<RootCertStore>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// The certificate of the moment, as rustls asks for it.
struct Shown {
    key: ArcSwap<CertifiedKey>,
    expires: ArcSwap<SystemTime>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shown(until {:?})", self.expires.load())
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key.load_full())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.key.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?}, {:?})", self.0.host, self.0.shown)
    }
}

impl Credentials {
    /// Of the node with this key, which shows `certificate` and believes those that the
    /// authorities in `roots` (PEM) signed.
    ///
    /// # Errors
    /// When they don't belong together.
    pub fn new(
        key: &NodeKey,
        certificate: &Certificate,
        roots: &[u8],
    ) -> Result<Self, CredentialsError> {
        let host = key.id();
        let pkcs8 = key.to_pkcs8().map_err(|_| {
            CredentialsError::Tls(rustls::Error::General(
                "the key can't be encoded".to_owned(),
            ))
        })?;
        let signing =
            rustls::crypto::aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8))?;
        let mut store = RootCertStore::empty();
        for root in certificate::all_of(roots)? {
            store.add(root)?;
        }
        let roots = Arc::new(store);
        let shown = Arc::new(Shown {
            key: ArcSwap::from_pointee(CertifiedKey::new(
                vec![certificate.der.clone()],
                Arc::clone(&signing),
            )),
            expires: ArcSwap::from_pointee(certificate.expires),
        });
        let credentials = Self(Arc::new(Inner {
            host,
            signing,
            server: server_config(&roots, &shown)?,
            client: client_config(&roots, &shown)?,
            shown,
            roots,
        }));
        credentials.replace(certificate)?;
        Ok(credentials)
    }

    /// Shows another certificate from now on.
    ///
    /// # Errors
    /// When it is not this node's or not of its cluster; the old one stays.
    pub fn replace(&self, certificate: &Certificate) -> Result<(), CredentialsError> {
        let own = self.0.host;
        if certificate.host != own {
            let found = certificate.host;
            return Err(CredentialsError::OtherHost { found, own });
        }
        if !certificate.is_valid_at(SystemTime::now()) {
            return Err(CredentialsError::Expired);
        }
        self.verify(certificate)
            .map_err(CredentialsError::OtherAuthority)?;
        let chain = vec![certificate.der.clone()];
        let shown = CertifiedKey::new(chain, Arc::clone(&self.0.signing));
        self.0.shown.key.store(Arc::new(shown));
        self.0.shown.expires.store(Arc::new(certificate.expires));
        Ok(())
    }

    /// As another node's server would.
    fn verify(&self, certificate: &Certificate) -> Result<(), rustls::Error> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.0.roots), provider())
                .build()
                .map_err(|cause| rustls::Error::General(cause.to_string()))?;
        let now = rustls_pki_types::UnixTime::now();
        verifier
            .verify_client_cert(&certificate.der, &[], now)
            .map(drop)
    }

    /// Whose they are.
    pub fn host(&self) -> HostId {
        self.0.host
    }

    /// Until when the certificate of the moment counts.
    pub fn expires(&self) -> SystemTime {
        **self.0.shown.expires.load()
    }

    /// What shakes hands with nodes that connect.
    pub fn acceptor(&self) -> Acceptor {
        Acceptor::new(Arc::clone(&self.0.server), true)
    }

    pub(super) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0.client)
    }
}

fn server_config(
    roots: &Arc<RootCertStore>,
    shown: &Arc<Shown>,
) -> Result<Arc<ServerConfig>, CredentialsError> {
    let members =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(members)
        .with_cert_resolver(Arc::clone(shown) as _);
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client_config(
    roots: &Arc<RootCertStore>,
    shown: &Arc<Shown>,
) -> Result<Arc<ClientConfig>, CredentialsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(Arc::clone(roots))
        .with_client_cert_resolver(Arc::clone(shown) as _);
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Shakes hands as a server.
#[derive(Clone)]
pub struct Acceptor {
    tls: TlsAcceptor,
    members: bool,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor(..)")
    }
}

impl Acceptor {
    /// With this configuration; `members` says whether only nodes may come.
    pub(super) fn new(config: Arc<ServerConfig>, members: bool) -> Self {
        let tls = TlsAcceptor::from(config);
        Self { tls, members }
    }

    /// The connection, and who is at its other end, if only nodes may come.
    ///
    /// # Errors
    /// When the other end has no certificate that counts, or does not answer within `limit`.
    pub async fn accept(
        &self,
        socket: TcpStream,
        limit: Duration,
    ) -> io::Result<(TlsStream<TcpStream>, Option<HostId>)> {
        let stream = tokio::time::timeout(limit, self.tls.accept(socket)).await??;
        let host = self.host_of(stream.get_ref().1.peer_certificates())?;
        Ok((stream, host))
    }

    /// The same, for a connection that mostly says nothing.
    ///
    /// # Errors
    /// Those of [`Acceptor::accept`].
    pub async fn accept_sparse(
        &self,
        socket: TcpStream,
        limit: Duration,
    ) -> io::Result<(SparseStream, Option<HostId>)> {
        let shake = SparseStream::accept(Arc::clone(self.tls.config()), socket);
        let stream = tokio::time::timeout(limit, shake).await??;
        let host = self.host_of(stream.peer_certificates())?;
        Ok((stream, host))
    }

    /// Who has shown these, if only nodes may come.
    fn host_of(&self, shown: Option<&[CertificateDer<'_>]>) -> io::Result<Option<HostId>> {
        if !self.members {
            return Ok(None);
        }
        match shown.and_then(|chain| host_of(chain.first()?)) {
            Some(host) => Ok(Some(host)),
            None => Err(io::Error::other("its certificate is no node's")),
        }
    }
}
