//! The pure download core: all downloads of one host.
//!
//! [`Node`] knows no socket, no clock and no randomness of its own:
//! [`Node::handle`] takes what happened and yields what to do, [`Node::next_deadline`]
//! says when to call [`Node::tick`]. The driver and the simulator run the same code.
//!
//! Owner of state: [`Node`]. Invariants: a piece of a download is held, in flight, or
//! missing; a piece is asked only of a host that announced it; requests in flight stay
//! within the options' limits; no request id is used twice.
//!
//! What has no end yet is as long as it may be, and what lies past its end is held by whoever knows
//! the end ([`ends`]). It is told from other contents only where it would matter that nobody knows
//! how much there is: what lies far ahead is not looked at ([`pick`]), and a scheduler gives all of it to
//! one reader.
//!
//! [`pick`] chooses what to ask of whom, [`announce`] who is told of what,
//! [`offers`] who is given what only this host has, [`single`] what goes without saying, [`links`] to whom there is a link, [`lease`] when the source is read and
//! [`reads`] in which order, [`reports`] what the scheduler hears of parents, [`homes`] which
//! scheduler has a task, [`sessions`] what is said to whom of them, [`insight`] why a piece does
//! not come.

mod announce;
mod bits;
mod ends;
pub mod event;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod homes;
pub mod insight;
mod lease;
mod links;
mod offers;
mod open;
mod options;
mod peers;
mod pick;
mod reads;
mod reports;
mod sessions;
mod single;
mod state;
mod view;

use std::time::Duration;

use darter_api::{
    HostId, Lengths, Origin, PieceSet, TaskId, Timestamp,
    session::{Holding, Join, PeerMessage, Purpose},
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

pub use options::Options;

use event::{Command, DownloadFailure, Event};
use homes::Homes;
use state::{Download, Lease, State, Task};

/// Downloads are looked at so often.
const TICK: Duration = Duration::from_millis(100);
/// Progress is told so often at most.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// A blob that failed its digest is read again so often.
const CORRUPT_RETRIES: u32 = 2;

/// All downloads of one host.
#[derive(Debug)]
pub struct Node {
    options: Options,
    own: HostId,
    rng: SmallRng,
    state: State,
    homes: Homes,
    next_request: u64,
    /// When the scheduler was last told of parents, and whether there is more to tell.
    reported: Timestamp,
    has_report: bool,
    /// When something last happened.
    now: Timestamp,
    /// When it was last woken.
    ticked: Timestamp,
    commands: Vec<Command>,
}

impl Node {
    /// The core of host `own`, without schedulers until it is told of some. Same seed and
    /// events, same commands.
    pub fn new(options: Options, own: HostId, seed: u64) -> Self {
        Self {
            options,
            own,
            rng: SmallRng::seed_from_u64(seed),
            state: State::default(),
            homes: Homes::default(),
            next_request: 1,
            reported: Timestamp::ZERO,
            has_report: false,
            now: Timestamp::ZERO,
            ticked: Timestamp::ZERO,
            commands: Vec::new(),
        }
    }

    /// Takes what happened; what is to be done, in order.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Vec<Command> {
        self.now = now;
        self.dispatch(now, event);
        self.begin_reads(now);
        std::mem::take(&mut self.commands)
    }

    /// Does what has become due; call it at [`Node::next_deadline`].
    pub fn tick(&mut self, now: Timestamp) -> Vec<Command> {
        self.ticked = now;
        self.now = now;
        self.tend_sessions(now);
        self.redial(now);
        self.hang_up(now);
        self.expire_early_grants(now);
        self.report_parents(now);
        for task in self.state.busy.clone() {
            self.offer(now, &task);
            self.flush(&task);
            self.review(now, &task);
            self.tell_progress(now, &task);
            self.pick(now, &task);
            self.rest(&task);
        }
        self.state.untold = false;
        self.begin_reads(now);
        self.renew_waiting(now);
        std::mem::take(&mut self.commands)
    }

    /// When [`Node::tick`] is due. Events do not put it off.
    pub fn next_deadline(&self, now: Timestamp) -> Option<Timestamp> {
        let redials = self.state.hosts.values().filter(|_| self.state.redials);
        let redial = redials.filter_map(|host| host.redial_at).min();
        let report = self.report_due().map(|due| due.max(now));
        // One that is idle but for something under way is looked at with the downloads.
        let homes = self.homes.next_deadline();
        let homes = homes.map(|due| due.max(self.ticked + TICK).max(now));
        let links = self.state.links_due;
        let others = report.into_iter().chain(redial).chain(links);
        let redial = others.chain(homes).min();
        if self.state.busy.is_empty() && self.state.granted.is_empty() {
            return redial;
        }
        let next = if self.state.untold {
            self.options.have_interval
        } else {
            TICK
        };
        let next = (self.ticked + next).max(now);
        Some(redial.map_or(next, |at| at.min(next)))
    }

    /// The pieces of a task that are on disk.
    pub fn held(&self, task: &TaskId) -> PieceSet {
        self.state
            .tasks
            .get(task)
            .map(|task| task.held.clone())
            .unwrap_or_default()
    }

    /// Requests in flight.
    pub fn requests_in_flight(&self) -> usize {
        self.state.requests.len()
    }

    fn dispatch(&mut self, now: Timestamp, event: Event) {
        match event {
            Event::Start {
                task,
                lengths,
                origin,
                held,
                purpose,
            } => self.start(now, task, lengths, origin, held, purpose),
            Event::Reader {
                task,
                reader,
                wants,
            } => {
                if let Some(download) = self.download(&task) {
                    let (was_ahead, waited) = (download.is_ahead(), download.waits());
                    download.readers.insert(reader, wants);
                    download.has_clients = true;
                    let waits = download.waits();
                    if was_ahead {
                        // Who reads the source for it hears that somebody waits now.
                        download.purpose = Purpose::Pull;
                        self.join(now, &task);
                    }
                    if waits && !waited {
                        self.subscribe_all(&task);
                    }
                    self.pick(now, &task);
                }
            }
            Event::ReaderGone { task, reader } => {
                if let Some(download) = self.download(&task) {
                    download.readers.remove(&reader);
                }
            }
            Event::Stop { task } => self.stop(now, &task),
            Event::Interest { tasks, origin } => self.say(PeerMessage::Interest { tasks, origin }),
            Event::Stored {
                task,
                lengths,
                held,
                origin,
            } => self.stored(now, task, lengths, held, origin),
            Event::Evicted { tasks } => self.evicted(tasks),
            Event::Schedulers { names, on_demand } => self.listed(now, &names, on_demand),
            Event::SessionUp(name) => self.session_up(now, &name),
            Event::SessionDown(name) => self.homes.went_down(now, &name),
            Event::SessionRefused(name) => self.session_refused(now, &name),
            Event::Session(name, message) => self.session(now, &name, message),
            Event::Say(message) => self.say(message),
            Event::LinkUp(host) => self.link_up(now, &host),
            Event::LinkDown(host) => self.link_down(now, &host),
            Event::Link { host, message } => self.link(now, host, message),
            Event::PieceBegun(request) => {
                if let Some(request) = self.state.requests.get_mut(&request) {
                    request.begun = true;
                }
            }
            Event::PieceStored(request) => self.piece_stored(now, request),
            Event::PieceFailed { request, failure } => self.piece_failed(now, request, failure),
            Event::SourceFirstByte { task, ranges } => {
                if let Some(download) = self.download(&task) {
                    download.last_gain = now;
                    self.say(PeerMessage::LeaseFirstByte { task, ranges });
                }
            }
            Event::SourcePiece { task, piece } => self.source_piece(now, &task, piece.0),
            Event::Ends { task, past } => self.ends(now, &task, past.0),
            Event::SourceFailed { task, why } => self.source_failed(now, &task, why),
            Event::Committed { task } => self.committed(&task),
            Event::Corrupt { task, pieces } => self.corrupt(now, &task, &pieces),
        }
    }

    fn download(&mut self, task: &TaskId) -> Option<&mut Download> {
        self.state.tasks.get_mut(task)?.download.as_mut()
    }

    fn start(
        &mut self,
        now: Timestamp,
        id: TaskId,
        lengths: Lengths,
        origin: Origin,
        held: PieceSet,
        purpose: Purpose,
    ) {
        let task = self.state.tasks.entry(id);
        let task = task.or_insert_with(|| Task::new(lengths, self.homes.of(&id).cloned()));
        let found = found_beside(&task.held, &held);
        task.lengths = lengths;
        task.origin = Some(origin);
        task.held = held;
        if let Some(download) = &mut task.download {
            if download.abandoned.take().is_some() {
                self.subscribe_all(&id);
                self.dial_again(&id);
            }
            return;
        }
        let jitter = self.options.join_timeout / 2;
        let jitter = jitter.mul_f64(self.rng.random_range(0.0..1.0));
        let mut download = Download::new(now, purpose, jitter);
        download.answer_by = now + self.options.join_timeout + jitter;
        task.download = Some(download);
        self.state.busy.insert(id);
        self.give_out(now, &id, &found);
        self.adopt_early_subscribers(now, &id);
        self.join(now, &id);
        self.subscribe_all(&id);
        self.dial_again(&id);
        let early = self.state.granted.remove(&id);
        for grant in early.into_iter().flat_map(|(grants, _)| grants) {
            self.accept(now, grant);
        }
        self.complete_if_whole(&id);
        self.review(now, &id);
    }

    fn join(&mut self, now: Timestamp, id: &TaskId) {
        let Some(home) = self.home_of(id).cloned() else {
            return;
        };
        if !self.homes.is_up(&home) {
            self.open(now, &home);
            return;
        }
        self.say_moved(&home, &[*id]);
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        let (Some(origin), Some(download)) = (task.origin.clone(), task.download.as_mut()) else {
            return;
        };
        task.told = Some(home);
        download.joined = Some(now);
        download.answered = false;
        download.told = task.held.clone();
        let join = Join {
            task: *id,
            lengths: task.lengths,
            held: task.held.clone(),
            origin,
            purpose: download.purpose,
        };
        self.say(PeerMessage::Join(join));
    }

    fn stored(
        &mut self,
        now: Timestamp,
        id: TaskId,
        lengths: Lengths,
        held: PieceSet,
        origin: Option<Origin>,
    ) {
        let whole = held.len() == lengths.pieces();
        let task = self.state.tasks.entry(id);
        let task = task.or_insert_with(|| Task::new(lengths, self.homes.of(&id).cloned()));
        let found = found_beside(&task.held, &held);
        task.lengths = lengths;
        task.held = held;
        task.origin = origin.or(task.origin.take());
        self.give_out(now, &id, &found);
        self.rest(&id);
        self.adopt_early_subscribers(now, &id);
        let Some(home) = self.home_of(&id).cloned() else {
            return;
        };
        if !self.homes.is_up(&home) {
            self.homes.owe(&home);
            return;
        }
        let holdings = self.holding(&id).into_iter().collect();
        let last = false;
        self.say_to(&home, PeerMessage::Inventory { holdings, last });
        if whole {
            self.say(PeerMessage::Done { task: id });
        }
    }

    fn evicted(&mut self, mut tasks: Vec<TaskId>) {
        tasks.retain(|id| self.drops(id));
        if !tasks.is_empty() {
            self.say(PeerMessage::Evicted { tasks });
        }
    }

    /// A task is forgotten, and neighbours hear so; whether it was known.
    fn drops(&mut self, id: &TaskId) -> bool {
        let Some(task) = self.forget_task(id) else {
            return false;
        };
        self.state.busy.remove(id);
        self.strangers(id);
        for host in task.announcer.subscribers.keys() {
            let pieces = task.held.clone();
            self.commands.push(Command::Link {
                host: *host,
                message: darter_api::link::LinkMessage::Lost { task: *id, pieces },
            });
        }
        true
    }

    fn holding(&self, id: &TaskId) -> Option<Holding> {
        let task = self.state.tasks.get(id)?;
        Some(Holding {
            task: *id,
            lengths: task.lengths,
            held: task.held.clone(),
            reading: task.reading.clone(),
            wanted: task
                .download
                .as_ref()
                .is_some_and(|download| download.abandoned.is_none()),
            origin: task.origin.clone(),
        })
    }

    fn stop(&mut self, now: Timestamp, id: &TaskId) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        let Some(download) = &mut task.download else {
            return;
        };
        // A client that comes back in a moment finds everything as it was; what the store
        // did not take, or no child has waited for in that moment, is not waited with.
        let is_waited_for = task.announcer.is_waited_for(task.lengths.pieces());
        let is_forsaken = download.is_forsaken() && !is_waited_for;
        if download.failed.is_none() && !is_forsaken {
            download.abandoned = Some(now);
            self.leave_to_others(id);
            return;
        }
        self.give_up(id);
    }

    /// Ends a download without a verdict; what is held stays held.
    fn give_up(&mut self, id: &TaskId) {
        self.cancel_all(id);
        self.return_lease(id, darter_api::session::LeaseEnd::NotNeeded);
        self.unsubscribe_all(id);
        if let Some(task) = self.state.tasks.get_mut(id) {
            task.download = None;
        }
        self.say(PeerMessage::Leave { task: *id });
        self.homes.no_longer_asked(id);
        if self
            .state
            .tasks
            .get(id)
            .is_some_and(|task| task.held.is_empty())
        {
            self.forget_task(id);
        }
        self.rest(id);
    }

    fn fail(&mut self, id: &TaskId, why: DownloadFailure) {
        self.give_up(id);
        self.commands.push(Command::Fail { task: *id, why });
    }

    fn committed(&mut self, id: &TaskId) {
        self.cancel_all(id);
        let parted = self.parted(id);
        if let Some(task) = self.state.tasks.get_mut(id) {
            task.download = None;
            task.reading = PieceSet::new();
            task.held = PieceSet::full(task.lengths.pieces());
            self.say(PeerMessage::Done { task: *id });
        }
        if self.homes.no_longer_asked(id) {
            self.rehome(self.now, None);
        }
        self.lose_interest(id, &parted);
        self.part(id);
        self.rest(id);
    }

    fn corrupt(&mut self, now: Timestamp, id: &TaskId, pieces: &PieceSet) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        task.held.subtract(pieces);
        task.announcer
            .take_back(pieces, &mut self.state.open_offers);
        let hosts: Vec<HostId> = task.announcer.subscribers.keys().copied().collect();
        let Some(download) = &mut task.download else {
            return;
        };
        download.completing = false;
        download.corrupted += 1;
        // Whoever stated them stated them wrong: only the source is asked again.
        for set in download.available.values_mut() {
            set.subtract(pieces);
        }
        download.read_by.clear();
        let again = download.corrupted <= CORRUPT_RETRIES;
        for host in hosts {
            let message = darter_api::link::LinkMessage::Lost {
                task: *id,
                pieces: pieces.clone(),
            };
            self.commands.push(Command::Link { host, message });
        }
        if again {
            self.self_lease(now, id);
        } else {
            self.fail(id, DownloadFailure::Corrupt);
        }
    }

    /// Notes that a piece is on disk.
    fn gained(&mut self, now: Timestamp, id: &TaskId, piece: u32) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        task.held.insert(piece);
        if let Some(download) = &mut task.download {
            download.last_gain = now;
        }
        let others: Vec<event::RequestId> = self
            .download(id)
            .and_then(|download| download.in_flight.remove(&piece))
            .unwrap_or_default();
        for request in others {
            self.forget(&request);
            self.commands.push(Command::Cancel(request));
        }
    }

    fn complete_if_whole(&mut self, id: &TaskId) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        let whole = task.held.len() == task.lengths.pieces();
        if let Some(download) = task
            .download
            .as_mut()
            .filter(|download| whole && !download.completing)
        {
            download.completing = true;
            download.lease = Lease::None;
            task.reading = PieceSet::new();
            self.commands.push(Command::Complete { task: *id });
        }
    }

    fn tell_progress(&mut self, now: Timestamp, id: &TaskId) {
        let Some(task) = self.state.tasks.get(id) else {
            return;
        };
        let Some(download) = &task.download else {
            return;
        };
        // Hundreds of small contents that wait have nothing to tell.
        if now.since(download.last_progress) < PROGRESS_INTERVAL || download.told == task.held {
            return;
        }
        self.say_progress(now, id);
    }

    fn say_progress(&mut self, now: Timestamp, id: &TaskId) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        let Some(download) = &mut task.download else {
            return;
        };
        download.last_progress = now;
        download.told = task.held.clone();
        let held = task.held.clone();
        self.say(PeerMessage::Progress { task: *id, held });
    }

    /// Lets a task rest that has nothing to do any more.
    fn rest(&mut self, id: &TaskId) {
        let busy = self
            .state
            .tasks
            .get(id)
            .is_some_and(|task| task.download.is_some() || task.announcer.is_busy());
        if !busy {
            self.state.busy.remove(id);
            self.state.unoffered.remove(id);
        }
    }

    fn forget_task(&mut self, id: &TaskId) -> Option<Task> {
        let mut task = self.state.tasks.remove(id)?;
        let offers = &mut task.announcer.offers;
        offers.close_all(&mut self.state.open_offers);
        self.state.unoffered.remove(id);
        Some(task)
    }
}

/// What was on disk already, before any swarm.
fn found_beside(known: &PieceSet, held: &PieceSet) -> PieceSet {
    let mut found = held.clone();
    found.subtract(known);
    found
}

#[cfg(test)]
mod tests;
