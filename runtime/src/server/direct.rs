//! Plain requests, answered without hyper, so that files go out without being copied.
//!
//! A blob or a piece is sent from the page cache (`sendfile(2)`) instead of through two
//! buffers; on a node that gives its image to ten others these copies were most of the
//! proxy's work. Requests that are not plain ([`head`]) end this mode: hyper gets the
//! connection and every byte that was read of it.
//!
//! Owner of state: one [`Direct`] a connection. Failure: what can't be sent whole ends
//! short, and the socket is closed as everywhere ([`super::socket`]); a body that waits
//! notices when its client is gone, and one whose client reads nothing for too long ends.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{BoxError, Router, body::Body};
use bytes::{Buf as _, Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use http::{Method, Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::TcpStream,
    time::timeout,
};
use tower::ServiceExt as _;

use super::{
    ClientAddress, ServerOptions,
    head::{self, Asked, Framing},
    socket::LingeringSocket,
    span::{FileSpan, Offer, Span, Spans},
};
use crate::tasks::Tasks;

/// Bytes of a plain request's head at most; longer ones are hyper's.
const MOST_HEAD: usize = 8 * 1024;
/// Bytes that a client may send ahead while it is answered.
const MOST_AHEAD: usize = 16 * 1024;
/// Bytes given to the kernel at once.
const SENDFILE: u64 = 1 << 20;

type Socket = LingeringSocket<TcpStream>;

/// See the module.
pub(super) struct Direct {
    pub(super) socket: Socket,
    pub(super) address: SocketAddr,
    pub(super) router: Router,
    pub(super) tasks: Tasks,
    pub(super) options: Arc<ServerOptions>,
    /// Came, and is not answered yet.
    pub(super) read: BytesMut,
    /// The client sends nothing more.
    pub(super) read_ended: bool,
}

/// What is left of a connection.
pub(super) enum Left {
    /// Nothing.
    Closed,
    /// What hyper is to go on with.
    Hyper(Socket, Bytes),
}

/// Whether a connection can be used again.
enum After {
    Kept,
    Closed,
}

impl Direct {
    /// Serves until the client leaves, the group is cancelled, or a request is not plain.
    pub(super) async fn run(mut self) -> Left {
        loop {
            let token = self.tasks.token().clone();
            let wait = timeout(self.options.header_timeout, self.next_request());
            let request = match token.run_until_cancelled(wait).await {
                Some(Ok(Ok(Some(request)))) => request,
                Some(Ok(Ok(None))) => return Left::Hyper(self.socket, self.read.freeze()),
                // Left, silent for too long, or shutting down.
                Some(Ok(Err(_)) | Err(_)) | None => return Left::Closed,
            };
            let drained = async {
                token.cancelled().await;
                tokio::time::sleep(self.options.drain).await;
            };
            let answered = tokio::select! {
                answered = answer(
                    &mut self.socket,
                    &mut self.read,
                    &mut self.read_ended,
                    self.options.stall,
                    respond(&self.router, self.address, request),
                    &token,
                ) => answered,
                () = drained => return Left::Closed,
            };
            match answered {
                Ok(After::Kept) => {}
                Ok(After::Closed) => return Left::Closed,
                Err(cause) => {
                    tracing::debug!(%cause, address = %self.address, "a connection ended early");
                    return Left::Closed;
                }
            }
        }
    }

    /// The next plain request; `None` when what comes is something else. Cancel-safe.
    async fn next_request(&mut self) -> io::Result<Option<Request<()>>> {
        loop {
            match head::read(&self.read) {
                Asked::Plain(request, length) => {
                    self.read.advance(length);
                    return Ok(Some(*request));
                }
                Asked::Else => return Ok(None),
                Asked::More if self.read.len() >= MOST_HEAD => return Ok(None),
                Asked::More => {}
            }
            if self.read_ended || self.socket.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

async fn respond(
    router: &Router,
    address: SocketAddr,
    request: Request<()>,
) -> (Method, Response<Body>) {
    let method = request.method().clone();
    let mut request = request.map(|()| Body::empty());
    request.extensions_mut().insert(ClientAddress(address));
    match router.clone().oneshot(request).await {
        Ok(response) => (method, response),
        Err(never) => match never {},
    }
}

async fn answer(
    socket: &mut Socket,
    read: &mut BytesMut,
    read_ended: &mut bool,
    stall: Duration,
    response: impl Future<Output = (Method, Response<Body>)>,
    stopping: &tokio_util::sync::CancellationToken,
) -> io::Result<After> {
    let mut input = Input { read, read_ended };
    let (method, response) = input.beside(socket, response).await?;
    let (mut parts, body) = response.into_parts();
    let offer = parts.extensions.remove::<Offer>();
    let framing = head::framing(&method, &parts, body.size_hint().exact());
    let close = head::closes(&parts.headers) || stopping.is_cancelled();
    let mut out = BytesMut::with_capacity(512);
    head::write(&parts, framing, close, &mut out);
    let mut body = Outgoing {
        spans: spans(offer.and_then(|offer| offer.take()), body),
        out,
        framing,
        stall,
    };
    let whole = body.send(socket, &mut input).await?;
    Ok(if whole && !close {
        After::Kept
    } else {
        After::Closed
    })
}

/// A body as spans, whatever it is.
fn spans(offered: Option<Spans>, body: Body) -> Spans {
    offered.unwrap_or_else(|| {
        let frames = futures::stream::unfold(body, |mut body| async move {
            loop {
                match body.frame().await? {
                    Ok(frame) => {
                        if let Ok(bytes) = frame.into_data() {
                            return Some((Ok(Span::Bytes(bytes)), body));
                        }
                    }
                    Err(error) => return Some((Err(BoxError::from(error)), body)),
                }
            }
        });
        frames.boxed()
    })
}

/// What the client sends while it is answered.
struct Input<'a> {
    read: &'a mut BytesMut,
    read_ended: &'a mut bool,
}

impl Input<'_> {
    /// Waits for `work`, or until the client is known to be gone.
    async fn beside<T>(
        &mut self,
        socket: &mut Socket,
        work: impl Future<Output = T>,
    ) -> io::Result<T> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            cause = self.until_gone(socket) => Err(cause),
        }
    }

    /// Reads ahead. A client that has shut down its write side still wants the answer.
    async fn until_gone(&mut self, socket: &mut Socket) -> io::Error {
        while !*self.read_ended && self.read.len() < MOST_AHEAD {
            match socket.read_buf(self.read).await {
                Ok(0) => *self.read_ended = true,
                Ok(_) => {}
                Err(cause) => return cause,
            }
        }
        std::future::pending().await
    }
}

/// A response on its way.
struct Outgoing {
    spans: Spans,
    /// To be written before anything else.
    out: BytesMut,
    framing: Framing,
    /// For the client to take something of it.
    stall: Duration,
}

impl Outgoing {
    /// Sends all of it; whether it was whole.
    async fn send(&mut self, socket: &mut Socket, input: &mut Input<'_>) -> io::Result<bool> {
        match self.framing {
            Framing::None => {
                socket.write_all_buf(&mut self.out).await?;
                Ok(true)
            }
            Framing::Length(length) => self.send_length(socket, input, length).await,
            Framing::Chunked => self.send_chunks(socket, input).await,
        }
    }

    async fn next(
        &mut self,
        socket: &mut Socket,
        input: &mut Input<'_>,
    ) -> io::Result<Option<Span>> {
        use futures::FutureExt as _;
        let next = self.spans.try_next();
        let next = match next.now_or_never() {
            Some(next) => next,
            None => {
                // What is there goes out before anything is waited for.
                socket.write_all_buf(&mut self.out).await?;
                input.beside(socket, self.spans.try_next()).await?
            }
        };
        match next {
            Ok(next) => Ok(next),
            Err(error) => {
                tracing::debug!(%error, "a body ends short");
                socket.write_all_buf(&mut self.out).await?;
                Err(io::Error::other(error))
            }
        }
    }

    async fn send_length(
        &mut self,
        socket: &mut Socket,
        input: &mut Input<'_>,
        mut left: u64,
    ) -> io::Result<bool> {
        while left > 0 {
            let Some(span) = self.next(socket, input).await? else {
                return Ok(false);
            };
            if span.len() > left {
                tracing::error!("a body is longer than its head says");
                return Ok(false);
            }
            left -= span.len();
            self.send_span(socket, span).await?;
        }
        socket.write_all_buf(&mut self.out).await?;
        Ok(true)
    }

    async fn send_chunks(
        &mut self,
        socket: &mut Socket,
        input: &mut Input<'_>,
    ) -> io::Result<bool> {
        while let Some(span) = self.next(socket, input).await? {
            if span.is_empty() {
                continue;
            }
            let size = format!("{:x}\r\n", span.len());
            self.out.extend_from_slice(size.as_bytes());
            self.send_span(socket, span).await?;
            self.out.extend_from_slice(b"\r\n");
        }
        self.out.extend_from_slice(b"0\r\n\r\n");
        socket.write_all_buf(&mut self.out).await?;
        Ok(true)
    }

    async fn send_span(&mut self, socket: &mut Socket, span: Span) -> io::Result<()> {
        match span {
            Span::Bytes(bytes) => {
                let mut both = (&mut self.out).chain(bytes);
                socket.write_all_buf(&mut both).await
            }
            Span::File(span) => {
                socket.write_all_buf(&mut self.out).await?;
                send_file(socket, span, self.stall).await
            }
        }
    }
}

async fn send_file(socket: &mut Socket, mut span: FileSpan, stall: Duration) -> io::Result<()> {
    while !span.is_empty() {
        let most = usize::try_from(span.len().min(SENDFILE)).unwrap_or(usize::MAX);
        let tcp = socket.get_ref();
        let send = || {
            let mut at = span.start();
            let sent = rustix::fs::sendfile(tcp, span.file(), Some(&mut at), most)?;
            Ok(sent)
        };
        let sent = timeout(stall, tcp.async_io(Interest::WRITABLE, send));
        match sent.await.map_err(io::Error::from).flatten() {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(sent) => span.advance(sent as u64),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            // The file system can't.
            Err(cause) if matches!(cause.raw_os_error(), Some(EINVAL | ENOSYS | EOPNOTSUPP)) => {
                let mut bytes = span.read_next(SENDFILE)?;
                socket.write_all_buf(&mut bytes).await?;
            }
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();
const ENOSYS: i32 = rustix::io::Errno::NOSYS.raw_os_error();
const EOPNOTSUPP: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();
