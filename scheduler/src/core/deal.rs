//! How the pieces of a source are dealt out to those who read it.
//!
//! Where a source serves ranges, several hosts read disjoint pieces of it: it still sends
//! one copy, but more than one downlink fills, and what they read can leave over more than
//! one uplink. Their parts lie interleaved, so that all of them feed the window in which
//! everybody else looks for pieces.
//!
//! Invariant: parts are disjoint, and together are what was dealt.

use std::{ops::Range, time::Duration};

use darter_api::{
    HostId, Lengths, PieceSet, READ_OVER_BYTES, TaskId, Timestamp, session::SchedulerMessage,
};

use super::{
    Cluster,
    grants::rank,
    pace::Standing,
    task::{Lease, Task},
};

/// Runs of pieces that one holder reads at a time: each has a grant of its own, and holders
/// remember a few.
pub(super) const MAX_RUNS: usize = 8;
/// Fewer pieces are read by one host: another request to the source takes as long.
const MIN_SHARED: u32 = 16;
/// Half of what a holder has left goes to somebody else, if it will take so long with it.
const TOO_LONG: Duration = Duration::from_secs(3);
/// Of fewer hosts nobody is relieved: what is on its way to who reads too much is lost.
const RELIEVED_FROM: usize = 48;
/// A host that could not read some source is not made a second reader for so long: the
/// first one does as well.
const FAILED_MEMORY: Duration = Duration::from_secs(60);

/// Who is to read what.
pub(super) type Plan = Vec<(HostId, PieceSet)>;

/// Cuts a set of pieces into `parts` of about the same size that lie interleaved, in not
/// many more than [`MAX_RUNS`] runs each, of `least` pieces or more where there are as many.
pub(super) fn deal(pieces: &PieceSet, parts: usize, least: u32) -> Vec<PieceSet> {
    let parts = u32::try_from(parts).unwrap_or(u32::MAX).max(1);
    let shared = parts.saturating_mul(least);
    let stride = pieces.len().div_ceil(MAX_RUNS as u32).max(shared);
    let mut dealt = vec![PieceSet::new(); parts as usize];
    for run in pieces.runs() {
        let mut at = run.start;
        while at < run.end {
            let rest = run.end - at;
            let length = if rest < stride.saturating_add(shared) {
                rest
            } else {
                stride
            };
            deal_block(&(at..at + length), least, &mut dealt);
            at += length;
        }
    }
    dealt
}

/// To each its part; all to who has least where the parts would be too small.
fn deal_block(block: &Range<u32>, least: u32, dealt: &mut [PieceSet]) {
    let (length, parts) = (block.end - block.start, dealt.len() as u32);
    if length < parts.saturating_mul(least) {
        if let Some(set) = dealt.iter_mut().min_by_key(|set| set.len()) {
            set.insert_range(block.clone());
        }
        return;
    }
    let cut =
        |part: u32| block.start + (u64::from(length) * u64::from(part) / u64::from(parts)) as u32;
    for (part, set) in (0..).zip(dealt) {
        set.insert_range(cut(part)..cut(part + 1));
    }
}

/// Pieces of a part that lie side by side: the others' readers must not read over them.
const fn least(lengths: Lengths) -> u32 {
    (READ_OVER_BYTES / lengths.piece_length() as u64) as u32 + 1
}

impl Cluster {
    /// Who is to read what nobody holds or reads; `None` when nobody can.
    pub(super) fn plan(&self, now: Timestamp, id: &TaskId, pieces: &PieceSet) -> Option<Plan> {
        let task = self.tasks.get(id)?;
        let readers = task.readers();
        let all = |host: HostId| vec![(host, pieces.clone())];
        let Some(first) = readers.iter().min_by_key(|host| self.standing(host)) else {
            let first = self.holder_for(now, id)?;
            if pieces.len() < MIN_SHARED || self.allowed(task) < 2 {
                return Some(all(first));
            }
            if task.ranges.is_some() && !self.is_crowd(task, &[first]) {
                return Some(all(first));
            }
            return Some(self.plan_first(now, id, (task.lengths, task.ranges), first, pieces));
        };
        if task.awaits_first_byte() && self.allowed(task) > 1 {
            return Some(Plan::new());
        }
        if let Some(fellow) = self.who_goes_back(now, id, task, &readers, pieces) {
            return Some(all(fellow));
        }
        let crowd = self.is_crowd(task, &readers);
        let more = self.allowed(task).saturating_sub(readers.len());
        if !crowd && more > 0 && task.has_just_begun(now) {
            return Some(Plan::new());
        }
        let room = if crowd { more } else { 0 };
        let few = pieces.len() < MIN_SHARED / 2;
        let fellows = if few && self.standing(first) < Standing::Weak {
            Vec::new()
        } else {
            self.fellows(now, id, &readers, room)
        };
        if fellows.is_empty() {
            return Some(all(*first));
        }
        let parts = deal(pieces, fellows.len(), least(task.lengths));
        Some(fellows.into_iter().zip(parts).collect())
    }

    /// Who reads what all readers have passed. They would come back to it only after all the rest, and
    /// everybody's window begins with it. Not where nobody knows the end: who reads a part of such a
    /// content could not tell its own end from the content's.
    fn who_goes_back(
        &self,
        now: Timestamp,
        id: &TaskId,
        task: &Task,
        readers: &[HostId],
        pieces: &PieceSet,
    ) -> Option<HostId> {
        let may = self.options.source_holders > 1
            && readers.len() < self.options.source_budget
            && !task.lengths.is_open();
        if !may || task.ranges != Some(true) || !task.is_passed(pieces) {
            return None;
        }
        self.fellows(now, id, readers, 1).first().copied()
    }

    /// Nobody reads yet. Whether the source serves ranges may be known only from its first
    /// answer: until then one host has its own part alone.
    fn plan_first(
        &self,
        now: Timestamp,
        id: &TaskId,
        (lengths, known): (Lengths, Option<bool>),
        first: HostId,
        pieces: &PieceSet,
    ) -> Plan {
        let most = self.most_holders() - 1;
        let fellows = self.fellows(now, id, &[first], most);
        let mut hosts = vec![first];
        hosts.extend(fellows);
        let parts = deal(pieces, hosts.len(), least(lengths));
        let now_known = if known.is_some() { hosts.len() } else { 1 };
        hosts.into_iter().zip(parts).take(now_known).collect()
    }

    /// How many may read this task's source at a time.
    fn allowed(&self, task: &Task) -> usize {
        let shared = task.lengths.pieces() >= MIN_SHARED
            && task.ranges != Some(false)
            // Of parts nobody could tell where they end.
            && !task.lengths.is_open();
        if shared { self.most_holders() } else { 1 }
    }

    /// Whether enough hosts wait for what the readers bring that another reader is worth it: with
    /// few, each of its parts costs more than it brings.
    fn is_crowd(&self, task: &Task, readers: &[HostId]) -> bool {
        task.waiting() >= readers.len() + self.options.source_waiters
    }

    /// How many may read any source at a time.
    fn most_holders(&self) -> usize {
        if self.hosts.len() < self.options.source_holders_from {
            return 1;
        }
        self.options.source_holders.max(1)
    }

    /// Up to `most` hosts that could read beside the readers and that nothing is said against,
    /// since others wait for what they read: other seeds, then waiters, other ones for every task.
    fn fellows(&self, now: Timestamp, id: &TaskId, readers: &[HostId], most: usize) -> Vec<HostId> {
        let Some(task) = self.tasks.get(id) else {
            return Vec::new();
        };
        let reaches = |host: &HostId| {
            let failed = self.hosts.get(host).and_then(|host| host.source_failed);
            failed.is_none_or(|at| now.since(at) >= FAILED_MEMORY)
        };
        let fit = |host: &HostId| {
            !readers.contains(host)
                && reaches(host)
                && self.may_read(now, task, host)
                && self.standing(host) < Standing::Weak
        };
        let mut fellows: Vec<HostId> = self.ranked_seeds(id);
        fellows.retain(fit);
        fellows.truncate(most);
        if fellows.len() < most {
            let mut waiters = task.waiters();
            waiters.retain(|host| fit(host) && !fellows.contains(host));
            waiters.sort_by_cached_key(|host| (self.standing(host), rank(id, host)));
            waiters.truncate(most - fellows.len());
            fellows.extend(waiters);
        }
        fellows
    }

    /// Gives half of what a slow reader has left to somebody who reads nothing.
    pub(super) fn relieve(&mut self, now: Timestamp, id: &TaskId) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let readers = task.readers();
        let room = match self.hosts.len() >= RELIEVED_FROM {
            true => self.allowed(task).saturating_sub(readers.len()),
            false => 0,
        };
        if readers.is_empty() || room == 0 || task.ranges != Some(true) || task.is_held() {
            return;
        }
        let slowest = task
            .leases
            .iter()
            .map(|lease| (lease.time_left(now), lease))
            .filter(|(left, lease)| *left >= TOO_LONG && lease.pieces.len() >= MIN_SHARED)
            .max_by_key(|(left, _)| *left);
        let Some((_, lease)) = slowest else {
            return;
        };
        let (victim, half) = (lease.holder, upper_half(lease));
        let Some(fellow) = self.fellows(now, id, &readers, 1).first().copied() else {
            return;
        };
        if let Some(task) = self.tasks.get_mut(id) {
            for lease in &mut task.leases {
                lease.pieces.subtract(&half);
            }
        }
        let (task, pieces) = (*id, half.clone());
        self.send(victim, SchedulerMessage::Revoked { task, pieces });
        self.grant_all(now, id, fellow, &half);
    }
}

fn upper_half(lease: &Lease) -> PieceSet {
    let half = lease.pieces.len() as usize / 2;
    lease.pieces.iter().skip(half).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_disjoint_interleaved_and_everything() {
        for (length, parts, least) in [
            (400, 2, 1),
            (381, 3, 5),
            (16, 2, 5),
            (1000, 5, 3),
            (17, 4, 1),
        ] {
            let all = PieceSet::full(length);
            let dealt = deal(&all, parts, least);
            let mut union = PieceSet::new();
            for part in &dealt {
                assert!(union.intersection(part).is_empty());
                union.union_with(part);
                assert!(part.runs().len() <= MAX_RUNS + 1, "{length} {parts}");
                assert!(part.len().abs_diff(length / parts as u32) <= 9);
            }
            assert_eq!(union, all);
        }
    }

    #[test]
    fn nobody_reads_over_what_another_one_reads() {
        for length in 10..120 {
            let dealt = deal(&PieceSet::full(length), 2, 5);
            for run in dealt.iter().flat_map(PieceSet::runs) {
                assert!(run.end - run.start >= 5, "{length}: {dealt:?}");
            }
        }
        let scattered: PieceSet = (0..40).filter(|piece| piece % 8 != 7).collect();
        let dealt = deal(&scattered, 2, 5);
        assert!(dealt[0].len().abs_diff(dealt[1].len()) <= 7, "{dealt:?}");
    }

    #[test]
    fn what_was_left_for_later_is_dealt_run_by_run() {
        let all = PieceSet::full(400);
        let rest = {
            let mut rest = all.clone();
            rest.subtract(&deal(&all, 3, 1)[0]);
            rest
        };
        let dealt = deal(&rest, 2, 1);
        assert_eq!(dealt[0].len() + dealt[1].len(), rest.len());
        assert!(dealt.iter().all(|part| part.runs().len() <= MAX_RUNS + 1));
    }
}
