//! Who finds out the size of a content whose source does not tell it.
//!
//! The scheduler is asked every second: it knows the size, or says that this host is to read
//! all of it to find out, or that another one does, which is waited for. Without an answer
//! the host reads for itself.
//!
//! Owner of state: [`Sizes`] holds who waits for an answer, one a task.

use std::{collections::HashMap, time::Duration};

use darter_api::{
    TaskId,
    session::{PeerMessage, Sizing},
};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{Input, live::Entry};
use crate::swarm::core::event::Event;

/// For a scheduler to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The scheduler is asked, and told, so often.
const EVERY: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Sizes {
    inbox: mpsc::Sender<Input>,
    waiting: Mutex<HashMap<TaskId, oneshot::Sender<Answer>>>,
}

struct Answer {
    size: Option<u64>,
    read: bool,
}

impl Sizes {
    pub(super) fn new(inbox: mpsc::Sender<Input>) -> Self {
        Self {
            inbox,
            waiting: Mutex::default(),
        }
    }

    /// The size, once a member knows it; `None` when this host is to find out. Cancel-safe.
    pub(super) async fn find(&self, task: TaskId, entry: &Entry) -> Option<u64> {
        loop {
            let answer = self.ask(task).await?;
            if answer.size.is_some() || answer.read {
                return answer.size;
            }
            // Another one's bytes are as good as one's own to those who wait.
            *entry.arrived.lock() = Some(std::time::Instant::now());
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn ask(&self, task: TaskId) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().insert(task, answer);
        let _forget = Forget(self, task);
        let state = Sizing::Asks;
        let asks = Event::Say(PeerMessage::Sizing { task, state });
        self.inbox.send(Input::Event(asks)).await.ok()?;
        let timed = tokio::time::timeout(ANSWER_TIMEOUT, answered).await;
        timed.ok()?.ok()
    }

    /// The scheduler has answered.
    pub(super) fn answered(&self, task: &TaskId, size: Option<u64>, read: bool) {
        if let Some(waiting) = self.waiting.lock().remove(task) {
            // Who asked may have left.
            let _ = waiting.send(Answer { size, read });
        }
    }

    /// This host reads all of it, until the guard drops.
    pub(super) fn reading(&self, task: TaskId) -> Reading<'_> {
        Reading {
            sizes: self,
            task,
            told: Instant::now(),
        }
    }
}

struct Forget<'a>(&'a Sizes, TaskId);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.waiting.lock().remove(&self.1);
    }
}

/// See [`Sizes::reading`].
pub(super) struct Reading<'a> {
    sizes: &'a Sizes,
    task: TaskId,
    told: Instant,
}

impl Reading<'_> {
    /// Bytes came.
    pub(super) fn goes_on(&mut self) {
        if self.told.elapsed() >= EVERY {
            self.told = Instant::now();
            self.say(Sizing::Reads);
        }
    }

    fn say(&self, state: Sizing) {
        let task = self.task;
        let said = Event::Say(PeerMessage::Sizing { task, state });
        // Said again a second later, or the scheduler takes silence for it.
        let _ = self.sizes.inbox.try_send(Input::Event(said));
    }
}

impl Drop for Reading<'_> {
    /// Whether it is known now or not: nobody is to wait for this host any more.
    fn drop(&mut self) {
        self.say(Sizing::GaveUp);
    }
}
