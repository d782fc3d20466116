//! The pure core: hosts, tasks, leases.
//!
//! [`Cluster`] knows no socket, no clock and no randomness of its own. All of its state is
//! soft: hellos and inventories rebuild it after a restart.
//!
//! Owner of state: [`Cluster`]. Invariants: a piece has at most one live lease; who is a
//! neighbour of whom is symmetric and within the degree; every missing piece of a wanted
//! task is held by a connected host, leased, or its waiters were told that it is
//! unavailable (or the settling time after the start still runs).

mod bad;
mod cells;
mod deal;
mod excerpts;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod hosts;
mod inventory;
mod leases;
mod mesh;
mod moves;
mod observations;
mod pace;
mod policy;
mod preheat;
mod public;
mod score;
mod sizing;
mod sweep;
mod task;
mod zones;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

pub use darter_api::configuration::{Priority, Rule, Weights};
use darter_api::{
    HostId, Lengths, NodeKey, Origin, PieceSet, TaskId, Timestamp,
    session::{
        Complaint, Hello, Holding, Join, LeaseEnd, Locality, PeerMessage, Purpose, SchedulerMessage,
    },
};
use rand::{SeedableRng as _, rngs::SmallRng};

use crate::Options;
use hosts::Host;
pub use inventory::HostSummary;
use observations::Observations;
use pace::Paces;
pub use preheat::{Preheat, Preheated, Present};
use public::Followed;
use sizing::Unsized;
pub use task::{Graph, GraphNode, Summary};
use task::{Member, Task};

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
    hosts: HashMap<HostId, Host>,
    seeds: BTreeSet<HostId>,
    tasks: HashMap<TaskId, Task>,
    /// How many there may be.
    most_tasks: usize,
    /// Tasks with a lease or with somebody waiting.
    live: BTreeSet<TaskId>,
    observations: Observations,
    followed: Followed,
    unsized_tasks: Unsized,
    /// Tasks that came from another scheduler, and until when nobody is granted a read.
    settling: HashMap<TaskId, Timestamp>,
    /// When each host's memberships are looked at.
    sweeps: BTreeSet<(Timestamp, HostId)>,
    /// Bytes a second that a request usually brings.
    usual_rate: Option<f32>,
    paces: Paces,
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
            unsized_tasks: Unsized::default(),
            settling: HashMap::new(),
            sweeps: BTreeSet::new(),
            usual_rate: None,
            paces: Paces::default(),
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
                let current = |known: &Host| known.hello.epoch == epoch;
                if self.hosts.get(&host).is_some_and(current) && !self.is_resting(&host) {
                    self.host_down(now, &host);
                }
            }
            Event::HostRests { host, epoch } => self.host_rests(now, &host, epoch),
            Event::Message { host, message } => {
                if let Some(known) = self.hosts.get_mut(&host) {
                    known.heard = now;
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
        self.look_at_readers(now);
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

    fn host_up(&mut self, now: Timestamp, hello: Hello) {
        let host = hello.host;
        let newer = |known: &Host| known.hello.epoch > hello.epoch;
        if self.hosts.get(&host).is_some_and(newer) {
            return;
        }
        let stays = |known: &Host| known.resting.is_some() && *known.place == hello.locality;
        let known = if self.hosts.get(&host).is_some_and(stays) {
            self.hosts.remove(&host)
        } else {
            self.host_down(now, &host);
            None
        };
        match known {
            Some(known) => self.host_returned(now, known, hello),
            None => drop(self.hosts.insert(host, Host::new(now, hello))),
        }
        self.assign_role(&host);
        self.sweep_later(now, host);
        let scheduler = self.key.id();
        let trusted = vec![scheduler];
        self.send(host, SchedulerMessage::Welcome { scheduler, trusted });
    }

    fn host_down(&mut self, now: Timestamp, host: &HostId) {
        let Some(gone) = self.hosts.remove(host) else {
            return;
        };
        self.seeds.remove(host);
        self.unsized_tasks.gone(host);
        self.sweeps.remove(&(gone.sweep_at, *host));
        for task in gone.tasks {
            self.remove_member(now, &task, host, &gone.place);
        }
    }

    /// A host has nothing to do with a task any more.
    fn forget_member(&mut self, now: Timestamp, id: &TaskId, host: &HostId) {
        if let Some(known) = self.hosts.get(host) {
            let place = Arc::clone(&known.place);
            self.remove_member(now, id, host, &place);
        }
    }

    /// The same of a host that stands there, and may be gone.
    fn remove_member(&mut self, now: Timestamp, id: &TaskId, host: &HostId, place: &Locality) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let (was_member, claim) = (task.members.contains_key(host), task.claim_of(host));
        let neighbours = task.remove(host, place);
        if task.leases.iter().any(|lease| lease.holder == *host) {
            task.heirs.clone_from(&neighbours);
        }
        task.leases.retain(|lease| lease.holder != *host);
        task.doubt_elsewhere();
        let empty = task.members.is_empty();
        let few = self.options.degree / 4;
        let lonely: Vec<HostId> = neighbours
            .iter()
            .filter(|host| task.members.get(*host).is_some_and(Member::wants))
            .filter(|host| task.degree(host) < few)
            .copied()
            .collect();
        for neighbour in neighbours {
            let (task, remove) = (*id, vec![*host]);
            self.send(
                neighbour,
                SchedulerMessage::Neighbours {
                    task,
                    add: vec![],
                    remove,
                },
            );
        }
        if let Some(known) = self.hosts.get_mut(host) {
            known.tasks.remove(id);
            known.claimed -= claim;
        }
        if empty {
            self.tasks.remove(id);
            self.live.remove(id);
        } else {
            for host in lonely {
                self.introduce(host, id);
            }
            self.ensure_source(now, id);
            if was_member && !place.idc.is_empty() {
                self.fill_gateways(&place.idc, id);
            }
        }
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
            PeerMessage::Sizing { task, state } => self.sizing(now, host, task, state),
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

    /// Whether a host may bring one more task.
    fn may_bring(&self, host: &HostId) -> bool {
        let left = self.most_tasks.saturating_sub(self.tasks.len());
        let known = self.hosts.get(host);
        known.is_some_and(|known| known.tasks.len() < left)
    }

    /// The task with this host as a member, both made if need be; `None` when its geometry
    /// is another one or the host may bring no more.
    fn member(
        &mut self,
        host: HostId,
        id: TaskId,
        lengths: Lengths,
        origin: Option<&Origin>,
    ) -> Option<&mut Task> {
        if !self.tasks.contains_key(&id) && !self.may_bring(&host) {
            return None;
        }
        let known = self
            .tasks
            .entry(id)
            .or_insert_with(|| Task::new(id, lengths))
            .lengths;
        if known != lengths {
            let message = SchedulerMessage::Mismatch {
                task: id,
                lengths: known,
            };
            self.send(host, message);
            return None;
        }
        let task = self.tasks.get_mut(&id)?;
        if let Some(origin) = origin {
            task.add_origin(origin);
        }
        self.hosts.get(&host)?;
        self.enrol(host, &id);
        self.tasks.get_mut(&id)
    }

    fn holding(&mut self, now: Timestamp, host: HostId, holding: Holding) {
        let id = holding.task;
        let fits = self.member(host, id, holding.lengths, holding.origin.as_ref());
        let fits = fits.is_some();
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let known = self.hosts.get_mut(&host);
        if let Some(listed) = known.and_then(|known| known.listed.as_mut()) {
            listed.insert(Arc::clone(&task.id));
        }
        if !fits {
            return;
        }
        task.set_wants(host, holding.wanted);
        self.note_held(host, &id, holding.held);
        if holding.wanted {
            self.live.insert(id);
        }
        if !holding.reading.is_empty() {
            self.withdraw_for_reader(host, &id, &holding.reading);
            self.self_leased(now, host, &id, holding.reading);
            self.revoke_held(host, &id);
        }
    }

    fn interest(&mut self, host: HostId, id: TaskId, lengths: Lengths, origin: &Origin) {
        if self.priority(&host, Some(origin)) == Priority::Forbid {
            return;
        }
        if self.member(host, id, lengths, Some(origin)).is_some() {
            self.introduce_seed(&id);
            self.introduce(host, &id);
        }
    }

    /// The seed that will be asked is a member from the first interest on, so that links
    /// to it stand before the first join.
    fn introduce_seed(&mut self, id: &TaskId) {
        let Some(seed) = self.seed_of(id) else {
            return;
        };
        self.enrol(seed, id);
    }

    /// Who went to the source is a seed of the task.
    fn reads_source(&mut self, host: HostId, id: &TaskId) {
        if let Some(task) = self.tasks.get_mut(id) {
            task.add_source(host);
        }
    }

    fn join(&mut self, now: Timestamp, host: HostId, join: Join) {
        let id = join.task;
        if self.forbids(host, id, &join.origin) {
            self.leave(now, host, &id);
            return;
        }
        let Some(task) = self.member(host, id, join.lengths, Some(&join.origin)) else {
            return;
        };
        task.set_wants(host, true);
        task.joined(now, host);
        let member = task.member(host);
        // Who was asked to read for a preheat says so, and reads for others all the same.
        if (member.purpose, join.purpose) != (Purpose::Seed, Purpose::Preheat) {
            member.purpose = join.purpose;
        }
        task.told_unavailable.remove(&host);
        task.failures = 0;
        if task
            .refused
            .get(&host)
            .is_some_and(|(why, _)| *why == LeaseEnd::NotNeeded)
        {
            task.refused.remove(&host);
            task.doubt_elsewhere();
        }
        self.note_held(host, &id, join.held);
        self.live.insert(id);
        if join.purpose == Purpose::Pull {
            self.introduce_seed(&id);
            self.hurry(&id);
            self.follows(now, host, &join.origin, [id].into_iter(), false);
        }
        if !self.introduce(host, &id) {
            self.answer(host, &id);
        }
        self.ensure_source(now, &id);
    }

    /// Notes what a host holds; what it keeps to itself is nobody's concern, and nor is what
    /// would be too much to count.
    fn note_held(&mut self, host: HostId, id: &TaskId, mut held: PieceSet) {
        let counts = self.shares(&host);
        let (Some(known), Some(task)) = (self.hosts.get_mut(&host), self.tasks.get_mut(id)) else {
            return;
        };
        known.claimed -= task.claim_of(&host);
        if !counts || known.claimed + task.claim(&held) > MAX_CLAIMED {
            held = PieceSet::new();
        }
        task.set_held(host, held);
        known.claimed += task.claim_of(&host);
    }

    /// An answer though there is nobody to name: the scheduler lives and knows.
    fn answer(&mut self, host: HostId, id: &TaskId) {
        let nobody = SchedulerMessage::Neighbours {
            task: *id,
            add: vec![],
            remove: vec![],
        };
        self.send(host, nobody);
    }

    /// A task that a host turns out to have to do with.
    fn enlist(&mut self, host: HostId, id: &TaskId) -> Option<&mut Task> {
        self.hosts.get(&host)?;
        self.enrol(host, id);
        self.tasks.get_mut(id)
    }

    fn progress(&mut self, now: Timestamp, host: HostId, id: &TaskId, held: PieceSet) {
        let Some(task) = self.enlist(host, id) else {
            return;
        };
        if held.end() > task.lengths.pieces() {
            return;
        }
        let gained = held.len().saturating_sub(task.member(host).held().len());
        if gained > 0 {
            task.gateway_gained(now, &host);
        }
        self.note_held(host, id, held);
        self.renew_lease(now, id, &host, gained);
        self.ensure_source(now, id);
    }

    fn starved(&mut self, now: Timestamp, host: HostId, id: &TaskId, pieces: &PieceSet) {
        let Some(task) = self.enlist(host, id) else {
            self.answer(host, id);
            return;
        };
        // What it may read and does not, somebody else is to read.
        for lease in task.leases.iter_mut().filter(|lease| lease.holder == host) {
            lease.pieces.subtract(pieces);
        }
        task.leases.retain(|lease| !lease.pieces.is_empty());
        task.is_nowhere(pieces);
        if !self.introduce_holders(host, id, pieces) && !self.introduce(host, id) {
            self.answer(host, id);
        }
        self.ensure_source(now, id);
    }

    fn done(&mut self, now: Timestamp, host: HostId, id: &TaskId) {
        let Some(task) = self.enlist(host, id) else {
            return;
        };
        let pieces = task.lengths.pieces();
        task.set_wants(host, false);
        task.leases.retain(|lease| lease.holder != host);
        self.note_held(host, id, PieceSet::full(pieces));
        self.ensure_source(now, id);
    }

    fn leave(&mut self, now: Timestamp, host: HostId, id: &TaskId) {
        let known = self.tasks.get_mut(id);
        let Some(task) = known.filter(|task| task.members.contains_key(&host)) else {
            return;
        };
        task.leases.retain(|lease| lease.holder != host);
        task.set_wants(host, false);
        // What it gave back it did not want any more.
        task.doubt_elsewhere();
        if task.member(host).held().is_empty() {
            self.forget_member(now, id, &host);
        } else {
            self.ensure_source(now, id);
            if let Some(zone) = self.zone_of(&host).map(str::to_owned) {
                self.fill_gateways(&zone, id);
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
