//! Spawns what hyper spawns (the streams of an HTTP/2 connection) in the server's group.

use std::future::Future;

use hyper::rt::Executor;

use crate::tasks::Tasks;

/// hyper's way into a group of tasks.
#[derive(Debug, Clone)]
pub(super) struct InTasks(pub(super) Tasks);

impl<F> Executor<F> for InTasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.spawn_draining("stream", stream);
    }
}
