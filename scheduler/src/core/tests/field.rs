//! A cluster with many hosts, and what they were told.

use std::collections::{BTreeMap, BTreeSet};

use darter_api::{
    HostId, NodeKey, PieceSet, TaskId, Timestamp,
    session::{Hello, Join, Locality, ParentReport, PeerMessage, Purpose, Role, SchedulerMessage},
};

use super::{
    super::*,
    lab::{lengths, origin, task},
};

pub(super) fn id(name: u16) -> HostId {
    let mut raw = [0; 32];
    raw[..2].copy_from_slice(&name.to_be_bytes());
    HostId::from_bytes(raw)
}

/// What hosts that are well say once a second.
#[derive(Default)]
pub(super) struct Beats {
    next: Timestamp,
    /// Who says nothing any more.
    pub(super) mute: BTreeSet<HostId>,
}

impl Beats {
    /// Until when time passes before the next of them.
    pub(super) fn before(&self, until: Timestamp) -> Timestamp {
        self.next.min(until)
    }

    pub(super) fn beat(&mut self, now: Timestamp, cluster: &mut Cluster) {
        if now < self.next {
            return;
        }
        self.next = now + Duration::from_secs(1);
        let hosts: Vec<HostId> = cluster.hosts.keys().copied().collect();
        for host in hosts.into_iter().filter(|host| !self.mute.contains(host)) {
            let message = PeerMessage::Load {
                uploads: 0,
                downloads: 0,
                upload_bytes: 0,
            };
            cluster.handle(now, Event::Message { host, message });
        }
    }
}

/// See the module.
pub(super) struct Field {
    pub(super) cluster: Cluster,
    pub(super) now: Timestamp,
    pub(super) beats: Beats,
    /// Who was introduced to whom.
    pub(super) links: BTreeSet<(HostId, HostId)>,
}

impl Field {
    /// Past its settling time.
    pub(super) fn new(options: Options) -> Self {
        let key = NodeKey::from_seed([1; 32]);
        let settled = Timestamp::ZERO + options.settle;
        Self {
            cluster: Cluster::new(options, key, Timestamp::ZERO, 0, 1),
            now: settled,
            beats: Beats::default(),
            links: BTreeSet::new(),
        }
    }

    pub(super) fn hello(name: u16) -> Hello {
        Hello {
            host: id(name),
            epoch: 1,
            name: format!("node-{name}"),
            address: ([127, 0, 0, 1], 4000).into(),
            role: Role::Peer,
            locality: Locality::default(),
            upload_slots: 4,
            cores: None,
            shares: true,
            version: String::new(),
        }
    }

    pub(super) fn up(&mut self, hello: Hello) -> Vec<Command> {
        let said = self.cluster.handle(self.now, Event::HostUp(hello));
        self.note(said)
    }

    /// A peer in a data centre.
    pub(super) fn in_zone(&mut self, name: u16, zone: &str) {
        let mut hello = Self::hello(name);
        zone.clone_into(&mut hello.locality.idc);
        self.up(hello);
    }

    pub(super) fn seed_in_zone(&mut self, name: u16, zone: &str) {
        let mut hello = Self::hello(name);
        zone.clone_into(&mut hello.locality.idc);
        hello.role = Role::Seed;
        self.up(hello);
    }

    pub(super) fn down(&mut self, name: u16) -> Vec<Command> {
        let host = id(name);
        let said = self
            .cluster
            .handle(self.now, Event::HostDown { host, epoch: 1 });
        self.links.retain(|(a, b)| *a != host && *b != host);
        self.note(said)
    }

    pub(super) fn says(&mut self, name: u16, message: PeerMessage) -> Vec<Command> {
        let host = id(name);
        let said = self
            .cluster
            .handle(self.now, Event::Message { host, message });
        self.note(said)
    }

    pub(super) fn joins(&mut self, name: u16) -> Vec<Command> {
        self.joins_task(name, task(1), PieceSet::new())
    }

    pub(super) fn joins_task(&mut self, name: u16, task: TaskId, held: PieceSet) -> Vec<Command> {
        let join = Join {
            task,
            lengths: lengths(),
            held,
            origin: origin(),
            purpose: Purpose::Pull,
        };
        self.says(name, PeerMessage::Join(join))
    }

    /// One report of a child on some parents: microseconds a MiB, `None` for failures.
    pub(super) fn reports(&mut self, child: u16, parents: &[(u16, Option<u64>)]) {
        let report = |(parent, micros): &(u16, Option<u64>)| ParentReport {
            host: id(*parent),
            pieces: u32::from(micros.is_some()) * 4,
            bytes: u64::from(micros.is_some()) << 20,
            busy_us: micros.unwrap_or(0),
            failures: u32::from(micros.is_none()),
            rot: 0,
            given_up: false,
        };
        let parents = parents.iter().map(report).collect();
        self.says(child, PeerMessage::Parents { parents });
    }

    pub(super) fn pass(&mut self, millis: u64) -> Vec<Command> {
        let until = self.now + Duration::from_millis(millis);
        let mut said = Vec::new();
        while self.now < until {
            self.beats.beat(self.now, &mut self.cluster);
            let next = self.beats.before(until);
            said.extend(self.pass_until(next));
        }
        said
    }

    fn pass_until(&mut self, until: Timestamp) -> Vec<Command> {
        let mut said = Vec::new();
        while let Some(at) = self
            .cluster
            .next_deadline(self.now)
            .filter(|at| *at <= until)
        {
            self.now = at.max(self.now + Duration::from_millis(1));
            let commands = self.cluster.tick(self.now);
            said.extend(self.note(commands));
        }
        self.now = until;
        said
    }

    fn note(&mut self, said: Vec<Command>) -> Vec<Command> {
        for Command { host, message } in &said {
            if let SchedulerMessage::Neighbours { add, .. } = message {
                self.links.extend(add.iter().map(|one| (*host, one.host)));
            }
        }
        said
    }

    pub(super) fn neighbours(&self, name: u16) -> BTreeSet<HostId> {
        let graph = self.cluster.graph(&task(1)).unwrap();
        let nodes: BTreeMap<HostId, _> = graph
            .nodes
            .into_iter()
            .map(|node| (node.host, node.neighbours))
            .collect();
        nodes
            .get(&id(name))
            .cloned()
            .unwrap_or_default()
            .into_iter()
            .collect()
    }

    /// Hosts that are reached from one over introductions.
    pub(super) fn reached(&self, from: u16) -> BTreeSet<HostId> {
        let graph = self.cluster.graph(&task(1)).unwrap();
        let nodes: BTreeMap<HostId, _> = graph
            .nodes
            .into_iter()
            .map(|node| (node.host, node.neighbours))
            .collect();
        let (mut seen, mut next) = (BTreeSet::new(), vec![id(from)]);
        while let Some(host) = next.pop() {
            if seen.insert(host) {
                next.extend(nodes.get(&host).into_iter().flatten());
            }
        }
        seen
    }
}
