//! Upload slots, shared between children.
//!
//! Owner of state: [`Slots`]; [`super::turns`] decides whose turn it is. A request waits here for
//! its slot. Failure: who has waited for [`PATIENCE`] is told that the host is busy.

use std::{sync::Arc, time::Duration};

use darter_api::Timestamp;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::turns::{SlotId, Turns};
use crate::limits::Class;

/// Less than a child waits for a parent's answer (`swarm.stall_timeout`, 5 s): a parent that
/// says that it is busy is asked again, one that says nothing is given up.
const PATIENCE: Duration = Duration::from_secs(4);

/// Who waits, by any name that tells children apart.
pub type Child = Arc<[u8]>;

/// All slots of a host.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    began: Instant,
    turns: Mutex<Turns<Child, oneshot::Sender<Slot>>>,
}

/// The right to send one piece; given back when dropped.
#[derive(Debug)]
pub struct Slot {
    /// `None` when it is no more.
    slots: Option<Slots>,
    id: SlotId,
    is_used: bool,
}

/// Too many wait already, or for too long.
#[derive(Debug, PartialEq, Eq)]
pub struct Busy;

impl Slots {
    /// `limit` slots, and a queue of `queue_limit` requests.
    pub fn new(limit: usize, queue_limit: usize) -> Self {
        Self(Arc::new(Shared {
            began: Instant::now(),
            turns: Mutex::new(Turns::new(limit, queue_limit)),
        }))
    }

    /// Other bounds from now on. Slots that are out stay so until they are given back.
    pub fn set(&self, limit: usize, queue_limit: usize) {
        self.0.turns.lock().set(limit, queue_limit);
        self.hand_out();
    }

    /// Waits for a slot, to send `bytes`. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// When the queue is full, or no slot came free in time.
    pub async fn acquire(&self, child: Child, class: Class, bytes: u64) -> Result<Slot, Busy> {
        let patience = Instant::now() + PATIENCE;
        let (sender, mut turn) = oneshot::channel();
        {
            let mut turns = self.0.turns.lock();
            if turns.is_full() {
                // Of children that have left.
                turns.retain(|_, request| !request.is_closed());
            }
            let asked = turns.ask(self.now(), child, class, bytes, sender);
            asked.map_err(|_| Busy)?;
        }
        loop {
            self.hand_out();
            let due = self.0.turns.lock().due(self.now());
            let again = due.map_or(patience, |due| self.instant(due).min(patience));
            tokio::select! {
                // The sender is dropped only with the slots themselves.
                slot = &mut turn => return slot.map_err(|_| Busy),
                () = tokio::time::sleep_until(again) => {
                    if Instant::now() >= patience {
                        return Err(Busy);
                    }
                }
            }
        }
    }

    /// Hands free slots to who waits.
    fn hand_out(&self) {
        loop {
            let given = self.0.turns.lock().next(self.now());
            let Some((request, id)) = given else {
                return;
            };
            let slots = Some(self.clone());
            // One that is on its way to who leaves is given back when the channel drops it.
            let slot = Slot {
                slots,
                id,
                is_used: false,
            };
            if let Err(mut slot) = request.send(slot) {
                slot.slots = None;
                self.0.turns.lock().give_back(id);
            }
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::ZERO + self.0.began.elapsed()
    }

    /// Rounded up: a timestamp counts microseconds.
    fn instant(&self, at: Timestamp) -> Instant {
        self.0.began + at.since(Timestamp::ZERO) + Duration::from_micros(1)
    }
}

impl Slot {
    /// The last bytes of its piece are on their way: when it is dropped, they are sent.
    pub const fn ends(&mut self) {
        self.is_used = true;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = self.slots.take() {
            let (now, mut turns) = (slots.now(), slots.0.turns.lock());
            if self.is_used {
                turns.sent(now, self.id);
            } else {
                turns.give_back(self.id);
            }
            drop(turns);
            slots.hand_out();
        }
    }
}

#[cfg(test)]
mod tests;
