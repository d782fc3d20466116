//! Whether what was given out has spread from whom it was given to.
//!
//! Whoever took a piece may be of no use to the others: nobody believes it any more, it is far
//! slower than they are, or it knows too few. So what nobody but those it was given to has after
//! [`SPREADS`] is given to one more; where all ask in order, and none that lacks it has come near it,
//! only while there is nothing better to give.
//!
//! Owner of state: one [`Spread`] a content, of what has not been seen to spread.

use std::{collections::BTreeMap, time::Duration};

use darter_api::{HostId, PieceSet, Timestamp};

use super::{
    order::{asks_in_order, wants_soon},
    state::Subscriber,
};

/// What was taken has spread after so long, or after three times what offers usually take.
const SPREADS: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Spread {
    taken: BTreeMap<u32, Taken>,
    /// How long an offer takes to be taken up, on average.
    taken_after: Option<Duration>,
}

/// Who has a piece that was given out.
#[derive(Debug)]
struct Taken {
    by: Vec<HostId>,
    /// When the last of them had it.
    since: Timestamp,
    /// It has not spread in time, and nobody wants it yet.
    is_unwanted: bool,
}

impl Taken {
    const fn nobody(now: Timestamp) -> Self {
        Self {
            by: Vec::new(),
            since: now,
            is_unwanted: false,
        }
    }
}

impl Spread {
    /// Whether there is something to wait for.
    pub(super) fn is_awaited(&self) -> bool {
        !self.taken.is_empty()
    }

    /// How long an offer usually takes to be taken up.
    pub(super) fn usual(&self) -> Duration {
        self.taken_after.unwrap_or_default()
    }

    /// These are not held any more.
    pub(super) fn forget(&mut self, pieces: &PieceSet) {
        self.taken.retain(|piece, _| !pieces.contains(*piece));
    }

    /// A host took a piece up so long after it was offered.
    pub(super) fn taken_up(&mut self, now: Timestamp, piece: u32, host: HostId, took: Duration) {
        let average = |old: Duration| (old * 7 + took) / 8;
        self.taken_after = Some(self.taken_after.map_or(took, average));
        let nobody = || Taken::nobody(now);
        let taken = self.taken.entry(piece).or_insert_with(nobody);
        taken.by.push(host);
        taken.since = now;
    }

    /// A host has a piece that waited to be offered. If it did not have it already, and somebody
    /// was given it before, it has spread.
    pub(super) fn had_by(&mut self, now: Timestamp, piece: u32, host: &HostId) {
        match self.taken.get(&piece) {
            Some(taken) if taken.by.contains(host) => {}
            Some(_) => drop(self.taken.remove(&piece)),
            None => {
                let by = vec![*host];
                let nobody = Taken::nobody(now);
                self.taken.insert(piece, Taken { by, ..nobody });
            }
        }
    }

    /// It is offered once more.
    pub(super) fn offered(&mut self, now: Timestamp, piece: u32) {
        if let Some(taken) = self.taken.get_mut(&piece) {
            (taken.since, taken.is_unwanted) = (now, false);
        }
    }

    /// What did not spread in time and is to be offered again.
    pub(super) fn look(
        &mut self,
        now: Timestamp,
        others: &BTreeMap<HostId, Subscriber>,
    ) -> Vec<u32> {
        if others.len() < 2 {
            self.taken.clear();
        }
        let after = SPREADS.max(self.usual() * 3);
        let in_order = asks_in_order(others.len());
        let mut again = Vec::new();
        self.taken.retain(|piece, taken| {
            if now.since(taken.since) < after {
                return true;
            }
            let has = |(host, other): (&HostId, &Subscriber)| {
                !taken.by.contains(host) && other.known.contains(*piece)
            };
            let without = others.values().filter(|other| other.lacks(*piece));
            let mut without = without.peekable();
            if others.iter().any(has) || without.peek().is_none() {
                return false;
            }
            taken.is_unwanted = in_order && !without.any(|other| wants_soon(other, *piece));
            if !taken.is_unwanted {
                taken.since = now;
                again.push(*piece);
            }
            true
        });
        again
    }

    /// What has not spread though it should have, and nobody wants yet.
    pub(super) fn unwanted(&self) -> impl Iterator<Item = u32> {
        let unwanted = self.taken.iter().filter(|(_, taken)| taken.is_unwanted);
        unwanted.map(|(piece, _)| *piece)
    }
}
