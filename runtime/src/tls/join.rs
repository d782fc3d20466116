//! Asking the authority for a certificate.
//!
//! The authority is known by its fingerprint before a byte is said to it: from the token, or
//! from the certificate of the last time. Cancel-safe: a request that is dropped may have
//! made this host a member, which the next one finds.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use darter_api::NodeKey;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{
    AUTHORITY_NAME, Certificate, CertificateError, Fingerprint, certificate, provider,
    registrar::{CertificateRequest, Issued, PATH, Refusal, proof},
};

/// For one request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer at most; one has a few thousand.
const MOST_ANSWER: usize = 64 * 1024;

/// There is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The authority can't be reached, or is another one than was expected.
    #[error("the cluster's authority at {address} can't be asked")]
    Unreachable {
        /// Where it should be.
        address: String,
        /// Why not.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It says no.
    #[error("the cluster's authority refuses: {0}")]
    Refused(String),
    /// It can't say yes or no.
    #[error("the cluster's authority fails: {0}")]
    Failed(StatusCode),
    /// What it sent is no certificate.
    #[error("the cluster's authority sent nonsense")]
    Nonsense(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl JoinError {
    /// Whether asking again may help.
    pub const fn is_retryable(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

impl From<CertificateError> for JoinError {
    fn from(cause: CertificateError) -> Self {
        Self::Nonsense(Box::new(cause))
    }
}

/// What came.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) certificate: Certificate,
    /// As it is stored.
    pub(super) pem: String,
    /// The authority's own, which has the expected fingerprint.
    pub(super) authority: String,
}

/// A certificate for `key` from the authority with this fingerprint at `address`
/// (`HOST:PORT`); `secret` is a token's, for who is no member yet.
///
/// # Errors
/// Why there is none.
pub(super) async fn request(
    address: &str,
    fingerprint: Fingerprint,
    key: &NodeKey,
    secret: Option<String>,
) -> Result<Joined, JoinError> {
    let asked = tokio::time::timeout(TIMEOUT, ask(address, fingerprint, key, secret)).await;
    let unreachable = |cause| JoinError::Unreachable {
        address: address.to_owned(),
        cause,
    };
    let (status, body) = match asked {
        Ok(Ok(answer)) => answer,
        Ok(Err(cause)) => return Err(unreachable(cause)),
        Err(elapsed) => return Err(unreachable(elapsed.into())),
    };
    match status {
        StatusCode::OK => {}
        StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
            let said = serde_json::from_slice::<Refusal>(&body);
            let said = said.map_or_else(|_| status.to_string(), |refusal| refusal.error);
            return Err(JoinError::Refused(said));
        }
        other => return Err(JoinError::Failed(other)),
    }
    let issued: Issued =
        serde_json::from_slice(&body).map_err(|cause| JoinError::Nonsense(Box::new(cause)))?;
    let authority = certificate::all_of(issued.authority.as_bytes())?;
    if authority
        .iter()
        .any(|der| Fingerprint::of(der) != fingerprint)
    {
        return Err(JoinError::Nonsense(
            "another authority's certificate".into(),
        ));
    }
    Ok(Joined {
        certificate: Certificate::from_pem(issued.certificate.as_bytes())?,
        pem: issued.certificate,
        authority: issued.authority,
    })
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn ask(
    address: &str,
    fingerprint: Fingerprint,
    key: &NodeKey,
    secret: Option<String>,
) -> Result<(StatusCode, Bytes), Failure> {
    let host = key.id();
    let request = CertificateRequest {
        host: host.to_string(),
        signature: hex::encode(key.sign(&proof(&fingerprint, &host))),
        secret,
    };
    let request = Request::post(PATH)
        .header(header::HOST, AUTHORITY_NAME)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(serde_json::to_vec(&request)?)))?;
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from(AUTHORITY_NAME)?;
    let stream = connector(fingerprint)?.connect(name, socket).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let reply = sender.send_request(request).await?;
        let status = reply.status();
        let body = Limited::new(reply.into_body(), MOST_ANSWER)
            .collect()
            .await?;
        Ok::<_, Failure>((status, body.to_bytes()))
    };
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

pub(super) fn connector(fingerprint: Fingerprint) -> Result<TlsConnector, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Known { fingerprint }))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Believes the authority with this fingerprint, and whom it certified for its own port.
#[derive(Debug)]
struct Known {
    fingerprint: Fingerprint,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut chain = intermediates.iter();
        let authority = chain.find(|der| Fingerprint::of(der) == self.fingerprint);
        let authority = authority.ok_or_else(|| {
            rustls::Error::General("it is not the authority that the token names".to_owned())
        })?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|cause| rustls::Error::General(cause.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
