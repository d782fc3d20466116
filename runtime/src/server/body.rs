//! Holds a body's error back until the bytes before it have left.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::socket::ConnectionState;

/// A response body whose error is reported only after hyper has flushed all that came
/// before it. (hyper drops its write buffer the moment a body errs.)
#[derive(Debug)]
pub struct FlushBeforeError {
    body: Body,
    connection: Arc<ConnectionState>,
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Failed {
    /// Taken when it is reported.
    error: Option<axum::Error>,
    /// How many flushes there had been when the body failed.
    flushes: u64,
}

impl FlushBeforeError {
    /// Around `body`, on the connection of that state.
    pub const fn new(body: Body, connection: Arc<ConnectionState>) -> Self {
        Self {
            body,
            connection,
            failed: None,
        }
    }

    /// Waits for the flush that hyper does whenever a body has nothing to give. Its
    /// flush wakes this body; waking it any sooner would spin on a client that stalls.
    fn poll_failed(
        connection: &ConnectionState,
        failed: &mut Failed,
        context: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        connection.wake_at_flush(context.waker());
        if connection.flushes() > failed.flushes {
            return Poll::Ready(failed.error.take().map(Err));
        }
        Poll::Pending
    }
}

impl http_body::Body for FlushBeforeError {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if this.failed.is_none() {
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Err(error)) => {
                    tracing::debug!(%error, "a body ends short");
                    this.failed = Some(Failed {
                        error: Some(error),
                        flushes: this.connection.flushes(),
                    });
                }
                other => return Poll::Ready(other),
            }
        }
        match &mut this.failed {
            Some(failed) => Self::poll_failed(&this.connection, failed, context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::{Wake, Waker},
    };

    use http_body::Body as _;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn an_error_waits_for_the_flush_and_does_not_spin() {
        let connection = Arc::<ConnectionState>::default();
        let broken = futures::stream::iter([
            Ok(Bytes::from_static(b"good")),
            Err(std::io::Error::other("broken")),
        ]);
        let mut body = FlushBeforeError::new(Body::from_stream(broken), Arc::clone(&connection));
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut poll = || Pin::new(&mut body).poll_frame(&mut Context::from_waker(&waker));
        assert!(matches!(poll(), Poll::Ready(Some(Ok(_)))));
        assert!(poll().is_pending());
        assert!(poll().is_pending());
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
        connection.flushed();
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert!(matches!(poll(), Poll::Ready(Some(Err(_)))));
        assert!(matches!(poll(), Poll::Ready(None)));
    }
}
