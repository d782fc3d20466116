//! The right to read pieces of a source.

use std::{ops::Range, time::Duration};

use darter_api::{HostId, PieceSet, Timestamp};

use super::Task;

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
    /// Since when it is to end with the holder's next word: what that has read by then is not
    /// read again.
    pub(in crate::core) ending: Option<Timestamp>,
}

/// Who reads a part says when half of its first run is read, within so long where nothing is wrong.
const TOLD_FIRST: Duration = Duration::from_millis(400);
/// Hosts tell so often of their progress: what they read since is not known.
const TOLD_EVERY: Duration = Duration::from_secs(1);

impl Lease {
    /// How long the holder will need for the rest, as far as can be told.
    pub(in crate::core) fn time_left(&self, now: Timestamp) -> Duration {
        let left = self.pieces.len();
        let read = self.size.saturating_sub(left);
        if read == 0 {
            return now.since(self.granted);
        }
        // Until its next word is late it reads on as before.
        let untold = now.since(self.renewed).min(TOLD_EVERY);
        let took = now.since(self.granted).saturating_sub(untold);
        (took * left / read).saturating_sub(untold)
    }

    /// What the holder has probably read since its last word, the first pieces of its part; nothing
    /// if that would be most of it.
    pub(in crate::core) fn probably_read(&self, now: Timestamp) -> PieceSet {
        let left = self.pieces.len();
        let read = self.size.saturating_sub(left);
        let took = self.renewed.since(self.granted).as_secs_f32().max(1e-3);
        let untold = now.since(self.renewed).min(TOLD_EVERY).as_secs_f32();
        let count = (read as f32 / took * untold).ceil() as u32;
        let few = (1..=left / 2).contains(&count);
        let first = self.pieces.iter().take(count as usize);
        first.filter(|_| few).collect()
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

    /// Whether its only reader is in the first half of the first run of its part: until then it has
    /// no use for more.
    pub(in crate::core) fn has_just_begun(&self, now: Timestamp) -> bool {
        let [lease] = &*self.leases else {
            return false;
        };
        let untouched = lease.first_byte && lease.pieces.len() == lease.size;
        untouched && now.since(lease.renewed) < TOLD_FIRST
    }

    /// Whether all who read are beyond these.
    pub(in crate::core) fn is_passed(&self, pieces: &PieceSet) -> bool {
        let end = pieces.end();
        let beyond = |lease: &Lease| lease.pieces.first().is_some_and(|first| first >= end);
        self.leases.iter().all(beyond)
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

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Timestamp {
        Timestamp::from_micros(millis * 1000)
    }

    /// A task of which one host may read a hundred pieces.
    fn leased() -> Task {
        let host = HostId::from_bytes([1; 32]);
        let mut task = Task::new(
            darter_api::TaskId::of_content(darter_api::Digest::sha256(&[1])),
            darter_api::Lengths::of(100 << 20).expect("a length"),
        );
        task.lease(at(0), host, 0..100);
        task
    }

    #[test]
    fn what_a_holder_read_since_its_last_word_is_the_beginning_of_the_rest() {
        let mut task = leased();
        let lease = &mut task.leases[0];
        assert!(lease.probably_read(at(500)).is_empty(), "nothing is known");
        lease.pieces.remove_range(0..20);
        lease.renewed = at(1000);
        let read = |millis| lease.probably_read(at(millis));
        assert_eq!(read(1500), PieceSet::from_range(20..30));
        assert_eq!(read(9000), PieceSet::from_range(20..40), "a second's worth");
        // What is nearly all there is to read is read at once.
        lease.pieces.remove_range(20..70);
        assert!(lease.probably_read(at(1500)).is_empty());
    }

    #[test]
    fn who_has_said_nothing_for_a_moment_reads_on_as_before() {
        let mut task = leased();
        let lease = &mut task.leases[0];
        assert_eq!(lease.time_left(at(500)), Duration::from_millis(500));
        lease.pieces.remove_range(0..20);
        lease.renewed = at(200);
        // 80 pieces at 100 a second.
        assert_eq!(lease.time_left(at(200)), Duration::from_millis(800));
        assert_eq!(lease.time_left(at(1100)), Duration::ZERO);
        // Its word is late.
        assert!(lease.time_left(at(5000)) >= Duration::from_secs(15));
    }
}
