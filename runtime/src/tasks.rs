//! The one way to spawn: named, traced, cancelled together, waited for at the end.
//!
//! Owner of state: every [`Tasks`] owns the tasks spawned through it; [`Tasks::stop`]
//! returns when all have ended or the deadline has passed.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::task::JoinHandle;
use tokio_util::{future::FutureExt as _, sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

/// A group of tasks that end together. Cheap to clone; clones are the same group.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
    lost: Lost,
}

/// Names of tasks that should not have ended.
type Lost = Arc<Mutex<BTreeSet<&'static str>>>;

/// Notes the end of a task that should live as long as its group.
struct Vital {
    name: &'static str,
    token: CancellationToken,
    lost: Lost,
}

impl Drop for Vital {
    fn drop(&mut self) {
        if !self.token.is_cancelled() {
            tracing::error!(task = self.name, "what this process lives by has ended");
            let lost = self.lost.lock();
            lost.unwrap_or_else(PoisonError::into_inner)
                .insert(self.name);
        }
    }
}

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// A group that ends when it is told to, of the same process: what it loses is lost to both.
    #[must_use]
    pub fn group(&self) -> Self {
        Self {
            lost: Arc::clone(&self.lost),
            ..Self::default()
        }
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

    /// Runs `work` as [`Tasks::spawn`] does. If it ends before the group, by a panic or by itself,
    /// the process is not ready any more: see [`Tasks::lost`].
    pub fn spawn_vital<F>(&self, name: &'static str, work: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let vital = Vital {
            name,
            token: self.token.clone(),
            lost: Arc::clone(&self.lost),
        };
        // On the heap, since an async block holds once more what it waits for.
        let work = Box::pin(work);
        self.spawn(name, async move {
            let _vital = vital;
            work.await
        })
    }

    /// Which vital tasks have ended too early, by their names.
    pub fn lost(&self) -> Vec<&'static str> {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.iter().copied().collect()
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

    #[tokio::test]
    async fn what_should_not_have_ended_is_known() {
        let tasks = Tasks::new();
        let lives = tasks.spawn_vital("lives", std::future::pending::<()>());
        let dies = tasks.group().spawn_vital("dies", async {
            if tokio::task::try_id().is_some() {
                panic!("as it should not");
            }
        });
        assert!(dies.await.is_err());
        assert_eq!(tasks.lost(), ["dies"]);
        assert!(tasks.stop(Duration::from_secs(5)).await);
        assert_eq!(lives.await.expect("no panic"), None);
        assert_eq!(tasks.lost(), ["dies"], "the end of all is no loss");
    }
}
