//! Who is introduced to whom: a mesh, within a degree, the best candidates first.
//!
//! A host is introduced to half its degree when it comes, and others to it later, of whom
//! those with the fewest neighbours come first; what then lacks to its degree it gets a
//! moment later. Beyond
//! one and a half times the degree nobody is introduced to it, but for a few to save it
//! from starving. Candidates are sampled by where they stand ([`super::cells`]), filtered,
//! and scored ([`super::score`]); links between data centres are gateways' alone
//! ([`super::zones`]).

use std::time::Duration;

use darter_api::{
    HostId, PieceSet, TaskId, Timestamp,
    session::{Locality, Neighbour, SchedulerMessage},
};
use rand::RngExt as _;

use super::{Cluster, cells::Cells, task::Task, zones::is_reached};

/// Members looked at for a new neighbourhood: enough to choose from, few enough that a
/// join costs the same in a swarm of any size.
const SAMPLE: usize = 64;
/// Neighbours that are taken whatever their score.
const FAR: usize = 2;
/// Seeds that are always looked at.
const MAX_SEEDS: usize = 8;
/// Neighbours for a content of one piece.
const ENOUGH: usize = 4;
/// A gateway has so much less of the degree in its own zone.
const GATEWAYS_SHARE: usize = 6;
/// Who joined so long ago is no newcomer: a rush is over by then.
const SETTLED: Duration = Duration::from_millis(200);
/// Holders introduced to a starving host.
const RESCUERS: usize = 3;
/// Members looked at for one of them: all of most swarms, a moment's work.
const SEARCHED: usize = 2000;

impl Cluster {
    /// Introduces a host to others of the task; whether there was anybody. It is
    /// introduced to half the degree, so that there is room for those who come later:
    /// otherwise the first ones would fill each other up, and the swarm would fall apart.
    pub(super) fn introduce(&mut self, host: HostId, id: &TaskId) -> bool {
        let degree = self.tasks.get(id).map_or(0, |task| self.degree(task));
        self.introduce_up_to(degree.div_ceil(2), host, id)
    }

    /// Those who came a moment ago get the rest of their degree: after the last ones of a
    /// rush nobody comes, and with half the neighbours they would be the last to be done.
    pub(super) fn settle_newcomers(&mut self, now: Timestamp, id: &TaskId) {
        let degree = self.tasks.get(id).map_or(0, |task| self.degree(task));
        while let Some(task) = self.tasks.get_mut(id)
            && let Some((_, host)) = task
                .newcomers
                .pop_front_if(|(joined, _)| now.since(*joined) >= SETTLED)
        {
            let Some(member) = task.members.get_mut(&host) else {
                continue;
            };
            member.settled();
            if member.wants() && task.degree(&host) < degree {
                self.introduce_up_to(degree, host, id);
            }
        }
    }

    fn introduce_up_to(&mut self, most: usize, host: HostId, id: &TaskId) -> bool {
        self.enrol(host, id);
        self.stand_for_gateway(host, id);
        let mut chosen = self.crossings(&host, id);
        let Some(task) = self.tasks.get(id) else {
            return false;
        };
        let has = task.degree(&host) + chosen.len();
        let most = if self.has_crossings(task, &host) {
            chosen.len() + self.options.degree / GATEWAYS_SHARE
        } else {
            most
        };
        let wanted = most.saturating_sub(has);
        if wanted > 0 {
            let candidates = self.candidates(id, &host, self.room(task));
            let (slow, mut fit): (Vec<HostId>, Vec<HostId>) = candidates
                .into_iter()
                .partition(|other| self.is_slow(other) && !self.is_probe_due(other));
            if fit.is_empty() && has == 0 {
                fit = slow;
            }
            fit.retain(|other| !chosen.contains(other));
            chosen.extend(self.best(id, &host, fit, wanted));
        }
        for other in &chosen {
            self.probed(other);
        }
        self.connect(host, id, &chosen)
    }

    /// Members that may become neighbours of a host, with fewer than `room`.
    fn candidates(&mut self, id: &TaskId, host: &HostId, room: usize) -> Vec<HostId> {
        let mut found = self.sample(id, host);
        if let Some(task) = self.tasks.get(id) {
            found.retain(|other| {
                self.is_fit(task, host, other)
                    && task.degree(other) < room.min(self.room_of(task, other))
            });
        }
        found
    }

    /// Whether a host could be given another one as a neighbour, room and rate aside.
    pub(super) fn is_fit(&self, task: &Task, host: &HostId, other: &HostId) -> bool {
        other != host
            && self.shares(other)
            && (!self.is_bad(other) || self.is_slow(other))
            && !self.was_silent(other)
            && !task.are_neighbours(host, other)
            && !self.blocked(host, other)
            && self.may_meet(task, host, other)
    }

    /// The best `wanted` of some candidates, and among them a few that are just there:
    /// near hosts alone would be an island.
    fn best(
        &mut self,
        id: &TaskId,
        host: &HostId,
        candidates: Vec<HostId>,
        wanted: usize,
    ) -> Vec<HostId> {
        let mut scored: Vec<(f64, HostId)> = Vec::with_capacity(candidates.len());
        for other in candidates {
            scored.push((self.score(id, host, &other), other));
        }
        scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        if scored.len() > wanted {
            for at in wanted - wanted.min(FAR)..wanted {
                let other = self.rng.random_range(at..scored.len());
                scored.swap(at, other);
            }
            scored.truncate(wanted);
        }
        scored.into_iter().map(|(_, other)| other).collect()
    }

    /// Neighbours of a member from its own zone, at most: a gateway's uplink is for those
    /// across the border, and what it brings home has to leave it once.
    fn room_of(&self, task: &Task, host: &HostId) -> usize {
        if self.has_crossings(task, host) {
            task.neighbours(host)
                .filter(|other| !self.is_same_zone(host, other))
                .count()
                + self.options.degree / GATEWAYS_SHARE
        } else {
            usize::MAX
        }
    }

    /// Neighbours of a host for a task: fewer where the first of them that has the content has all
    /// of it, and all that is said is said to each.
    pub(super) fn degree(&self, task: &Task) -> usize {
        match task.lengths.pieces() {
            ..=1 => self.options.degree.min(ENOUGH),
            _ => self.options.degree,
        }
    }

    /// The same, at most.
    pub(super) fn room(&self, task: &Task) -> usize {
        let degree = self.degree(task);
        degree + degree / 2
    }

    /// Introduces a starving host to some who hold what it misses; whether there was
    /// anybody.
    pub(super) fn introduce_holders(
        &mut self,
        host: HostId,
        id: &TaskId,
        pieces: &PieceSet,
    ) -> bool {
        self.enrol(host, id);
        let found = self.holders(host, id, pieces);
        if !found.is_empty() || !self.replace_gateway(host, id) {
            return self.connect(host, id, &found);
        }
        let found = self.holders(host, id, pieces);
        self.connect(host, id, &found)
    }

    fn holders(&mut self, host: HostId, id: &TaskId, pieces: &PieceSet) -> Vec<HostId> {
        let Some(task) = self.tasks.get(id) else {
            return Vec::new();
        };
        let limit = self.room(task) + RESCUERS;
        let candidates = self.candidates(id, &host, limit);
        let from = HostId::from_bytes(self.rng.random());
        let Some(task) = self.tasks.get(id) else {
            return Vec::new();
        };
        if pieces.is_empty() || task.degree(&host) >= limit {
            return Vec::new();
        }
        let holds = |host: &HostId| !task.held(host).intersection(pieces).is_empty();
        let mut found: Vec<HostId> = candidates.into_iter().filter(holds).collect();
        if found.is_empty() {
            // Few have it, and none of those were in the sample.
            let others = task.members_from(&from).take(SEARCHED);
            let holders = others.filter(|other| holds(other));
            let fit = holders.copied().filter(|other| {
                self.is_fit(task, &host, other)
                    && task.degree(other) < limit.min(self.room_of(task, other))
            });
            found.extend(fit.take(RESCUERS));
        }
        found.sort_by_key(|other| self.is_slow(other));
        found.truncate(RESCUERS);
        found
    }

    /// Seeds that are members, and who reads the source or has read it.
    pub(super) fn sources(&self, task: &Task) -> impl Iterator<Item = HostId> {
        let readers = task.leases.iter().map(|lease| lease.holder);
        let seeds = self.seeds.iter().take(MAX_SEEDS).copied();
        let seeds = seeds.filter(|seed| task.members.contains_key(seed));
        readers.chain(seeds).chain(task.sources.iter().copied())
    }

    /// Members that could be neighbours: all of a small swarm, some of a large one, and
    /// always those who have it from the source, or brought it into the zone.
    fn sample(&mut self, id: &TaskId, host: &HostId) -> Vec<HostId> {
        let gateways = self.tasks.get(id).map(|task| self.gateways(task));
        let (Some(task), Some(known)) = (self.tasks.get_mut(id), self.hosts.get(host)) else {
            return Vec::new();
        };
        let home = &known.place;
        let every = self.options.gateways == 0;
        let reached = |there: &Locality| every || is_reached(home, there);
        let members = task.members.keys();
        let members = members.filter_map(|one| Some((one, &self.hosts.get(one.as_ref())?.place)));
        let mut found = gateways.unwrap_or_default();
        if task.cells.is_none() && task.members.len() <= SAMPLE {
            let near = members.filter(|(_, place)| reached(place));
            found.extend(near.map(|(host, _)| **host));
        } else {
            let cells = task
                .cells
                .get_or_insert_with(|| Cells::new(self.now, members));
            cells.used = self.now;
            found.extend(cells.sample(home, reached, SAMPLE, &mut self.rng));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    fn connect(&mut self, host: HostId, id: &TaskId, others: &[HostId]) -> bool {
        let mut introduced = Vec::new();
        for other in others {
            let (Some(own), Some(theirs)) = (self.neighbour(&host), self.neighbour(other)) else {
                continue;
            };
            let Some(task) = self.tasks.get_mut(id) else {
                return false;
            };
            task.meet(host, *other);
            introduced.push(theirs);
            let message = SchedulerMessage::Neighbours {
                task: *id,
                add: vec![own],
                remove: vec![],
            };
            self.send(*other, message);
        }
        if introduced.is_empty() {
            return false;
        }
        let message = SchedulerMessage::Neighbours {
            task: *id,
            add: introduced,
            remove: vec![],
        };
        self.send(host, message);
        true
    }

    pub(super) fn neighbour(&self, host: &HostId) -> Option<Neighbour> {
        let hello = &self.hosts.get(host)?.hello;
        Some(Neighbour {
            host: *host,
            address: hello.address,
            role: hello.role,
        })
    }
}
