//! Responses that their client does not read.
//!
//! Over HTTP/1.1 the socket tells who takes nothing. An HTTP/2 client may answer every ping and
//! never open a stream's window: hyper then asks for no more of the body, so that the body knows
//! since when.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

/// The requests of a connection that are not over; no more than its streams.
#[derive(Debug)]
pub(super) struct Unread {
    began: Instant,
    /// Requests so far.
    asked: AtomicU64,
    requests: Mutex<Vec<Weak<Turn>>>,
}

/// Whose turn it is: since when the client's, in milliseconds of the connection's life and one
/// more, or 0 for the server's.
#[derive(Debug, Default)]
struct Turn(AtomicU64);

impl Default for Unread {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            asked: AtomicU64::new(0),
            requests: Mutex::default(),
        }
    }
}

impl Unread {
    /// A request came; its answer is the server's turn.
    pub(super) fn asked(self: &Arc<Self>) -> Asked {
        let turn = Arc::<Turn>::default();
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.retain(|request| request.strong_count() > 0);
        requests.push(Arc::downgrade(&turn));
        Asked {
            unread: Arc::clone(self),
            turn,
        }
    }

    /// Ends when the client has taken nothing of any answer for so long, or has asked for nothing:
    /// what is left of answers that were handed over whole is not seen, but whose client neither takes
    /// that nor asks for anything gives its place back.
    pub(super) async fn for_long(&self, stall: Duration) {
        let mut idle: Option<(u64, Instant)> = None;
        while !self.is_stalled(stall) {
            idle = self.idle().map(|asked| match idle {
                Some((before, since)) if before == asked => (asked, since),
                _ => (asked, Instant::now()),
            });
            if idle.is_some_and(|(_, since)| since.elapsed() >= stall) {
                return;
            }
            tokio::time::sleep((stall / 4).max(Duration::from_millis(1))).await;
        }
    }

    /// How many requests there have been, when none is open.
    fn idle(&self) -> Option<u64> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let is_open = |request: &Weak<Turn>| request.strong_count() > 0;
        (!requests.iter().any(is_open)).then(|| self.asked.load(Ordering::Relaxed))
    }

    fn is_stalled(&self, stall: Duration) -> bool {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = requests.iter().filter_map(Weak::upgrade).peekable();
        let (now, stall) = (self.now(), millis(stall));
        let is_left = |turn: Arc<Turn>| {
            let since = turn.0.load(Ordering::Relaxed);
            since > 0 && now.saturating_sub(since) >= stall
        };
        open.peek().is_some() && open.all(is_left)
    }

    fn now(&self) -> u64 {
        millis(self.began.elapsed()) + 1
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX - 1)
}

/// A request, until it has its answer.
pub(super) struct Asked {
    unread: Arc<Unread>,
    turn: Arc<Turn>,
}

impl Asked {
    /// Notes when its client takes something of `body`.
    pub(super) fn answered(self, body: Body) -> Body {
        let asked = self;
        asked.is_clients();
        Body::new(Watched { body, asked })
    }

    fn is_clients(&self) {
        self.turn.0.store(self.unread.now(), Ordering::Relaxed);
    }

    fn is_servers(&self) {
        self.turn.0.store(0, Ordering::Relaxed);
    }
}

struct Watched {
    body: Body,
    asked: Asked,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(_) => self.asked.is_clients(),
            Poll::Pending => self.asked.is_servers(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _, stream};
    use http_body_util::BodyExt as _;

    use super::*;

    const STALL: Duration = Duration::from_secs(600);

    fn endless() -> Body {
        let chunk = Ok::<_, std::io::Error>(Bytes::from_static(b"x"));
        Body::from_stream(stream::iter([chunk]).chain(stream::pending()))
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_takes_nothing_of_anything_is_given_up() {
        let unread = Arc::<Unread>::default();
        tokio::time::advance(STALL * 2).await;
        assert!(!unread.is_stalled(STALL), "nothing was asked");
        let mut first = unread.asked().answered(endless());
        let second = unread.asked();
        tokio::time::advance(STALL * 2).await;
        assert!(!unread.is_stalled(STALL), "the second has no answer");
        let second = second.answered(endless());
        tokio::time::advance(STALL / 2).await;
        assert!(!unread.is_stalled(STALL), "nor had it long to take it");
        tokio::time::advance(STALL / 2).await;
        assert!(unread.is_stalled(STALL));

        assert!(first.frame().await.is_some_and(|frame| frame.is_ok()));
        assert!(!unread.is_stalled(STALL), "it took something");
        assert!(first.frame().now_or_never().is_none());
        tokio::time::advance(STALL * 2).await;
        assert!(!unread.is_stalled(STALL), "there is nothing to take");
        drop(first);
        assert!(unread.is_stalled(STALL));
        drop(second);
        assert!(!unread.is_stalled(STALL));
        assert!(unread.for_long(STALL).now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_nothing_is_given_up_as_well() {
        let unread = Arc::<Unread>::default();
        let began = Instant::now();
        let asks = async {
            for _ in 0..4 {
                tokio::time::sleep(STALL / 2).await;
                drop(unread.asked());
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = unread.for_long(STALL) => {}
            () = asks => {}
        }
        let lasted = began.elapsed();
        assert!(lasted >= STALL * 3 && lasted <= STALL * 4, "{lasted:?}");
    }
}
