//! What clients take of what their hosts have: in order, and no faster than they can.
//!
//! A container runtime digests and writes what it pulls. So a host that has the last piece first
//! has won nothing: its client is as far as the first gap, and still has the rest to take.
//!
//! Owner of state: [`Drain`], one a host, for all its contents together. Invariant: a client has
//! never taken more than its host had without a gap.

use std::time::Duration;

use darter_api::{TaskId, Timestamp};

use crate::{
    network::Place,
    world::{Happening, World},
};

/// How far a client is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Drain {
    taken: u64,
    /// What there was to take when it was last looked at.
    there: u64,
    looked: Timestamp,
}

impl Drain {
    /// So much can be taken from now on, at `rate` bytes a second.
    fn more(&mut self, now: Timestamp, rate: u64, there: u64) {
        let more = u128::from(rate) * now.since(self.looked).as_micros() / 1_000_000;
        let rest = u128::from(self.behind());
        *self = Self {
            taken: self.taken + more.min(rest) as u64,
            there,
            looked: now,
        };
    }

    const fn behind(&self) -> u64 {
        self.there - self.taken
    }

    /// How long the rest takes.
    fn rest_takes(&self, rate: u64) -> Duration {
        Duration::from_secs_f64(self.behind() as f64 / rate.max(1) as f64)
    }
}

impl World {
    /// Some of a content is there that was not.
    pub(crate) fn drains(&mut self, host: Place) {
        let Some(rate) = self.scenario.client_rate else {
            return;
        };
        let peer = &mut self.hosts[host];
        let contents = peer.tasks.values();
        let there = contents.map(|local| {
            let pieces = u64::from(local.held.first_gap(0));
            (pieces * local.lengths.piece_length() as u64).min(local.lengths.size())
        });
        let there = there.sum();
        peer.drain.more(self.now, rate.bytes(), there);
    }

    /// A content is whole; its client has it when it has taken the rest.
    pub(crate) fn drained(&mut self, host: Place, task: TaskId) {
        if !self.outstanding.contains(&(host, task)) {
            return;
        }
        self.drains(host);
        let Some(rate) = self.scenario.client_rate else {
            self.settled(host, task, true);
            return;
        };
        let drain = self.hosts[host].drain;
        self.outcome.behind.push(drain.behind());
        let at = self.now + drain.rest_takes(rate.bytes());
        self.queue.put(at, Happening::Taken(host, task));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_client_takes_what_was_there_and_no_faster_than_it_can() {
        let mut drain = Drain::default();
        drain.more(at(1), 10, 100);
        assert_eq!(drain.behind(), 100, "nothing was there before");
        drain.more(at(3), 10, 100);
        assert_eq!(drain.behind(), 80);
        assert_eq!(drain.rest_takes(10), Duration::from_secs(8));
        drain.more(at(60), 10, 150);
        assert_eq!(drain.behind(), 50, "it had waited for more");
        drain.more(at(3600), u64::MAX, 150);
        assert_eq!(drain.behind(), 0);
    }
}
