//! Who is sent a piece next: the pure part of [`super::fair`], which the simulator plays as well.
//!
//! Owner of state: [`Turns`]. A free slot goes to the waiting child that has the fewest, in turn
//! where several do. A slot that is held for longer than such a piece takes where nothing is in the way is
//! **lent** to the next child: whoever reads slowly leaves the uplink idle, and a few who do would
//! keep all others waiting. Who lends is not lent to. Invariants: of the foreground not more slots than configured are out
//! and not lent; the background takes what of them is free, and one beside them, so that neither
//! waits for the other's end; all slots are at most [`MOST_OUT`] times as many, but for those that
//! were held longer than [`STALE`]; nobody overtakes who waits.

use std::{collections::VecDeque, time::Duration};

use darter_api::Timestamp;

use crate::limits::Class;

/// A piece of 8 MiB at half a MiB/s takes so long; who is slower does not count at all.
const STALE: Duration = Duration::from_secs(16);
/// So many times longer than usual, and a slot is lent. A child whose downlink is full with what
/// others send takes several times longer than one that is not, so that soon all slots are with such
/// children. While this host's own uplink is full, all take about equally long.
const SLOW: f64 = 1.5;
/// What takes less is not slow, whatever is usual.
const LEAST: Duration = Duration::from_millis(30);
/// Pieces of which a quarter say what is usual: few, so that it is soon known when all become slow,
/// which is this host's own doing.
const RECENT: usize = 12;
/// Fewer say nothing.
const ENOUGH: usize = 4;
/// Slots out, lent ones among them, for each configured one.
const MOST_OUT: usize = 4;
/// Slots that the background has whatever the foreground takes.
const BACKGROUND: usize = 1;
/// Smaller pieces say nothing of how long bytes take.
const TELLING: u64 = 64 * 1024;

/// Names a slot that is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotId(u64);

/// All slots of a host: `C` tells children apart, `T` is what waits.
#[derive(Debug)]
pub struct Turns<C, T> {
    limit: usize,
    queue_limit: usize,
    waiting: usize,
    next: u64,
    out: Vec<Out<C>>,
    /// Children in turn, each with its requests in order.
    queues: VecDeque<Queue<C, T>>,
    /// Seconds that a byte takes where nothing is in the way.
    usual: Option<f64>,
    /// The same of the pieces sent last, the newest first.
    recent: VecDeque<f64>,
}

#[derive(Debug)]
struct Out<C> {
    id: SlotId,
    since: Timestamp,
    bytes: u64,
    child: C,
    class: Class,
}

#[derive(Debug)]
struct Queue<C, T> {
    child: C,
    class: Class,
    requests: VecDeque<(u64, T)>,
}

impl<C: Clone + PartialEq, T> Turns<C, T> {
    /// `limit` slots, and a queue of `queue_limit` requests.
    pub fn new(limit: usize, queue_limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            queue_limit,
            waiting: 0,
            next: 0,
            out: Vec::new(),
            queues: VecDeque::new(),
            usual: None,
            recent: VecDeque::with_capacity(RECENT),
        }
    }

    /// Other bounds from now on. Slots that are out stay so until they are given back.
    pub fn set(&mut self, limit: usize, queue_limit: usize) {
        self.limit = limit.max(1);
        self.queue_limit = queue_limit;
    }

    /// Slots that are out, lent ones among them, and requests that wait.
    pub const fn load(&self) -> (usize, usize) {
        (self.out.len(), self.waiting)
    }

    /// Whether who comes now finds no place in the queue.
    pub const fn is_full(&self) -> bool {
        self.waiting >= self.queue_limit
    }

    /// Waits for a slot to send `bytes`.
    ///
    /// # Errors
    /// With what would have waited, when the queue is full and no slot is free.
    pub fn ask(
        &mut self,
        now: Timestamp,
        child: C,
        class: Class,
        bytes: u64,
        what: T,
    ) -> Result<(), T> {
        if self.is_full() && !(self.has_free(now, class) && self.may_have(now, class, &child)) {
            return Err(what);
        }
        self.waiting += 1;
        let same = |queue: &&mut Queue<C, T>| queue.child == child && queue.class == class;
        match self.queues.iter_mut().find(same) {
            Some(queue) => queue.requests.push_back((bytes, what)),
            None => self.queues.push_back(Queue {
                child,
                class,
                requests: VecDeque::from([(bytes, what)]),
            }),
        }
        Ok(())
    }

    /// Takes a free slot for the next in turn; call it until it has nothing.
    pub fn next(&mut self, now: Timestamp) -> Option<(T, SlotId)> {
        let place = self
            .next_queue(now, Class::Foreground)
            .or_else(|| self.next_queue(now, Class::Background))?;
        let mut queue = self.queues.remove(place)?;
        let (bytes, what) = queue.requests.pop_front()?;
        self.waiting -= 1;
        self.next += 1;
        let id = SlotId(self.next);
        self.out.push(Out {
            id,
            since: now,
            bytes,
            child: queue.child.clone(),
            class: queue.class,
        });
        if !queue.requests.is_empty() {
            self.queues.push_back(queue);
        }
        Some((what, id))
    }

    /// A slot is not needed any more: all of its piece was sent.
    pub fn sent(&mut self, now: Timestamp, id: SlotId) {
        let Some(out) = self.take_back(id) else {
            return;
        };
        if out.bytes >= TELLING {
            let took = now.since(out.since).as_secs_f64() / out.bytes as f64;
            self.recent.truncate(RECENT - 1);
            self.recent.push_front(took);
            self.usual = usual(&self.recent);
        }
    }

    /// A slot is not needed any more: nobody wants the piece, or the rest of it. How long it was
    /// out says nothing of what pieces take.
    pub fn give_back(&mut self, id: SlotId) {
        self.take_back(id);
    }

    fn take_back(&mut self, id: SlotId) -> Option<Out<C>> {
        let place = self.out.iter().position(|out| out.id == id)?;
        Some(self.out.swap_remove(place))
    }

    /// When the next slot is lent, if that makes one free that somebody waits for.
    pub fn due(&self, now: Timestamp) -> Option<Timestamp> {
        if self.waiting == 0 {
            return None;
        }
        let lent = self.out.iter().map(|out| out.since + self.lent_after(out));
        let stale = self.out.iter().map(|out| out.since + STALE);
        lent.chain(stale).filter(|at| *at > now).min()
    }

    /// Forgets what waits but for what is to stay.
    pub fn retain(&mut self, mut keep: impl FnMut(&C, &T) -> bool) {
        for queue in &mut self.queues {
            let child = &queue.child;
            queue.requests.retain(|(_, what)| keep(child, what));
        }
        self.queues.retain(|queue| !queue.requests.is_empty());
        let left = self.queues.iter().map(|queue| queue.requests.len());
        self.waiting = left.sum();
    }

    /// Takes all that waits.
    pub fn drain(&mut self) -> Vec<T> {
        self.waiting = 0;
        let queues = std::mem::take(&mut self.queues);
        let requests = queues.into_iter().flat_map(|queue| queue.requests);
        requests.map(|(_, what)| what).collect()
    }

    fn lent_after(&self, out: &Out<C>) -> Duration {
        let usual = self
            .usual
            .map_or(f64::MAX, |usual| usual * out.bytes as f64);
        let slow = Duration::try_from_secs_f64(usual * SLOW).unwrap_or(STALE);
        slow.clamp(LEAST, STALE)
    }

    fn has_free(&self, now: Timestamp, class: Class) -> bool {
        let held = self.out.iter();
        let held = held.filter(|out| now.since(out.since) < STALE);
        let counts = |out: &&Out<C>| now.since(out.since) < self.lent_after(out);
        let of_class = held.clone().filter(|out| out.class == class);
        let of_class = of_class.filter(counts).count();
        if held.clone().count() >= self.limit * MOST_OUT {
            return false;
        }
        match class {
            Class::Foreground => of_class < self.limit,
            Class::Background => of_class < BACKGROUND || held.filter(counts).count() < self.limit,
        }
    }

    /// Whether a child holds a slot that is lent.
    fn is_slow(&self, now: Timestamp, child: &C) -> bool {
        let held = self.out.iter().filter(|out| out.child == *child);
        let mut held = held.map(|out| (now.since(out.since), self.lent_after(out)));
        held.any(|(since, lent)| since >= lent && since < STALE)
    }

    /// Whether a free slot may go to a child: what is lent is not for those who lend.
    fn may_have(&self, now: Timestamp, class: Class, child: &C) -> bool {
        let own = match class {
            Class::Foreground => self.limit,
            Class::Background => BACKGROUND,
        };
        let held = self.out.iter().filter(|out| now.since(out.since) < STALE);
        let held = held.filter(|out| out.class == class).count();
        held < own || !self.is_slow(now, child)
    }

    /// Of this class the child with the fewest slots, the first in turn.
    fn next_queue(&self, now: Timestamp, class: Class) -> Option<usize> {
        let places = self.queues.iter().enumerate();
        let of_class = places.filter(|(_, queue)| queue.class == class);
        let mut of_class = of_class
            .filter(|(_, queue)| self.may_have(now, class, &queue.child))
            .peekable();
        of_class.peek()?;
        if !self.has_free(now, class) {
            return None;
        }
        let (place, _) = of_class.min_by_key(|(_, queue)| {
            let out = self.out.iter().filter(|out| out.child == queue.child);
            out.count()
        })?;
        Some(place)
    }
}

/// What the faster ones take.
fn usual(recent: &VecDeque<f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = recent.iter().copied().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
        .get(sorted.len() / 4)
        .copied()
        .filter(|_| sorted.len() >= ENOUGH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(millis: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_millis(millis)
    }

    fn asks(turns: &mut Turns<u8, u8>, now: u64, child: u8) -> Option<SlotId> {
        let asked = turns.ask(at(now), child, Class::Foreground, MIB, child);
        asked.ok()?;
        turns.next(at(now)).map(|(_, slot)| slot)
    }

    /// Slots of which pieces of 1 MiB usually take 100 ms.
    fn used() -> Turns<u8, u8> {
        let mut turns = Turns::new(2, 10);
        for now in 0..20 {
            let slot = asks(&mut turns, now * 100, 0).expect("all are free");
            turns.sent(at(now * 100 + 100), slot);
        }
        turns
    }

    #[test]
    fn slots_of_slow_children_are_lent_and_counted_again_when_they_are_back() {
        let mut turns = used();
        let slow = [asks(&mut turns, 3000, 1), asks(&mut turns, 3000, 2)];
        assert!(slow.iter().all(Option::is_some));
        assert!(asks(&mut turns, 3100, 3).is_none());
        assert_eq!(turns.due(at(3100)), Some(at(3150)));
        assert!(turns.next(at(3149)).is_none());
        let (who, fast) = turns.next(at(3150)).expect("it is lent");
        assert_eq!(who, 3);
        assert!(asks(&mut turns, 3150, 4).is_some(), "so is the other");
        assert!(asks(&mut turns, 3150, 5).is_none(), "but not twice");
        turns.sent(at(3200), slow[0].expect("a slot"));
        assert!(turns.next(at(3200)).is_none(), "two fast ones are out");
        turns.sent(at(3200), fast);
        assert!(turns.next(at(3200)).is_some());
    }

    #[test]
    fn who_never_reads_does_not_take_more_and_more_slots() {
        let mut turns = used();
        let mut given = 0;
        for now in (3000..15_000).step_by(500) {
            given += usize::from(asks(&mut turns, now, 1).is_some());
            while turns.next(at(now)).is_some() {
                given += 1;
            }
        }
        assert_eq!(given, 2, "who lends is not lent to");
        assert_eq!(turns.waiting, 10, "the queue is full, and no fuller");
        let more = turns.ask(at(15_000), 1, Class::Foreground, MIB, 1);
        assert!(more.is_err(), "that is said");
        assert!(turns.next(at(3000) + STALE).is_some(), "the first is stale");
    }

    #[test]
    fn many_who_never_read_don_t_take_all_that_there_may_be() {
        let mut turns = used();
        let given = (1..100).filter(|child| {
            let now = 3000 + u64::from(*child) * 100;
            asks(&mut turns, now, *child).is_some()
        });
        assert_eq!(given.count(), 2 * MOST_OUT);
    }

    #[test]
    fn what_was_not_sent_says_nothing_of_what_is_usual() {
        let mut turns = used();
        for now in 2000..2020 {
            let slot = asks(&mut turns, now, 0).expect("all are free");
            turns.give_back(slot);
        }
        assert!(asks(&mut turns, 3000, 1).is_some() && asks(&mut turns, 3000, 2).is_some());
        assert!(asks(&mut turns, 3000, 3).is_none());
        assert_eq!(turns.due(at(3000)), Some(at(3150)));
    }

    #[test]
    fn a_large_piece_may_take_longer() {
        let mut turns = used();
        for child in 1..3 {
            let asked = turns.ask(at(3000), child, Class::Foreground, 16 * MIB, child);
            assert!(asked.is_ok() && turns.next(at(3000)).is_some());
        }
        assert!(asks(&mut turns, 4000, 3).is_none());
        assert_eq!(turns.due(at(4000)), Some(at(3000 + 2400)));
    }
}
