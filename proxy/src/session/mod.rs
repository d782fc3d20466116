//! The sessions with schedulers: a stream each, made again for as long as it is wanted.
//!
//! Which are wanted, and what is said in them, the swarm's core decides; the list of
//! schedulers comes from [`lists`].
//!
//! Owner of state: each session's task; [`Session`] owns the outboxes. A scheduler that says
//! nothing for [`SILENCE`] is dead. An outbox that is full means that the scheduler does not
//! read: the session is dropped, and the next one begins with a whole inventory.

mod lists;
mod outbox;

use std::{
    collections::BTreeMap,
    error::Error,
    io,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use darter_api::{
    NodeKey, SchedulerName,
    errand::ErrandOrder,
    preheat::PreheatOrder,
    session::{Hello, PeerMessage, SchedulerMessage},
    wire::{
        MAX_MESSAGE_BYTES, session_challenge,
        v1::{self, peer_message, scheduler_client::SchedulerClient, scheduler_message},
    },
};
use darter_runtime::{
    Tasks,
    tls::{Connector, EndpointError},
};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::transfer::Metrics;

pub use lists::{List, ListError, PeerAddress, Peers, Schedulers};

/// Messages that wait for the scheduler to read them.
const OUTBOX: usize = 4096;
/// Preheats that wait to be begun; more are lost, which their schedulers notice in time.
const ORDERS: usize = 256;
/// Errands that wait for their turn; more are lost, which their schedulers notice in time.
const ERRANDS: usize = 16;
/// A scheduler says something every second.
const SILENCE: Duration = Duration::from_secs(3);
/// For a connection and the handshake.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// Between attempts, growing from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Shortly after a session was lost not more than this lies between attempts: a scheduler that
/// restarts is to know what there is before it grants reads, a second after its start.
const SOON: (Duration, Duration) = (Duration::from_secs(20), Duration::from_millis(600));
/// To say all that was said before the end of a session.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What happened to sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// These are the schedulers.
    Listed(List),
    /// The hello was accepted.
    Up(SchedulerName),
    /// A scheduler spoke.
    Message(SchedulerName, Box<SchedulerMessage>),
    /// Nobody listens there; it is tried again.
    Refused(SchedulerName),
    /// A session that stood ended; another one is being made.
    Down(SchedulerName),
}

/// The ways to the schedulers. Cheap to clone.
#[derive(Clone)]
pub struct Session(Arc<Shared>);

struct Shared {
    lines: Mutex<BTreeMap<SchedulerName, Line>>,
    hello: Hello,
    key: Arc<NodeKey>,
    connector: Connector,
    events: mpsc::Sender<SessionEvent>,
    orders: mpsc::Sender<Ordered>,
    /// Until somebody takes them.
    ordered: Mutex<Option<mpsc::Receiver<Ordered>>>,
    errands: mpsc::Sender<Sent>,
    /// Until somebody takes them.
    sent: Mutex<Option<mpsc::Receiver<Sent>>>,
    metrics: Metrics,
    tasks: Tasks,
}

/// What a scheduler orders beside the swarm's business.
pub type Ordered = (SchedulerName, PreheatOrder);
/// What a manager has every host do.
pub type Sent = (SchedulerName, ErrandOrder);

/// One session that is wanted.
#[derive(Clone)]
struct Line {
    outbox: Arc<ArcSwapOption<mpsc::Sender<PeerMessage>>>,
    closed: CancellationToken,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("the scheduler's URL")]
    Url(#[from] EndpointError),
    #[error("the scheduler can't be reached")]
    Connect(#[source] tonic::transport::Error),
    #[error("the scheduler ended the session")]
    Status(#[source] Box<tonic::Status>),
    #[error("the scheduler speaks nonsense")]
    Wire(#[source] darter_api::wire::WireError),
    #[error("the scheduler does not answer")]
    Silent,
    #[error("the stream ended")]
    Ended,
}

impl Session {
    /// Sessions of the host that `hello` tells of, which is said each time with a new
    /// epoch. None is made before it is asked for; `schedulers` says of whom there are.
    pub fn start(
        schedulers: Schedulers,
        hello: Hello,
        key: Arc<NodeKey>,
        connector: Connector,
        events: mpsc::Sender<SessionEvent>,
        tasks: &Tasks,
        metrics: Metrics,
    ) -> Self {
        schedulers.follow(events.clone(), tasks);
        let (orders, ordered) = mpsc::channel(ORDERS);
        let (errands, sent) = mpsc::channel(ERRANDS);
        Self(Arc::new(Shared {
            errands,
            sent: Mutex::new(Some(sent)),
            orders,
            ordered: Mutex::new(Some(ordered)),
            lines: Mutex::default(),
            hello,
            key,
            connector,
            events,
            metrics,
            tasks: tasks.clone(),
        }))
    }

    /// Has a session with a scheduler from now on.
    pub fn open(&self, name: &SchedulerName) {
        let mut lines = self.0.lines.lock();
        if lines.contains_key(name) {
            return;
        }
        let line = Line {
            outbox: Arc::default(),
            closed: CancellationToken::new(),
        };
        lines.insert(name.clone(), line.clone());
        let keeper = Keeper {
            name: name.clone(),
            line,
            shared: Arc::clone(&self.0),
        };
        self.0.tasks.spawn("session", keeper.keep());
    }

    /// Has none any more; what was said before is still sent.
    pub fn close(&self, name: &SchedulerName) {
        if let Some(line) = self.0.lines.lock().remove(name) {
            line.outbox.store(None);
            line.closed.cancel();
        }
    }

    /// Orders of preheats; the first who asks has them.
    pub fn take_orders(&self) -> Option<mpsc::Receiver<Ordered>> {
        self.0.ordered.lock().take()
    }

    /// Errands; the first who asks has them.
    pub fn take_errands(&self) -> Option<mpsc::Receiver<Sent>> {
        self.0.sent.lock().take()
    }

    /// Says something, if the session stands.
    pub fn send(&self, name: &SchedulerName, message: PeerMessage) {
        let Some(line) = self.0.lines.lock().get(name).cloned() else {
            return;
        };
        let Some(outbox) = line.outbox.load_full() else {
            return;
        };
        if outbox.try_send(message).is_err() {
            line.outbox.store(None);
        }
    }
}

#[cfg(test)]
impl Session {
    /// One that stands with this scheduler, and what is said in it.
    pub(crate) fn recorded(name: &SchedulerName) -> (Self, mpsc::Receiver<PeerMessage>) {
        let (outbox, said) = mpsc::channel(OUTBOX);
        let line = Line {
            outbox: Arc::new(ArcSwapOption::from_pointee(outbox)),
            closed: CancellationToken::new(),
        };
        let key = NodeKey::from_seed([0; 32]);
        let hello = Hello {
            host: key.id(),
            epoch: 0,
            name: String::new(),
            address: ([127, 0, 0, 1], 1).into(),
            role: darter_api::session::Role::Peer,
            locality: darter_api::session::Locality::default(),
            upload_slots: 0,
            cores: None,
            shares: true,
            version: String::new(),
        };
        let shared = Shared {
            lines: Mutex::new(BTreeMap::from([(name.clone(), line)])),
            hello,
            key: Arc::new(key),
            connector: Connector::plain(),
            events: mpsc::channel(1).0,
            orders: mpsc::channel(1).0,
            ordered: Mutex::default(),
            errands: mpsc::channel(1).0,
            sent: Mutex::default(),
            metrics: Metrics::default(),
            tasks: Tasks::new(),
        };
        (Self(Arc::new(shared)), said)
    }
}

/// Makes one session again and again.
struct Keeper {
    name: SchedulerName,
    line: Line,
    shared: Arc<Shared>,
}

impl Keeper {
    async fn keep(self) {
        let closed = self.line.closed.clone();
        let mut wait = BACKOFF.0;
        let mut lost: Option<Instant> = None;
        loop {
            let mut stood = false;
            let ended = tokio::select! {
                ended = self.one(&mut stood) => Some(ended),
                () = self.over() => None,
            };
            self.line.outbox.store(None);
            if stood {
                self.shared.metrics.sessions.dec();
            }
            let Some(ended) = ended.filter(|_| !closed.is_cancelled()) else {
                return;
            };
            let url = &self.name;
            if stood {
                tracing::warn!(%url, cause = &ended as &dyn Error, "the session with the scheduler ended");
                self.tell(SessionEvent::Down(self.name.clone())).await;
                wait = BACKOFF.0;
                lost = Some(Instant::now());
            } else {
                tracing::debug!(%url, cause = &ended as &dyn Error, "no session with the scheduler");
                if is_refused(&ended) {
                    self.tell(SessionEvent::Refused(self.name.clone())).await;
                }
            }
            // Whoever lost a session is back soon, but not all at the same moment.
            let spread = if stood { 0.0..1.0 } else { 0.7..1.3 };
            let pause = wait.mul_f64(rand::random_range(spread));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = closed.cancelled() => return,
            }
            if !stood {
                let soon = lost.is_some_and(|at| at.elapsed() < SOON.0);
                wait = (wait * 2).min(if soon { SOON.1 } else { BACKOFF.1 });
            }
        }
    }

    /// Ends when the session is not wanted any more and had time to say the last words.
    async fn over(&self) {
        self.line.closed.cancelled().await;
        tokio::time::sleep(CLOSE_TIMEOUT).await;
    }

    async fn tell(&self, event: SessionEvent) {
        if !self.line.closed.is_cancelled() {
            // Who should hear it ends with the same group.
            let _ = self.shared.events.send(event).await;
        }
    }

    async fn one(&self, stood: &mut bool) -> SessionError {
        self.shared.metrics.session_attempts.inc();
        let opened = tokio::time::timeout(OPEN_TIMEOUT, self.open(self.name.url())).await;
        let (mut inbound, outbox) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(cause)) => return cause,
            Err(_) => return SessionError::Silent,
        };
        self.line.outbox.store(Some(Arc::new(outbox)));
        *stood = true;
        self.shared.metrics.sessions.inc();
        tracing::info!(url = %self.name, "the session with the scheduler stands");
        self.tell(SessionEvent::Up(self.name.clone())).await;
        loop {
            if self.line.outbox.load().is_none() && !self.line.closed.is_cancelled() {
                return SessionError::Silent;
            }
            match next(&mut inbound).await {
                Ok(message) => self.hear(message).await,
                Err(cause) => return cause,
            }
        }
    }

    async fn hear(&self, message: SchedulerMessage) {
        let message = match message {
            SchedulerMessage::Preheat(order) => {
                let run = order.run;
                let ordered = (self.name.clone(), order);
                if self.shared.orders.try_send(ordered).is_err() {
                    tracing::warn!(url = %self.name, run, "too many preheats wait; one is not taken");
                }
                return;
            }
            SchedulerMessage::Errand(order) => {
                let run = order.run;
                let sent = (self.name.clone(), order);
                if self.shared.errands.try_send(sent).is_err() {
                    tracing::warn!(url = %self.name, run, "too many errands wait; one is not taken");
                }
                return;
            }
            message => message,
        };
        let message = SessionEvent::Message(self.name.clone(), Box::new(message));
        self.tell(message).await;
    }

    async fn open(
        &self,
        url: &str,
    ) -> Result<
        (
            tonic::Streaming<v1::SchedulerMessage>,
            mpsc::Sender<PeerMessage>,
        ),
        SessionError,
    > {
        let channel = self
            .shared
            .connector
            .endpoint(url)?
            .connect_timeout(OPEN_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(1))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true)
            .connect_with_connector(self.shared.connector.clone())
            .await
            .map_err(SessionError::Connect)?;
        let mut client = SchedulerClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let (greet, greeting) = oneshot::channel();
        let status = |status| SessionError::Status(Box::new(status));
        let mut inbound = client
            .session(outbox::spoken(greeting, messages))
            .await
            .map_err(status)?
            .into_inner();
        let first = inbound
            .next()
            .await
            .ok_or(SessionError::Ended)?
            .map_err(status)?;
        let Some(scheduler_message::Kind::Challenge(challenge)) = first.kind else {
            return Err(SessionError::Ended);
        };
        let hello = v1::PeerMessage {
            kind: Some(peer_message::Kind::Hello(self.hello(&challenge.nonce))),
        };
        greet.send(hello).map_err(|_| SessionError::Ended)?;
        let welcome = next(&mut inbound).await?;
        if !matches!(welcome, SchedulerMessage::Welcome { .. }) {
            return Err(SessionError::Ended);
        }
        self.hear(welcome).await;
        Ok((inbound, outbox))
    }

    fn hello(&self, nonce: &[u8]) -> v1::Hello {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let epoch = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let signature = self.shared.key.sign(&session_challenge(nonce, epoch));
        let hello = Hello {
            epoch,
            ..self.shared.hello.clone()
        };
        v1::Hello {
            signature: signature.to_vec().into(),
            ..(&hello).into()
        }
    }
}

async fn next(
    inbound: &mut tonic::Streaming<v1::SchedulerMessage>,
) -> Result<SchedulerMessage, SessionError> {
    let message = tokio::time::timeout(SILENCE, inbound.next())
        .await
        .map_err(|_| SessionError::Silent)?
        .ok_or(SessionError::Ended)?
        .map_err(|status| SessionError::Status(Box::new(status)))?;
    message.try_into().map_err(SessionError::Wire)
}

/// Whether a connection was refused: nobody listens there.
fn is_refused(error: &(dyn Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.any(|cause| {
        let io = cause.downcast_ref::<io::Error>();
        io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused)
    })
}

#[cfg(test)]
mod tests;
