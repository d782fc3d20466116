//! The one way to spawn: named, traced, cancelled together, waited for at the end.
//!
//! Owner of state: every [`Tasks`] owns the tasks spawned through it; [`Tasks::stop`]
//! returns when all have ended or the deadline has passed.

use std::{future::Future, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::{future::FutureExt as _, sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

/// A group of tasks that end together. Cheap to clone; clones are the same group.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the group is to end.
    pub const fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Runs `work` until it ends or the group is cancelled, at its next await.
    pub fn spawn<F>(&self, name: &'static str, work: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        // Not in an async block, which would hold `work` once more for as long as it runs.
        let work = work.with_cancellation_token_owned(self.token.clone());
        self.spawn_draining(name, work)
    }

    /// Runs `work`, which watches [`Tasks::token`] by itself because it has something
    /// to finish first.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that spawns"
    )]
    pub fn spawn_draining<F>(&self, name: &'static str, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        // Entered whenever the task is polled, which is too often for anything but debugging.
        let span = tracing::debug_span!("task", name);
        tokio::spawn(self.tracker.track_future(work.instrument(span)))
    }

    /// Cancels the group and waits for its tasks, at most `deadline`; whether all ended.
    pub async fn stop(&self, deadline: Duration) -> bool {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait())
            .await
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_group_ends_as_one() {
        let tasks = Tasks::new();
        let endless = tasks.spawn("endless", std::future::pending::<()>());
        let done = tasks.spawn("done", async { 7 });
        assert_eq!(done.await.expect("no panic"), Some(7));
        assert!(tasks.stop(Duration::from_secs(5)).await);
        assert_eq!(endless.await.expect("no panic"), None);
    }
}
