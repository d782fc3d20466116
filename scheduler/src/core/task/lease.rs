//! The right to read pieces of a source.

use std::{ops::Range, time::Duration};

use darter_api::{HostId, PieceSet, Timestamp};

use super::{super::pace::Pace, Task};

/// The right to read pieces.
#[derive(Debug)]
pub(in crate::core) struct Lease {
    pub(in crate::core) holder: HostId,
    pub(in crate::core) pieces: PieceSet,
    /// The holder took it itself.
    pub(in crate::core) own: bool,
    pub(in crate::core) granted: Timestamp,
    /// Pieces that were granted in all.
    pub(in crate::core) size: u32,
    pub(in crate::core) accepted: Option<Timestamp>,
    pub(in crate::core) first_byte: bool,
    pub(in crate::core) renewed: Timestamp,
    pub(in crate::core) pace: Pace,
    /// Since when it is to end with the holder's next word: what that has read by then is not
    /// read again.
    pub(in crate::core) ending: Option<Timestamp>,
}

impl Lease {
    /// How long the holder will need for the rest, as far as can be told.
    pub(in crate::core) fn time_left(&self, now: Timestamp) -> Duration {
        let (left, took) = (self.pieces.len(), now.since(self.granted));
        match self.size.saturating_sub(left) {
            0 => took,
            read => took * left / read,
        }
    }
}

impl Task {
    /// A host may read these pieces, beside what it may read already.
    pub(in crate::core) fn lease(&mut self, now: Timestamp, holder: HostId, pieces: Range<u32>) {
        let granted =
            |lease: &&mut Lease| lease.holder == holder && !lease.own && lease.ending.is_none();
        if let Some(lease) = self.leases.iter_mut().find(granted) {
            lease.size += pieces.end - pieces.start;
            lease.pieces.insert_range(pieces);
            return;
        }
        self.leases.push(Lease {
            holder,
            size: pieces.end - pieces.start,
            pieces: PieceSet::from_range(pieces),
            own: false,
            granted: now,
            accepted: None,
            first_byte: false,
            renewed: now,
            pace: Pace::new(now),
            ending: None,
        });
    }

    /// Who may read some of it, each once.
    pub(in crate::core) fn readers(&self) -> Vec<HostId> {
        let mut readers = Vec::new();
        for lease in &self.leases {
            if !readers.contains(&lease.holder) {
                readers.push(lease.holder);
            }
        }
        readers
    }

    /// Whether the source's first answer is on its way, and will tell if others could read
    /// it as well.
    pub(in crate::core) fn awaits_first_byte(&self) -> bool {
        let awaits = |lease: &Lease| !lease.own && !lease.first_byte;
        self.ranges.is_none() && self.leases.iter().any(awaits)
    }

    /// In how many runs a host reads.
    pub(in crate::core) fn runs_of(&self, host: &HostId) -> usize {
        let own = self.leases.iter().filter(|lease| lease.holder == *host);
        own.map(|lease| lease.pieces.runs().len()).sum()
    }

    /// In how many it would, with another one.
    pub(in crate::core) fn runs_with(&self, host: &HostId, run: &Range<u32>) -> usize {
        let mut all = PieceSet::from_range(run.clone());
        for lease in self.leases.iter().filter(|lease| lease.holder == *host) {
            all.union_with(&lease.pieces);
        }
        all.runs().len()
    }
}
