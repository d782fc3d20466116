//! Who is introduced to whom: a mesh, within a degree, near hosts first.
//!
//! A host is introduced to half its degree when it comes, and others to it later; beyond
//! one and a half times the degree nobody is introduced to it, but for a few to save it
//! from starving.

use darter_api::{
    HostId, PieceSet, TaskId,
    session::{Locality, Neighbour, SchedulerMessage},
};
use rand::RngExt as _;

use super::{
    Cluster,
    task::{Member, Task},
};

/// Members looked at for a new neighbourhood: enough to choose from, few enough that a
/// join costs the same in a swarm of any size.
const SAMPLE: usize = 64;
/// Neighbours that are taken from anywhere.
const FAR: usize = 2;
/// Seeds that are always looked at.
const MAX_SEEDS: usize = 8;
/// Holders introduced to a starving host.
const RESCUERS: usize = 3;

impl Cluster {
    /// Introduces a host to others of the task; whether there was anybody. It is
    /// introduced to half the degree, so that there is room for those who come later:
    /// otherwise the first ones would fill each other up, and the swarm would fall apart.
    pub(super) fn introduce(&mut self, host: HostId, id: &TaskId) -> bool {
        let Some(task) = self.tasks.get(id) else {
            return false;
        };
        let has = task.degree(&host);
        let wanted = self.options.degree.div_ceil(2).saturating_sub(has);
        if wanted == 0 {
            return false;
        }
        let room = self.room();
        let mut candidates: Vec<(u32, u32, HostId)> = self
            .sample(id, &host)
            .into_iter()
            .filter_map(|other| {
                let task = self.tasks.get(id)?;
                let distance = self.distance(task, &host, &other);
                (task.degree(&other) < room).then_some((distance, 0, other))
            })
            .collect();
        for candidate in &mut candidates {
            candidate.1 = self.rng.random();
        }
        candidates.sort_unstable();
        // The last ones are from anywhere: near hosts alone would be an island.
        if candidates.len() > wanted {
            let near = wanted - wanted.min(FAR);
            candidates[near..].sort_unstable_by_key(|candidate| candidate.1);
            candidates.truncate(wanted);
        }
        let chosen: Vec<HostId> = candidates.into_iter().map(|chosen| chosen.2).collect();
        self.connect(host, id, &chosen)
    }

    /// Neighbours of a host for one task, at most.
    pub(super) fn room(&self) -> usize {
        self.options.degree + self.options.degree / 2
    }

    /// Introduces a starving host to some who hold what it misses; whether there was
    /// anybody.
    pub(super) fn introduce_holders(
        &mut self,
        host: HostId,
        id: &TaskId,
        pieces: &PieceSet,
    ) -> bool {
        let limit = self.room() + RESCUERS;
        let sample = self.sample(id, &host);
        let Some(task) = self.tasks.get(id) else {
            return false;
        };
        if pieces.is_empty() || task.degree(&host) >= limit {
            return false;
        }
        let holders: Vec<HostId> = sample
            .into_iter()
            .filter(|other| {
                let holds = |member: &Member| !member.held().intersection(pieces).is_empty();
                task.degree(other) < limit && task.members.get(other).is_some_and(holds)
            })
            .take(RESCUERS)
            .collect();
        self.connect(host, id, &holders)
    }

    /// Members that could be neighbours: all of a small swarm, some of a large one, and
    /// always seeds and those who read the source.
    fn sample(&mut self, id: &TaskId, host: &HostId) -> Vec<HostId> {
        let Some(task) = self.tasks.get(id) else {
            return Vec::new();
        };
        let readers = task.leases.iter().map(|lease| lease.holder);
        let seeds = self.seeds.iter().take(MAX_SEEDS).copied();
        let seeds = seeds.filter(|seed| task.members.contains_key(seed));
        let mut found: Vec<HostId> = readers.chain(seeds).collect();
        let members = task.order.len();
        if members > SAMPLE {
            let rng = &mut self.rng;
            found.extend((0..SAMPLE).map(|_| task.order[rng.random_range(0..members)]));
        } else {
            found.extend(&task.order);
        }
        found.sort_unstable();
        found.dedup();
        let already = task.members.get(host).map(|member| &member.neighbours);
        found.retain(|other| {
            other != host
                && !self.is_bad(other)
                && already.is_none_or(|neighbours| !neighbours.contains(other))
        });
        found
    }

    /// How far a candidate is, in steps: readers of the source and seeds are always near.
    fn distance(&self, task: &Task, host: &HostId, other: &HostId) -> u32 {
        let reads = task.leases.iter().any(|lease| lease.holder == *other);
        if reads || self.seeds.contains(other) {
            return 0;
        }
        let locality = |host: &HostId| self.hosts.get(host).map(|host| &host.hello.locality);
        match (locality(host), locality(other)) {
            (Some(here), Some(there)) => steps(here, there),
            _ => u32::MAX,
        }
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
            task.member(host).neighbours.insert(*other);
            task.member(*other).neighbours.insert(host);
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

    fn neighbour(&self, host: &HostId) -> Option<Neighbour> {
        let hello = &self.hosts.get(host)?.hello;
        Some(Neighbour {
            host: *host,
            address: hello.address,
            role: hello.role,
        })
    }
}

/// 1 in the same host group, 2 in the same data centre, more for each differing part of
/// the location.
fn steps(here: &Locality, there: &Locality) -> u32 {
    if !here.host_group.is_empty() && here.host_group == there.host_group {
        return 1;
    }
    if !here.idc.is_empty() && here.idc == there.idc {
        return 2;
    }
    let shared = here
        .location
        .split('|')
        .zip(there.location.split('|'))
        .take_while(|(a, b)| a == b && !a.is_empty())
        .count();
    8 - (shared as u32).min(5)
}
