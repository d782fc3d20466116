//! Who is introduced to whom: a mesh, within a degree, near hosts first.

use darter_api::{
    HostId, PieceSet, TaskId,
    session::{Locality, Neighbour, SchedulerMessage},
};
use rand::RngExt as _;

use super::{Cluster, task::Task};

/// Members looked at for a new neighbourhood: enough to choose from, few enough that a
/// join costs the same in a swarm of any size.
const SAMPLE: usize = 64;
/// Holders introduced to a starving host.
const RESCUERS: usize = 3;

impl Cluster {
    /// Introduces a host to others of the task, up to its degree; whether there was
    /// anybody.
    pub(super) fn introduce(&mut self, host: HostId, id: &TaskId) -> bool {
        let degree = self.options.degree;
        let Some(task) = self.tasks.get(id) else {
            return false;
        };
        let have = task
            .members
            .get(&host)
            .map_or(0, |member| member.neighbours.len());
        let mut candidates = self.sample(task, &host);
        candidates.retain(|other| {
            task.members
                .get(other)
                .is_some_and(|member| member.neighbours.len() < degree)
        });
        let mut scored: Vec<(u32, u32, HostId)> = candidates
            .into_iter()
            .map(|other| (self.distance(task, &host, &other), 0, other))
            .collect();
        for scored in &mut scored {
            scored.1 = self.rng.random();
        }
        scored.sort_unstable();
        let chosen: Vec<HostId> = scored
            .into_iter()
            .take(degree.saturating_sub(have))
            .map(|(_, _, other)| other)
            .collect();
        self.connect(host, id, &chosen)
    }

    /// Introduces a starving host to some who hold what it misses, beyond its degree if
    /// must be.
    pub(super) fn introduce_holders(&mut self, host: HostId, id: &TaskId, pieces: &PieceSet) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let holders: Vec<HostId> = self
            .sample(task, &host)
            .into_iter()
            .filter(|other| {
                task.members
                    .get(other)
                    .is_some_and(|member| !member.held.intersection(pieces).is_empty())
            })
            .take(RESCUERS)
            .collect();
        let limit = self.options.degree + RESCUERS;
        let have = task
            .members
            .get(&host)
            .map_or(0, |member| member.neighbours.len());
        if have < limit {
            self.connect(host, id, &holders);
        }
    }

    /// Members that could be neighbours: all of a small swarm, some of a large one, and
    /// always those who read the source.
    fn sample(&self, task: &Task, host: &HostId) -> Vec<HostId> {
        let mut found: Vec<HostId> = task.leases.iter().map(|lease| lease.holder).collect();
        let members = task.order.len();
        let mut rng = self.rng.clone();
        let start = if members > SAMPLE {
            rng.random_range(0..members)
        } else {
            0
        };
        found.extend((0..members.min(SAMPLE)).map(|at| task.order[(start + at) % members]));
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
