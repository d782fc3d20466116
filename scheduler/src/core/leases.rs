//! Leases that were granted or taken: how they are renewed, come back, and are taken back. At most
//! one host reads a piece.

use std::time::Duration;

use darter_api::{
    HostId, PieceSet, TaskId, Timestamp,
    session::{LeaseEnd, Purpose, SchedulerMessage},
};

use super::{Cluster, task::Lease};

/// A holder whose lease is taken back is waited for so long, to say what it has read.
const LAST_WORD: Duration = Duration::from_millis(1500);
/// A holder that answers slowly is waited for so long at most.
const MAX_ACCEPT: Duration = Duration::from_secs(5);

impl Cluster {
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
        if !task.members.contains_key(host) {
            return;
        }
        let held = task.held(host).clone();
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
        let expired = task.leases.iter().filter(|lease| late(lease));
        let expired = expired.map(|lease| (lease.holder, lease.accepted.is_some()));
        for (holder, tried) in expired.collect::<Vec<_>>() {
            if let Some(task) = self.tasks.get_mut(id).filter(|_| tried) {
                task.failed(holder);
            }
            self.could_not_read(now, &holder);
            self.lose_leases(now, id, holder);
        }
    }

    /// What a host was to read it is to read no more, nor soon again.
    pub(super) fn lose_leases(&mut self, now: Timestamp, id: &TaskId, holder: HostId) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let mut pieces = PieceSet::new();
        for lease in task.leases.iter().filter(|lease| lease.holder == holder) {
            pieces.union_with(&lease.pieces);
        }
        task.leases.retain(|lease| lease.holder != holder);
        task.refused.insert(holder, (LeaseEnd::Unreachable, now));
        self.counts.expired += 1;
        self.revoke(holder, id, pieces);
    }
}
