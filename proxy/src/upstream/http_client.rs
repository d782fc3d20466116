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
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tokio::time::Instant;
use tower::Service;

use super::policy::is_public;

/// For a connection to be made, TLS not counted: a lost first packet is sent again after
/// a second.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(2500);
/// For a reply's headers to come, the connection counted. An upstream that is silent for so
/// long leaves its client a second of the five in which it wants to know.
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_millis(3500);
/// The same for an upstream that is busy answering others.
const BUSY_TIMEOUT: Duration = Duration::from_secs(25);
/// Attempts at a question whose connection ended instead of a reply: it may have been idle
/// for long, and the upstream closed it as the question left (RFC 9112, section 9.3.1).
const ATTEMPTS: usize = 3;

type Inner = Client<HttpsConnector<HttpConnector<Resolver>>, Body>;

/// Two clients: one for what is listed, one that connects to public addresses only.
#[derive(Debug, Clone)]
pub(super) struct HttpClient {
    listed: Inner,
    public: Inner,
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
    pub(super) fn new(ca: Option<&Path>) -> Result<Self, String> {
        let mut roots = system_roots().clone();
        if let Some(path) = ca {
            let certificates = CertificateDer::pem_file_iter(path).map_err(|cause| {
                format!("the CA file {} can't be read: {cause}", path.display())
            })?;
            let mut added = 0;
            for certificate in certificates {
                let certificate = certificate
                    .map_err(|cause| format!("the CA file {}: {cause}", path.display()))?;
                roots
                    .add(certificate)
                    .map_err(|cause| format!("the CA file {}: {cause}", path.display()))?;
                added += 1;
            }
            if added == 0 {
                return Err(format!("the CA file {} has no certificate", path.display()));
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|cause| cause.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            listed: client(config.clone(), false),
            public: client(config, true),
        })
    }

    /// Sends a GET or HEAD, to a listed target or to whatever public one.
    pub(super) async fn send(
        &self,
        request: &Request<()>,
        public_only: bool,
    ) -> Result<Response<Incoming>, SendError> {
        let client = if public_only {
            &self.public
        } else {
            &self.listed
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

fn client(config: ClientConfig, public_only: bool) -> Inner {
    let mut connector = HttpConnector::new_with_resolver(Resolver {
        inner: GaiResolver::new(),
        public_only,
    });
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
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
