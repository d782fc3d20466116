//! Accepting connections, and ending them so that clients can recover.
//!
//! A response body that fails in its middle ends in a clean, short FIN and never in a
//! RST: containerd resumes after a FIN and fails the pull after a RST. hyper drops its
//! buffer and the socket when a body errs, so two things stand around it:
//! [`body`] holds the error back until all good bytes have been flushed, and
//! [`socket`] closes the write side first and reads the rest away before the socket goes.

mod body;
mod socket;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tower::ServiceExt as _;

use crate::tasks::Tasks;
pub use body::FlushBeforeError;
pub use socket::{ConnectionState, LingeringSocket};

/// First byte of a TLS record that carries a handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Bounds of a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections at the same time; further ones wait in the kernel's backlog.
    pub max_connections: usize,
    /// For a request's headers to arrive.
    pub header_timeout: Duration,
    /// For running requests to end after a stop.
    pub drain: Duration,
    /// Whether a client that speaks TLS to this plain port is told so by an HTTP 400,
    /// upon which containerd goes on without TLS.
    pub answer_tls: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_connections: 8192,
            header_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(10),
            answer_tls: true,
        }
    }
}

/// The address of a connection's other end, as a request extension.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress(pub SocketAddr);

/// A port could not be had.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address}")]
pub struct BindError {
    /// The address that was asked for.
    pub address: SocketAddr,
    /// Why.
    #[source]
    pub cause: io::Error,
}

/// A bound port that does not accept yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Binds a port; 0 is any.
    ///
    /// # Errors
    /// When it can't be bound; says which.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let bind = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        bind.await.map_err(|cause| BindError { address, cause })
    }

    /// Where it listens.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the group is cancelled, then drains.
    pub fn serve(self, name: &'static str, router: Router, tasks: &Tasks, options: ServerOptions) {
        let group = tasks.clone();
        tasks.spawn_draining(
            name,
            accept(self.listener, router, group, Arc::new(options)),
        );
    }
}

async fn accept(listener: TcpListener, router: Router, tasks: Tasks, options: Arc<ServerOptions>) {
    let places = Arc::new(Semaphore::new(options.max_connections));
    let accept_all = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((socket, address)) => {
                    let connection = connection(
                        socket,
                        address,
                        router.clone(),
                        tasks.clone(),
                        Arc::clone(&options),
                    );
                    tasks.spawn_draining("connection", async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(cause) => {
                    // EMFILE and friends pass; giving up would end the service.
                    tracing::warn!(%cause, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    tasks.token().run_until_cancelled(accept_all).await;
}

async fn connection(
    mut socket: TcpStream,
    address: SocketAddr,
    router: Router,
    tasks: Tasks,
    options: Arc<ServerOptions>,
) {
    let _ = socket.set_nodelay(true);
    if options.answer_tls {
        let mut first = [0];
        let peek = tokio::time::timeout(options.header_timeout, socket.peek(&mut first));
        match tasks.token().run_until_cancelled(peek).await {
            Some(Ok(Ok(1))) if first[0] == TLS_HANDSHAKE => {
                let reply = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 36\r\nconnection: close\r\n\r\nthis port speaks plain HTTP, no TLS\n";
                let _ = socket.write_all(reply).await;
                drop(LingeringSocket::new(socket, tasks.clone()));
                return;
            }
            Some(Ok(Ok(1))) => {}
            _ => return,
        }
    }
    serve_connection(socket, address, router, tasks, options).await;
}

/// Serves HTTP on one connection that is already open (a socket, or TLS over it), with
/// the clean short end.
pub async fn serve_connection<S>(
    socket: S,
    address: SocketAddr,
    router: Router,
    tasks: Tasks,
    options: Arc<ServerOptions>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let socket = LingeringSocket::new(socket, tasks.clone());
    let state = socket.state();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        respond(request, address, router.clone(), Arc::clone(&state))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .half_close(true)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(2)))
        .keep_alive_timeout(Duration::from_secs(4))
        .max_concurrent_streams(Some(256));
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(socket), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => Some(ended),
        () = tasks.token().cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => Ok(ended),
        None => {
            serving.as_mut().graceful_shutdown();
            tokio::time::timeout(options.drain, serving).await
        }
    };
    if let Ok(Err(cause)) = ended {
        tracing::debug!(%cause, %address, "a connection ended early");
    }
}

async fn respond(
    mut request: Request<Incoming>,
    address: SocketAddr,
    router: Router,
    state: Arc<ConnectionState>,
) -> Result<Response<Body>, std::convert::Infallible> {
    request.extensions_mut().insert(ClientAddress(address));
    let version = request.version();
    let response = router.oneshot(request.map(Body::new)).await?;
    if version >= Version::HTTP_2 {
        return Ok(response);
    }
    Ok(response.map(|body| Body::new(FlushBeforeError::new(body, state))))
}

#[cfg(test)]
mod tests;
