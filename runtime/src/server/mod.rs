//! Accepting connections, and ending them so that clients can recover.
//!
//! A response body that fails in its middle ends in a clean, short FIN and never in a
//! RST: containerd resumes after a FIN and fails the pull after a RST. hyper drops its
//! buffer and the socket when a body errs, so two things stand around it:
//! [`body`] holds the error back until all good bytes have been flushed, and
//! [`socket`] closes the write side first and reads the rest away before the socket goes.
//!
//! Plain requests for blobs and pieces are answered without hyper ([`direct`]), so that the
//! kernel sends files' pages as they are ([`span`]).

mod body;
mod caller;
mod direct;
mod executor;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod head;
mod rewound;
mod socket;
pub mod span;
mod unread;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body};
use bytes::{Bytes, BytesMut};
use darter_api::HostId;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tower::ServiceExt as _;

use crate::{tasks::Tasks, tls::Acceptor};
pub use body::FlushBeforeError;
pub use caller::{CallerAddress, ClientAddress, PASSED_ON, sent_by_others};
use direct::{Direct, Left};
use executor::InTasks;
use rewound::Rewound;
pub use socket::{ConnectionState, LingeringSocket};
use unread::Unread;

/// First byte of a TLS record that carries a handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

const NO_TLS: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 36\r\n\
    connection: close\r\n\r\nthis port speaks plain HTTP, no TLS\n";

/// For a handshake to end, once it is its turn: two round trips and two signatures.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long to wait when the system has no connection to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// hyper panics below it.
const LEAST_BUFFER: usize = 8192;

/// Bounds of a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections at the same time; further ones wait in the kernel's backlog.
    pub max_connections: usize,
    /// TLS handshakes under way at the same time, at most; further ones wait in turn, each for
    /// `header_timeout` at most. Thousands at once would all take longer than anybody waits.
    pub handshakes: usize,
    /// For a request's headers to arrive; the longest that a kept HTTP/1.1 connection
    /// stays idle, too.
    pub header_timeout: Duration,
    /// Of a request's headers, in bytes; more are answered 431.
    pub header_bytes: u32,
    /// For a client to take something of what it is sent; who reads nothing for longer gives
    /// its place back.
    pub stall: Duration,
    /// For running requests to end after a stop.
    pub drain: Duration,
    /// Whether a client that speaks TLS to this plain port is told so by an HTTP 400,
    /// upon which containerd goes on without TLS.
    pub answer_tls: bool,
    /// Bytes that the kernel takes of a connection before it has sent them
    /// (`TCP_NOTSENT_LOWAT`); without it, as many as its buffer holds.
    pub unsent_bytes: Option<u32>,
    /// Bytes of a request's body that an HTTP/2 client may send before they are passed on; 1 MiB
    /// where it is not said (hyper's own).
    pub window: Option<u32>,
    /// The same for all requests of a connection, which may hold so much memory.
    pub connection_window: Option<u32>,
    /// For an HTTP/2 client to answer a ping, which is sent every half of it.
    pub ping_timeout: Duration,
    /// Shakes hands on every connection; without it, the port speaks plain text. Requests of
    /// nodes then have a [`PeerIdentity`].
    pub tls: Option<Acceptor>,
    /// Whether its TLS has no buffers while nothing moves: 4 KiB less a connection, and each byte is copied
    /// once more. For many connections that say little.
    pub sparse: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_connections: 8192,
            handshakes: 128,
            header_timeout: Duration::from_secs(30),
            header_bytes: 64 * 1024,
            stall: Duration::from_secs(600),
            drain: Duration::from_secs(10),
            answer_tls: true,
            unsent_bytes: None,
            window: None,
            connection_window: None,
            ping_timeout: Duration::from_secs(4),
            tls: None,
            sparse: false,
        }
    }
}

/// Which node is at a connection's other end, proven by its certificate, as a request
/// extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerIdentity(pub HostId);

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
    let handshakes = Arc::new(Semaphore::new(options.handshakes.max(1)));
    let accept_all = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((socket, address)) => {
                    let connection = Connection {
                        address,
                        identity: None,
                        router: router.clone(),
                        tasks: tasks.clone(),
                        options: Arc::clone(&options),
                    };
                    let handshakes = Arc::clone(&handshakes);
                    let begun = connection.begin(socket, place, handshakes);
                    tasks.spawn_draining("connection", begun);
                }
                Err(cause) => {
                    // EMFILE and friends pass; giving up would end the service.
                    tracing::warn!(%cause, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tasks.token().run_until_cancelled(accept_all).await;
}

/// Serves HTTP on one connection that is already open (TLS inside a tunnel, say), with
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
    let connection = Connection {
        address,
        identity: None,
        router,
        tasks: tasks.clone(),
        options,
    };
    let socket = LingeringSocket::new(socket, tasks).patient_for(connection.options.stall);
    connection.serve(socket, Bytes::new()).await;
}

struct Connection {
    address: SocketAddr,
    identity: Option<HostId>,
    router: Router,
    tasks: Tasks,
    options: Arc<ServerOptions>,
}

impl Connection {
    async fn begin(
        self,
        mut socket: TcpStream,
        place: OwnedSemaphorePermit,
        handshakes: Arc<Semaphore>,
    ) {
        let _ = socket.set_nodelay(true);
        if let Some(bytes) = self.options.unsent_bytes {
            // Without it, slots are given back somewhat early.
            let _ = SockRef::from(&socket).set_tcp_notsent_lowat(bytes);
        }
        if let Some(acceptor) = self.options.tls.clone() {
            let limit = HANDSHAKE.min(self.options.header_timeout);
            if self.options.sparse {
                let shake = |socket| acceptor.accept_sparse(socket, limit);
                return self.serve_secured(socket, place, &handshakes, shake).await;
            }
            let shake = |socket| acceptor.accept(socket, limit);
            return self.serve_secured(socket, place, &handshakes, shake).await;
        }
        if self.options.answer_tls {
            match self.first_byte(&socket).await {
                Some(TLS_HANDSHAKE) => {
                    let _ = socket.write_all(NO_TLS.as_bytes()).await;
                    drop(LingeringSocket::new(socket, self.tasks).holding(Some(place)));
                    return;
                }
                Some(_) => {}
                None => return,
            }
        }
        let socket = LingeringSocket::new(socket, self.tasks.clone()).holding(Some(place));
        let direct = Direct {
            socket: socket.patient_for(self.options.stall),
            address: self.address,
            router: self.router.clone(),
            tasks: self.tasks.clone(),
            options: Arc::clone(&self.options),
            read: BytesMut::new(),
            read_ended: false,
        };
        match Box::pin(direct.run()).await {
            Left::Closed => {}
            Left::Hyper(socket, read) => Box::pin(self.serve(socket, read)).await,
        }
    }

    /// Serves a connection that begins with a handshake.
    async fn serve_secured<S, F>(
        mut self,
        socket: TcpStream,
        place: OwnedSemaphorePermit,
        handshakes: &Semaphore,
        shake: impl FnOnce(TcpStream) -> F,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = io::Result<(S, Option<HostId>)>>,
    {
        // On the heap, as everything large: what is needed to begin would stay as long as
        // the connection does.
        let secured = Box::pin(self.secured(socket, place, handshakes, shake)).await;
        if let Some((socket, identity)) = secured {
            self.identity = identity;
            Box::pin(self.serve(socket, Bytes::new())).await;
        }
    }

    /// The connection after its handshake, and who is at its other end.
    async fn secured<S, F>(
        &self,
        socket: TcpStream,
        place: OwnedSemaphorePermit,
        handshakes: &Semaphore,
        shake: impl FnOnce(TcpStream) -> F,
    ) -> Option<(LingeringSocket<Box<S>>, Option<HostId>)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = io::Result<(S, Option<HostId>)>>,
    {
        // Who says nothing takes nobody's turn.
        self.first_byte(&socket).await?;
        let wait = tokio::time::timeout(self.options.header_timeout, handshakes.acquire());
        let turn = self.tasks.token().run_until_cancelled(wait).await;
        let turn = turn?.ok()?.ok()?;
        let shaken = self.tasks.token().run_until_cancelled(shake(socket)).await;
        drop(turn);
        match shaken? {
            Ok((stream, identity)) => {
                let socket = LingeringSocket::new(Box::new(stream), self.tasks.clone());
                let socket = socket.holding(Some(place));
                Some((socket.patient_for(self.options.stall), identity))
            }
            Err(cause) => {
                tracing::debug!(%cause, address = %self.address, "a connection without a certificate of the cluster");
                None
            }
        }
    }

    async fn first_byte(&self, socket: &TcpStream) -> Option<u8> {
        let mut first = [0];
        let peek = tokio::time::timeout(self.options.header_timeout, socket.peek(&mut first));
        let peeked = self.tasks.token().run_until_cancelled(peek).await?;
        matches!(peeked, Ok(Ok(1))).then_some(first[0])
    }

    /// Serves by hyper what begins with the bytes that were `read` already.
    async fn serve<S>(self, socket: LingeringSocket<S>, read: Bytes)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self {
            address,
            identity,
            router,
            tasks,
            options,
        } = self;
        let state = socket.state();
        let socket = Rewound::new(read, socket);
        let asked = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&asked);
        let unread = Arc::<Unread>::default();
        let bodies = Arc::clone(&unread);
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            seen.store(true, Ordering::Relaxed);
            let who = (address, identity);
            let of = (Arc::clone(&state), Arc::clone(&bodies));
            respond(request, who, router.clone(), of)
        });
        let builder = builder(&tasks, &options);
        let serving = builder.serve_connection_with_upgrades(TokioIo::new(socket), service);
        let mut serving = std::pin::pin!(serving);
        // hyper's own timeout for headers begins only when it knows the version, which
        // takes up to the 24 bytes of an HTTP/2 preface.
        let silent = async {
            tokio::time::sleep(options.header_timeout).await;
            if asked.load(Ordering::Relaxed) {
                unread.for_long(options.stall).await;
            }
        };
        let ended = tokio::select! {
            ended = serving.as_mut() => Some(ended),
            () = silent => None,
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
}

fn builder(tasks: &Tasks, options: &ServerOptions) -> auto::Builder<InTasks> {
    let mut builder = auto::Builder::new(InTasks(tasks.clone()));
    let header_bytes = usize::try_from(options.header_bytes).unwrap_or(usize::MAX);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_buf_size(header_bytes.max(LEAST_BUFFER))
        .half_close(true)
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(options.window)
        .initial_connection_window_size(options.connection_window)
        .keep_alive_interval(Some(options.ping_timeout / 2))
        .keep_alive_timeout(options.ping_timeout)
        .max_header_list_size(options.header_bytes)
        .max_concurrent_streams(Some(256));
    builder
}

async fn respond(
    mut request: Request<Incoming>,
    (address, identity): (SocketAddr, Option<HostId>),
    router: Router,
    (state, unread): (Arc<ConnectionState>, Arc<Unread>),
) -> Result<Response<Body>, std::convert::Infallible> {
    request.extensions_mut().insert(ClientAddress(address));
    if let Some(host) = identity {
        request.extensions_mut().insert(PeerIdentity(host));
    }
    if request.version() >= Version::HTTP_2 {
        let asked = unread.asked();
        let response = router.oneshot(request.map(Body::new)).await?;
        return Ok(response.map(|body| asked.answered(body)));
    }
    let response = router.oneshot(request.map(Body::new)).await?;
    Ok(response.map(|body| Body::new(FlushBeforeError::new(body, state))))
}

#[cfg(test)]
mod tests;
