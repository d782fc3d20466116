//! Who may read the source: at most one host a piece.

use std::collections::BTreeSet;

use darter_api::{
    Grant, HostId, PieceSet, TaskId, Timestamp,
    session::{LeaseEnd, Purpose, SchedulerMessage},
};

use super::{Cluster, task::Lease};

impl Cluster {
    /// Sees to it that every missing piece of a wanted task is held, leased, or said to
    /// be unavailable.
    pub(super) fn ensure_source(&mut self, now: Timestamp, id: &TaskId) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let waiters = task.waiters();
        if waiters.is_empty() && task.leases.is_empty() {
            self.live.remove(id);
            return;
        }
        self.live.insert(*id);
        let uncovered = task.uncovered();
        if uncovered.is_empty() || waiters.is_empty() {
            return;
        }
        if now.since(self.started) < self.options.settle {
            return;
        }
        for run in uncovered.runs() {
            let Some(holder) = self.next_holder(now, id, &waiters) else {
                self.tell_unavailable(id, &waiters);
                return;
            };
            self.grant(now, id, holder, run.clone());
        }
    }

    /// The seed by rendezvous (Thaler and Ravishankar, 1998), then who waits.
    fn next_holder(&self, now: Timestamp, id: &TaskId, waiters: &[HostId]) -> Option<HostId> {
        let task = self.tasks.get(id)?;
        let memory = self.options.refusal_memory;
        let busy: BTreeSet<HostId> = task.leases.iter().map(|lease| lease.holder).collect();
        let fit = |host: &HostId| {
            let refused = task.refused.get(host);
            !busy.contains(host) && refused.is_none_or(|(_, at)| now.since(*at) >= memory)
        };
        let missing = |(why, at): &(LeaseEnd, Timestamp)| {
            *why == LeaseEnd::Missing && now.since(*at) < memory
        };
        if task.refused.values().any(missing) {
            return None;
        }
        let seeds = self.ranked_seeds(id);
        seeds.into_iter().chain(waiters.iter().copied()).find(fit)
    }

    /// The seed that a cold task is asked of.
    pub(super) fn seed_of(&self, id: &TaskId) -> Option<HostId> {
        self.ranked_seeds(id).first().copied()
    }

    fn ranked_seeds(&self, id: &TaskId) -> Vec<HostId> {
        let mut ranked: Vec<([u8; 32], HostId)> = self
            .seeds
            .iter()
            .map(|seed| {
                let mut text = id.to_string().into_bytes();
                text.extend(seed.as_bytes());
                let mut rank = [0; 32];
                rank.copy_from_slice(darter_api::Digest::sha256(&text).as_bytes());
                (rank, *seed)
            })
            .collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, seed)| seed).collect()
    }

    fn grant(&mut self, now: Timestamp, id: &TaskId, holder: HostId, pieces: std::ops::Range<u32>) {
        let unix_ms = self.unix_ms + now.as_micros() / 1000;
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        task.told_unavailable = false;
        let lengths = task.lengths;
        let origin = task.origins.first().cloned();
        let member = task.member(holder);
        let asked_to_fetch = !member.wants;
        if asked_to_fetch {
            member.wants = true;
            member.purpose = Purpose::Seed;
        }
        task.leases.push(Lease {
            holder,
            pieces: PieceSet::from_range(pieces.clone()),
            granted: now,
            accepted: None,
            first_byte: false,
            renewed: now,
        });
        self.counts.granted += 1;
        if let Some(host) = self.hosts.get_mut(&holder) {
            host.tasks.insert(*id);
        }
        let grant = Grant::sign(&self.key, holder, *id, lengths, pieces, unix_ms);
        if let Some(origin) = origin.filter(|_| asked_to_fetch) {
            let purpose = Purpose::Seed;
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
        self.send(holder, SchedulerMessage::Grant(grant));
        self.introduce(holder, id);
    }

    fn tell_unavailable(&mut self, id: &TaskId, waiters: &[HostId]) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if task.told_unavailable || !task.leases.is_empty() {
            return;
        }
        task.told_unavailable = true;
        let newest = task.refused.values().max_by_key(|(_, at)| *at);
        let why = newest.map_or(LeaseEnd::Unreachable, |(why, _)| *why);
        for host in waiters {
            self.send(*host, SchedulerMessage::Unavailable { task: *id, why });
        }
    }

    fn lease_of(&mut self, id: &TaskId, host: &HostId) -> Option<&mut Lease> {
        self.tasks
            .get_mut(id)?
            .leases
            .iter_mut()
            .find(|lease| lease.holder == *host)
    }

    pub(super) fn lease_accepted(&mut self, now: Timestamp, host: HostId, id: &TaskId) {
        if let Some(lease) = self.lease_of(id, &host) {
            lease.accepted = Some(now);
            lease.renewed = now;
        }
    }

    pub(super) fn lease_first_byte(&mut self, now: Timestamp, host: HostId, id: &TaskId) {
        if let Some(lease) = self.lease_of(id, &host) {
            lease.accepted.get_or_insert(now);
            lease.first_byte = true;
            lease.renewed = now;
        }
    }

    /// What the holder has of its lease is read; the rest lives on while it gains.
    pub(super) fn renew_lease(&mut self, now: Timestamp, id: &TaskId, host: &HostId, gained: bool) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let Some(held) = task.members.get(host).map(|member| member.held.clone()) else {
            return;
        };
        for lease in task.leases.iter_mut().filter(|lease| lease.holder == *host) {
            lease.pieces.subtract(&held);
            if gained {
                lease.renewed = now;
            }
        }
        task.leases.retain(|lease| !lease.pieces.is_empty());
    }

    pub(super) fn lease_returned(
        &mut self,
        now: Timestamp,
        host: HostId,
        id: &TaskId,
        pieces: &PieceSet,
        why: LeaseEnd,
    ) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        self.counts.returned += 1;
        for lease in task.leases.iter_mut().filter(|lease| lease.holder == host) {
            lease.pieces.subtract(pieces);
        }
        // A holder has one stream: what it gives back ends its lease as a whole.
        task.leases.retain(|lease| lease.holder != host);
        if why != LeaseEnd::NotNeeded {
            task.refused.insert(host, (why, now));
            task.told_unavailable = false;
        }
        let member = task.member(host);
        if member.purpose == Purpose::Seed {
            member.wants = false;
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
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if pieces.end() > task.lengths.pieces() {
            return;
        }
        task.leases.retain(|lease| lease.holder != host);
        let mut disputed = PieceSet::new();
        for lease in &task.leases {
            disputed.union_with(&lease.pieces.intersection(&pieces));
        }
        let mut own = pieces;
        own.subtract(&disputed);
        if !own.is_empty() {
            task.leases.push(Lease {
                holder: host,
                pieces: own,
                granted: now,
                accepted: Some(now),
                first_byte: true,
                renewed: now,
            });
        }
        self.live.insert(*id);
        if !disputed.is_empty() {
            self.send(
                host,
                SchedulerMessage::Revoked {
                    task: *id,
                    pieces: disputed,
                },
            );
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
        let late = |lease: &Lease| match lease.accepted {
            None => now.since(lease.granted) >= accept,
            Some(at) if !lease.first_byte => now.since(at) >= first_byte,
            Some(_) => now.since(lease.renewed) >= idle,
        };
        let expired: Vec<(HostId, PieceSet)> = task
            .leases
            .iter()
            .filter(|lease| late(lease))
            .map(|lease| (lease.holder, lease.pieces.clone()))
            .collect();
        for (holder, pieces) in expired {
            self.counts.expired += 1;
            if let Some(task) = self.tasks.get_mut(id) {
                task.leases.retain(|lease| lease.holder != holder);
                task.refused.insert(holder, (LeaseEnd::Unreachable, now));
            }
            self.send(holder, SchedulerMessage::Revoked { task: *id, pieces });
        }
    }
}
