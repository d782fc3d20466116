//! Tunnels whose TLS ends here: to a listed upstream, or to a host of files.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body};
use darter_api::UpstreamName;
use darter_runtime::server::{CallerAddress, ServerOptions, serve_connection};
use http::{Method, Request, Response};
use hyper::upgrade::OnUpgrade;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::{Inner, front, metrics::OpenTunnel, refusal::Refusal, target::Target, upgraded};
use crate::files;

/// What an HTTP/2 client inside a tunnel may push before the registry has taken it: enough for
/// 1 Gbit/s over 30 ms.
const TUNNEL_WINDOW: u32 = 4 << 20;
/// Tunnels in which all of that may wait to be passed on; what the others may push in all of
/// their requests is [`NARROW_WINDOW`]: 186 MiB in 512 tunnels, and not 2 GiB.
pub(super) const WIDE_TUNNELS: usize = 16;
/// See [`WIDE_TUNNELS`]: enough for 1 Gbit/s over 2 ms.
const NARROW_WINDOW: u32 = 256 << 10;
/// For it to answer a ping: people suspend clients, and laptops.
const TUNNEL_PING_TIMEOUT: Duration = Duration::from_secs(30);
/// For a client's TLS handshake inside a tunnel.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Whom a tunnel leads to.
#[derive(Clone)]
pub(super) enum Behind {
    /// A registry of the list.
    Registry(UpstreamName),
    /// A host of a rule.
    Files(files::Host),
}

/// One such tunnel.
pub(super) struct Session {
    pub(super) inner: Arc<Inner>,
    pub(super) behind: Behind,
    pub(super) target: Target,
    pub(super) client: CallerAddress,
    pub(super) tunnel: OpenTunnel,
}

impl Session {
    /// Serves HTTP in it until it ends.
    pub(super) async fn run(self, upgrade: OnUpgrade, acceptor: TlsAcceptor) {
        let Some(client) = upgraded(upgrade).await else {
            return;
        };
        let stream = match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(client)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(cause)) => return self.no_handshake(&cause.to_string()),
            Err(_) => return self.no_handshake("the client does not answer"),
        };
        let unknown = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let address = SocketAddr::from((self.client.0.unwrap_or(unknown), 0));
        let tasks = self.inner.tasks.clone();
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let wide = is_h2.then(|| Arc::clone(&self.inner.wide).try_acquire_owned());
        let wide = wide.and_then(Result::ok);
        let in_all = wide.as_ref().map_or(NARROW_WINDOW, |_| TUNNEL_WINDOW);
        let (router, tunnel) = self.router();
        let options = Arc::new(ServerOptions {
            window: Some(TUNNEL_WINDOW),
            connection_window: Some(in_all),
            ping_timeout: TUNNEL_PING_TIMEOUT,
            ..ServerOptions::default()
        });
        Box::pin(serve_connection(stream, address, router, tasks, options)).await;
        drop((tunnel, wide));
    }

    fn no_handshake(self, cause: &str) {
        self.inner.metrics.refused(Refusal::Handshake);
        let host = &self.target.host;
        tracing::info!(cause, host, "a client broke off TLS: does it trust ca.crt?");
    }

    /// Answers the requests inside the tunnel.
    fn router(self) -> (Router, OpenTunnel) {
        let Self {
            inner,
            behind,
            target,
            tunnel,
            ..
        } = self;
        let router = Router::new().fallback(move |request: Request<Body>| {
            let (inner, behind, target) = (Arc::clone(&inner), behind.clone(), target.clone());
            async move { inner.within(behind, target, request).await }
        });
        (router, tunnel)
    }
}

impl Inner {
    /// Answers a request, wherever it was made, for whom the tunnel or its target named.
    pub(super) async fn within(
        &self,
        behind: Behind,
        target: Target,
        request: Request<Body>,
    ) -> Response<Body> {
        if *request.method() == Method::CONNECT {
            self.metrics.refused(Refusal::Malformed);
            return Refusal::Malformed.response();
        }
        match behind {
            Behind::Registry(upstream) => front::answer(self, upstream, target, request).await,
            Behind::Files(host) => {
                self.metrics.answered_by("file");
                host.answer(request).await
            }
        }
    }
}
