//! Links to neighbours: when they are made, made again, and given up.
//!
//! A link costs both hosts memory and a ping a second, and a host meets others with every content.
//! So one that nothing goes on over for [`IDLE`] is hung up, and dialled again when a download
//! begins that its host was introduced for: the scheduler still takes both for neighbours.

use std::{collections::BTreeSet, time::Duration};

use darter_api::{
    HostId, TaskId, Timestamp,
    session::{Complaint, PeerMessage},
};

use super::{
    Node,
    event::{Command, PieceFailure, RequestId},
    state::Neighbourhood,
};

/// A link that could not be made is tried again so often, with growing pauses.
const REDIALS: u32 = 4;
/// The first pause.
const REDIAL_AFTER: Duration = Duration::from_secs(1);
/// A link is hung up after this: longer than the pause between a manifest and its contents, or
/// between two pulls of a rollout.
const IDLE: Duration = Duration::from_secs(120);

impl Neighbourhood {
    /// Dials, unless it is dialled already, or not known where.
    pub(super) fn dial(&mut self) -> Option<Command> {
        let info = self.info.clone().filter(|_| !self.dialled)?;
        self.dialled = true;
        self.redial_at = None;
        Some(Command::Dial(info))
    }
}

impl Node {
    pub(super) fn link_up(&mut self, now: Timestamp, host: &HostId) {
        let neighbourhood = self.state.hosts.entry(*host).or_default();
        neighbourhood.up = true;
        neighbourhood.dialled = true;
        neighbourhood.failures = 0;
        neighbourhood.redial_at = None;
        neighbourhood.used = now;
        self.state.links_due.get_or_insert(now + IDLE);
        for task in neighbourhood.tasks.clone() {
            self.subscribe(*host, &task);
        }
    }

    pub(super) fn link_down(&mut self, now: Timestamp, host: &HostId) {
        let Some(neighbourhood) = self.state.hosts.get_mut(host) else {
            return;
        };
        neighbourhood.up = false;
        neighbourhood.dialled = false;
        neighbourhood.failures += 1;
        neighbourhood.ahead.clear();
        let failures = neighbourhood.failures;
        let tasks = neighbourhood.tasks.clone();
        let wanted = tasks.intersection(&self.state.busy).next().copied();
        neighbourhood.redial_at = None;
        if failures > REDIALS || neighbourhood.info.is_none() {
            neighbourhood.tasks.clear();
        } else if wanted.is_some() {
            neighbourhood.redial_at = Some(now + REDIAL_AFTER * failures);
            self.state.redials = true;
        }
        let known: BTreeSet<TaskId> = tasks.union(&self.state.busy).copied().collect();
        for task in known {
            self.withdrawn(host, &task);
        }
        for hosts in self.state.early.values_mut() {
            hosts.remove(host);
        }
        if let Some(task) = wanted {
            let neighbour = *host;
            self.say(PeerMessage::Report {
                neighbour,
                task,
                complaint: Complaint::Unreachable,
            });
        }
        let lost: Vec<RequestId> = self
            .state
            .requests
            .iter()
            .filter(|(_, request)| request.host == *host)
            .map(|(id, _)| *id)
            .collect();
        for request in lost {
            self.commands.push(Command::Cancel(request));
            self.piece_failed(now, request, PieceFailure::Unreachable);
        }
        if !self.state.hosts.values().any(|host| host.up) {
            self.state.links_due = None;
        }
    }

    /// Dials again what is due.
    pub(super) fn redial(&mut self, now: Timestamp) {
        if !self.state.redials {
            return;
        }
        self.state.redials = false;
        for neighbourhood in self.state.hosts.values_mut() {
            self.state.redials |= neighbourhood.redial_at.is_some_and(|at| at > now);
            if neighbourhood.redial_at.is_some_and(|at| at <= now) {
                self.commands.extend(neighbourhood.dial());
            }
        }
    }

    /// Dials those whom the scheduler named for a task, and whose links were hung up since.
    pub(super) fn dial_again(&mut self, id: &TaskId) {
        let hosts = self.state.hosts.values_mut();
        let known = hosts.filter(|host| host.tasks.contains(id) && host.redial_at.is_none());
        self.commands.extend(known.filter_map(Neighbourhood::dial));
    }

    /// Hangs up what is idle. What neighbours were introduced for and nobody has asked for here
    /// since is forgotten, here and at the scheduler.
    pub(super) fn hang_up(&mut self, now: Timestamp) {
        if self.state.links_due.is_none_or(|due| now < due) {
            return;
        }
        let (busy, tasks) = (&self.state.busy, &self.state.tasks);
        let (mut next, mut unknown) = (None, BTreeSet::new());
        for (host, known) in &mut self.state.hosts {
            if now.since(known.used) < IDLE || !known.tasks.is_disjoint(busy) {
                let due = (known.used + IDLE).max(now + IDLE / 2);
                next = next.into_iter().chain(known.up.then_some(due)).min();
                continue;
            }
            let ids = known.tasks.iter();
            unknown.extend(ids.filter(|id| !tasks.contains_key(id)).copied());
            if known.up {
                self.commands.push(Command::HangUp(*host));
            }
        }
        self.state.links_due = next;
        for id in &unknown {
            self.strangers(id);
            if let Some(home) = self
                .home_of(id)
                .cloned()
                .filter(|home| self.homes.is_up(home))
            {
                self.say_to(&home, PeerMessage::Leave { task: *id });
            }
        }
        let is_over =
            |host: &Neighbourhood| host.tasks.is_empty() && !host.dialled && host.tally.is_none();
        self.state.hosts.retain(|_, host| !is_over(host));
    }

    /// Nobody is a neighbour for the sake of a task any more.
    pub(super) fn strangers(&mut self, id: &TaskId) {
        for host in self.state.hosts.values_mut() {
            host.tasks.remove(id);
            host.ahead.remove(id);
        }
    }
}
