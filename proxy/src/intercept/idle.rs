//! Two streams joined, for as long as either says something.
//!
//! Each side may close its half; the other half goes on. Neither side silent for a time,
//! nor a shutdown, leaves the pair open for ever.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// At a shutdown, a tunnel so long silent is done.
const QUIET_AT_SHUTDOWN: Duration = Duration::from_secs(1);
/// At a shutdown, a busy tunnel may go on for so long.
const DRAIN: Duration = Duration::from_secs(8);

/// Why a pair was taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides had closed, or one broke.
    Closed,
    /// Nothing was said for too long.
    Idle,
    /// The proxy is shutting down.
    Stopped,
}

/// Passes bytes both ways until both sides have closed their halves.
pub(super) async fn join<A, B>(
    one: A,
    other: B,
    idle: Duration,
    stopping: &CancellationToken,
) -> End
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let pulse = Arc::new(Pulse::new());
    let mut one = Watched::new(one, &pulse);
    let mut other = Watched::new(other, &pulse);
    let stopped = async {
        stopping.cancelled().await;
        // Either way it is over.
        let _ = tokio::time::timeout(DRAIN, pulse.silence(QUIET_AT_SHUTDOWN)).await;
    };
    tokio::select! {
        _ = copy_bidirectional(&mut one, &mut other) => End::Closed,
        () = pulse.silence(idle) => End::Idle,
        () = stopped => End::Stopped,
    }
}

/// When a byte was last moved.
#[derive(Debug)]
struct Pulse {
    began: Instant,
    /// Milliseconds after that.
    last: AtomicU64,
}

impl Pulse {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    fn beat(&self) {
        let passed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(passed, Ordering::Relaxed);
    }

    /// Returns when nothing has been moved for so long.
    async fn silence(&self, idle: Duration) {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let over = self.began + last + idle;
            if over <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(over).await;
        }
    }
}

struct Watched<S> {
    stream: S,
    pulse: Arc<Pulse>,
}

impl<S> Watched<S> {
    fn new(stream: S, pulse: &Arc<Pulse>) -> Self {
        Self {
            stream,
            pulse: Arc::clone(pulse),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_ready() {
            self.pulse.beat();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if polled.is_ready() {
            self.pulse.beat();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    fn pair() -> (DuplexStream, DuplexStream, DuplexStream, DuplexStream) {
        let (client, one) = duplex(1024);
        let (other, server) = duplex(1024);
        (client, one, other, server)
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_half_leaves_the_other_open() {
        let (mut client, one, other, mut server) = pair();
        let token = CancellationToken::new();
        let talk = async {
            client.write_all(b"ask").await.unwrap();
            client.shutdown().await.unwrap();
            let mut asked = Vec::new();
            server.read_to_end(&mut asked).await.unwrap();
            tokio::time::sleep(IDLE / 2).await;
            server.write_all(b"answer").await.unwrap();
            drop(server);
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            (asked, answer)
        };
        let (end, said) = tokio::join!(join(one, other, IDLE, &token), talk);
        assert_eq!(end, End::Closed);
        assert_eq!(said, (b"ask".to_vec(), b"answer".to_vec()));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_and_a_word_puts_that_off() {
        let (mut client, one, other, _server) = pair();
        let token = CancellationToken::new();
        let began = Instant::now();
        let talk = async {
            tokio::time::sleep(IDLE / 2).await;
            client.write_all(b"word").await.unwrap();
        };
        let (end, ()) = tokio::join!(join(one, other, IDLE, &token), talk);
        assert_eq!(end, End::Idle);
        assert_eq!(began.elapsed().as_secs(), (IDLE + IDLE / 2).as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_ends_it_soon() {
        let (_client, one, other, _server) = pair();
        let token = CancellationToken::new();
        token.cancel();
        let began = Instant::now();
        assert_eq!(join(one, other, IDLE, &token).await, End::Stopped);
        assert!(began.elapsed() <= QUIET_AT_SHUTDOWN);
    }
}
