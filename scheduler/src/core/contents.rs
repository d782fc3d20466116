//! What hosts hold, want, have got and give up, task by task.

use std::{collections::hash_map::Entry, sync::Arc};

use darter_api::{
    HostId, Lengths, Origin, PieceSet, TaskId, Timestamp,
    session::{Holding, Join, LeaseEnd, Purpose, SchedulerMessage},
};

use super::{
    Cluster, Priority,
    task::{Member, Task},
};

impl Cluster {
    /// One of the many contents that a host names when it comes: looked up once.
    pub(super) fn holding(&mut self, now: Timestamp, host: HostId, holding: Holding) {
        let (id, wanted) = (holding.task, holding.wanted);
        let left = self.room_for_tasks();
        let Some(known) = self.hosts.get_mut(&host) else {
            return;
        };
        let task = match self.tasks.entry(id) {
            Entry::Occupied(task) => task.into_mut(),
            Entry::Vacant(_) if known.tasks.len() >= left => return,
            Entry::Vacant(place) => place.insert(Box::new(Task::new(id, holding.lengths))),
        };
        if let Some(listed) = &mut known.listed {
            listed.insert(Arc::clone(&task.id));
        }
        if task.lengths != holding.lengths {
            let doubted = !holding.held.is_empty() && self.doubt_lengths(&id, holding.lengths);
            if doubted || !self.disputes(now, host, &id, holding.lengths) {
                self.holding(now, host, holding);
            }
            return;
        }
        known.disputes.settle(&id);
        if let Some(origin) = &holding.origin {
            task.add_origin(origin);
        }
        known.tasks.or_default(Arc::clone(&task.id));
        let held = match known.gives() {
            true => holding.held,
            false => PieceSet::new(),
        };
        let who = (&known.id, &known.place);
        known.claimed = task.told(who, wanted, held, known.claimed);
        if wanted {
            self.live.insert(id);
        }
        if !holding.reading.is_empty() {
            self.withdraw_for_reader(host, &id, &holding.reading);
            self.self_leased(now, host, &id, holding.reading);
            self.revoke_held(host, &id);
        }
    }

    /// Who brings another size than a task has is believed, where so far nobody holds or reads any
    /// of it: anybody's manifest may name a content with a size of its own, and that is all that
    /// an interest goes by. The task begins anew then. Whether that is so.
    pub(super) fn doubt_lengths(&mut self, id: &TaskId, lengths: Lengths) -> bool {
        let is_claim = |task: &Task| task.lengths != lengths && !task.is_held_or_read();
        if !self.tasks.get(id).is_some_and(|task| is_claim(task)) {
            return false;
        }
        let Some(task) = self.tasks.remove(id) else {
            return false;
        };
        for host in task.members.keys() {
            if let Some(known) = self.hosts.get_mut(host) {
                known.tasks.remove(id);
            }
        }
        self.live.remove(id);
        true
    }

    pub(super) fn interest(&mut self, host: HostId, id: TaskId, lengths: Lengths, origin: &Origin) {
        if self.priority(&host, Some(origin)) == Priority::Forbid {
            return;
        }
        if self.member(host, id, lengths, origin).is_some() {
            self.introduce_seed(&id);
            self.introduce(host, &id);
        }
    }

    /// The seed that will be asked is a member from the first interest on, so that links
    /// to it stand before the first join.
    pub(super) fn introduce_seed(&mut self, id: &TaskId) {
        let Some(seed) = self.seed_of(id) else {
            return;
        };
        self.enrol(seed, id);
    }

    /// Who went to the source is a seed of the task.
    pub(super) fn reads_source(&mut self, host: HostId, id: &TaskId) {
        if let Some(task) = self.tasks.get_mut(id) {
            task.add_source(host);
        }
    }

    pub(super) fn join(&mut self, now: Timestamp, host: HostId, join: Join) {
        let id = join.task;
        if self.forbids(host, id, &join.origin) {
            self.leave(now, host, &id);
            return;
        }
        self.doubt_lengths(&id, join.lengths);
        if self.disputes(now, host, &id, join.lengths) {
            return;
        }
        let Some(task) = self.member(host, id, join.lengths, &join.origin) else {
            return;
        };
        task.set_wants(host, true);
        task.joined(now, host);
        let member = task.member(host);
        // Who was asked to read for a preheat says so, and reads for others all the same.
        if (member.purpose, join.purpose) != (Purpose::Seed, Purpose::Preheat) {
            member.purpose = join.purpose;
        }
        task.told_unavailable.remove(&host);
        task.failures = 0;
        if task
            .refused
            .get(&host)
            .is_some_and(|(why, _)| *why == LeaseEnd::NotNeeded)
        {
            task.refused.remove(&host);
            task.doubt_elsewhere();
        }
        self.note_held(host, &id, join.held);
        self.live.insert(id);
        if join.purpose == Purpose::Pull {
            self.introduce_seed(&id);
            self.hurry(&id);
            self.follows(now, host, &join.origin, [id].into_iter(), false);
        }
        if !self.introduce(host, &id) {
            self.answer(host, &id);
        }
        self.ensure_source(now, &id);
    }

    /// An answer though there is nobody to name: the scheduler lives and knows.
    pub(super) fn answer(&mut self, host: HostId, id: &TaskId) {
        let nobody = SchedulerMessage::Neighbours {
            task: *id,
            add: vec![],
            remove: vec![],
        };
        self.send(host, nobody);
    }

    pub(super) fn progress(&mut self, now: Timestamp, host: HostId, id: &TaskId, held: PieceSet) {
        let Some(task) = self.enlist(host, id) else {
            return;
        };
        if held.end() > task.lengths.pieces() {
            return;
        }
        let gained = held.len().saturating_sub(task.held(&host).len());
        if gained > 0 {
            task.gateway_gained(now, &host);
        }
        self.note_held(host, id, held);
        self.renew_lease(now, id, &host, gained);
        self.meets_again(host, id);
        self.ensure_source(now, id);
    }

    /// Who was refused the source, as one that was silent, and has no neighbour any more, meets
    /// others again.
    fn meets_again(&mut self, host: HostId, id: &TaskId) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let wants = task.members.get(&host).is_some_and(Member::wants);
        if wants && task.refused.contains_key(&host) && task.degree(&host) == 0 {
            self.introduce(host, id);
        }
    }

    pub(super) fn starved(&mut self, now: Timestamp, host: HostId, id: &TaskId, pieces: &PieceSet) {
        let Some(task) = self.enlist(host, id) else {
            self.answer(host, id);
            return;
        };
        // What it may read and does not, somebody else is to read.
        for lease in task.leases.iter_mut().filter(|lease| lease.holder == host) {
            lease.pieces.subtract(pieces);
        }
        task.leases.retain(|lease| !lease.pieces.is_empty());
        task.is_nowhere(pieces);
        if !self.introduce_holders(host, id, pieces) && !self.introduce(host, id) {
            self.answer(host, id);
        }
        self.ensure_source(now, id);
    }

    pub(super) fn done(&mut self, now: Timestamp, host: HostId, id: &TaskId) {
        let Some(task) = self.enlist(host, id) else {
            return;
        };
        let pieces = task.lengths.pieces();
        task.set_wants(host, false);
        let gained = pieces.saturating_sub(task.held(&host).len());
        let own = task.leases.iter().filter(|lease| lease.holder == host);
        let read = own.map(|lease| lease.pieces.len()).sum();
        task.leases.retain(|lease| lease.holder != host);
        self.gained(now, id, &host, (gained, read));
        self.note_held(host, id, PieceSet::full(pieces));
        self.ensure_source(now, id);
    }

    pub(super) fn leave(&mut self, now: Timestamp, host: HostId, id: &TaskId) {
        let known = self.tasks.get_mut(id);
        let Some(task) = known.filter(|task| task.members.contains_key(&host)) else {
            return;
        };
        task.leases.retain(|lease| lease.holder != host);
        task.set_wants(host, false);
        // What it gave back it did not want any more.
        task.doubt_elsewhere();
        if task.held(&host).is_empty() {
            self.forget_member(now, id, &host);
        } else {
            self.ensure_source(now, id);
            if let Some(zone) = self.zone_of(&host).map(str::to_owned) {
                self.fill_gateways(&zone, id);
            }
        }
    }
}
