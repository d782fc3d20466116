//! The authority's own port: certificates for who has a token or is a member.
//!
//! HTTPS with a certificate of the authority; who connects has none yet and proves its key by
//! a signature. Nothing is kept here; [`Register`] has it all.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequest as _, Request, State},
    http::StatusCode,
    routing::post,
};
use darter_api::HostId;
use rustls::{ServerConfig, sign::SingleCertAndKey, version::TLS13};
use serde::{Deserialize, Serialize};

use super::{Acceptor, Authority, AuthorityError, Fingerprint, Register, RegisterError, provider};
use crate::{
    Tasks,
    server::{BindError, Server, ServerOptions},
};

/// Bytes of a request at most; one has some hundred.
const MOST_BODY: usize = 4096;
/// Connections at the same time.
const CONNECTIONS: usize = 1024;
/// For a request's head to come, and as long again for its body: who has neither token nor
/// certificate gets that far, and holds a connection that a member may need.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) const PATH: &str = "/v1/certificates";

/// The port can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It can't be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The authority can't certify it.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// rustls refuses what it shows.
    #[error("the authority's own port can't speak TLS")]
    Tls(#[from] rustls::Error),
}

/// A host asks for a certificate.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CertificateRequest {
    /// Its public key, as hex.
    pub(super) host: String,
    /// Over [`proof`], as hex.
    pub(super) signature: String,
    /// A token's secret, of who is no member yet.
    pub(super) secret: Option<String>,
}

/// The answer.
#[derive(Serialize, Deserialize)]
pub(super) struct Issued {
    /// In PEM form.
    pub(super) certificate: String,
    /// Of the authority, in PEM form.
    pub(super) authority: String,
}

/// Why there is none.
#[derive(Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) error: String,
}

/// What a host signs to show that the key is its own.
pub(super) fn proof(fingerprint: &Fingerprint, host: &HostId) -> Vec<u8> {
    let mut message = b"darter certificate request 1\0".to_vec();
    message.extend(fingerprint.as_bytes());
    message.extend(host.as_bytes());
    message
}

/// What answers: the authority, and how long what it signs lives.
struct Desk {
    authority: Arc<Authority>,
    life: Duration,
}

/// Serves certificates that live for `life` until the group ends; where it listens.
///
/// # Errors
/// When the port can't be had.
pub async fn serve(
    authority: Arc<Authority>,
    life: Duration,
    listen: SocketAddr,
    tasks: &Tasks,
) -> Result<SocketAddr, ServeError> {
    let shown = Arc::new(SingleCertAndKey::from(authority.port_certificate()?));
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(shown);
    let options = ServerOptions {
        max_connections: CONNECTIONS,
        header_timeout: PATIENCE,
        tls: Some(Acceptor::new(Arc::new(config), false)),
        ..ServerOptions::default()
    };
    let server = Server::bind(listen).await?;
    let address = server.local_addr();
    let router = Router::new()
        .route(PATH, post(certify))
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .with_state(Arc::new(Desk { authority, life }));
    server.serve("authority", router, tasks, options);
    Ok(address)
}

type Refused = (StatusCode, Json<Refusal>);

fn refuse(status: StatusCode, error: impl ToString) -> Refused {
    let error = error.to_string();
    (status, Json(Refusal { error }))
}

async fn certify(
    State(registrar): State<Arc<Desk>>,
    request: Request,
) -> Result<Json<Issued>, Refused> {
    let body = Json::<CertificateRequest>::from_request(request, &());
    let body = tokio::time::timeout(PATIENCE, body).await;
    let late = |_| refuse(StatusCode::REQUEST_TIMEOUT, "the request does not come");
    let Json(request) = body
        .map_err(late)?
        .map_err(|cause| refuse(cause.status(), cause.body_text()))?;
    let host: HostId = request
        .host
        .parse()
        .map_err(|cause| refuse(StatusCode::BAD_REQUEST, cause))?;
    let signature = hex::decode(&request.signature).unwrap_or_default();
    if !host.verify(
        &proof(&registrar.authority.fingerprint(), &host),
        &signature,
    ) {
        let error = "the request does not prove its host id";
        return Err(refuse(StatusCode::FORBIDDEN, error));
    }
    let issue = move || registrar.issue(&host, request.secret.as_deref());
    let issued = tokio::task::spawn_blocking(issue).await;
    issued
        .unwrap_or_else(|_| Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, "no certificate")))
        .map(Json)
}

impl Desk {
    fn issue(&self, host: &HostId, secret: Option<&str>) -> Result<Issued, Refused> {
        let admitted = Register::new(self.authority.dir()).admit(host, secret);
        if let Err(cause) = admitted {
            tracing::warn!(%host, cause = &cause as &dyn std::error::Error, "a host gets no certificate");
            return Err(refused(&cause));
        }
        match self.authority.issue(host, self.life) {
            Ok(certificate) => {
                tracing::info!(%host, life = ?self.life, "a host has a certificate");
                let authority = self.authority.pem().to_owned();
                Ok(Issued {
                    certificate,
                    authority,
                })
            }
            Err(cause) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, cause)),
        }
    }
}

/// What the host is told: nothing of the authority's files.
fn refused(cause: &RegisterError) -> Refused {
    if cause.is_refusal() {
        refuse(StatusCode::FORBIDDEN, cause)
    } else {
        refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the authority's register can't be used",
        )
    }
}
