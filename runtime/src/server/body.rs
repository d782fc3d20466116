//! Holds a body's error back until the bytes before it have left.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
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
    failed: Option<(axum::Error, u64)>,
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
}

impl http_body::Body for FlushBeforeError {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.failed.is_none() {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Err(error)) => {
                    let flushes = self.connection.flushes();
                    tracing::debug!(%error, "a body ends short");
                    self.failed = Some((error, flushes));
                }
                other => return Poll::Ready(other),
            }
        }
        let Some((error, before)) = self.failed.take() else {
            return Poll::Ready(None);
        };
        self.connection.wake_at_flush(context.waker());
        if self.connection.flushes() > before {
            return Poll::Ready(Some(Err(error)));
        }
        self.failed = Some((error, before));
        // hyper flushes when a body has nothing to give; one more turn makes it do so.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
