//! The downloads of this host by task: one each, however many clients wait.
//!
//! Owner of state: a map under one short lock. Invariants: a task has at most one slot;
//! a slot is opened by a worker of its own, so that it survives the client that caused it
//! as long as another waits; the last [`Hold`] that drops tells the actor, or cancels an
//! opening nobody waits for any more. Failure: a failed opening is out of the map before
//! anybody hears of it, so that the next client tries afresh.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use darter_api::{Origin, TaskId};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    askers::Askers,
    download::Download,
    mailbox::{Letter, Mailbox},
    solo::Held,
    through::Through,
    waits::Waiter,
};
use crate::content::{OpenError, Progress};

/// How far the opening of a download is.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// Its size is being learned; a manifest is read without it.
    Opening,
    /// It runs.
    Open(Arc<Download>),
    /// The store has it whole, as of now.
    Stored,
    /// The store takes no more: every reader asks the source.
    Through(Through),
    /// Nor did it take what is all here: those who waited have it from memory.
    Held(Held),
    /// Nobody knows its size: it is downloaded as what has no end, from there.
    Endless(Origin),
    /// It can't be had.
    Failed(OpenError),
}

/// What the clients of a task that is being opened share.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) phase: watch::Sender<Phase>,
    pub(super) askers: Arc<Askers>,
    /// Cancels the opening.
    pub(super) opening: CancellationToken,
    id: u64,
}

#[derive(Debug)]
struct Slot {
    entry: Arc<Entry>,
    holds: usize,
    /// Since when the core knows that nobody here wants it.
    stopped: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Live {
    slots: Mutex<Slots>,
    mailbox: Arc<Mailbox>,
}

#[derive(Debug, Default)]
struct Slots {
    by_task: HashMap<TaskId, Slot>,
    next_id: u64,
}

/// Keeps a download going. Dropping the last one stops it.
#[derive(Debug)]
pub(super) struct Hold {
    live: Arc<Live>,
    task: TaskId,
    entry: Arc<Entry>,
    /// Its holder waits for the download.
    waiter: Option<Waiter>,
}

impl Live {
    pub(super) fn new(mailbox: Arc<Mailbox>) -> Self {
        Self {
            slots: Mutex::default(),
            mailbox,
        }
    }

    /// Joins a task's download; whether the caller is the first and has to see to its
    /// opening.
    pub(super) fn join(self: &Arc<Self>, task: TaskId) -> (Hold, bool) {
        let mut slots = self.slots.lock();
        let id = slots.next_id;
        let mut first = false;
        let slot = slots.by_task.entry(task).or_insert_with(|| {
            first = true;
            Slot {
                entry: Arc::new(Entry {
                    phase: watch::Sender::new(Phase::Opening),
                    askers: Arc::default(),
                    opening: CancellationToken::new(),
                    id,
                }),
                holds: 0,
                stopped: None,
            }
        });
        slot.holds += 1;
        let entry = Arc::clone(&slot.entry);
        if slot.stopped.take().is_some()
            && let Phase::Open(download) = &*entry.phase.borrow()
        {
            self.mailbox.put(Letter::Start(Arc::clone(download)));
        }
        if first {
            slots.next_id += 1;
        }
        let hold = Hold {
            live: Arc::clone(self),
            task,
            entry,
            waiter: None,
        };
        (hold, first)
    }

    /// Keeps an opening's slot until the hold drops, so that the opening goes on though everybody
    /// leaves; `None` where everybody has left already.
    pub(super) fn keep(self: &Arc<Self>, task: &TaskId, entry: &Entry) -> Option<Hold> {
        let mut slots = self.slots.lock();
        let slot = slots.by_task.get_mut(task)?;
        if slot.entry.id != entry.id {
            return None;
        }
        slot.holds += 1;
        Some(Hold {
            live: Arc::clone(self),
            task: *task,
            entry: Arc::clone(&slot.entry),
            waiter: None,
        })
    }

    fn release(&self, hold: &Hold) {
        let mut slots = self.slots.lock();
        let Some(slot) = slots.by_task.get_mut(&hold.task) else {
            return;
        };
        if slot.entry.id != hold.entry.id {
            return;
        }
        slot.holds -= 1;
        if slot.holds > 0 {
            return;
        }
        if matches!(*slot.entry.phase.borrow(), Phase::Open(_)) {
            self.mailbox.put(Letter::Released(hold.task));
            return;
        }
        slot.entry.opening.cancel();
        slots.by_task.remove(&hold.task);
    }

    /// The opener's result. A download that nobody waits for any more is dropped.
    pub(super) fn opened(&self, task: &TaskId, entry: &Entry, phase: Phase) {
        let mut slots = self.slots.lock();
        let current = slots.by_task.get(task);
        if current.is_none_or(|slot| slot.entry.id != entry.id) {
            return;
        }
        if let Phase::Open(download) = &phase {
            self.mailbox.put(Letter::Start(Arc::clone(download)));
        } else {
            slots.by_task.remove(task);
        }
        // Before anybody can let go of the slot: the actor is told of the end of what has begun.
        entry.phase.send_replace(phase);
    }

    /// A task's running download.
    pub(super) fn download(&self, task: &TaskId) -> Option<Arc<Download>> {
        let slots = self.slots.lock();
        let slot = slots.by_task.get(task)?;
        match &*slot.entry.phase.borrow() {
            Phase::Open(download) => Some(Arc::clone(download)),
            _ => None,
        }
    }

    /// What those who wait for a task may hope for.
    pub(super) fn progress(&self, task: &TaskId) -> Progress {
        let slots = self.slots.lock();
        let Some(slot) = slots.by_task.get(task) else {
            return Progress::Nothing;
        };
        match &*slot.entry.phase.borrow() {
            Phase::Open(download) => download.progress(),
            _ => Progress::Nothing,
        }
    }

    /// Whether it is being downloaded, or that is being begun.
    pub(super) fn is_known(&self, task: &TaskId) -> bool {
        self.slots.lock().by_task.contains_key(task)
    }

    /// Whether anybody holds the task.
    pub(super) fn is_held(&self, task: &TaskId) -> bool {
        let slots = self.slots.lock();
        slots.by_task.get(task).is_some_and(|slot| slot.holds > 0)
    }

    /// Whether nobody holds the task any more, and this was not known yet.
    pub(super) fn stop_if_unwanted(&self, task: &TaskId) -> bool {
        let mut slots = self.slots.lock();
        let Some(slot) = slots.by_task.get_mut(task) else {
            return false;
        };
        let stop = slot.holds == 0 && slot.stopped.is_none();
        if stop {
            slot.stopped = Some(Instant::now());
        }
        stop
    }

    /// It is over: the next client starts anew, or finds it in the store.
    pub(super) fn remove(&self, download: &Arc<Download>) {
        let mut slots = self.slots.lock();
        let same = slots.by_task.get(&download.task).is_some_and(|slot| {
            matches!(&*slot.entry.phase.borrow(), Phase::Open(one) if Arc::ptr_eq(one, download))
        });
        if same {
            slots.by_task.remove(&download.task);
        }
    }

    /// Forgets what has not been wanted for `idle` and is not `busy`.
    pub(super) fn sweep(&self, idle: Duration, busy: impl Fn(&TaskId) -> bool) {
        let mut slots = self.slots.lock();
        slots.by_task.retain(|task, slot| {
            let old = slot.stopped.is_some_and(|since| since.elapsed() >= idle);
            slot.holds > 0 || !old || busy(task)
        });
    }

    pub(super) fn len(&self) -> usize {
        self.slots.lock().by_task.len()
    }
}

impl Hold {
    pub(super) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Of one who waits.
    pub(super) fn with(mut self, waiter: Option<Waiter>) -> Self {
        self.waiter = waiter;
        self
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.live.release(self);
    }
}

#[cfg(test)]
mod tests {
    use darter_api::Digest;

    use super::*;

    #[test]
    fn an_opening_that_is_kept_goes_on_though_everybody_leaves() {
        let live = Arc::new(Live::new(Arc::default()));
        let task = TaskId::of_content(Digest::sha256(b"content"));
        let (hold, first) = live.join(task);
        assert!(first);
        let entry = Arc::clone(hold.entry());
        let kept = live.keep(&task, &entry).expect("somebody waits");
        drop(hold);
        assert!(!entry.opening.is_cancelled());
        // Who comes now waits for it, and begins nothing beside it.
        let (late, first) = live.join(task);
        assert!(!first && Arc::ptr_eq(late.entry(), &entry));
        drop((late, kept));
        assert!(entry.opening.is_cancelled());
        assert!(live.keep(&task, &entry).is_none());
        let (_hold, first) = live.join(task);
        assert!(first);
        assert!(live.keep(&task, &entry).is_none(), "another opening");
    }
}
