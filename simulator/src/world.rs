//! The loop of events.
//!
//! Owner of state: [`World`] owns hosts, schedulers, links and what is due. Invariant: what
//! happens next depends on the scenario alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use darter_api::{
    HostId, Lengths, Origin, OriginKind, TaskId, Timestamp,
    link::LinkMessage,
    session::{PeerMessage, SchedulerMessage},
};
use darter_proxy::{
    swarm::core::event::{Command, Event, PieceFailure, ReaderId, RequestId},
    transfer::turns::SlotId,
};
use rand::{SeedableRng as _, rngs::SmallRng};

use crate::{
    Report, Scenario,
    borders::Borders,
    client::Chunks,
    control::Control,
    host::{Host, Upload},
    network::{Chunk, Network, Place, TransferId},
    outcome::Outcome,
    queue::Queue,
    said::Said,
    scenario::{Action, Client, Who},
    setup::contents,
    trace::Trace,
    watch::Watch,
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
    /// A scheduler's core may be due.
    SchedulerTick(usize),
    /// A piece is asked of a host.
    Asks(Place, Upload),
    /// It will not come.
    Refused(Place, RequestId, PieceFailure),
    /// A host's requests may have stalled.
    Stalls(Place),
    /// A host's slow uploads may lend their slots.
    Lends(Place),
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
    /// A host seeks a scheduler.
    Connects(Place, usize),
    /// A host's hello reaches it.
    Greets(Place, usize, u64),
    /// A host speaks to a scheduler.
    Says(Place, usize, u64, Box<PeerMessage>),
    /// A scheduler speaks to a host.
    Hears(Place, usize, u64, Box<SchedulerMessage>),
    /// A scheduler is gone, as a host sees it.
    Loses(Place, usize, u64),
    /// A host says what it has to do.
    Beats(Place),
    /// A host is gone, as a scheduler sees it.
    Misses(Place, usize, u64),
    /// A host has checked a content.
    Completed(Place, TaskId),
    /// A client has taken all of a content.
    Taken(Place, TaskId),
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
    /// Some hosts turn slow, or recover.
    Turns(bool),
    /// Who is slow is looked at.
    Watches,
    /// What hosts wait for is noted.
    Traces,
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
    pub(crate) controls: Vec<Control>,
    pub(crate) chunks: BTreeMap<(Place, TaskId), Chunks>,
    /// Transfers that hold an upload slot.
    pub(crate) in_slots: BTreeMap<TransferId, SlotId>,
    pub(crate) next_stream: u64,
    pub(crate) self_leases: u64,
    pub(crate) rng: SmallRng,
    /// Of what the scenario leaves to chance: who is slow, who comes when, who leaves.
    pub(crate) dice: SmallRng,
    pub(crate) outstanding: BTreeSet<(Place, TaskId)>,
    /// Where the next wave of clients begins.
    pub(crate) next_wave: Place,
    pub(crate) watch: Watch,
    pub(crate) trace: Trace,
    pub(crate) outcome: Outcome,
    pub(crate) said: Said,
}

impl World {
    pub(crate) fn new(scenario: &Scenario) -> Self {
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
            controls: Vec::new(),
            chunks: BTreeMap::new(),
            in_slots: BTreeMap::new(),
            next_stream: 0,
            self_leases: 0,
            rng: SmallRng::seed_from_u64(scenario.seed),
            dice: SmallRng::seed_from_u64(!scenario.seed),
            outstanding: BTreeSet::new(),
            next_wave: scenario.seeds,
            watch: Watch::default(),
            trace: Trace::default(),
            outcome: Outcome::default(),
            said: Said::default(),
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
            Happening::SchedulerTick(scheduler) => self.scheduler_tick(scheduler),
            Happening::Asks(parent, upload) => self.asks(parent, upload),
            Happening::Refused(host, request, failure) => self.refused(host, request, failure),
            Happening::Stalls(host) => self.stalls(host),
            Happening::Lends(host) => self.lends(host),
            Happening::Dials(from, to) => self.dials(from, to),
            Happening::LinkDown(host, other) => self.link_down(host, other),
            Happening::Linked { from, to, message } => {
                if self.hosts[to].links.contains(&from) {
                    let host = self.hosts[from].id;
                    self.handle(to, Event::Link { host, message });
                }
            }
            Happening::Connects(host, scheduler) => self.connects(host, scheduler),
            Happening::Greets(host, scheduler, session) => self.greets(host, scheduler, session),
            Happening::Says(host, scheduler, session, message) => {
                self.says(host, scheduler, session, *message);
            }
            Happening::Hears(host, scheduler, session, message) => {
                self.hears(host, scheduler, session, *message);
            }
            Happening::Loses(host, scheduler, session) => self.loses(host, scheduler, session),
            Happening::Beats(host) => self.beats(host),
            Happening::Misses(host, scheduler, session) => self.misses(host, scheduler, session),
            Happening::Completed(host, task) => self.completed(host, task),
            Happening::Taken(host, task) => self.settled(host, task, true),
            Happening::Starts(host) => self.client_starts(host),
            Happening::Leaves { host, task, reader } => self.close(host, task, reader),
            Happening::Aborts { host, task, reader } => self.aborts(host, task, reader),
            Happening::Churns => self.churns(),
            Happening::Turns(slow) => self.turns(slow),
            Happening::Watches => self.watches(),
            Happening::Traces => self.traces(),
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

    pub(crate) fn act(&mut self, action: Action) {
        match action {
            Action::Kill(who) => {
                let host = self.who(who);
                self.lose(host);
            }
            Action::KillScheduler => {
                let first = self.contents[0].0;
                let owner = self.controls.iter().enumerate();
                let owner = owner.min_by_key(|(_, control)| control.name.rank(&first));
                if let Some((scheduler, _)) = owner {
                    self.kill_scheduler(scheduler);
                }
            }
            Action::StartScheduler => {
                for control in &mut self.controls {
                    if control.cluster.is_none() {
                        control.start(self.now);
                    }
                }
            }
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
