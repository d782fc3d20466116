//! The pure core: hosts, tasks, leases.
//!
//! [`Cluster`] knows no socket, no clock and no randomness of its own. All of its state is
//! soft: hellos and inventories rebuild it after a restart.
//!
//! [`members`] is who comes and goes, [`contents`] what they tell of their contents, [`grants`] who
//! is to read a source, [`leases`] who does, [`mesh`] who meets whom, [`bad`] and [`pace`] who is slow,
//! [`silence`] who is gone without a word.
//!
//! Owner of state: [`Cluster`]. Invariants: a piece has at most one live lease; who is a
//! neighbour of whom is symmetric and within the degree; every missing piece of a wanted
//! task is held by a connected host, leased, or its waiters were told that it is
//! unavailable (or the settling time after the start still runs).

mod bad;
mod blocks;
mod cells;
mod contents;
mod deal;
mod excerpts;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod grants;
mod hosts;
mod inventory;
mod leases;
mod members;
mod mesh;
mod moves;
mod observations;
mod pace;
mod policy;
mod preheat;
mod public;
mod score;
mod silence;
mod sizing;
mod sweep;
mod task;
mod zones;

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

pub use darter_api::configuration::{Priority, Rule, Weights};
use darter_api::{
    HostId, NodeKey, TaskId, Timestamp,
    session::{Complaint, Hello, PeerMessage, SchedulerMessage},
};
use rand::{SeedableRng as _, rngs::SmallRng};

use crate::Options;
use hosts::Host;
pub use inventory::HostSummary;
use observations::Observations;
use pace::Paces;
pub use preheat::{Preheat, Preheated};
use public::Followed;
use task::Task;
pub use task::{Graph, GraphNode, Summary};

/// Tasks known at the same time; the inventory of a host beyond it is not taken in. A host brings
/// no more than there is room for from others: alone it has half of them, and who has few may
/// bring some as long as there is room at all.
const MAX_TASKS: usize = 1_000_000;
/// Pieces of the contents that one host holds in part: what it holds of more contents is not
/// taken in. A piece costs 4 B to count and up to 4 B a member, and a word is enough to claim
/// 2^20 of them (8 TiB). Contents aim at 800: these are those of 5,000 contents.
const MAX_CLAIMED: u64 = 4 << 20;
/// Leases are looked at so often.
const TICK: Duration = Duration::from_millis(100);
/// All who read a source are looked at so often: whether they are silent, or slow.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A host's hello was accepted.
    HostUp(Hello),
    /// A host's session ended; `epoch` says which session.
    HostDown {
        /// Which.
        host: HostId,
        /// The hello's.
        epoch: u64,
    },
    /// A host's session is about to end, and the host stays: what it told holds.
    HostRests {
        /// Which.
        host: HostId,
        /// The hello's.
        epoch: u64,
    },
    /// A host spoke.
    Message {
        /// Which.
        host: HostId,
        /// What.
        message: PeerMessage,
    },
}

/// Something to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// To whom.
    pub host: HostId,
    /// What.
    pub message: SchedulerMessage,
}

/// What is counted of the core, for metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Hosts with a session, or one that rests.
    pub hosts: usize,
    /// Tasks that any of them holds or wants.
    pub tasks: usize,
    /// Leases that live.
    pub leases: usize,
    /// Leases granted so far.
    pub granted: u64,
    /// Leases that ran out so far.
    pub expired: u64,
    /// Leases that came back so far.
    pub returned: u64,
    /// Leases that went from a slow holder to a better one so far.
    pub moved: u64,
}

/// All hosts and tasks of a scheduler.
#[derive(Debug)]
pub struct Cluster {
    /// As they hold.
    options: Options,
    /// As they were at the start.
    own: Options,
    key: NodeKey,
    /// Milliseconds since the Unix epoch at [`Timestamp::ZERO`].
    unix_ms: u64,
    started: Timestamp,
    rng: SmallRng,
    /// Each on its own: a map keeps many places empty, and has all twice while it grows.
    hosts: HashMap<HostId, Box<Host>>,
    seeds: BTreeSet<HostId>,
    /// As the hosts.
    tasks: HashMap<TaskId, Box<Task>>,
    /// How many there may be.
    most_tasks: usize,
    /// Tasks with a lease or with somebody waiting.
    live: BTreeSet<TaskId>,
    observations: Observations,
    followed: Followed,
    /// Tasks that came from another scheduler, and until when nobody is granted a read.
    settling: HashMap<TaskId, Timestamp>,
    /// When those that have settled were last looked for.
    settling_swept: Timestamp,
    /// When each host's memberships are looked at.
    sweeps: BTreeSet<(Timestamp, HostId)>,
    /// Bytes a second that a request usually brings.
    usual_rate: Option<f32>,
    paces: Paces,
    /// When all who read a source were last looked at.
    looked: Timestamp,
    counts: Counts,
    /// When something last happened.
    now: Timestamp,
    /// When it was last woken.
    ticked: Timestamp,
    commands: Vec<Command>,
}

impl Cluster {
    /// An empty cluster at `now`. Same seed and events, same commands.
    pub fn new(options: Options, key: NodeKey, now: Timestamp, unix_ms: u64, seed: u64) -> Self {
        Self {
            own: options.clone(),
            options,
            key,
            unix_ms,
            started: now,
            rng: SmallRng::seed_from_u64(seed),
            hosts: HashMap::new(),
            seeds: BTreeSet::new(),
            tasks: HashMap::new(),
            most_tasks: MAX_TASKS,
            live: BTreeSet::new(),
            observations: Observations::default(),
            followed: Followed::default(),
            settling: HashMap::new(),
            settling_swept: now,
            sweeps: BTreeSet::new(),
            usual_rate: None,
            paces: Paces::default(),
            looked: Timestamp::ZERO,
            counts: Counts::default(),
            now,
            ticked: now,
            commands: Vec::new(),
        }
    }

    /// Takes what happened; what is to be said, in order.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Vec<Command> {
        self.now = now;
        match event {
            Event::HostUp(hello) => self.host_up(now, hello),
            Event::HostDown { host, epoch } => {
                let known = self.hosts.get(&host);
                let is_current = known.is_some_and(|known| known.hello.epoch == epoch);
                if is_current && !self.is_resting(&host) {
                    self.host_down(now, &host);
                }
            }
            Event::HostRests { host, epoch } => self.host_rests(now, &host, epoch),
            Event::Message { host, message } => {
                if let Some(known) = self.hosts.get_mut(&host) {
                    known.heard = now;
                    known.silent_since = None;
                    self.message(now, host, message);
                }
            }
        }
        std::mem::take(&mut self.commands)
    }

    /// Does what has become due; call it at [`Cluster::next_deadline`].
    pub fn tick(&mut self, now: Timestamp) -> Vec<Command> {
        self.ticked = now;
        self.now = now;
        for task in self.live.clone() {
            self.settle_newcomers(now, &task);
            self.expire_leases(now, &task);
            self.ensure_source(now, &task);
        }
        if now.since(self.looked) >= LOOK_EVERY && !self.live.is_empty() {
            self.looked = now;
            self.replace_silent(now);
            self.replace_slow(now);
        }
        self.sweep(now);
        self.tell_news(now);
        std::mem::take(&mut self.commands)
    }

    /// When [`Cluster::tick`] is due. Events do not put it off.
    pub fn next_deadline(&self, now: Timestamp) -> Option<Timestamp> {
        let tick = (!self.live.is_empty()).then(|| self.ticked + TICK);
        let others = self.sweep_due().into_iter().chain(self.followed.due());
        let next = tick.into_iter().chain(others).min();
        next.map(|at| at.max(now))
    }

    /// What there is.
    pub fn counts(&self) -> Counts {
        Counts {
            hosts: self.hosts.len(),
            tasks: self.tasks.len(),
            leases: self
                .live
                .iter()
                .filter_map(|task| self.tasks.get(task))
                .map(|task| task.leases.len())
                .sum(),
            ..self.counts
        }
    }

    /// Who is whose neighbour in a task, who holds how much, who reads the source.
    pub fn graph(&self, task: &TaskId) -> Option<Graph> {
        let task = self.tasks.get(task)?;
        let mut graph = task.graph();
        for node in &mut graph.nodes {
            node.gateway = self.zone_of(&node.host).is_some() && self.is_gateway(task, &node.host);
            node.bad = self.is_bad(&node.host);
            if let Some(host) = self.hosts.get(&node.host) {
                node.name.clone_from(&host.hello.name);
            }
        }
        Some(graph)
    }

    /// The tasks that most hosts have to do with, `most` of them.
    pub fn summaries(&self, most: usize) -> Vec<Summary> {
        let mut all: Vec<(usize, &TaskId)> = self
            .tasks
            .iter()
            .map(|(id, task)| (task.members.len(), id))
            .collect();
        all.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        all.truncate(most);
        let tasks = all.into_iter();
        tasks
            .filter_map(|(_, id)| Some(self.tasks.get(id)?.summary(*id)))
            .collect()
    }

    fn send(&mut self, host: HostId, message: SchedulerMessage) {
        self.commands.push(Command { host, message });
    }

    /// An inventory is the answer to the welcome.
    fn answered_welcome(&mut self, now: Timestamp, host: &HostId) {
        if let Some(known) = self.hosts.get_mut(host)
            && let Some(at) = known.welcomed.take()
        {
            known.round_trip = now.since(at);
        }
    }

    fn message(&mut self, now: Timestamp, host: HostId, message: PeerMessage) {
        match message {
            // A hello is an event of its own; within a session it says nothing new.
            PeerMessage::Hello(_) => {}
            PeerMessage::Inventory { holdings, last } => {
                if last {
                    self.answered_welcome(now, &host);
                }
                for holding in holdings {
                    self.holding(now, host, holding);
                }
                if last {
                    self.told_all(now, host);
                }
            }
            PeerMessage::Interest { tasks, origin } => {
                let ids = tasks.iter().map(|(task, _)| *task);
                self.follows(now, host, &origin, ids, true);
                for (task, lengths) in tasks {
                    self.interest(host, task, lengths, &origin);
                }
            }
            PeerMessage::Join(join) => self.join(now, host, join),
            PeerMessage::Progress { task, held } => self.progress(now, host, &task, held),
            PeerMessage::Starved { task, pieces } => self.starved(now, host, &task, &pieces),
            PeerMessage::Done { task } => self.done(now, host, &task),
            PeerMessage::Leave { task } => self.leave(now, host, &task),
            PeerMessage::LeaseAccepted { task } => self.lease_accepted(now, host, &task),
            PeerMessage::LeaseFirstByte { task, ranges } => {
                self.lease_first_byte(now, host, &task, ranges);
                self.reads_source(host, &task);
            }
            PeerMessage::LeaseReturned { task, pieces, why } => {
                self.lease_returned(now, host, &task, &pieces, why)
            }
            PeerMessage::SelfLeased { task, pieces } => self.self_leased(now, host, &task, pieces),
            // The server's slots decide; this is a hint.
            PeerMessage::Load { uploads, .. } => {
                if let Some(known) = self.hosts.get_mut(&host) {
                    known.set_load(now, uploads);
                }
            }
            PeerMessage::Parents { parents } => self.parents_reported(now, host, &parents),
            PeerMessage::Report {
                neighbour,
                complaint,
                ..
            } => self.report(now, host, neighbour, complaint),
            PeerMessage::Moved { tasks } => self.moved(now, tasks),
            // An event of its own, since the session ends with it.
            PeerMessage::Resting => {}
            // Not the core's concern.
            PeerMessage::Preheat(_) | PeerMessage::Errand(_) => {}
            PeerMessage::Evicted { tasks } => {
                for task in tasks {
                    self.forget_member(now, &task, &host);
                }
            }
            PeerMessage::SizeWanted { task } => self.size_wanted(host, task),
            PeerMessage::ExcerptsWanted {
                task,
                lengths,
                origin,
            } => self.excerpts_wanted(now, host, task, lengths, &origin),
            PeerMessage::Observed(seen) => self.observed(now, seen),
            PeerMessage::Lookup {
                id,
                upstream,
                repository,
                reference,
            } => {
                let observation = self
                    .observations
                    .find(now, &upstream, &repository, &reference);
                self.send(host, SchedulerMessage::Found { id, observation });
            }
        }
    }

    fn report(
        &mut self,
        now: Timestamp,
        reporter: HostId,
        neighbour: HostId,
        complaint: Complaint,
    ) {
        if complaint == Complaint::Unreachable && self.is_resting(&neighbour) {
            self.host_down(now, &neighbour);
            return;
        }
        if complaint == Complaint::Rot {
            self.caught(now, &neighbour, reporter);
        }
    }
}

#[cfg(test)]
mod tests;
