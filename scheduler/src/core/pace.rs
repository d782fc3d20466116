//! Whether somebody else had better read what a holder has not read yet.
//!
//! A holder lags behind when what it gains (in all tasks while it reads any, from neighbours as
//! well, since all of it shares a link) is four times slower than others read from the same
//! upstream now, or, unless the source is busy with all of them together or the holder has kept
//! up lately, than one host read from it lately; and when its children find it slow.
//! What it has left then goes to a host of better [`Standing`]. That the source itself became
//! slow shows in that nobody is faster: with each lease that moves for its upstream's past,
//! that past counts for half.
//!
//! Of several tasks that it reads, a host may read some first and others hardly, as their streams
//! share its link: only what it gains in all of them says how fast it is.
//!
//! Owner of state: [`Paces`], bounded, and of each host its [`Pace`], one of each upstream that it
//! reads, and when it lagged.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use darter_api::{HostId, PieceSet, TaskId, Timestamp, UpstreamName, session::SchedulerMessage};

use super::{
    Cluster,
    task::{Lease, Task},
};

/// A holder is judged by what it has read, by its own word, within at least this, since its
/// source's first byte. Hosts tell of their progress once a second.
const FAIR: Duration = Duration::from_millis(800);
/// Who has said nothing for so long has read next to nothing.
const SILENT: Duration = Duration::from_millis(1500);
/// Less than this to go is not worth another request to the source.
const WORTH_IT: Duration = Duration::from_secs(2);
/// So many times slower than others is lagging: hosts share links, and pieces come in steps.
const LAGS: f32 = 4.0;
/// A parent that brings a third of what is usual makes a weak reader.
const WEAK: f32 = 3.0;
/// For so long what an upstream brought is what it can bring, and a host that lagged is weak.
const MEMORY: Duration = Duration::from_secs(60);
/// Upstreams whose pace is kept.
const MAX_UPSTREAMS: usize = 1024;
/// Upstreams that one host reads at a time whose pace is kept.
const MAX_READ: usize = 16;

/// What is known of a host that could read a source, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Its children get from it what is usual.
    Good,
    /// Nobody has taken anything from it.
    Unknown,
    /// It is slow, to its children or as a reader.
    Weak,
    /// Somebody caught it sending rot.
    Suspect,
}

/// How fast a host reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    since: Timestamp,
    /// Bytes since then.
    bytes: u64,
    /// Bytes a second before it.
    before: Option<f32>,
    /// The most of them lately, and when.
    best: (f32, Timestamp),
}

impl Pace {
    const fn new(now: Timestamp) -> Self {
        Self {
            since: now,
            bytes: 0,
            before: None,
            best: (0.0, now),
        }
    }

    /// So much more was read; bytes a second, if that was for long enough to tell.
    fn read(&mut self, now: Timestamp, bytes: u64) -> Option<f32> {
        self.bytes += bytes;
        let took = now.since(self.since);
        if took < FAIR || self.bytes == 0 {
            return None;
        }
        let rate = self.bytes as f32 / took.as_secs_f32();
        let is_best = rate >= self.best.0 || now.since(self.best.1) >= MEMORY;
        *self = Self {
            before: Some(rate),
            best: if is_best { (rate, now) } else { self.best },
            ..Self::new(now)
        };
        Some(rate)
    }

    /// Bytes a second, once there is something to go by; `piece` bytes may have come that
    /// nobody has told of.
    fn rate(&self, now: Timestamp, piece: u32) -> Option<f32> {
        let took = now.since(self.since);
        let most = (self.bytes as f32 + piece as f32) / took.as_secs_f32().max(1e-3);
        match self.before {
            Some(before) if took < SILENT => Some(before),
            Some(before) => Some(before.min(most)),
            None => (took >= SILENT * 2).then_some(most),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Paces {
    /// The most that one host read of an upstream, in bytes a second, and when.
    best: BTreeMap<UpstreamName, (f32, Timestamp)>,
}

impl Paces {
    /// One host reads that fast now.
    fn note(&mut self, now: Timestamp, upstream: &UpstreamName, rate: f32) {
        match self.best.get_mut(upstream) {
            Some(best) if rate >= best.0 || now.since(best.1) >= MEMORY => *best = (rate, now),
            Some(_) => {}
            None => {
                if self.best.len() >= MAX_UPSTREAMS {
                    self.best.pop_first();
                }
                self.best.insert(upstream.clone(), (rate, now));
            }
        }
    }
}

/// Those who read one upstream now, and how much comes to them from it.
type Readers = BTreeMap<HostId, f32>;

impl Cluster {
    /// What is known of a host as a reader.
    pub(super) fn standing(&self, host: &HostId) -> Standing {
        let Some(known) = self.hosts.get(host) else {
            return Standing::Suspect;
        };
        if !known.rot_seen_by.is_empty() {
            return Standing::Suspect;
        }
        let lagged = |at: Timestamp| self.now.since(at) < MEMORY;
        if self.is_bad(host) || known.lagged.is_some_and(lagged) {
            return Standing::Weak;
        }
        match known.rate_to("").zip(self.usual_rate) {
            None => Standing::Unknown,
            Some((rate, usual)) if rate * WEAK < usual => Standing::Weak,
            Some(_) => Standing::Good,
        }
    }

    /// Hands over what is read slowly; call it every [`super::LOOK_EVERY`].
    pub(super) fn replace_slow(&mut self, now: Timestamp) {
        let upstreams = self.readers_by_upstream(now);
        for (upstream, readers) in &upstreams {
            let fastest = readers.values().copied().fold(0.0, f32::max);
            self.paces.note(now, upstream, fastest);
        }
        for (id, holder) in self.holders_now() {
            let readers = self.upstream_of(&id).and_then(|one| upstreams.get(one));
            let lags = readers.and_then(|readers| self.lags_behind(&id, &holder, readers));
            let of_the_past = lags == Some(Reason::Past);
            if (lags.is_some() || self.is_slow(&holder))
                && self.hand_over(now, &id, holder)
                && of_the_past
            {
                self.doubt(&id);
            }
        }
    }

    /// The source's first byte of a task has come to a host. What it read before it last
    /// stopped reading says nothing of now.
    pub(super) fn begins_to_read(&mut self, now: Timestamp, id: &TaskId, host: &HostId) {
        let Some(upstream) = self.upstream_of(id).cloned() else {
            return;
        };
        let reads = |lease: &Lease| lease.holder == *host && lease.first_byte;
        let live = self.live.iter().filter_map(|id| self.tasks.get(id));
        let (mut goes_on, mut of_this) = (false, false);
        for task in live.filter(|task| task.leases.iter().any(reads)) {
            goes_on = true;
            of_this |= task.origins.first().map(|one| &one.upstream) == Some(&upstream);
        }
        let Some(known) = self.hosts.get_mut(host) else {
            return;
        };
        if !goes_on {
            let best = known.pace.map(|pace| pace.best);
            known.pace = Some(Pace {
                best: best.unwrap_or((0.0, now)),
                ..Pace::new(now)
            });
            known.reads.clear();
        }
        if !of_this && known.reads.len() < MAX_READ {
            known.reads.insert(upstream, Pace::new(now));
        }
    }

    /// A host says that it has so many pieces more of a task, of which it was to read so many from
    /// the source. That is noted for the upstream as well: its lease may be over before the next look.
    pub(super) fn gained(
        &mut self,
        now: Timestamp,
        id: &TaskId,
        host: &HostId,
        (pieces, read): (u32, u32),
    ) {
        let (Some(task), Some(known)) = (self.tasks.get(id), self.hosts.get_mut(host)) else {
            return;
        };
        if task.has_told_end(host) {
            // Nobody has read what lies past it.
            return;
        }
        let bytes = |pieces: u32| u64::from(pieces) * u64::from(task.lengths.piece_length());
        if let Some(pace) = &mut known.pace {
            pace.read(now, bytes(pieces));
        }
        let Some(origin) = task.origins.first().filter(|_| read > 0) else {
            return;
        };
        let of_this = known.reads.get_mut(&origin.upstream);
        if let Some(rate) = of_this.and_then(|pace| pace.read(now, bytes(read))) {
            self.paces.note(now, &origin.upstream, rate);
        }
    }

    fn upstream_of(&self, id: &TaskId) -> Option<&UpstreamName> {
        let origin = self.tasks.get(id)?.origins.first()?;
        Some(&origin.upstream)
    }

    fn readers_by_upstream(&self, now: Timestamp) -> HashMap<UpstreamName, Readers> {
        let mut upstreams: HashMap<UpstreamName, Readers> = HashMap::new();
        for task in self.live.iter().filter_map(|id| self.tasks.get(id)) {
            let Some(origin) = task.origins.first() else {
                continue;
            };
            for lease in task.leases.iter().filter(|lease| lease.first_byte) {
                let known = self.hosts.get(&lease.holder);
                let pace = known.and_then(|known| known.reads.get(&origin.upstream));
                let rate = pace.and_then(|pace| pace.rate(now, task.lengths.piece_length()));
                if let Some(rate) = rate {
                    let readers = upstreams.entry(origin.upstream.clone()).or_default();
                    readers.insert(lease.holder, rate);
                }
            }
        }
        upstreams
    }

    /// Who was granted something, task by task.
    fn holders_now(&self) -> Vec<(TaskId, HostId)> {
        let mut found = Vec::new();
        for id in &self.live {
            let leases = self.tasks.get(id).into_iter().flat_map(|task| &task.leases);
            let granted = leases.filter(|lease| !lease.own && lease.ending.is_none());
            found.extend(granted.map(|lease| (*id, lease.holder)));
        }
        found
    }

    fn lags_behind(&self, id: &TaskId, holder: &HostId, readers: &Readers) -> Option<Reason> {
        let gains = self.hosts.get(holder)?.pace?;
        let gains = gains.rate(self.now, self.tasks.get(id)?.lengths.piece_length());
        let rate = readers.get(holder)?.max(gains.unwrap_or(0.0));
        let others = readers.iter().filter(|(other, _)| *other != holder);
        let mut others: Vec<f32> = others.map(|(_, rate)| *rate).collect();
        others.sort_unstable_by(f32::total_cmp);
        let lags = |expected: f32| rate * LAGS < expected;
        if others.get(others.len() / 2).copied().is_some_and(lags) {
            return Some(Reason::Others);
        }
        let (best, _) = *self.paces.best.get(self.upstream_of(id)?)?;
        let all: f32 = readers.values().sum();
        let by_the_past = lags(best) && all * 2.0 < best;
        (by_the_past && !self.was_fast(holder, best)).then_some(Reason::Past)
    }

    /// Whether a holder has kept up with `best` lately: what slowed down since is as likely the
    /// source, or what all hosts share, and nobody else would do better.
    fn was_fast(&self, holder: &HostId, best: f32) -> bool {
        let pace = self.hosts.get(holder).and_then(|known| known.pace);
        pace.is_some_and(|pace| pace.best.0 * LAGS >= best)
    }

    /// What a holder has not read goes to a better one, if there is one and it is worth it.
    fn hand_over(&mut self, now: Timestamp, id: &TaskId, holder: HostId) -> bool {
        let Some(task) = self.tasks.get(id) else {
            return false;
        };
        let left = |lease: &&Lease| lease.holder == holder && lease.time_left(now) >= WORTH_IT;
        let Some(lease) = task.leases.iter().filter(|one| !one.own).find(left) else {
            return false;
        };
        // Who reads for a preheat alone is slow because it gives way.
        if task.ranges == Some(false) || !task.is_pulled() {
            return false;
        }
        let pieces = lease.pieces.clone();
        let is_better = self.better_reader(now, id, task).is_some();
        if let Some(known) = self.hosts.get_mut(&holder) {
            known.lagged = Some(now);
        }
        if is_better {
            self.take_back(now, id, holder, pieces);
        }
        is_better
    }

    /// A holder is to read no more of a task. What it has not read goes to the best one there is
    /// when it has said what it has read: that is up to a second more than is known here, and
    /// would be read again.
    fn take_back(&mut self, now: Timestamp, id: &TaskId, holder: HostId, pieces: PieceSet) {
        if let Some(task) = self.tasks.get_mut(id) {
            let granted = |lease: &&mut Lease| lease.holder == holder && !lease.own;
            for lease in task.leases.iter_mut().filter(granted) {
                lease.ending = Some(now);
            }
        }
        self.counts.moved += 1;
        let task = *id;
        self.send(holder, SchedulerMessage::Revoked { task, pieces });
    }

    /// A seed or a waiter that nothing is said against, and that reads none of it.
    fn better_reader(&self, now: Timestamp, id: &TaskId, task: &Task) -> Option<HostId> {
        let readers = task.readers();
        let fit = |host: &HostId| {
            !readers.contains(host)
                && self.standing(host) < Standing::Weak
                && self.may_read(now, task, host)
        };
        let seed = self.ranked_seeds(id).into_iter().find(fit);
        seed.or_else(|| {
            let waiters = task.waiters().into_iter().filter(fit);
            waiters.min_by_key(|host| self.standing(host))
        })
    }

    /// A lease moved because others were faster once.
    fn doubt(&mut self, id: &TaskId) {
        let upstream = self.upstream_of(id).cloned();
        if let Some((best, _)) = upstream.and_then(|one| self.paces.best.get_mut(&one)) {
            *best /= 2.0;
        }
    }

    /// Nobody takes anything from a host any more: what it holds is as good as gone, and
    /// what it was to read is read by somebody else.
    pub(super) fn disown(&mut self, now: Timestamp, host: &HostId) {
        for id in self.tasks_of(host) {
            self.note_held(*host, &id, PieceSet::new());
            let Some(task) = self.tasks.get_mut(&id) else {
                continue;
            };
            task.sources.remove(host);
            let mut left = PieceSet::new();
            for lease in task.leases.iter().filter(|lease| lease.holder == *host) {
                left.union_with(&lease.pieces);
            }
            task.leases.retain(|lease| lease.holder != *host);
            if !left.is_empty() {
                let pieces = left;
                self.send(*host, SchedulerMessage::Revoked { task: *id, pieces });
            }
            self.ensure_source(now, &id);
        }
    }
}

/// What a holder is found slow by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// What others read at the same time.
    Others,
    /// What somebody read before.
    Past,
}
