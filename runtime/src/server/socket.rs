//! A socket that is closed in the right order.
//!
//! Closing a socket while unread bytes lie in its receive buffer makes the kernel send
//! a RST, which destroys what the client has not read yet. So the write side is shut
//! down first (with TLS: close_notify, then FIN), and what still comes is read away, for
//! a bounded time and number of bytes.

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

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use crate::tasks::Tasks;

/// How long a closed connection's other end may take to notice.
const LINGER: Duration = Duration::from_secs(2);
/// How much it may still send meanwhile.
const LINGER_BYTES: u64 = 4 * 1024 * 1024;

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

    fn flushed(&self) {
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
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> LingeringSocket<S> {
    /// Around an open socket; the lingering close runs in `tasks`.
    pub fn new(socket: S, tasks: Tasks) -> Self {
        Self {
            socket: Some(socket),
            state: Arc::default(),
            tasks,
            ended: false,
        }
    }

    /// The connection's state, for its bodies.
    pub fn state(&self) -> Arc<ConnectionState> {
        Arc::clone(&self.state)
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
        self.ended |= closed;
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncWrite for LingeringSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.socket().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket().poll_write_vectored(context, slices)
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
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_shutdown(context)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Drop for LingeringSocket<S> {
    fn drop(&mut self) {
        let Some(socket) = self.socket.take() else {
            return;
        };
        if self.ended || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        self.tasks.spawn_draining("lingering close", linger(socket));
    }
}

async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S) {
    let close = async {
        socket.shutdown().await?;
        let mut rest = socket.take(LINGER_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // Whoever does not close in time gets the RST that it asked for.
    let _ = tokio::time::timeout(LINGER, close).await;
}
