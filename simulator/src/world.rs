//! The loop of events.
//!
//! Owner of state: [`World`] owns hosts, scheduler, links and what is due. Invariant: what
//! happens next depends on the scenario alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use darter_api::{
    HostId, Lengths, Origin, OriginKind, TaskId, Timestamp,
    link::LinkMessage,
    session::{Hello, Locality, PeerMessage, SchedulerMessage},
};
use darter_proxy::swarm::core::event::{Command, Event, PieceFailure, ReaderId, RequestId};
use darter_scheduler::core as scheduling;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::{
    Report, Scenario,
    borders::Borders,
    client::Chunks,
    control::{Control, is_welcome},
    host::{Host, Upload},
    network::{Chunk, Network, Place, TransferId},
    outcome::Outcome,
    queue::Queue,
    scenario::{Action, Client, Who},
    setup::contents,
};

/// After the last client is done, to see what goes on without need.
const AFTERMATH: Duration = Duration::from_secs(4);
/// Hosts have their sessions before clients come.
const WARM_UP: Duration = Duration::from_secs(2);

/// Something that happens.
#[derive(Debug)]
pub(crate) enum Happening {
    /// An uplink has sent its quantum.
    Sent(Place),
    /// A quantum is through the receiver's downlink.
    Arrived(Chunk),
    /// A quantum is in its receiver's zone.
    Crosses(Chunk),
    /// The source answers.
    StreamBegins {
        host: Place,
        task: TaskId,
        number: u64,
    },
    /// A core may be due.
    Tick(Place),
    /// The scheduler's core may be due.
    SchedulerTick,
    /// A piece is asked of a host.
    Asks(Place, Upload),
    /// It will not come.
    Refused(Place, RequestId, PieceFailure),
    /// A host's requests may have stalled.
    Stalls(Place),
    /// A host dials another.
    Dials(Place, Place),
    /// A link broke, or was not made.
    LinkDown(Place, Place),
    /// A neighbour speaks.
    Linked {
        from: Place,
        to: Place,
        message: LinkMessage,
    },
    /// A host seeks the scheduler.
    Connects(Place),
    /// A host's hello reaches it.
    Greets(Place, u64),
    /// A host speaks to the scheduler.
    Says(Place, u64, Box<PeerMessage>),
    /// The scheduler speaks to a host.
    Hears(Place, u64, Box<SchedulerMessage>),
    /// The scheduler is gone, as a host sees it.
    Loses(Place, u64),
    /// A host is gone, as the scheduler sees it.
    Misses(Place, u64),
    /// A host has checked a content.
    Completed(Place, TaskId),
    /// A client comes.
    Starts(Place),
    /// A client leaves for good.
    Leaves {
        host: Place,
        task: TaskId,
        reader: ReaderId,
    },
    /// A client gives up a range.
    Aborts {
        host: Place,
        task: TaskId,
        reader: ReaderId,
    },
    /// A host leaves that the dice choose.
    Churns,
    /// The scenario says so.
    Acts(Action),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) now: Timestamp,
    pub(crate) begin: Timestamp,
    pub(crate) queue: Queue<Happening>,
    pub(crate) network: Network,
    pub(crate) source: Place,
    pub(crate) hosts: Vec<Host>,
    /// Never iterated: its order is no part of a run.
    pub(crate) places: HashMap<HostId, Place>,
    pub(crate) contents: Vec<(TaskId, Lengths)>,
    pub(crate) control: Control,
    pub(crate) chunks: BTreeMap<(Place, TaskId), Chunks>,
    /// Transfers that hold an upload slot.
    pub(crate) in_slots: BTreeSet<TransferId>,
    pub(crate) next_stream: u64,
    pub(crate) self_leases: u64,
    pub(crate) rng: SmallRng,
    /// Of what the scenario leaves to chance: who is slow, who comes when, who leaves.
    pub(crate) dice: SmallRng,
    pub(crate) outstanding: BTreeSet<(Place, TaskId)>,
    /// Where the next wave of clients begins.
    pub(crate) next_wave: Place,
    pub(crate) outcome: Outcome,
}

impl World {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let cluster = scenario.cluster.clone();
        let delay = scenario.scheduler_delay;
        let borders = Borders::new(
            scenario.zones.max(1),
            scenario.zone_rate.bytes(),
            scenario.zone_latency,
        );
        let mut world = Self {
            now: Timestamp::ZERO,
            begin: Timestamp::ZERO + WARM_UP + delay * 3,
            queue: Queue::new(),
            network: Network::new(scenario.latency, scenario.quantum, borders),
            source: 0,
            hosts: Vec::new(),
            places: HashMap::new(),
            contents: contents(&scenario.contents),
            control: Control::new(cluster, delay, scenario.seed),
            chunks: BTreeMap::new(),
            in_slots: BTreeSet::new(),
            next_stream: 0,
            self_leases: 0,
            rng: SmallRng::seed_from_u64(scenario.seed),
            dice: SmallRng::seed_from_u64(!scenario.seed),
            outstanding: BTreeSet::new(),
            next_wave: scenario.seeds,
            outcome: Outcome::default(),
            scenario: scenario.clone(),
        };
        world.populate();
        world.arrange();
        world
    }

    pub(crate) fn run(mut self) -> Report {
        let limit = self.begin + self.scenario.limit;
        let mut end = limit;
        let mut events = 0;
        while let Some((at, what)) = self.queue.take() {
            if at > end {
                break;
            }
            self.now = at;
            events += 1;
            self.happen(what);
            if self.outstanding.is_empty() && end == limit {
                end = self.now + AFTERMATH;
                self.outcome.seeds_sent = self.sent_by(0..self.scenario.seeds);
            }
        }
        self.report(events)
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Sent(place) => self.sent(place),
            Happening::Arrived(chunk) => self.arrived(&chunk),
            Happening::Crosses(chunk) => self.crosses(chunk),
            Happening::StreamBegins { host, task, number } => {
                self.stream_begins(host, task, number);
            }
            Happening::Tick(host) => self.tick(host),
            Happening::SchedulerTick => {
                if self.control.deadline.is_some_and(|at| at <= self.now) {
                    let commands = self.control.tick(self.now);
                    self.scheduler_says(commands);
                }
            }
            Happening::Asks(parent, upload) => self.asks(parent, upload),
            Happening::Refused(host, request, failure) => self.refused(host, request, failure),
            Happening::Stalls(host) => self.stalls(host),
            Happening::Dials(from, to) => self.dials(from, to),
            Happening::LinkDown(host, other) => self.link_down(host, other),
            Happening::Linked { from, to, message } => {
                if self.hosts[to].links.contains(&from) {
                    let host = self.hosts[from].id;
                    self.handle(to, Event::Link { host, message });
                }
            }
            Happening::Connects(host) => self.connects(host),
            Happening::Greets(host, session) => self.greets(host, session),
            Happening::Says(host, session, message) => {
                if self.control.sessions.get(&host) == Some(&session) {
                    let host = self.hosts[host].id;
                    let message = *message;
                    self.tell_scheduler(scheduling::Event::Message { host, message });
                }
            }
            Happening::Hears(host, session, message) => self.hears(host, session, *message),
            Happening::Loses(host, session) => {
                if self.hosts[host].session == Some(session) {
                    self.hosts[host].session = None;
                    self.handle(host, Event::SessionDown);
                    self.connects_later(host);
                }
            }
            Happening::Misses(host, epoch) => {
                self.control.sessions.remove(&host);
                let host = self.hosts[host].id;
                self.tell_scheduler(scheduling::Event::HostDown { host, epoch });
            }
            Happening::Completed(host, task) => self.completed(host, task),
            Happening::Starts(host) => self.client_starts(host),
            Happening::Leaves { host, task, reader } => self.close(host, task, reader),
            Happening::Aborts { host, task, reader } => self.aborts(host, task, reader),
            Happening::Churns => self.churns(),
            Happening::Acts(action) => self.act(action),
        }
    }

    /// Tells a core, and does what it wants done.
    pub(crate) fn handle(&mut self, host: Place, event: Event) {
        let peer = &mut self.hosts[host];
        if !peer.alive {
            return;
        }
        let commands = peer.node.handle(self.now, event);
        self.execute(host, commands);
        self.set_deadline(host, false);
    }

    fn tick(&mut self, host: Place) {
        let peer = &mut self.hosts[host];
        if !peer.alive || peer.deadline.is_none_or(|at| at > self.now) {
            return;
        }
        let commands = peer.node.tick(self.now);
        self.execute(host, commands);
        self.set_deadline(host, true);
    }

    /// As the proxy's driver does: what was due before stays due.
    fn set_deadline(&mut self, host: Place, ticked: bool) {
        let peer = &mut self.hosts[host];
        let before = peer.deadline;
        let next = peer.node.next_deadline(self.now);
        peer.deadline = match (before, next) {
            (Some(old), Some(new)) if !ticked => Some(old.min(new)),
            (_, next) => next,
        };
        if let Some(at) = peer.deadline.filter(|_| peer.deadline != before || ticked) {
            self.queue.put(at.max(self.now), Happening::Tick(host));
        }
    }

    fn execute(&mut self, host: Place, commands: Vec<Command>) {
        for command in commands {
            self.execute_one(host, command);
        }
    }

    pub(crate) fn lengths(&self, task: &TaskId) -> Lengths {
        let known = self.contents.iter().find(|(id, _)| id == task);
        known.expect("only the scenario's contents are asked for").1
    }

    pub(crate) fn client_of(&self, host: Place) -> Client {
        self.scenario
            .client(host.saturating_sub(self.scenario.seeds))
    }

    fn tell_scheduler(&mut self, event: scheduling::Event) {
        let commands = self.control.handle(self.now, event);
        self.scheduler_says(commands);
    }

    fn scheduler_says(&mut self, commands: Vec<scheduling::Command>) {
        for command in commands {
            let Some(host) = self.places.get(&command.host).copied() else {
                continue;
            };
            if let Some(session) = self.control.sessions.get(&host).copied() {
                let hears = Happening::Hears(host, session, Box::new(command.message));
                self.queue.put(self.now + self.scenario.latency, hears);
            }
        }
        if let Some(at) = self.control.deadline {
            self.queue.put(at.max(self.now), Happening::SchedulerTick);
        }
    }

    fn connects_later(&mut self, host: Place) {
        // As the proxy's session: from 100 ms, doubled up to 2 s.
        let tries = self.hosts[host].tries;
        self.hosts[host].tries += 1;
        let pause = Duration::from_millis(100 << tries.min(5)).min(Duration::from_secs(2));
        let pause = pause.mul_f64(self.rng.random_range(0.9..1.1));
        self.queue.put(self.now + pause, Happening::Connects(host));
    }

    fn connects(&mut self, host: Place) {
        if !self.hosts[host].alive {
            return;
        }
        if self.control.cluster.is_none() {
            self.connects_later(host);
            return;
        }
        let peer = &mut self.hosts[host];
        peer.sessions += 1;
        peer.session = Some(peer.sessions);
        let greets = Happening::Greets(host, peer.sessions);
        let takes = self.scenario.latency * 3 + self.control.delay;
        self.queue.put(self.now + takes, greets);
    }

    fn greets(&mut self, host: Place, session: u64) {
        if self.control.cluster.is_none() {
            self.queue.put(
                self.now + self.scenario.latency,
                Happening::Loses(host, session),
            );
            return;
        }
        self.control.sessions.insert(host, session);
        let peer = &self.hosts[host];
        let hello = Hello {
            host: peer.id,
            epoch: session,
            name: format!("host {host}"),
            address: ([127, 0, 0, 1], 4000).into(),
            role: peer.role,
            locality: Locality {
                idc: peer.zone_name(self.scenario.zones),
                ..Locality::default()
            },
            upload_slots: self.scenario.transfer.upload_slots as u32,
            cores: None,
            shares: true,
        };
        self.tell_scheduler(scheduling::Event::HostUp(hello));
    }

    fn hears(&mut self, host: Place, session: u64, message: SchedulerMessage) {
        if self.hosts[host].session != Some(session) {
            return;
        }
        if is_welcome(&message) {
            self.hosts[host].tries = 0;
            self.handle(host, Event::SessionUp);
        }
        self.handle(host, Event::Session(message));
    }

    pub(crate) fn act(&mut self, action: Action) {
        match action {
            Action::Kill(who) => {
                let host = self.who(who);
                self.lose(host);
            }
            Action::KillScheduler => {
                let sessions = self.control.sessions.clone();
                self.control.kill();
                for (host, session) in sessions {
                    let loses = Happening::Loses(host, session);
                    self.queue.put(self.now + self.scenario.latency, loses);
                }
            }
            Action::StartScheduler => self.control.start(self.now),
        }
    }

    fn who(&self, who: Who) -> Place {
        match who {
            Who::Seed(number) => number,
            Who::Peer(number) => self.scenario.seeds + number,
            Who::Reader => {
                let reads = |host: &&Host| host.tasks.values().any(|one| one.stream.is_some());
                let reader = self.hosts.iter().find(reads);
                reader.map_or(0, |host| self.places[&host.id])
            }
        }
    }
}

/// Where all contents can be read.
pub(crate) fn origin() -> Origin {
    Origin {
        upstream: "docker.io".parse().expect("a name"),
        repository: "library/app".parse().expect("a repository"),
        kind: OriginKind::Blob,
        private: false,
    }
}
