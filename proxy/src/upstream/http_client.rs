//! The HTTP client of one upstream.

use std::{
    future::Future,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{
            HttpConnector,
            dns::{GaiResolver, Name},
        },
    },
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore,
    client::{Resumption, WantsClientCert},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::time::Instant;
use tower::Service;

use super::{
    UpstreamOptions,
    policy::is_public,
    way::{Via, Way},
};

/// For a connection to be made, TLS not counted: a lost first packet is sent again after
/// a second.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_millis(2500);
/// For a reply's headers to come, the connection counted. An upstream that is silent for so
/// long leaves its client a second of the five in which it wants to know.
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_millis(3500);
/// The same for an upstream that is busy answering others.
const BUSY_TIMEOUT: Duration = Duration::from_secs(25);
/// Attempts at a question whose connection ended instead of a reply: it may have been idle
/// for long, and the upstream closed it as the question left (RFC 9112, section 9.3.1).
const ATTEMPTS: usize = 3;

type Inner = Client<HttpsConnector<Way>, Body>;

/// Three clients: one for what is listed, which alone shows the proxy's certificate; one for
/// clients' own requests and for other upstreams, which never does; one that connects to public addresses only.
#[derive(Debug, Clone)]
pub(super) struct HttpClient {
    listed: Inner,
    relayed: Inner,
    public: Inner,
}

/// Whom a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The upstream, its token servers, and what is listed of it: shown the proxy's certificate.
    Own,
    /// Another upstream.
    Fellow,
    /// Whatever has a public address.
    Public,
}

/// A request that got no reply.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("no connection")]
    Connect(#[source] hyper_util::client::legacy::Error),
    #[error("no reply within {0:?}")]
    Timeout(Duration),
    #[error("it was silent a moment ago")]
    Silent,
}

impl SendError {
    /// Whether nothing at all came back; a refused connection is an answer.
    pub(super) fn is_silence(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_connect() && is_timeout(error),
            Self::Timeout(_) => true,
            Self::Silent => false,
        }
    }
}

fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::TimedOut) {
            return true;
        }
        cause = error.source();
    }
    false
}

impl HttpClient {
    pub(super) fn new(options: &UpstreamOptions) -> Result<Self, String> {
        let via = options.proxy.as_ref().map(|text| Via::parse(text.reveal()));
        let via = via.transpose()?;
        let config = trusting(options.ca.as_deref())?;
        let nobody = without_sessions(config.clone().with_no_client_auth());
        let via = via.map(|via| Arc::new(via.trusting(&Arc::new(nobody.clone()))));
        let listed = match (&options.client_certificate, &options.client_key) {
            (Some(certificate), Some(key)) => {
                let (chain, key) = identity(certificate, key)?;
                let wrong = |cause| format!("the client's certificate: {cause}");
                without_sessions(config.with_client_auth_cert(chain, key).map_err(wrong)?)
            }
            (None, None) => nobody.clone(),
            _ => return Err("`client_certificate` goes with `client_key`".to_owned()),
        };
        Ok(Self {
            listed: client(listed, false, via.clone()),
            relayed: client(nobody.clone(), false, via.clone()),
            public: client(nobody, true, via),
        })
    }

    /// Sends a GET or HEAD.
    pub(super) async fn send(
        &self,
        request: &Request<()>,
        reach: Reach,
    ) -> Result<Response<Incoming>, SendError> {
        let client = match reach {
            Reach::Own => &self.listed,
            Reach::Fellow => &self.relayed,
            Reach::Public => &self.public,
        };
        tokio::time::timeout(HEADER_TIMEOUT, persist(client, request))
            .await
            .map_err(|_| SendError::Timeout(HEADER_TIMEOUT))?
            .map_err(SendError::Connect)
    }

    /// As `send` to a listed target, but waits on after each [`HEADER_TIMEOUT`] at whose end
    /// the upstream is busy answering others, [`BUSY_TIMEOUT`] at most.
    pub(super) async fn send_while(
        &self,
        request: &Request<()>,
        busy: impl Fn() -> bool,
    ) -> Result<Response<Incoming>, SendError> {
        let began = Instant::now();
        let mut sent = std::pin::pin!(persist(&self.listed, request));
        loop {
            if let Ok(reply) = tokio::time::timeout(HEADER_TIMEOUT, &mut sent).await {
                return reply.map_err(SendError::Connect);
            }
            if !busy() || began.elapsed() >= BUSY_TIMEOUT {
                return Err(SendError::Timeout(began.elapsed()));
            }
        }
    }

    /// As `send`, without a limit: an upload's reply comes when the upload is done.
    pub(super) async fn send_patiently(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, SendError> {
        self.listed
            .request(request)
            .await
            .map_err(SendError::Connect)
    }

    /// As `send_patiently`, for a client whose right nobody has checked: without the proxy's
    /// certificate.
    pub(super) async fn relay(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, SendError> {
        let sent = self.relayed.request(request).await;
        sent.map_err(SendError::Connect)
    }
}

/// Sends it again where the connection ended before a reply began.
async fn persist(
    client: &Inner,
    request: &Request<()>,
) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
    let mut attempts = 1;
    loop {
        let sent = client.request(request.clone().map(|()| Body::empty()));
        match sent.await {
            Err(error) if !error.is_connect() && attempts < ATTEMPTS => attempts += 1,
            result => return result,
        }
    }
}

type Trusting = ConfigBuilder<ClientConfig, WantsClientCert>;

/// TLS that trusts the system's authorities and those of a file.
fn trusting(ca: Option<&Path>) -> Result<Trusting, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|cause| cause.to_string())?;
    Ok(config.with_root_certificates(roots(ca)?))
}

/// TLS that shows no certificate, for hosts that the system's authorities or those of a PEM file
/// vouch for.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn tls_of_nobody(ca: Option<&Path>) -> Result<ClientConfig, String> {
    Ok(without_sessions(trusting(ca)?.with_no_client_auth()))
}

/// The system's authorities and those of a file.
fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = system_roots().clone();
    if let Some(path) = ca {
        for certificate in certificates(path)? {
            let wrong = |cause| format!("the CA file {}: {cause}", path.display());
            roots.add(certificate).map_err(wrong)?;
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |cause| format!("the certificates in {}: {cause}", path.display());
    let read = CertificateDer::pem_file_iter(path).map_err(wrong)?;
    let all = read.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    if all.is_empty() {
        return Err(format!("{} has no certificate", path.display()));
    }
    Ok(all)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(certificate: &Path, key: &Path) -> Result<Identity, String> {
    let wrong = |cause| format!("the key in {}: {cause}", key.display());
    let key = PrivateKeyDer::from_pem_file(key).map_err(wrong)?;
    Ok((certificates(certificate)?, key))
}

pub(super) fn connector(public_only: bool) -> HttpConnector<Resolver> {
    let mut connector = HttpConnector::new_with_resolver(Resolver {
        inner: GaiResolver::new(),
        public_only,
    });
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector
}

/// Sessions are remembered by name and not by port: a token server beside its registry was
/// shown the registry's ticket, and hung up. Connections are kept, so that little is lost.
fn without_sessions(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config
}

fn client(config: ClientConfig, public_only: bool, via: Option<Arc<Via>>) -> Inner {
    let connector = Way {
        straight: connector(public_only),
        via: via.map(|via| (via, connector(false))),
        public_only,
    };
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(32)
        .build(connector)
}

/// The system's certificate authorities, read once.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "some system certificates can't be read");
        }
        roots.add_parsable_certificates(found.certs);
        roots
    })
}

/// Name resolution that can leave out addresses that are not public, so that a name
/// can't be made to point inside.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    inner: GaiResolver,
    public_only: bool,
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Service::poll_ready(&mut self.inner, context)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolving = self.inner.call(name);
        let public_only = self.public_only;
        Box::pin(async move {
            let found: Vec<SocketAddr> = resolving.await?.collect();
            let usable: Vec<SocketAddr> = found
                .into_iter()
                .filter(|found| !public_only || is_public(found.ip()))
                .collect();
            if usable.is_empty() {
                return Err(std::io::Error::other(
                    "the name has no address that may be dialled",
                ));
            }
            Ok(usable.into_iter())
        })
    }
}
