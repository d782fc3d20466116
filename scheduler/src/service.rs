//! The gRPC service: sessions in, the core's commands out.
//!
//! Owner of state: one actor owns the [`Cluster`]. Each session has a bounded outbox; a
//! host that does not read its own is disconnected, and comes back with a new hello.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    pin::Pin,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use darter_api::{
    HostId, Member, MemberKind, NodeKey, Origin, Place, Timestamp,
    configuration::{Configuration, SchedulerSettings},
    errand::Errand,
    session::{Hello, PeerMessage, SchedulerMessage},
    wire::{
        MAX_MESSAGE_BYTES, session_challenge,
        v1::{
            self, peer_message, scheduler_message,
            scheduler_server::{Scheduler as SchedulerRpc, SchedulerServer},
        },
    },
};
use darter_runtime::{
    Tasks, configuration,
    identity::{self, IdentityError},
    membership,
    server::{BindError, PeerIdentity, Server, ServerOptions},
    tls::{EndpointError, Security},
};
use futures::Stream;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    Metrics, Options,
    beats::Beats,
    core::{Cluster, Command, Event},
    inspect::{self, MAX_LISTED, Question},
    managers::Managers,
    operations::{self, Begun, Errands},
    preheat,
    preheats::{self, Runs, Wish},
};

/// Events that wait for the actor; sessions wait when it is full. An inventory is some KiB.
const INBOX: usize = 1024;
/// Messages that wait for one host.
const OUTBOX: usize = 4096;
/// For a hello to come.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

type Frame = Result<v1::SchedulerMessage, Status>;
/// What waits in an outbox, which has room for dozens even while it is empty.
type Parcel = Box<Frame>;

/// A scheduler does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Peers beyond loopback would be spoken to in plain text, unasked.
    #[error(
        "peers would connect to {0} in plain text: be a member of a cluster ([cluster]), listen on loopback, or say `insecure = true`"
    )]
    PlainText(SocketAddr),
    /// The manager can't tell proxies where this scheduler is.
    #[error("proxies can't be told to connect to {0}: say `advertise = \"ADDRESS:PORT\"`")]
    Advertise(SocketAddr),
    /// The port can't be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The manager's URL makes no sense.
    #[error("the manager's URL")]
    Manager(#[from] EndpointError),
    /// There is no key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// A running scheduler. It ends with the tasks it was started in.
#[derive(Debug)]
pub struct Scheduler {
    address: SocketAddr,
    id: HostId,
    inbox: mpsc::Sender<Inbound>,
}

impl Scheduler {
    /// Starts a scheduler; its port is open when this returns. With TLS, a hello's host is
    /// the one of its certificate.
    ///
    /// # Errors
    /// When the port or the key can't be had.
    pub async fn start(
        options: Options,
        security: &Security,
        tasks: &Tasks,
        registry: &mut Registry,
    ) -> Result<Self, StartError> {
        if security.is_plain() && !options.listen.ip().is_loopback() {
            if !options.insecure {
                return Err(StartError::PlainText(options.listen));
            }
            tracing::warn!(address = %options.listen, "peers connect in plain text, which others can read and join");
        } else if security.is_plain() {
            tracing::warn!(address = %options.listen, "peers connect in plain text, from this host alone: [cluster] is empty");
        }
        let key = identity::load_or_create(&options.data)?;
        let id = key.id();
        let server = Server::bind(options.listen).await?;
        let address = server.local_addr();
        let member = member(&options, security, id, address)?;
        let (manager, data) = (options.manager.clone(), options.data.clone());
        let Home {
            mut sessions,
            inbox,
        } = Home::start(options, key, tasks, registry);
        let node = configuration::Node {
            host: id,
            kind: configuration::Kind::Scheduler,
            place: member.place.clone(),
        };
        let server_options = ServerOptions {
            max_connections: 65_536,
            answer_tls: false,
            drain: Duration::from_millis(500),
            tls: security.acceptor(),
            ..ServerOptions::default()
        };
        if let Some(manager) = &manager {
            let connector = security.connector();
            let set = configuration::follow(manager, &node, &data, &connector, tasks, registry)?;
            // What was kept counts before anybody comes: the inbox is empty.
            let _ = inbox.try_send(Inbound::Set(set.borrow().scheduler.clone()));
            tasks.spawn("settings", follow(set, inbox.clone()));
            let managers = membership::keep_alive(manager.clone(), member, connector, tasks);
            let managers = Managers(managers);
            sessions = sessions
                .merge(preheats::service(inbox.clone(), managers.clone()))
                .merge(operations::service(inbox.clone(), managers));
        }
        server.serve("scheduler port", sessions, tasks, server_options);
        Ok(Self { address, id, inbox })
    }

    /// Where peers connect.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its tasks and their graphs as JSON: `GET /tasks`, `GET /tasks/{id}`; and
    /// `POST /preheat`.
    pub fn router(&self) -> axum::Router {
        inspect::router(self.inbox.clone()).merge(preheat::router(self.inbox.clone()))
    }

    /// Its public key, whose grants count.
    pub const fn id(&self) -> HostId {
        self.id
    }
}

/// A scheduler without a port of its own, for whoever has one: every host of a list of
/// peers. It ends with the tasks it was started in.
#[derive(Debug)]
pub struct Home {
    sessions: axum::Router,
    inbox: mpsc::Sender<Inbound>,
}

impl Home {
    /// Starts it. It signs with `key`; of the options those of ports and places say nothing.
    pub fn start(options: Options, key: NodeKey, tasks: &Tasks, registry: &mut Registry) -> Self {
        let metrics = Metrics::default();
        metrics.register(registry);
        let (inbox, events) = mpsc::channel(INBOX);
        let actor = Actor::new(options, key, metrics);
        tasks.spawn("scheduler", actor.run(events));
        let service = Service {
            inbox: inbox.clone(),
            tasks: tasks.clone(),
        };
        let service = SchedulerServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let sessions = tonic::service::Routes::new(service).into_axum_router();
        // What is asked beside it is the port's owner's business.
        let sessions = sessions.reset_fallback();
        Self { sessions, inbox }
    }

    /// The gRPC service, to be served where peers connect.
    pub fn sessions(&self) -> axum::Router {
        self.sessions.clone()
    }

    /// As [`Scheduler::router`], without `/preheat`: of a list of peers few have a session at
    /// a time.
    pub fn router(&self) -> axum::Router {
        inspect::router(self.inbox.clone())
    }
}

/// Passes on what a manager sets.
async fn follow(mut set: watch::Receiver<Configuration>, inbox: mpsc::Sender<Inbound>) {
    while set.changed().await.is_ok() {
        let settings = set.borrow_and_update().scheduler.clone();
        if inbox.send(Inbound::Set(settings)).await.is_err() {
            return;
        }
    }
}

/// What the manager is told of this scheduler.
fn member(
    options: &Options,
    security: &Security,
    host: HostId,
    listen: SocketAddr,
) -> Result<Member, StartError> {
    let address = options.advertise.unwrap_or(listen);
    let member = Member {
        kind: MemberKind::Scheduler,
        host,
        address: format!("{}://{address}", security.scheme()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        place: Place {
            cluster: options.cluster.clone(),
            name: options.name.clone().unwrap_or_else(identity::host_name),
            address: Some(address.ip()),
            ..Place::default()
        },
    };
    if options.manager.is_some() && address.ip().is_unspecified() {
        return Err(StartError::Advertise(address));
    }
    Ok(member)
}

pub(crate) enum Inbound {
    Asked(Question),
    /// The guard goes when the session is over for the actor.
    Up(Hello, mpsc::Sender<Parcel>, DropGuard),
    Down(HostId, u64),
    Message(HostId, u64, PeerMessage),
    Preheat(Wish, preheats::Events),
    Set(SchedulerSettings),
    Errand(Errand, oneshot::Sender<Begun>),
}

struct Outbox {
    epoch: u64,
    sender: mpsc::Sender<Parcel>,
    _session: DropGuard,
}

struct Actor {
    cluster: Cluster,
    origin: Instant,
    outboxes: HashMap<HostId, Outbox>,
    runs: Runs,
    errands: Errands,
    /// Managers' preheats are refused so long after `origin`.
    preheat_settle: Duration,
    metrics: Metrics,
    beats: Beats,
}

impl Actor {
    fn new(options: Options, key: NodeKey, metrics: Metrics) -> Self {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(0);
        Self {
            preheat_settle: options.preheat_settle,
            cluster: Cluster::new(options, key, Timestamp::ZERO, unix_ms, rand::random()),
            origin: Instant::now(),
            outboxes: HashMap::new(),
            runs: Runs::new(rand::random()),
            errands: Errands::new(rand::random()),
            metrics,
            beats: Beats::default(),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::ZERO + self.origin.elapsed()
    }

    async fn run(mut self, mut events: mpsc::Receiver<Inbound>) {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            let now = self.now();
            let tick = at(now, self.cluster.next_deadline(now));
            let beat = at(now, self.beats.due());
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.take(event),
                    None => return,
                },
                () = tick => {
                    let commands = self.cluster.tick(self.now());
                    self.say(commands);
                }
                () = beat => self.beat(),
                _ = second.tick() => self.look_after(),
            }
        }
    }

    fn take(&mut self, event: Inbound) {
        let begin = Instant::now();
        let now = self.now();
        let commands = match event {
            Inbound::Asked(question) => return self.answer(question),
            Inbound::Set(settings) => return self.cluster.set(&settings),
            Inbound::Preheat(_, events) if self.origin.elapsed() < self.preheat_settle => {
                // A part of the hosts would be taken for all of them.
                let status = tonic::Status::unavailable("hosts are still coming");
                let _ = events.try_send(Err(status));
                return;
            }
            Inbound::Preheat(wish, events) => self.runs.begin(wish, self.cluster.present(), events),
            Inbound::Errand(errand, begun) => {
                let present = self.cluster.present();
                let (events, commands) = self.errands.begin(now, errand, present);
                let _ = begun.send(events);
                commands
            }
            Inbound::Message(host, epoch, PeerMessage::Errand(report)) => {
                let current = self.outboxes.get(&host);
                if current.is_none_or(|outbox| outbox.epoch != epoch) {
                    return;
                }
                if let Some(tag) = self.errands.report(host, report) {
                    let (upstream, repository) = (&tag.upstream, &tag.repository);
                    self.cluster.forget_tag(upstream, repository, &tag.tag);
                }
                Vec::new()
            }
            Inbound::Message(host, epoch, PeerMessage::Preheat(report)) => {
                let current = self.outboxes.get(&host);
                if current.is_none_or(|outbox| outbox.epoch != epoch) {
                    return;
                }
                let forbids =
                    |host: &HostId, origin: &Origin| self.cluster.is_forbidden(host, origin);
                self.runs.report(host, report, forbids)
            }
            Inbound::Up(hello, sender, session) => {
                let epoch = hello.epoch;
                let host = hello.host;
                // What was ordered in another session, the host may not have heard.
                let commands = self.forget_orders(host);
                self.say(commands);
                let outbox = Outbox {
                    epoch,
                    sender,
                    _session: session,
                };
                let replaced = self.outboxes.insert(host, outbox);
                if replaced.is_none() {
                    self.metrics.sessions.inc();
                }
                self.beats.begin(now, host, epoch);
                self.cluster.handle(now, Event::HostUp(hello))
            }
            Inbound::Down(host, epoch) => {
                if self
                    .outboxes
                    .get(&host)
                    .is_some_and(|outbox| outbox.epoch == epoch)
                {
                    self.outboxes.remove(&host);
                    self.metrics.sessions.dec();
                    let commands = self.forget_orders(host);
                    self.say(commands);
                }
                self.cluster.handle(now, Event::HostDown { host, epoch })
            }
            Inbound::Message(host, epoch, message) => {
                self.metrics.received.inc();
                if self
                    .outboxes
                    .get(&host)
                    .is_none_or(|outbox| outbox.epoch != epoch)
                {
                    return;
                }
                if message == PeerMessage::Resting {
                    self.outboxes.remove(&host);
                    self.metrics.sessions.dec();
                    self.cluster.handle(now, Event::HostRests { host, epoch })
                } else {
                    self.cluster.handle(now, Event::Message { host, message })
                }
            }
        };
        self.say(commands);
        self.metrics.decision.observe(begin.elapsed().as_secs_f64());
    }

    /// A session has ended, and with it what was ordered in it.
    fn forget_orders(&mut self, host: HostId) -> Vec<Command> {
        self.errands.gone(host);
        self.runs.gone(host)
    }

    /// Who asked may have left.
    fn answer(&mut self, question: Question) {
        match question {
            Question::Tasks(answer) => {
                let total = self.cluster.counts().tasks;
                let _ = answer.send((total, self.cluster.summaries(MAX_LISTED)));
            }
            Question::TasksAfter(after, most, answer) => {
                let _ = answer.send(self.cluster.tasks_after(after.as_ref(), most));
            }
            Question::TasksOf(tasks, answer) => {
                let _ = answer.send(self.cluster.summaries_of(&tasks));
            }
            Question::Hosts(after, most, answer) => {
                let hosts = self.cluster.hosts_after(self.now(), after.as_ref(), most);
                let _ = answer.send(hosts);
            }
            Question::Graph(task, answer) => {
                let _ = answer.send(self.cluster.graph(&task));
            }
            Question::Preheat(wish, answer) => {
                let done = self.cluster.preheat(&wish).map(|(commands, done)| {
                    self.say(commands);
                    done
                });
                let _ = answer.send(done);
            }
        }
    }

    /// Says it all, and what follows from hosts that don't hear it. One that is full may have
    /// neighbours that are: they are told in turn, and not each within the other's telling.
    fn say(&mut self, commands: Vec<Command>) {
        let mut left = VecDeque::from(commands);
        while let Some(Command { host, message }) = left.pop_front() {
            if !self.send(host, &message) {
                left.extend(self.disconnect(host));
            }
        }
    }

    /// Whether a host that is here takes it.
    fn send(&mut self, host: HostId, message: &SchedulerMessage) -> bool {
        let Some(outbox) = self.outboxes.get(&host) else {
            return true;
        };
        self.metrics.sent.inc();
        let sent = outbox.sender.try_send(Box::new(Ok(message.into())));
        sent.is_ok()
    }

    /// Ends the session of a host that does not read it; what is to be said of that.
    fn disconnect(&mut self, host: HostId) -> Vec<Command> {
        let Some(Outbox { epoch, .. }) = self.outboxes.remove(&host) else {
            return Vec::new();
        };
        tracing::warn!(
            ?host,
            "a peer does not read its session; it is disconnected"
        );
        self.metrics.sessions.dec();
        let mut commands = self.forget_orders(host);
        let now = self.now();
        commands.extend(self.cluster.handle(now, Event::HostDown { host, epoch }));
        commands
    }

    /// Has those hear from this scheduler whose turn it is.
    fn beat(&mut self) {
        let now = self.now();
        let outboxes = &self.outboxes;
        let stands = |host: &HostId, epoch| {
            let outbox = outboxes.get(host);
            outbox.is_some_and(|outbox| outbox.epoch == epoch)
        };
        let beats = self.beats.take(now, stands).into_iter();
        let beats = beats.map(|host| Command {
            host,
            message: SchedulerMessage::Heartbeat,
        });
        self.say(beats.collect());
    }

    /// Once a second.
    fn look_after(&mut self) {
        self.errands.beat(self.now());
        let commands = self.runs.beat();
        self.say(commands);
        self.metrics.show(&self.cluster.counts());
    }
}

/// When it is `due`; never, if it is not.
async fn at(now: Timestamp, due: Option<Timestamp>) {
    match due {
        Some(due) => tokio::time::sleep(due.since(now)).await,
        None => std::future::pending().await,
    }
}

struct Service {
    inbox: mpsc::Sender<Inbound>,
    tasks: Tasks,
}

#[tonic::async_trait]
impl SchedulerRpc for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Frame> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::PeerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (sender, receiver) = mpsc::channel(OUTBOX);
        let nonce: [u8; 32] = rand::random();
        let challenge = v1::Challenge {
            nonce: nonce.to_vec().into(),
        };
        let challenge = v1::SchedulerMessage {
            kind: Some(scheduler_message::Kind::Challenge(challenge)),
        };
        let _ = sender.try_send(Box::new(Ok(challenge)));
        let proof = match request.extensions().get() {
            Some(PeerIdentity(host)) => Proof::Certificate(*host),
            None => Proof::Signature(nonce),
        };
        let session = session(request.into_inner(), proof, sender, self.inbox.clone());
        self.tasks.spawn("session", session);
        let parcels = ReceiverStream::new(receiver);
        Ok(Response::new(Box::pin(parcels.map(|parcel| *parcel))))
    }
}

/// What proves the id that a hello names.
#[derive(Debug, Clone, Copy)]
enum Proof {
    /// The connection's certificate is this host's.
    Certificate(HostId),
    /// In plain text: its signature over this nonce.
    Signature([u8; 32]),
}

impl Proof {
    fn covers(self, hello: &Hello, signature: &[u8]) -> bool {
        match self {
            Self::Certificate(host) => hello.host == host,
            Self::Signature(nonce) => hello
                .host
                .verify(&session_challenge(&nonce, hello.epoch), signature),
        }
    }
}

async fn session(
    mut inbound: Streaming<v1::PeerMessage>,
    proof: Proof,
    sender: mpsc::Sender<Parcel>,
    inbox: mpsc::Sender<Inbound>,
) {
    // On the heap: what is needed once would stay as long as the session.
    let greeting = Box::pin(greeting(&mut inbound, proof));
    let hello = match tokio::time::timeout(HELLO_TIMEOUT, greeting).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(status)) => {
            tracing::warn!(%status, "a session is refused");
            let _ = sender.try_send(Box::new(Err(status)));
            return;
        }
        Err(_) => return,
    };
    let (host, epoch) = (hello.host, hello.epoch);
    tracing::info!(?host, name = hello.name, role = ?hello.role, address = %hello.address, "a peer has come");
    // The outbox is the actor's alone, so that its drop of it ends the stream, and this with it.
    let over = CancellationToken::new();
    let up = Inbound::Up(hello, sender, over.clone().drop_guard());
    if inbox.send(up).await.is_err() {
        return;
    }
    loop {
        let next = tokio::select! {
            biased;
            () = over.cancelled() => break,
            next = inbound.next() => next,
        };
        let Some(Ok(message)) = next else { break };
        match PeerMessage::try_from(message) {
            Ok(message) => {
                if inbox
                    .send(Inbound::Message(host, epoch, message))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Err(cause) => {
                tracing::warn!(?host, %cause, "a peer speaks nonsense; its session ends");
                break;
            }
        }
    }
    tracing::info!(?host, "a peer has gone");
    let _ = inbox.send(Inbound::Down(host, epoch)).await;
}

/// The hello, if it proves the id that it names.
async fn greeting(inbound: &mut Streaming<v1::PeerMessage>, proof: Proof) -> Result<Hello, Status> {
    let first = inbound
        .next()
        .await
        .ok_or_else(|| Status::aborted("no hello"))??;
    let Some(peer_message::Kind::Hello(hello)) = first.kind else {
        return Err(Status::invalid_argument("the first message is a hello"));
    };
    let signature = hello.signature.clone();
    let hello =
        Hello::try_from(hello).map_err(|cause| Status::invalid_argument(cause.to_string()))?;
    if !proof.covers(&hello, &signature) {
        return Err(Status::unauthenticated(
            "the hello does not prove its host id",
        ));
    }
    Ok(hello)
}

#[cfg(test)]
mod tests;
