//! Upload slots, shared between children.
//!
//! Owner of state: [`Slots`]. A free slot goes to the waiting child that has the fewest, in
//! turn where several do: a child with many requests, or one that reads slowly, gets no more
//! slots than the others. Invariants: not more than the configured number of young slots of
//! the foreground are out; the background takes what of them is free, and one beside them,
//! so that neither waits for the other's end; nobody overtakes who waits. A slot that was
//! held longer than [`STALE`] no longer counts, so that a child that does not read can't
//! block the others. Failure: who has waited for [`PATIENCE`] is told that the host is busy.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use crate::limits::Class;

/// A piece of 16 MiB at 1 MiB/s takes so long; who is slower gives way.
const STALE: Duration = Duration::from_secs(16);
/// Less than a child waits for a parent's answer (`swarm.stall_timeout`, 5 s): a parent that
/// says that it is busy is asked again, one that says nothing is given up.
const PATIENCE: Duration = Duration::from_secs(4);
/// Slots that the background has whatever the foreground takes.
const BACKGROUND: usize = 1;

/// Who waits, by any name that tells children apart.
pub type Child = Arc<[u8]>;

/// All slots of a host.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    limit: usize,
    queue_limit: usize,
    waiting: usize,
    next: u64,
    out: Vec<Out>,
    /// Children in turn, each with its requests in order.
    queues: VecDeque<Queue>,
}

#[derive(Debug)]
struct Out {
    id: u64,
    since: Instant,
    child: Child,
    class: Class,
}

#[derive(Debug)]
struct Queue {
    child: Child,
    class: Class,
    requests: VecDeque<oneshot::Sender<Slot>>,
}

/// The right to send one piece; given back when dropped.
#[derive(Debug)]
pub struct Slot {
    /// `None` when it is no more.
    slots: Option<Slots>,
    id: u64,
}

/// Too many wait already, or for too long.
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

    /// Other bounds from now on. Slots that are out stay so until they are given back.
    pub fn set(&self, limit: usize, queue_limit: usize) {
        {
            let mut state = self.0.lock();
            state.limit = limit.max(1);
            state.queue_limit = queue_limit;
        }
        self.hand_out();
    }

    /// Waits for a slot. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// When the queue is full, or no slot came free in time.
    pub async fn acquire(&self, child: Child, class: Class) -> Result<Slot, Busy> {
        let patience = Instant::now() + PATIENCE;
        let mut turn = {
            let mut state = self.0.lock();
            state.drop_stale();
            if state.waiting >= state.queue_limit {
                state.drop_gone();
            }
            if state.waiting >= state.queue_limit && !state.has_free(class) {
                return Err(Busy);
            }
            state.enqueue(child, class)
        };
        loop {
            self.hand_out();
            let stale = self.0.lock().next_stale();
            let again = stale.map_or(patience, |stale| stale.min(patience));
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
            let given = self.0.lock().next_given();
            let Some((request, id)) = given else {
                return;
            };
            let slots = Some(self.clone());
            // One that is on its way to who leaves is given back when the channel drops it.
            if let Err(mut slot) = request.send(Slot { slots, id }) {
                slot.slots = None;
                self.0.lock().take_back(id);
            }
        }
    }
}

impl State {
    fn drop_stale(&mut self) {
        let now = Instant::now();
        self.out.retain(|out| now.duration_since(out.since) < STALE);
    }

    /// Forgets requests of children that have left.
    fn drop_gone(&mut self) {
        for queue in &mut self.queues {
            queue.requests.retain(|request| !request.is_closed());
        }
        self.queues.retain(|queue| !queue.requests.is_empty());
        let left = self.queues.iter().map(|queue| queue.requests.len());
        self.waiting = left.sum();
    }

    fn take_back(&mut self, id: u64) {
        self.out.retain(|out| out.id != id);
    }

    /// When the oldest slot out ceases to count.
    fn next_stale(&self) -> Option<Instant> {
        let oldest = self.out.iter().map(|out| out.since).min()?;
        Some(oldest + STALE)
    }

    fn has_free(&self, class: Class) -> bool {
        let of_class = self.out.iter().filter(|out| out.class == class).count();
        match class {
            Class::Foreground => of_class < self.limit,
            Class::Background => of_class < BACKGROUND || self.out.len() < self.limit,
        }
    }

    fn enqueue(&mut self, child: Child, class: Class) -> oneshot::Receiver<Slot> {
        let (sender, receiver) = oneshot::channel();
        self.waiting += 1;
        let same = |queue: &&mut Queue| queue.child == child && queue.class == class;
        match self.queues.iter_mut().find(same) {
            Some(queue) => queue.requests.push_back(sender),
            None => self.queues.push_back(Queue {
                child,
                class,
                requests: VecDeque::from([sender]),
            }),
        }
        receiver
    }

    /// Takes a free slot for the next in turn.
    fn next_given(&mut self) -> Option<(oneshot::Sender<Slot>, u64)> {
        self.drop_stale();
        let place = self
            .next_queue(Class::Foreground)
            .or_else(|| self.next_queue(Class::Background))?;
        let mut queue = self.queues.remove(place)?;
        let request = queue.requests.pop_front()?;
        self.waiting -= 1;
        self.next += 1;
        self.out.push(Out {
            id: self.next,
            since: Instant::now(),
            child: Arc::clone(&queue.child),
            class: queue.class,
        });
        if !queue.requests.is_empty() {
            self.queues.push_back(queue);
        }
        Some((request, self.next))
    }

    /// Of this class the child with the fewest slots, the first in turn.
    fn next_queue(&mut self, class: Class) -> Option<usize> {
        if !self.has_free(class) {
            return None;
        }
        let places = self.queues.iter().enumerate();
        let of_class = places.filter(|(_, queue)| queue.class == class);
        let (place, _) = of_class.min_by_key(|(_, queue)| {
            let out = self.out.iter().filter(|out| out.child == queue.child);
            out.count()
        })?;
        Some(place)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = self.slots.take() {
            slots.0.lock().take_back(self.id);
            slots.hand_out();
        }
    }
}

#[cfg(test)]
mod tests;
