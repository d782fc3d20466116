//! How large a content is whose source does not tell it: the scheduler is asked whether a member
//! knows. Without an answer nobody does.
//!
//! Owner of state: [`Sizes`] holds who waits for an answer, one a task.

use std::{collections::HashMap, time::Duration};

use darter_api::{TaskId, session::PeerMessage};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::Input;
use crate::swarm::core::event::Event;

/// For a scheduler to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Sizes {
    inbox: mpsc::Sender<Input>,
    waiting: Mutex<HashMap<TaskId, oneshot::Sender<Option<u64>>>>,
}

impl Sizes {
    pub(super) fn new(inbox: mpsc::Sender<Input>) -> Self {
        Self {
            inbox,
            waiting: Mutex::default(),
        }
    }

    /// The size, if a member knows it. Cancel-safe.
    pub(super) async fn ask(&self, task: TaskId) -> Option<u64> {
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().insert(task, answer);
        let _forget = Forget(self, task);
        let wanted = Event::Say(PeerMessage::SizeWanted { task });
        self.inbox.send(Input::Event(wanted)).await.ok()?;
        let timed = tokio::time::timeout(ANSWER_TIMEOUT, answered).await;
        timed.ok()?.ok()?
    }

    /// The scheduler has answered.
    pub(super) fn answered(&self, task: &TaskId, size: Option<u64>) {
        if let Some(waiting) = self.waiting.lock().remove(task) {
            // Who asked may have left.
            let _ = waiting.send(size);
        }
    }
}

struct Forget<'a>(&'a Sizes, TaskId);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.waiting.lock().remove(&self.1);
    }
}
