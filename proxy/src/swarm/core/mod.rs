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
//! [`life`] is what becomes of a task. [`pick`] chooses what to ask of whom, [`announce`] who is told of what,
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
mod hedge;
mod homes;
pub mod insight;
mod lease;
mod life;
mod links;
mod offers;
mod open;
mod options;
mod order;
mod peers;
mod pick;
mod reads;
mod reports;
mod sessions;
mod single;
mod spread;
mod state;
mod view;

use std::time::Duration;

use darter_api::{
    HostId, PieceSet, TaskId, Timestamp,
    session::{PeerMessage, Purpose},
};
use rand::{SeedableRng as _, rngs::SmallRng};

pub use options::Options;

use event::{Command, Event};
use homes::Homes;
use state::{Download, State};

/// Downloads are looked at so often.
const TICK: Duration = Duration::from_millis(100);

/// All downloads of one host.
#[derive(Debug)]
pub struct Node {
    options: Options,
    own: HostId,
    rng: SmallRng,
    state: State,
    homes: Homes,
    next_request: u64,
    /// Downloads so far.
    begun: u64,
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
            begun: 0,
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
                    if !std::mem::replace(&mut download.has_clients, true) {
                        // Nobody has waited for it until now.
                        download.last_gain = now;
                    }
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
            Event::PieceBegun(request) => self.piece_begun(now, &request),
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
}

#[cfg(test)]
mod tests;
