//! The actor: the one owner of the core.
//!
//! It handles one event after the other and starts what the core commands. It never waits:
//! messages go out by bounded queues whose overflow ends the link or session they belong to,
//! and all work is done by workers.

mod endings;
mod sources;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use darter_api::{
    HostId, Lengths, PieceIndex, TaskId, Timestamp,
    link::LinkMessage,
    session::{PeerMessage, SchedulerMessage},
};
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, MissedTickBehavior},
};

use super::{
    Input, Shared,
    have::{asked_for, fetch},
    mailbox::Letter,
    piece::PieceRun,
};
use crate::{
    session::{Session, SessionEvent},
    store::Found,
    swarm::core::{
        self, Node,
        event::{Command, Event, PieceFailure, RequestId},
    },
    transfer::{LinkEvent, client::Wanted},
};
use sources::Reading;

/// Evictions and the host's load are told so often.
const BEAT: Duration = Duration::from_secs(1);
/// A download that nobody wants is kept ready for so long.
const IDLE: Duration = Duration::from_secs(10);
/// Who is subscribed to for so many pieces that somebody waits for will be asked for some.
const MANY: u32 = 16;
/// Events handled before the clock is looked at again.
const BATCH: usize = 64;

/// Where events come from.
pub(super) struct Inputs {
    pub(super) received: mpsc::Receiver<Input>,
    pub(super) links: mpsc::Receiver<LinkEvent>,
    pub(super) session: Option<mpsc::Receiver<SessionEvent>>,
}

/// See the module.
pub(super) struct Actor {
    shared: Arc<Shared>,
    node: Node,
    started: Instant,
    deadline: Option<Timestamp>,
    requests: HashMap<RequestId, (TaskId, AbortHandle)>,
    sources: HashMap<TaskId, Reading>,
    /// Events that executing commands brought at once.
    pending: VecDeque<Event>,
    uploaded: u64,
}

impl Actor {
    pub(super) fn new(shared: Arc<Shared>, options: core::Options) -> Self {
        let node = Node::new(options, shared.key.id(), rand::random());
        Self {
            shared,
            node,
            started: Instant::now(),
            deadline: None,
            requests: HashMap::new(),
            sources: HashMap::new(),
            pending: VecDeque::new(),
            uploaded: 0,
        }
    }

    pub(super) async fn run(mut self, mut inputs: Inputs, found: Vec<Found>) {
        for content in found {
            self.handle(Event::Stored {
                task: content.task,
                lengths: content.lengths,
                held: content.held,
                origin: content.origin,
            });
        }
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let due = self.deadline.map(|at| self.instant(at));
            tokio::select! {
                _ = inputs.received.recv_many(&mut batch, BATCH) => {
                    for input in batch.drain(..) {
                        self.take(input);
                    }
                }
                () = self.shared.mailbox.arrived() => {}
                Some(event) = inputs.links.recv() => self.link(event),
                Some(event) = next(&mut inputs.session) => self.session(event),
                () = until(due) => self.tick(),
                _ = beat.tick() => self.beat(),
            }
            self.open_mail();
        }
    }

    fn now(&self) -> Timestamp {
        let micros = self.started.elapsed().as_micros();
        Timestamp::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn instant(&self, at: Timestamp) -> Instant {
        self.started + Duration::from_micros(at.as_micros())
    }

    /// Tells the core, and does what it wants done, and what follows from that.
    fn handle(&mut self, event: Event) {
        self.pending.push_back(event);
        while let Some(event) = self.pending.pop_front() {
            let now = self.now();
            let commands = self.node.handle(now, event);
            self.execute(commands);
            self.set_deadline(now, false);
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        let commands = self.node.tick(now);
        self.execute(commands);
        self.set_deadline(now, true);
        if let Some(event) = self.pending.pop_front() {
            self.handle(event);
        }
    }

    /// The core says when it wants to be woken as of now: a stream of events must not put
    /// off what was due before.
    fn set_deadline(&mut self, now: Timestamp, ticked: bool) {
        let next = self.node.next_deadline(now);
        self.deadline = match (self.deadline, next) {
            (Some(old), Some(new)) if !ticked => Some(old.min(new)),
            (_, next) => next,
        };
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Event(event) => self.handle(event),
            Input::Requested(request, event) => {
                if self.requests.remove(&request).is_some() {
                    self.handle(event);
                }
            }
            Input::SourceEnded { task, id, result } => self.source_ended(task, id, result),
            Input::Completed { download, result } => self.completed(&download, result),
        }
    }

    fn open_mail(&mut self) {
        let mail = self.shared.mailbox.take();
        for letter in mail.letters {
            match letter {
                Letter::Start(download) => {
                    self.tell_gone();
                    self.handle(Event::Start {
                        task: download.task,
                        lengths: download.lengths,
                        origin: download.origin.clone(),
                        held: download.held(),
                        purpose: download.purpose,
                    });
                }
                Letter::ReaderGone(task, reader) => {
                    self.handle(Event::ReaderGone { task, reader });
                }
                Letter::Released(task) => self.released(task),
                Letter::StoreFailed(download) => self.store_failed(&download),
            }
        }
        for (reader, (task, wants)) in mail.places {
            self.handle(Event::Reader {
                task,
                reader,
                wants,
            });
        }
    }

    /// What the store dropped is told before anything that begins it again.
    fn tell_gone(&mut self) {
        let tasks = self.shared.store.take_gone();
        if !tasks.is_empty() {
            self.handle(Event::Evicted { tasks });
        }
    }

    fn link(&mut self, event: LinkEvent) {
        self.handle(match event {
            LinkEvent::Up(host) => Event::LinkUp(host),
            LinkEvent::Down(host) => Event::LinkDown(host),
            LinkEvent::Message(host, message) => Event::Link { host, message },
        });
    }

    fn session(&mut self, event: SessionEvent) {
        self.handle(match event {
            SessionEvent::Listed(list) => Event::Schedulers {
                names: list.names,
                on_demand: list.on_demand,
            },
            SessionEvent::Up(name) => Event::SessionUp(name),
            SessionEvent::Down(name) => Event::SessionDown(name),
            SessionEvent::Refused(name) => Event::SessionRefused(name),
            SessionEvent::Message(name, message) => {
                match &*message {
                    SchedulerMessage::Public {
                        upstream,
                        repository,
                        contents,
                    } => self.shared.proven.told(upstream, repository, contents),
                    SchedulerMessage::Size { task, size } => {
                        self.shared.unsized_contents.answered(task, *size);
                    }
                    SchedulerMessage::ExcerptsFrom { task, seed, source } => {
                        let excerpts = &self.shared.excerpts;
                        excerpts.answered(task, seed.clone(), *source);
                    }
                    SchedulerMessage::Welcome { trusted, .. } => self.shared.trust.add(trusted),
                    // The core dials nobody who has dialled already; pieces are asked for at
                    // the address all the same.
                    SchedulerMessage::Neighbours { add, .. } => self.shared.links.note(add),
                    _ => {}
                }
                Event::Session(name, *message)
            }
        });
    }

    fn beat(&mut self) {
        self.tell_gone();
        let (requests, sources) = (&self.requests, &self.sources);
        self.shared.live.sweep(IDLE, |task| {
            sources.contains_key(task) || requests.values().any(|(one, _)| one == task)
        });
        let live = i64::try_from(self.shared.live.len()).unwrap_or(i64::MAX);
        self.shared.metrics.downloads.set(live);
        let transfers = &self.shared.transfers;
        let uploaded = transfers.upload_bytes.get();
        let upload_bytes = uploaded - std::mem::replace(&mut self.uploaded, uploaded);
        let load = PeerMessage::Load {
            uploads: u32::try_from(transfers.uploading.get()).unwrap_or(0),
            downloads: u32::try_from(self.requests.len()).unwrap_or(u32::MAX),
            upload_bytes,
        };
        self.handle(Event::Say(load));
    }

    fn execute(&mut self, commands: Vec<Command>) {
        for command in commands {
            self.execute_one(command);
        }
    }

    fn execute_one(&mut self, command: Command) {
        match command {
            Command::Session(name, message) => self.with_session(|one| one.send(&name, message)),
            Command::Open(name) => self.with_session(|session| session.open(&name)),
            Command::Close(name) => self.with_session(|session| session.close(&name)),
            Command::Dial(neighbour) => self.shared.links.dial(&neighbour),
            Command::HangUp(host) => self.shared.links.hang_up(&host),
            Command::Link { host, message } => {
                self.shared.links.send(&host, &message);
                self.prepare(&host, &message);
            }
            Command::Request {
                request,
                host,
                task,
                lengths,
                piece,
                stall_after,
            } => self.request(request, host, task, lengths, piece, stall_after),
            Command::Cancel(request) => {
                if let Some((_, worker)) = self.requests.remove(&request) {
                    worker.abort();
                }
            }
            Command::ReadSource {
                task,
                pieces,
                authority,
                ..
            } => self.read_source(task, pieces, authority),
            Command::StopSource { task } => self.stop_source(&task),
            Command::Complete { task } => self.complete(&task),
            Command::Fail { task, why } => self.fail(&task, why),
            Command::Fetch {
                task,
                lengths,
                origin,
                purpose,
            } => {
                let want = asked_for(task, lengths, origin, purpose);
                let fetch = fetch(Arc::clone(&self.shared), want);
                self.shared.tasks.spawn("fetch", fetch);
            }
            Command::Forsaken { task } => {
                if let Some(download) = self.shared.live.download(&task) {
                    download.forsake();
                }
            }
            Command::Found { id, observation } => {
                if let Some(answer) = self.shared.lookups.lock().remove(&id) {
                    // Who asked may have left.
                    let _ = answer.send(observation);
                }
            }
            Command::Trust(keys) => self.shared.trust.add(&keys),
        }
    }

    /// Connects for pieces to who is subscribed to for many of them.
    fn prepare(&self, host: &HostId, message: &LinkMessage) {
        let LinkMessage::Subscribe { lengths, waits, .. } = message else {
            return;
        };
        let address = self.shared.links.address(host);
        if let Some(address) = address.filter(|_| *waits && lengths.pieces() >= MANY) {
            let client = self.shared.client.clone();
            let connects = async move {
                // Who can't be reached is found out by the first request.
                let _ = client.prepare(address).await;
            };
            self.shared.tasks.spawn("connect ahead", connects);
        }
    }

    /// Without schedulers the core wants no sessions.
    fn with_session(&self, wish: impl FnOnce(&Session)) {
        if let Some(session) = &self.shared.session {
            wish(session);
        }
    }

    fn request(
        &mut self,
        request: RequestId,
        host: HostId,
        task: TaskId,
        lengths: Lengths,
        index: PieceIndex,
        stall_after: Duration,
    ) {
        let address = self.shared.links.address(&host);
        let download = self.shared.live.download(&task);
        let (Some(address), Some(download)) = (address, download) else {
            let failure = if address.is_none() {
                PieceFailure::Unreachable
            } else {
                PieceFailure::Store
            };
            let failed = Event::PieceFailed { request, failure };
            self.pending.push_back(failed);
            return;
        };
        let class = download.class();
        let run = PieceRun {
            shared: Arc::clone(&self.shared),
            download,
            request,
            host,
            wanted: Wanted {
                address,
                task,
                lengths,
                index,
                stall_after,
                class,
            },
        };
        let inbox = self.shared.inbox.clone();
        let worker = self.shared.tasks.spawn("piece", async move {
            let event = run.run().await;
            let _ = inbox.send(Input::Requested(request, event)).await;
        });
        self.requests.insert(request, (task, worker.abort_handle()));
    }
}

/// The session's next event; never, where there is no session.
async fn next(session: &mut Option<mpsc::Receiver<SessionEvent>>) -> Option<SessionEvent> {
    match session {
        Some(session) => session.recv().await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
