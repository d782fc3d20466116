//! Who is to read the source: every missing piece of a wanted content is held, granted to one
//! host, or said to be unavailable.

use std::{ops::Range, sync::Arc, time::Duration};

use darter_api::{
    Grant, HostId, PieceSet, TaskId, Timestamp,
    session::{LeaseEnd, Purpose, SchedulerMessage},
};

use super::{Cluster, deal::MAX_RUNS, pace::Standing, task::Task};

/// Who gave a lease back because others have what it is for is not asked again for so long:
/// until then progress has told who they are.
const NOT_NEEDED_MEMORY: Duration = Duration::from_secs(1);
/// Waiters that may fail to read a source, one after another with nothing gained and nobody
/// new in between, before all who wait are told.
const MAX_FAILURES: u32 = 2;

impl Cluster {
    /// Sees to it that every missing piece of a wanted task is held, leased, or said to
    /// be unavailable.
    pub(super) fn ensure_source(&mut self, now: Timestamp, id: &TaskId) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        if task.waiting() == 0 && task.leases.is_empty() {
            self.live.remove(id);
            return;
        }
        self.live.insert(*id);
        if task.waiting() == 0 || self.settles(now, id) {
            return;
        }
        let uncovered = task.unclaimed(now);
        if uncovered.is_empty() {
            self.relieve(now, id);
            return;
        }
        let Some(plan) = self.plan(now, id, &uncovered) else {
            self.tell_unavailable(id);
            return;
        };
        for (holder, pieces) in plan {
            self.grant_all(now, id, holder, &pieces);
        }
    }

    /// As many runs as a holder may have; the rest waits until it has read some.
    pub(super) fn grant_all(
        &mut self,
        now: Timestamp,
        id: &TaskId,
        holder: HostId,
        pieces: &PieceSet,
    ) {
        for run in pieces.runs() {
            let Some(task) = self.tasks.get(id) else {
                return;
            };
            // What fills a gap makes fewer runs, not more.
            if task.runs_with(&holder, run) > MAX_RUNS.max(task.runs_of(&holder)) {
                continue;
            }
            self.grant(now, id, holder, run.clone());
        }
    }

    /// The first reader: the seed by rendezvous (Thaler and Ravishankar, 1998); else
    /// one of those who wait: who does well as a parent, and of those who were near the
    /// last reader.
    pub(super) fn holder_for(&self, now: Timestamp, id: &TaskId) -> Option<HostId> {
        let task = self.tasks.get(id)?;
        let memory = self.options.refusal_memory;
        let fit = |host: &HostId| self.may_read(now, task, host);
        let missing = |(why, at): &(LeaseEnd, Timestamp)| {
            *why == LeaseEnd::Missing && now.since(*at) < memory
        };
        if task.refused.values().any(missing) {
            return None;
        }
        if task.failures >= MAX_FAILURES {
            return None;
        }
        let waiters = task.waiters();
        let reads_first = |host: &&HostId| fit(host) && self.reads_first(task, host);
        if let Some(host) = waiters.iter().find(reads_first) {
            return Some(*host);
        }
        let does_well = |host: &HostId| self.standing(host) < Standing::Weak;
        let seeds: Vec<HostId> = self.ranked_seeds(id).into_iter().filter(fit).collect();
        if let Some(seed) = seeds.iter().find(|seed| does_well(seed)) {
            return Some(*seed);
        }
        let fit = waiters.into_iter().filter(fit);
        let best = fit.min_by_key(|host| (self.standing(host), !task.heirs.contains(host)));
        let seed = seeds.first().copied();
        best.filter(does_well).or(seed).or(best)
    }

    /// Whether a host is allowed to read this task, and has not failed to lately.
    pub(super) fn may_read(&self, now: Timestamp, task: &Task, host: &HostId) -> bool {
        let is_refused = task.refused.get(host).is_some_and(|(why, at)| {
            let memory = match why {
                LeaseEnd::NotNeeded => NOT_NEEDED_MEMORY,
                _ => self.options.refusal_memory,
            };
            now.since(*at) < memory
        });
        !is_refused && self.may_be_reader(task, host)
    }

    /// The seed that a cold task is asked of.
    pub(super) fn seed_of(&self, id: &TaskId) -> Option<HostId> {
        let known = self.tasks.get(id);
        let fits = |seed: &HostId| known.is_none_or(|task| self.may_be_reader(task, seed));
        self.ranked_seeds(id).into_iter().find(fits)
    }

    pub(super) fn ranked_seeds(&self, id: &TaskId) -> Vec<HostId> {
        let mut ranked: Vec<HostId> = self.seeds.iter().copied().collect();
        ranked.retain(|seed| !self.is_bad(seed) || self.is_slow(seed));
        ranked.sort_by_cached_key(|seed| (self.standing(seed) >= Standing::Weak, rank(id, seed)));
        ranked
    }

    fn grant(&mut self, now: Timestamp, id: &TaskId, holder: HostId, pieces: Range<u32>) {
        let unix_ms = self.unix_ms + now.as_micros() / 1000;
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        task.told_unavailable.clear();
        let lengths = task.lengths;
        let origin = task.origins.first().cloned();
        let is_pulled = task.is_pulled();
        let asked_to_fetch = !task.member(holder).wants();
        if asked_to_fetch {
            task.set_wants(holder, true);
            let member = task.member(holder);
            member.purpose = Purpose::Seed;
            member.hurry(is_pulled);
        }
        task.lease(now, holder, pieces.clone());
        let name = Arc::clone(&task.id);
        self.counts.granted += 1;
        if let Some(host) = self.hosts.get_mut(&holder) {
            host.tasks.or_default(name);
            host.granted.get_or_insert(now);
        }
        let grant = Grant::sign(&self.key, holder, *id, lengths, pieces, unix_ms);
        if let Some(origin) = origin.filter(|_| asked_to_fetch) {
            let purpose = if is_pulled {
                Purpose::Seed
            } else {
                Purpose::Preheat
            };
            self.send(
                holder,
                SchedulerMessage::Fetch {
                    task: *id,
                    lengths,
                    origin,
                    purpose,
                },
            );
        }
        if is_pulled {
            self.hurry(id);
        }
        self.send(holder, SchedulerMessage::Grant(grant));
        self.introduce(holder, id);
    }

    /// Somebody waits for a task now: who reads it for a preheat stops giving way.
    pub(super) fn hurry(&mut self, id: &TaskId) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let (lengths, origin) = (task.lengths, task.origins.first().cloned());
        let mut idle = task.readers();
        idle.retain(|reader| {
            let member = task.member(*reader);
            member.purpose != Purpose::Pull && !member.hurry(true)
        });
        for reader in idle {
            if let Some(origin) = origin.clone() {
                let message = SchedulerMessage::Fetch {
                    task: *id,
                    lengths,
                    origin,
                    purpose: Purpose::Seed,
                };
                self.send(reader, message);
            }
        }
    }

    fn tell_unavailable(&mut self, id: &TaskId) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let failures = task.refused.values();
        let failures = failures.filter(|(why, _)| *why != LeaseEnd::NotNeeded);
        let why = failures.max_by_key(|(_, at)| *at).map(|(why, _)| *why);
        let waiters = task.waiters();
        // Where nobody may even try there are no failures.
        if why.is_none() && waiters.iter().any(|host| self.may_be_reader(task, host)) {
            return;
        }
        let why = why.unwrap_or(LeaseEnd::Refused);
        let barred = |host| (host, self.is_barred(task, &host));
        let mut news: Vec<(HostId, bool)> = waiters.into_iter().map(barred).collect();
        if let Some(task) = self.tasks.get_mut(id) {
            news.retain(|(host, _)| task.told_unavailable.insert(*host));
        }
        for (host, forbidden) in news {
            let task = *id;
            let message = SchedulerMessage::Unavailable {
                task,
                why,
                forbidden,
            };
            self.send(host, message);
        }
    }
}

/// Rendezvous hashing (Thaler and Ravishankar, 1998): the lowest rank has a task.
pub(super) fn rank(id: &TaskId, host: &HostId) -> [u8; 32] {
    let mut text = id.to_string().into_bytes();
    text.extend(host.as_bytes());
    let mut rank = [0; 32];
    rank.copy_from_slice(darter_api::Digest::sha256(&text).as_bytes());
    rank
}
