//! Who brings a task into a data centre.
//!
//! Links between data centres are costly. Of each one's members a few, the gateways, get
//! neighbours in the others, and give what they got to their own: so a content crosses the
//! border about once. The first who wants the content is elected, and has few neighbours at
//! home, so that its uplink is for the others. Who reads the source, and a seed, gives out
//! pieces one by one and trusts them to spread, which they don't across a border: it is a
//! gateway only while its zone has no other. One that stops gaining
//! while its zone starves is replaced by who starves. Hosts whose data centre is not known
//! are everybody's equals.

use std::time::Duration;

use darter_api::{HostId, TaskId, Timestamp, session::Locality};

use super::{
    Cluster,
    task::{Member, Task},
};

/// A gateway that has gained nothing for so long while others of its zone starve is no use.
const GATEWAY_PATIENCE: Duration = Duration::from_secs(3);
/// Gateways of other zones that one gateway is introduced to.
const MAX_CROSSINGS: usize = 8;

/// A member that was elected to bring the task into its zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gateway {
    pub(super) host: HostId,
    /// When it was elected, or last had something new.
    pub(super) gained: Timestamp,
}

/// Whether members in two places may be introduced, gateways or not.
pub(super) fn is_reached(here: &Locality, there: &Locality) -> bool {
    here.idc.is_empty() || there.idc.is_empty() || here.idc == there.idc
}

impl Cluster {
    /// Whether two members may be neighbours.
    pub(super) fn may_meet(&self, task: &Task, host: &HostId, other: &HostId) -> bool {
        let reached = match (self.hosts.get(host), self.hosts.get(other)) {
            (Some(here), Some(there)) => is_reached(&here.place, &there.place),
            _ => false,
        };
        reached
            || self.options.gateways == 0
            || (self.is_gateway(task, host) && self.is_gateway(task, other))
    }

    /// Whether a member has links across the borders of its zone.
    pub(super) fn is_gateway(&self, task: &Task, host: &HostId) -> bool {
        let Some(elected) = self.zone_of(host).and_then(|zone| task.gateways.get(zone)) else {
            return self.is_source(task, host);
        };
        elected.iter().any(|gateway| gateway.host == *host)
    }

    /// Whether a member has the content from the source, or is to read it.
    pub(super) fn is_source(&self, task: &Task, host: &HostId) -> bool {
        task.reads_source(host) || self.seeds.contains(host)
    }

    /// Members that are gateways of some zone, all of them looked at in a small swarm.
    pub(super) fn gateways(&self, task: &Task) -> Vec<HostId> {
        let elected = task.gateways.values().flatten().map(|one| one.host);
        let mut found: Vec<HostId> = elected.chain(self.sources(task)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Whether a member was elected and there are other zones to exchange with.
    pub(super) fn has_crossings(&self, task: &Task, host: &HostId) -> bool {
        self.options.gateways > 0
            && !self.is_source(task, host)
            && self.zone_of(host).is_some()
            && self.is_gateway(task, host)
            && self
                .gateways(task)
                .iter()
                .any(|other| !self.is_same_zone(host, other))
    }

    pub(super) fn is_same_zone(&self, host: &HostId, other: &HostId) -> bool {
        self.zone_of(host) == self.zone_of(other)
    }

    /// Elects a host if its zone has too few gateways that want or hold the content.
    pub(super) fn stand_for_gateway(&mut self, host: HostId, id: &TaskId) {
        let Some(zone) = self.zone_of(&host).map(str::to_owned) else {
            return;
        };
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        if self.is_source(task, &host)
            || self.is_gateway(task, &host)
            || !self.can_be_gateway(task, &host)
        {
            return;
        }
        if self.has_gateways(task, &zone) {
            return;
        }
        // Who has all of it need not get it over the border first.
        let whole = |one: &HostId| {
            task.held(one).len() == task.lengths.pieces()
                && self.can_be_gateway(task, one)
                && !self.is_source(task, one)
                && !self.is_gateway(task, one)
        };
        let best = self.members_in(task, &zone).find(whole);
        self.elect(best.unwrap_or(host), zone, id);
    }

    /// Members that stand there: by a look at each of all members where there are no cells.
    fn members_in<'a>(
        &'a self,
        task: &'a Task,
        zone: &'a str,
    ) -> impl Iterator<Item = HostId> + 'a {
        let cells = task.cells.iter();
        let found = cells.flat_map(move |cells| cells.iter(move |place| place.idc == zone));
        let all = task.cells.is_none().then(|| task.members.keys());
        let all = all.into_iter().flatten().map(|host| **host);
        found.chain(all.filter(move |host| self.zone_of(host) == Some(zone)))
    }

    /// Whether a zone has as many gateways that want or hold the content as it should.
    fn has_gateways(&self, task: &Task, zone: &str) -> bool {
        let elected = task.gateways.get(zone).into_iter().flatten();
        let active = elected.filter(|one| self.can_be_gateway(task, &one.host));
        active.count() >= self.options.gateways
    }

    /// What it takes: to want it or hold all of it, and to give it on.
    fn can_be_gateway(&self, task: &Task, host: &HostId) -> bool {
        let is_whole = || task.held(host).len() == task.lengths.pieces();
        let takes_part = |member: &Member| member.wants() || is_whole();
        let takes_part = task.members.get(host).is_some_and(takes_part);
        // A seed is asked for a cold task next.
        let is_next = task.leases.is_empty() && self.seeds.contains(host);
        (takes_part || is_next) && self.shares(host) && !self.is_bad(host)
    }

    fn elect(&mut self, host: HostId, zone: String, id: &TaskId) {
        let (gained, most) = (self.now, self.options.gateways);
        if let Some(task) = self.tasks.get_mut(id) {
            let elected = task.gateways.entry(zone).or_default();
            elected.push(Gateway { host, gained });
            if elected.len() > most {
                elected.remove(0);
            }
        }
    }

    /// Gateways of other zones that a gateway is not a neighbour of yet, near ones first.
    pub(super) fn crossings(&self, host: &HostId, id: &TaskId) -> Vec<HostId> {
        let Some(task) = self.tasks.get(id) else {
            return Vec::new();
        };
        let no_borders = self.options.gateways == 0;
        if no_borders || self.zone_of(host).is_none() || !self.is_gateway(task, host) {
            return Vec::new();
        }
        let elsewhere = |other: &HostId| {
            let zone = self.zone_of(other);
            zone.is_some() && zone != self.zone_of(host)
        };
        let crossed = task
            .neighbours(host)
            .filter(|other| elsewhere(other))
            .count();
        let mut found = self.gateways(task);
        found.retain(|other| {
            elsewhere(other)
                && self.is_fit(task, host, other)
                && !self.is_bad(other)
                && task.degree(other) < self.room(task)
        });
        // Who reads the source comes first: everything is had there.
        found.sort_by_key(|other| !task.reads_source(other));
        let room = self.room(task).saturating_sub(task.degree(host));
        found.truncate(MAX_CROSSINGS.saturating_sub(crossed).min(room));
        found
    }

    /// A starving host takes the place of a gateway that brings nothing.
    pub(super) fn replace_gateway(&mut self, host: HostId, id: &TaskId) -> bool {
        let (Some(zone), Some(task)) = (self.zone_of(&host), self.tasks.get(id)) else {
            return false;
        };
        let elected = task.gateways.get(zone).into_iter().flatten();
        let mut elected = elected.into_iter();
        let lives = |gateway: &Gateway| self.now.since(gateway.gained) < GATEWAY_PATIENCE;
        let is_one = self.is_gateway(task, &host);
        if is_one || !self.can_be_gateway(task, &host) || elected.any(lives) {
            return false;
        }
        let zone = zone.to_owned();
        self.elect(host, zone, id);
        true
    }

    /// After a member has gone: its zone's next gateway is who wants the content and has
    /// most of it.
    pub(super) fn fill_gateways(&mut self, zone: &str, id: &TaskId) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        if self.has_gateways(task, zone) {
            return;
        }
        let best = self
            .members_in(task, zone)
            .filter(|host| self.can_be_gateway(task, host))
            .max_by_key(|host| task.held(host).len());
        if let Some(host) = best {
            self.stand_for_gateway(host, id);
            self.introduce(host, id);
        }
    }
}

impl Task {
    /// A member has something new.
    pub(super) fn gateway_gained(&mut self, now: Timestamp, host: &HostId) {
        let all = self.gateways.values_mut().flatten();
        for gateway in all.filter(|gateway| gateway.host == *host) {
            gateway.gained = now;
        }
    }
}
