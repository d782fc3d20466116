//! Hosts that come and go, and their part in tasks: made, told of, and ended.

use std::{collections::BTreeSet, sync::Arc};

use darter_api::{
    HostId, Lengths, Origin, PieceSet, TaskId, Timestamp,
    session::{Hello, Locality, SchedulerMessage},
};

use super::{
    Cluster,
    hosts::Host,
    task::{Member, Task},
};

impl Cluster {
    /// Whether a later hello of the same host came before this one, which says nothing then.
    pub fn is_late(&self, hello: &Hello) -> bool {
        let newer = |known: &Host| known.hello.epoch > hello.epoch;
        let known = self.hosts.get(&hello.host);
        known.is_some_and(|known| newer(known))
    }

    pub(super) fn host_up(&mut self, now: Timestamp, hello: Hello) {
        let host = hello.host;
        if self.is_late(&hello) {
            return;
        }
        let stays = |known: &Host| known.resting.is_some() && *known.place == hello.locality;
        let returns = self.hosts.get(&host).is_some_and(|known| stays(known));
        let known = if returns {
            self.hosts.remove(&host)
        } else {
            self.host_down(now, &host);
            None
        };
        match known {
            Some(known) => self.host_returned(now, known, hello),
            None => drop(self.hosts.insert(host, Box::new(Host::new(now, hello)))),
        }
        self.assign_role(&host);
        self.sweep_later(now, host);
        let scheduler = self.key.id();
        let trusted = vec![scheduler];
        self.send(host, SchedulerMessage::Welcome { scheduler, trusted });
    }

    pub(super) fn host_down(&mut self, now: Timestamp, host: &HostId) {
        let Some(gone) = self.hosts.remove(host) else {
            return;
        };
        self.seeds.remove(host);
        self.sweeps.remove(&(gone.sweep_at, *host));
        for task in gone.tasks.keys() {
            self.remove_member(now, task, host, &gone.place);
        }
    }

    /// A host has nothing to do with a task any more.
    pub(super) fn forget_member(&mut self, now: Timestamp, id: &TaskId, host: &HostId) {
        if let Some(known) = self.hosts.get(host) {
            let place = Arc::clone(&known.place);
            self.remove_member(now, id, host, &place);
        }
    }

    /// The same of a host that stands there, and may be gone.
    pub(super) fn remove_member(
        &mut self,
        now: Timestamp,
        id: &TaskId,
        host: &HostId,
        place: &Locality,
    ) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let room = self.room(task);
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let (was_member, claim) = (task.members.contains_key(host), task.claim_of(host));
        let given = task.given_by_reader(now, host, task.members.len() <= room);
        let neighbours = task.remove(host, place);
        if task.leases.iter().any(|lease| lease.holder == *host) {
            task.heirs.clone_from(&neighbours);
        }
        task.leases.retain(|lease| lease.holder != *host);
        task.doubt_elsewhere();
        if let Some((pieces, until)) = given.filter(|_| task.members.len() > 1) {
            task.leave_until(now, &pieces, until);
        }
        let empty = task.members.is_empty();
        self.parted(id, *host, neighbours);
        if let Some(known) = self.hosts.get_mut(host) {
            known.tasks.remove(id);
            known.claimed -= claim;
        }
        if empty {
            self.tasks.remove(id);
            self.live.remove(id);
        } else {
            self.ensure_source(now, id);
            if was_member && !place.idc.is_empty() {
                self.fill_gateways(&place.idc, id);
            }
        }
    }

    /// A host is no neighbour of these any more; who has few left meets others.
    pub(super) fn parted(&mut self, id: &TaskId, host: HostId, neighbours: BTreeSet<HostId>) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let few = self.degree(task) / 4;
        let is_lonely = |host: &&HostId| {
            let wants = task.members.get(*host).is_some_and(Member::wants);
            wants && task.degree(host) < few
        };
        let lonely: Vec<HostId> = neighbours.iter().filter(is_lonely).copied().collect();
        for neighbour in neighbours {
            let (task, add, remove) = (*id, vec![], vec![host]);
            self.send(
                neighbour,
                SchedulerMessage::Neighbours { task, add, remove },
            );
        }
        for host in lonely {
            self.introduce(host, id);
        }
    }

    /// Whether a host may bring one more task.
    pub(super) fn may_bring(&self, host: &HostId) -> bool {
        let left = self.room_for_tasks();
        let known = self.hosts.get(host);
        known.is_some_and(|known| known.tasks.len() < left)
    }

    /// Tasks that there is room for.
    pub(super) fn room_for_tasks(&self) -> usize {
        self.most_tasks.saturating_sub(self.tasks.len())
    }

    /// The task with this host as a member, both made if need be; `None` when its geometry
    /// is another one or the host may bring no more.
    pub(super) fn member(
        &mut self,
        host: HostId,
        id: TaskId,
        lengths: Lengths,
        origin: &Origin,
    ) -> Option<&mut Task> {
        if !self.tasks.contains_key(&id) && !self.may_bring(&host) {
            return None;
        }
        let known = self
            .tasks
            .entry(id)
            .or_insert_with(|| Box::new(Task::new(id, lengths)))
            .lengths;
        if known != lengths {
            self.mismatch(host, &id, known);
            return None;
        }
        let task = self.tasks.get_mut(&id)?;
        task.add_origin(origin);
        self.hosts.get(&host)?;
        self.enrol(host, &id);
        self.tasks.get_mut(&id).map(Box::as_mut)
    }

    /// A task that a host turns out to have to do with, unless it has another size of it.
    pub(super) fn enlist(&mut self, host: HostId, id: &TaskId) -> Option<&mut Task> {
        let (known, task) = (self.hosts.get(&host)?, self.tasks.get(id)?);
        if known.disputes.contradict(id, task.lengths) {
            return None;
        }
        self.enrol(host, id);
        self.tasks.get_mut(id).map(Box::as_mut)
    }

    /// Notes what a host holds; what it keeps to itself is nobody's concern, and nor is what
    /// would be too much to count.
    pub(super) fn note_held(&mut self, host: HostId, id: &TaskId, held: PieceSet) {
        let counts = self.shares(&host);
        let (Some(known), Some(task)) = (self.hosts.get_mut(&host), self.tasks.get_mut(id)) else {
            return;
        };
        let held = if counts { held } else { PieceSet::new() };
        known.claimed = task.holds(host, held, known.claimed);
    }
}
