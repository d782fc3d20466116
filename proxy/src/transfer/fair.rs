//! Upload slots, shared between children in turn.
//!
//! Owner of state: [`Slots`]. Invariant: not more than the configured number of young
//! slots are out. A slot that was held longer than [`STALE`] no longer counts, so that a
//! child that does not read can't block the others.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// A piece of 16 MiB at 1 MiB/s takes so long; who is slower gives way.
const STALE: Duration = Duration::from_secs(16);

/// Who waits, by any name that tells children apart.
pub type Child = Box<[u8]>;

/// All slots of a host.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    limit: usize,
    queue_limit: usize,
    waiting: usize,
    next: u64,
    out: Vec<(u64, Instant)>,
    /// Children in turn, each with its requests in order.
    queues: VecDeque<(Child, VecDeque<oneshot::Sender<u64>>)>,
}

/// The right to send one piece; given back when dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Slots,
    id: u64,
}

/// Too many wait already.
#[derive(Debug, PartialEq, Eq)]
pub struct Busy;

impl Slots {
    /// `limit` slots, and a queue of `queue_limit` requests.
    pub fn new(limit: usize, queue_limit: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            limit: limit.max(1),
            queue_limit,
            waiting: 0,
            next: 0,
            out: Vec::new(),
            queues: VecDeque::new(),
        })))
    }

    /// Waits for a slot. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// When the queue is full.
    pub async fn acquire(&self, child: Child) -> Result<Slot, Busy> {
        let turn = {
            let mut state = self.0.lock();
            if let Some(id) = state.take_free() {
                return Ok(self.slot(id));
            }
            if state.waiting >= state.queue_limit {
                return Err(Busy);
            }
            state.enqueue(child)
        };
        // The sender is dropped only with the slots themselves.
        turn.await.map(|id| self.slot(id)).map_err(|_| Busy)
    }

    fn slot(&self, id: u64) -> Slot {
        Slot {
            slots: self.clone(),
            id,
        }
    }
}

impl State {
    fn take_free(&mut self) -> Option<u64> {
        let now = Instant::now();
        self.out
            .retain(|(_, since)| now.duration_since(*since) < STALE);
        if self.out.len() >= self.limit {
            return None;
        }
        self.next += 1;
        self.out.push((self.next, now));
        Some(self.next)
    }

    fn enqueue(&mut self, child: Child) -> oneshot::Receiver<u64> {
        let (sender, receiver) = oneshot::channel();
        self.waiting += 1;
        match self.queues.iter_mut().find(|(other, _)| *other == child) {
            Some((_, queue)) => queue.push_back(sender),
            None => self.queues.push_back((child, VecDeque::from([sender]))),
        }
        receiver
    }

    /// Hands free slots to who waits, one child after the other.
    fn hand_out(&mut self) {
        while let Some((child, mut queue)) = self.queues.pop_front() {
            let Some(id) = self.take_free() else {
                self.queues.push_front((child, queue));
                return;
            };
            let mut taken = false;
            while let Some(sender) = queue.pop_front() {
                self.waiting -= 1;
                if sender.send(id).is_ok() {
                    taken = true;
                    break;
                }
            }
            if !taken {
                self.out.retain(|(other, _)| *other != id);
            }
            if !queue.is_empty() {
                self.queues.push_back((child, queue));
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.0.lock();
        state.out.retain(|(id, _)| *id != self.id);
        state.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, future::join_all};

    use super::*;

    fn child(name: u8) -> Child {
        Box::new([name])
    }

    #[tokio::test]
    async fn children_take_turns() {
        let slots = Slots::new(1, 10);
        let first = slots.acquire(child(0)).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let wait = |name: u8| {
            let (slots, order) = (slots.clone(), Arc::clone(&order));
            async move {
                let slot = slots.acquire(child(name)).await.unwrap();
                order.lock().push(name);
                tokio::task::yield_now().await;
                drop(slot);
            }
        };
        let mut all = Box::pin(join_all([wait(1), wait(1), wait(1), wait(2), wait(3)]));
        assert!(all.as_mut().now_or_never().is_none());
        drop(first);
        all.await;
        assert_eq!(*order.lock(), [1, 2, 3, 1, 1]);
    }

    #[tokio::test]
    async fn a_full_queue_is_busy_and_who_leaves_is_skipped() {
        let slots = Slots::new(1, 1);
        let first = slots.acquire(child(0)).await.unwrap();
        let mut second = Box::pin(slots.acquire(child(1)));
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(slots.acquire(child(2)).await.unwrap_err(), Busy);
        drop(second);
        drop(first);
        assert!(slots.acquire(child(3)).now_or_never().unwrap().is_ok());
    }
}
