//! What there is at the beginning, and who comes and goes.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use darter_api::{Digest, HostId, Lengths, SchedulerName, TaskId, Timestamp, session::Role};
use darter_proxy::{
    swarm::core::{Node, event::Event},
    transfer::turns::Turns,
};
use rand::RngExt as _;

use crate::{
    arrival::Arrival,
    control::Control,
    drain::Drain,
    host::{Host, Kind, Local},
    network::Place,
    scenario::{Client, Megabits},
    sessions::BEAT,
    world::{Happening, World},
};

impl World {
    /// All hosts, and the source behind them.
    pub(crate) fn populate(&mut self) {
        let kinds = self.kinds();
        for (number, kind) in kinds.into_iter().enumerate() {
            let seed = number < self.scenario.seeds;
            let role = if seed { Role::Seed } else { Role::Peer };
            let (up, down) = self.rates(role, kind);
            // Seeds stand in the first zone; what they read comes from outside.
            let in_turn = number.saturating_sub(self.scenario.seeds);
            let zone = if seed {
                0
            } else {
                in_turn % self.scenario.zones.max(1)
            };
            let place = self.network.add(Some(zone), up, down);
            let host = self.host(role, kind, zone);
            self.places.insert(host.id, place);
            self.hosts.push(host);
        }
        let source = self.scenario.source_rate.bytes();
        self.source = self.network.add(None, source, source);
    }

    /// What is wrong with whom, by place.
    fn kinds(&mut self) -> Vec<Kind> {
        let (seeds, peers) = (self.scenario.seeds, self.scenario.peers);
        let (slow, rotten) = self.scenario.unhealthy();
        let turning = self.scenario.turning();
        let mut kinds = vec![Kind::Healthy; seeds + peers];
        let mut order: Vec<Place> = (seeds..seeds + peers).collect();
        for number in 0..slow + rotten + turning {
            let other = self.dice.random_range(number..peers);
            order.swap(number, other);
            let kind = if number < slow {
                Kind::Slow
            } else if number < slow + rotten {
                Kind::Rotten
            } else {
                Kind::Turns
            };
            kinds[order[number]] = kind;
        }
        kinds
    }

    /// Bytes a second of a host, up and down.
    pub(crate) fn rates(&self, role: Role, kind: Kind) -> (u64, u64) {
        let (Megabits(up), Megabits(down)) = match role {
            Role::Seed => self.scenario.seed_rate,
            Role::Peer => self.scenario.peer_rate,
        };
        let factor = match kind {
            Kind::Slow => self.scenario.slow_factor.max(1),
            Kind::Healthy | Kind::Rotten | Kind::Turns => 1,
        };
        (
            Megabits(up).bytes() / factor,
            Megabits(down).bytes() / factor,
        )
    }

    fn host(&mut self, role: Role, kind: Kind, zone: usize) -> Host {
        let id = HostId::from_bytes(self.rng.random());
        let options = self.scenario.swarm.clone();
        let transfer = &self.scenario.transfer;
        let tasks = self.contents.iter();
        Host {
            id,
            role,
            kind,
            zone,
            began: None,
            rest: VecDeque::new(),
            reading: BTreeSet::new(),
            node: Node::new(options, id, self.rng.random()),
            alive: true,
            deadline: None,
            lines: std::collections::BTreeMap::new(),
            sessions: 0,
            links: BTreeSet::new(),
            requests: std::collections::BTreeMap::new(),
            stall_watch: None,
            slots: Turns::new(transfer.upload_slots, transfer.upload_queue),
            lends: None,
            tasks: tasks
                .map(|(id, lengths)| (*id, Local::new(*lengths)))
                .collect(),
            next_reader: 0,
            drain: Drain::default(),
        }
    }

    /// What is known to happen.
    pub(crate) fn arrange(&mut self) {
        self.schedulers();
        let names: Vec<SchedulerName> = self.controls.iter().map(|one| one.name.clone()).collect();
        for host in 0..self.hosts.len() {
            let on_demand = self.scenario.homes && self.hosts[host].role == Role::Peer;
            let names = names.clone();
            self.handle(host, Event::Schedulers { names, on_demand });
        }
        for host in 0..self.hosts.len() {
            // Not all at the same moment.
            let first = BEAT.mul_f64(host as f64 / self.hosts.len() as f64);
            self.queue.put(self.now + first, Happening::Beats(host));
        }
        self.invite();
        self.watch();
        self.trace();
        for (at, action) in self.scenario.actions.clone() {
            self.queue.put(self.begin + at, Happening::Acts(action));
        }
        if self.scenario.churn > 0.0 {
            let first = self.until_somebody_leaves();
            self.queue.put(self.begin + first, Happening::Churns);
        }
    }

    /// Schedulers on machines of their own, or beside every host.
    fn schedulers(&mut self) {
        let scenario = &self.scenario;
        let number = match (scenario.scheduler, scenario.homes) {
            (true, _) => scenario.schedulers,
            (false, true) => self.hosts.len(),
            (false, false) => 0,
        };
        for number in 0..number {
            let options = self.scenario.cluster.clone();
            let (delay, seed) = (self.scenario.scheduler_delay, self.scenario.seed);
            let mut control = Control::new(number, options, delay, seed);
            control.start(Timestamp::ZERO);
            self.controls.push(control);
        }
    }

    /// Says when clients come; with waves, only the first.
    fn invite(&mut self) {
        let peers = self.scenario.peers;
        let mut by_chance = Duration::ZERO;
        for peer in 0..peers {
            let host = self.scenario.seeds + peer;
            if !matches!(self.scenario.client(peer), Client::Leaves(_)) {
                let tasks = self.contents.iter().map(|(task, _)| (host, *task));
                self.outstanding.extend(tasks);
            }
            let after = match self.scenario.arrival {
                Arrival::Waves(_) => continue,
                Arrival::AtOnce => Duration::ZERO,
                Arrival::Within(span) => span * peer as u32 / peers.max(1) as u32,
                Arrival::Poisson(rate) => {
                    by_chance += exponential(self.dice.random(), rate);
                    by_chance
                }
            };
            self.queue.put(self.begin + after, Happening::Starts(host));
        }
        if matches!(self.scenario.arrival, Arrival::Waves(_)) {
            self.next_wave(self.begin);
        }
    }

    /// The next wave comes once nobody of those before has anything to wait for.
    pub(crate) fn next_wave(&mut self, at: Timestamp) {
        let waves = matches!(self.scenario.arrival, Arrival::Waves(_));
        let waiting = self.outstanding.first();
        if !waves || waiting.is_some_and(|(host, _)| *host < self.next_wave) {
            return;
        }
        let wave = self.scenario.arrival.wave(self.scenario.peers);
        let begin = self.next_wave;
        self.next_wave = (begin + wave).min(self.hosts.len());
        for host in begin..self.next_wave {
            self.queue.put(at, Happening::Starts(host));
        }
    }

    fn until_somebody_leaves(&mut self) -> Duration {
        let a_second = self.scenario.churn / 100.0 / 60.0 * self.scenario.peers as f64;
        exponential(self.dice.random(), a_second)
    }

    /// A peer leaves for good.
    pub(crate) fn churns(&mut self) {
        if self.outstanding.is_empty() {
            return;
        }
        let host = self
            .dice
            .random_range(self.scenario.seeds..self.hosts.len());
        if self.hosts[host].alive {
            self.lose(host);
        }
        let next = self.until_somebody_leaves();
        self.queue.put(self.now + next, Happening::Churns);
    }

    /// A host dies: nothing is expected of it any more.
    pub(crate) fn lose(&mut self, host: Place) {
        if !self.hosts[host].alive {
            return;
        }
        self.trace_lost(host);
        self.kill(host);
        for (task, _) in &self.contents {
            self.outstanding.remove(&(host, *task));
        }
        self.outcome.lost += usize::from(self.hosts[host].role == Role::Peer);
        self.next_wave(self.now);
    }
}

/// A span between two events that happen so often a second, from an even chance.
fn exponential(chance: f64, a_second: f64) -> Duration {
    let span = -(1.0 - chance).ln() / a_second.max(1e-9);
    Duration::from_secs_f64(span.clamp(0.0, 1e6))
}

/// Contents of these sizes.
pub(crate) fn contents(sizes: &[u64]) -> Vec<(TaskId, Lengths)> {
    let content = |(number, size): (usize, &u64)| {
        let digest = Digest::sha256(format!("content {number}").as_bytes());
        let lengths = Lengths::of(*size).expect("a scenario's contents are under the limit");
        (TaskId::of_content(digest), lengths)
    };
    sizes.iter().enumerate().map(content).collect()
}
