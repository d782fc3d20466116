//! Who may read the source: at most one host a piece.

use std::{ops::Range, sync::Arc, time::Duration};

use darter_api::{
    Grant, HostId, PieceSet, TaskId, Timestamp,
    session::{LeaseEnd, Purpose, SchedulerMessage},
};

use super::{
    Cluster,
    deal::MAX_RUNS,
    pace::Standing,
    task::{Lease, Task},
};

/// Who gave a lease back because others have what it is for is not asked again for so long:
/// until then progress has told who they are.
const NOT_NEEDED_MEMORY: Duration = Duration::from_secs(1);
/// A holder whose lease is taken back is waited for so long, to say what it has read.
const LAST_WORD: Duration = Duration::from_millis(1500);
/// A holder that answers slowly is waited for so long at most.
const MAX_ACCEPT: Duration = Duration::from_secs(5);
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

    pub(super) fn lease_accepted(&mut self, now: Timestamp, host: HostId, id: &TaskId) {
        if let Some(known) = self.hosts.get_mut(&host)
            && let Some(at) = known.granted.take()
        {
            known.round_trip = now.since(at);
        }
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        for lease in task.leases.iter_mut().filter(|lease| lease.holder == host) {
            lease.accepted.get_or_insert(now);
            lease.renewed = now;
        }
    }

    pub(super) fn lease_first_byte(
        &mut self,
        now: Timestamp,
        host: HostId,
        id: &TaskId,
        ranges: bool,
    ) {
        let begins = |lease: &Lease| lease.holder == host && !lease.first_byte;
        let task = self.tasks.get(id);
        if task.is_some_and(|task| task.leases.iter().any(begins)) {
            self.begins_to_read(now, id, &host);
        }
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if task.readers().contains(&host) {
            task.ranges = Some(ranges);
        }
        for lease in task.leases.iter_mut().filter(|lease| lease.holder == host) {
            lease.accepted.get_or_insert(now);
            lease.first_byte = true;
            lease.renewed = now;
        }
        self.ensure_source(now, id);
    }

    /// What the holder has of its lease is read; the rest lives on while it gains.
    pub(super) fn renew_lease(&mut self, now: Timestamp, id: &TaskId, host: &HostId, gained: u32) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let Some(held) = task.members.get(host).map(|member| member.held().clone()) else {
            return;
        };
        let mut read = 0;
        for lease in task.leases.iter_mut().filter(|lease| lease.holder == *host) {
            let before = lease.pieces.len();
            lease.pieces.subtract(&held);
            read += before - lease.pieces.len();
            if gained > 0 {
                lease.renewed = now;
                task.failures = 0;
            }
        }
        let ended = |lease: &Lease| lease.holder == *host && lease.ending.is_some();
        task.leases
            .retain(|lease| !lease.pieces.is_empty() && !ended(lease));
        self.gained(now, id, host, (gained, read));
    }

    pub(super) fn lease_returned(
        &mut self,
        now: Timestamp,
        host: HostId,
        id: &TaskId,
        pieces: &PieceSet,
        why: LeaseEnd,
    ) {
        self.counts.returned += 1;
        let Some(task) = self.enlist(host, id) else {
            return;
        };
        // A source that fails ends the lease as a whole; a part that others have, only that.
        let failed = why != LeaseEnd::NotNeeded;
        for lease in task.leases.iter_mut().filter(|lease| lease.holder == host) {
            lease.pieces.subtract(pieces);
        }
        task.leases
            .retain(|lease| !lease.pieces.is_empty() && (lease.holder != host || !failed));
        task.refused.insert(host, (why, now));
        if !failed {
            task.is_elsewhere(now, pieces);
        }
        if why == LeaseEnd::Unreachable {
            task.failed(host);
        }
        let reads = task.leases.iter().any(|lease| lease.holder == host);
        if !reads && task.member(host).purpose == Purpose::Seed {
            task.set_wants(host, false);
        }
        if why == LeaseEnd::Unreachable {
            self.could_not_read(now, &host);
        }
        self.ensure_source(now, id);
    }

    /// A host reads on its own lease: adopted, but for what somebody else reads already.
    pub(super) fn self_leased(
        &mut self,
        now: Timestamp,
        host: HostId,
        id: &TaskId,
        pieces: PieceSet,
    ) {
        let Some(task) = self.enlist(host, id) else {
            return;
        };
        if pieces.end() > task.lengths.pieces() {
            return;
        }
        let reads = |lease: &Lease| lease.holder == host && lease.first_byte;
        let reads = task.leases.iter().any(reads);
        task.leases
            .retain(|lease| lease.holder != host || !lease.own);
        if !self.shares(&host) {
            return;
        }
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        if self.is_barred(task, &host) || self.is_over_budget(task, &host) {
            self.revoke(host, id, pieces);
            return;
        }
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let (mut own, mut disputed) = (pieces.clone(), PieceSet::new());
        for lease in &task.leases {
            own.subtract(&lease.pieces);
            if lease.holder != host {
                disputed.union_with(&lease.pieces.intersection(&pieces));
            }
        }
        if !own.is_empty() {
            if !reads {
                self.begins_to_read(now, id, &host);
            }
            let Some(task) = self.tasks.get_mut(id) else {
                return;
            };
            task.leases.push(Lease {
                holder: host,
                pieces: own,
                own: true,
                granted: now,
                size: 0,
                accepted: Some(now),
                first_byte: true,
                renewed: now,
                ending: None,
            });
            self.live.insert(*id);
        }
        self.revoke(host, id, disputed);
    }

    /// A host turns out to read these already: who was granted them and has not begun is told
    /// to leave them. A stream that is under way is not cut off for one that is to come.
    pub(super) fn withdraw_for_reader(&mut self, host: HostId, id: &TaskId, reading: &PieceSet) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let mut withdrawn = Vec::new();
        let idle = |lease: &&mut Lease| lease.holder != host && !lease.first_byte;
        for lease in task.leases.iter_mut().filter(idle) {
            let both = lease.pieces.intersection(reading);
            lease.pieces.subtract(&both);
            withdrawn.push((lease.holder, both));
        }
        task.leases.retain(|lease| !lease.pieces.is_empty());
        for (holder, pieces) in withdrawn {
            self.revoke(holder, id, pieces);
        }
    }

    /// What others hold is not read by a host that could not know.
    pub(super) fn revoke_held(&mut self, host: HostId, id: &TaskId) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let mut held = PieceSet::new();
        let reads = task.leases.iter().filter(|lease| lease.holder == host);
        for lease in reads {
            held.union_with(&task.held_by_others(&host, &lease.pieces));
        }
        for lease in &mut task.leases {
            if lease.holder == host {
                lease.pieces.subtract(&held);
            }
        }
        task.leases.retain(|lease| !lease.pieces.is_empty());
        self.introduce_holders(host, id, &held);
        self.revoke(host, id, held);
    }

    fn could_not_read(&mut self, now: Timestamp, host: &HostId) {
        if let Some(host) = self.hosts.get_mut(host) {
            host.source_failed = Some(now);
        }
    }

    fn revoke(&mut self, host: HostId, id: &TaskId, pieces: PieceSet) {
        if !pieces.is_empty() {
            self.send(host, SchedulerMessage::Revoked { task: *id, pieces });
        }
    }

    pub(super) fn expire_leases(&mut self, now: Timestamp, id: &TaskId) {
        let options = &self.options;
        let (accept, first_byte, idle) = (
            options.accept_timeout,
            options.first_byte_timeout,
            options.lease_timeout,
        );
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let hosts = &self.hosts;
        let late = |lease: &Lease| match lease.accepted {
            _ if lease.ending.is_some() => false,
            None => {
                // Who is slow to answer everything is not taken for dead, nor who works through
                // what he was told, nor everybody when it is this scheduler that is slow.
                let holder = hosts.get(&lease.holder);
                let usual = holder.map_or(Duration::ZERO, |host| host.round_trip);
                let heard = holder.map_or(lease.granted, |host| host.heard);
                let accept = accept.max((usual * 2).min(MAX_ACCEPT));
                now.since(lease.granted.max(heard)) >= accept
                    || now.since(lease.granted) >= MAX_ACCEPT
            }
            // Who waits for its turn to read says so again.
            Some(_) if !lease.first_byte => now.since(lease.renewed) >= first_byte,
            Some(_) => now.since(lease.renewed) >= idle,
        };
        // Hosts tell of their progress once a second; who says nothing has said it all.
        let over = |at: Timestamp| now.since(at) >= LAST_WORD;
        task.leases.retain(|lease| !lease.ending.is_some_and(over));
        let expired: Vec<(HostId, PieceSet, bool)> = task
            .leases
            .iter()
            .filter(|lease| late(lease))
            .map(|lease| (lease.holder, lease.pieces.clone(), lease.accepted.is_some()))
            .collect();
        for (holder, pieces, tried) in expired {
            self.counts.expired += 1;
            if let Some(task) = self.tasks.get_mut(id) {
                task.leases.retain(|lease| lease.holder != holder);
                task.refused.insert(holder, (LeaseEnd::Unreachable, now));
                if tried {
                    task.failed(holder);
                }
            }
            self.could_not_read(now, &holder);
            self.send(holder, SchedulerMessage::Revoked { task: *id, pieces });
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
