//! The HTTP client of one rule: to addresses that the rule permits, TLS always verified.

use std::{
    future::Future,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        self,
        connect::{
            HttpConnector,
            dns::{GaiResolver, Name},
        },
    },
    rt::{TokioExecutor, TokioTimer},
};
use ipnet::IpNet;
use tower::Service;

use super::rule::is_permitted;
use crate::{source::SourceError, upstream::tls_of_nobody};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(2500);
/// For a reply's headers to come, the connection counted.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Client(legacy::Client<HttpsConnector<HttpConnector<Permitted>>, Body>);

impl Client {
    /// Permitted these private addresses, and trusting the authorities of a PEM file beside the
    /// system's.
    ///
    /// # Errors
    /// What is wrong with the authorities.
    pub(super) fn new(private: &[IpNet], ca: Option<&Path>) -> Result<Self, String> {
        let mut connector = HttpConnector::new_with_resolver(Permitted {
            inner: GaiResolver::new(),
            private: private.into(),
        });
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls_of_nobody(ca)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(16)
            .build(connector);
        Ok(Self(client))
    }

    /// Asks for a file as it is, without credentials.
    pub(super) async fn ask(
        &self,
        method: Method,
        url: &Uri,
        mut headers: HeaderMap,
    ) -> Result<Response<Incoming>, SourceError> {
        let identity = HeaderValue::from_static("identity");
        headers.insert(header::ACCEPT_ENCODING, identity);
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        *request.uri_mut() = url.clone();
        *request.headers_mut() = headers;
        let replied = tokio::time::timeout(HEADER_TIMEOUT, self.0.request(request)).await;
        let late = || {
            SourceError::broken(
                "the request",
                std::io::Error::from(std::io::ErrorKind::TimedOut),
            )
        };
        let replied = replied.map_err(|_| late())?;
        replied.map_err(|cause| SourceError::broken("the request", cause))
    }

    /// Sends a client's request on as it is.
    pub(super) async fn relay(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, SourceError> {
        let replied = self.0.request(request).await;
        replied.map_err(|cause| SourceError::broken("the request", cause))
    }
}

/// Name resolution that leaves out the addresses that the rule does not permit: a name can't be
/// made to point inside.
#[derive(Debug, Clone)]
struct Permitted {
    inner: GaiResolver,
    private: Arc<[IpNet]>,
}

impl Service<Name> for Permitted {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Service::poll_ready(&mut self.inner, context)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (resolving, private) = (self.inner.call(name), Arc::clone(&self.private));
        Box::pin(async move {
            let found = resolving.await?;
            let usable = found.filter(|found| is_permitted(found.ip(), &private));
            let usable: Vec<SocketAddr> = usable.collect();
            if usable.is_empty() {
                let none = "the name has no address that may be dialled";
                return Err(std::io::Error::other(none));
            }
            Ok(usable.into_iter())
        })
    }
}
