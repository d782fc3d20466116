//! A socket that is closed in the right order.
//!
//! Closing a socket while unread bytes lie in its receive buffer makes the kernel send
//! a RST, which destroys what the client has not read yet. So the write side is shut
//! down first (with TLS: close_notify, then FIN), and what still comes is read away, for
//! a bounded time.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    sync::OwnedSemaphorePermit,
    time::{Sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;

/// How long a closed connection's other end may be silent before it is let go.
const LINGER_SILENCE: Duration = Duration::from_secs(2);
/// How long it may go on sending in all. There is no bound on bytes: a client on a fast
/// link sends any number of them before it has read the last good byte.
const LINGER: Duration = Duration::from_secs(15);
/// The same for a server that is shutting down.
const LINGER_AT_SHUTDOWN: Duration = Duration::from_millis(500);

/// What the bodies of a connection need to know of its socket.
#[derive(Debug, Default)]
pub struct ConnectionState {
    flushes: AtomicU64,
    waiting: Mutex<Option<Waker>>,
}

impl ConnectionState {
    /// How many times all that was written has reached the socket.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Acquire)
    }

    /// Wakes `waker` at the next flush. One body is under way on an HTTP/1.1 connection.
    pub fn wake_at_flush(&self, waker: &Waker) {
        let mut waiting = self
            .waiting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *waiting = Some(waker.clone());
    }

    pub(super) fn flushed(&self) {
        self.flushes.fetch_add(1, Ordering::AcqRel);
        let waiting = self
            .waiting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(waker) = waiting {
            waker.wake();
        }
    }
}

/// Owns a socket and closes it cleanly when dropped, however that comes about.
#[derive(Debug)]
pub struct LingeringSocket<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> {
    /// Present until the drop.
    socket: Option<S>,
    state: Arc<ConnectionState>,
    tasks: Tasks,
    /// The connection's place among the server's: given back when the socket is closed,
    /// not when HTTP has ended on it.
    place: Option<OwnedSemaphorePermit>,
    /// For the other end to take something of what is written.
    patience: Option<Duration>,
    /// Runs while it takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    read_ended: bool,
    write_ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> LingeringSocket<S> {
    /// Around an open socket; the lingering close runs in `tasks`.
    pub fn new(socket: S, tasks: Tasks) -> Self {
        Self {
            socket: Some(socket),
            state: Arc::default(),
            tasks,
            place: None,
            patience: None,
            stalled: None,
            read_ended: false,
            write_ended: false,
        }
    }

    /// Keeps a place among the server's connections until the socket is closed.
    #[must_use]
    pub(super) fn holding(mut self, place: Option<OwnedSemaphorePermit>) -> Self {
        self.place = place;
        self
    }

    /// Fails what is written when nothing of it is taken for so long.
    #[must_use]
    pub(super) const fn patient_for(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// The connection's state, for its bodies.
    pub fn state(&self) -> Arc<ConnectionState> {
        Arc::clone(&self.state)
    }

    /// The socket itself, for what is not reading, writing or closing.
    pub(super) fn get_ref(&self) -> &S {
        self.socket
            .as_ref()
            .expect("the socket is there until the drop")
    }

    /// What came of writing, or that it took too long.
    fn in_time<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(patience) = self.patience.filter(|_| written.is_pending()) else {
            self.stalled = None;
            return written;
        };
        let begin = || Box::pin(tokio::time::sleep(patience));
        let stalled = self.stalled.get_or_insert_with(begin);
        stalled
            .as_mut()
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn socket(&mut self) -> Pin<&mut S> {
        Pin::new(
            self.socket
                .as_mut()
                .expect("the socket is there until the drop"),
        )
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncRead for LingeringSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = self.socket().poll_read(context, buffer);
        let closed = match &polled {
            Poll::Ready(Ok(())) => buffer.remaining() > 0 && buffer.filled().len() == before,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        self.read_ended |= closed;
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncWrite for LingeringSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.socket().poll_write(context, bytes);
        self.in_time(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.socket().poll_write_vectored(context, slices);
        self.in_time(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket
            .as_ref()
            .is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.socket().poll_flush(context);
        if polled.is_ready() {
            self.state.flushed();
        }
        self.in_time(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.socket().poll_shutdown(context);
        self.write_ended |= matches!(polled, Poll::Ready(Ok(())));
        self.in_time(context, polled)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Drop for LingeringSocket<S> {
    fn drop(&mut self) {
        let Some(socket) = self.socket.take() else {
            return;
        };
        let closed = self.read_ended && self.write_ended;
        if closed || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let place = self.place.take();
        let stopping = self.tasks.token().clone();
        self.tasks.spawn_draining("lingering close", async move {
            linger(socket, stopping).await;
            drop(place);
        });
    }
}

/// Shuts the write side down and reads the rest away. Whoever does not close in time
/// gets the RST that it asked for.
async fn linger<S>(mut socket: S, stopping: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let hurry = async {
        stopping.cancelled().await;
        tokio::time::sleep(LINGER_AT_SHUTDOWN).await;
    };
    let close = async {
        timeout(LINGER_SILENCE, socket.shutdown()).await??;
        let mut rest = vec![0; 16 * 1024];
        while timeout(LINGER_SILENCE, socket.read(&mut rest)).await?? > 0 {}
        Ok::<_, io::Error>(())
    };
    tokio::select! {
        _ = timeout(LINGER, close) => {}
        () = hurry => {}
    }
}
