//! A peer that speaks its session and moves nothing.
//!
//! Owner of state: each [`Peer`]'s task owns its session, made again for ever with the pauses
//! that a proxy makes; [`Crowd`] counts who is known to the scheduler.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use darter_api::{
    Digest, Lengths, NodeKey, Origin, PieceSet, TaskId,
    origin::OriginKind,
    session::{
        Hello, Holding, Join, Locality, PeerMessage, Purpose, Reference, Role, SchedulerMessage,
    },
    wire::{
        MAX_MESSAGE_BYTES, session_challenge,
        v1::{self, peer_message, scheduler_client::SchedulerClient, scheduler_message},
    },
};
use darter_runtime::{Tasks, tls::Connector};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::Streaming;

/// Messages that wait to be sent.
const OUTBOX: usize = 64;
/// Contents in a message, as a proxy sends them.
const INVENTORY: usize = 24;
/// As a proxy has them: for a session to be made, and between attempts.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A scheduler that says nothing for so long is dead.
const SILENCE: Duration = Duration::from_secs(3);
/// Bytes of every content: a layer of 200 pieces or so.
const SIZE: u64 = 50_000_000;
/// Answered when all before it was read.
const LAST: u64 = 1;

/// See the module.
pub(super) struct Peer {
    key: NodeKey,
    hello: Hello,
    connector: Connector,
    known: AtomicBool,
    outbox: Mutex<Option<mpsc::Sender<v1::PeerMessage>>>,
    /// The join that waits for its answer.
    waits: Mutex<Option<(TaskId, Answer)>>,
}

/// All peers.
pub(super) struct Crowd {
    peers: Vec<Arc<Peer>>,
    /// What all of them hold, made once.
    inventory: Vec<v1::PeerMessage>,
    /// Whether they say what they hold.
    filled: AtomicBool,
    known: AtomicUsize,
    /// Sessions that are made at the same time: this machine is no thousand machines.
    opening: Semaphore,
    changed: Notify,
}

impl Crowd {
    /// Of peers that hold so many contents each.
    pub(super) fn new(peers: Vec<Peer>, holds: usize, opening: usize) -> Self {
        Self {
            inventory: inventory(holds),
            peers: peers.into_iter().map(Arc::new).collect(),
            filled: AtomicBool::new(false),
            known: AtomicUsize::new(0),
            opening: Semaphore::new(opening.max(1)),
            changed: Notify::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    /// Peers that the scheduler knows.
    pub(super) fn known(&self) -> usize {
        self.known.load(Ordering::Acquire)
    }

    /// All connect, and go on doing so.
    pub(super) fn come(self: &Arc<Self>, url: &str, tasks: &Tasks) {
        for peer in &self.peers {
            let (crowd, peer, url) = (Arc::clone(self), Arc::clone(peer), url.to_owned());
            tasks.spawn("peer", async move { peer.keep(&crowd, &url).await });
        }
    }

    /// From now on they say what they hold.
    pub(super) fn fill(&self) {
        self.filled.store(true, Ordering::Release);
    }

    pub(super) async fn all_known(&self) {
        self.until(|known| known == self.len()).await;
    }

    /// Until all sessions have ended.
    pub(super) async fn lost(&self) {
        self.until(|known| known == 0).await;
    }

    async fn until(&self, so: impl Fn(usize) -> bool) {
        loop {
            let changed = self.changed.notified();
            if so(self.known()) {
                return;
            }
            changed.await;
        }
    }

    fn is_known(&self, peer: &Peer, known: bool) {
        if peer.known.swap(known, Ordering::AcqRel) != known {
            if known {
                self.known.fetch_add(1, Ordering::AcqRel);
            } else {
                self.known.fetch_sub(1, Ordering::AcqRel);
            }
            self.changed.notify_waiters();
        }
    }

    /// A host joins a fresh content; returns with the answer, or when there can be none.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn join(&self, host: usize, content: usize) -> Result<(), Unanswered> {
        let peer = self.peers.get(host).ok_or(Unanswered::Lost)?;
        let task = task(&format!("fresh {content}"));
        let (answer, answered) = oneshot::channel();
        if let Some((_, before)) = lock(&peer.waits).replace((task, answer)) {
            let _ = before.send(Err(Unanswered::Late));
        }
        let said = peer.say(&PeerMessage::Join(Join {
            task,
            lengths: lengths(),
            held: PieceSet::new(),
            origin: origin(),
            purpose: Purpose::Pull,
        }));
        match said {
            Some(true) => answered.await.unwrap_or(Err(Unanswered::Lost)),
            Some(false) => Err(Unanswered::Late),
            None => Err(Unanswered::Lost),
        }
    }
}

/// Who waits for the answer to a join.
type Answer = oneshot::Sender<Result<(), Unanswered>>;

/// Why a join has no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// Its session was not there, or ended before the answer.
    Lost,
    /// Its host had to join the next content, or could not say so much.
    Late,
}

impl Peer {
    /// Number so and so.
    pub(super) fn new(number: usize, key: NodeKey, connector: Connector) -> Self {
        let number_bits = u32::try_from(number).unwrap_or(u32::MAX);
        let address = Ipv4Addr::from(0x0a00_0000 | number_bits);
        let hello = Hello {
            host: key.id(),
            epoch: 0,
            name: format!("node-{number}"),
            address: SocketAddr::from((address, 4000)),
            role: Role::Peer,
            locality: Locality::default(),
            upload_slots: 4,
            cores: None,
            shares: true,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        Self {
            key,
            hello,
            connector,
            known: AtomicBool::new(false),
            outbox: Mutex::new(None),
            waits: Mutex::new(None),
        }
    }

    async fn keep(&self, crowd: &Crowd, url: &str) {
        let mut wait = BACKOFF.0;
        loop {
            let ended = self.session(crowd, url).await;
            *lock(&self.outbox) = None;
            *lock(&self.waits) = None;
            if self.known.load(Ordering::Acquire) {
                wait = BACKOFF.0;
            }
            crowd.is_known(self, false);
            if let Err(cause) = ended {
                tracing::debug!(cause = format!("{cause:#}"), "a session ended");
            }
            tokio::time::sleep(wait.mul_f64(rand::random_range(0.7..1.3))).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    async fn session(&self, crowd: &Crowd, url: &str) -> Result<()> {
        let place = crowd.opening.acquire().await?;
        let mut inbound = tokio::time::timeout(OPEN_TIMEOUT, self.open(url)).await??;
        drop(place);
        let outbox = lock(&self.outbox).clone().context("it was opened")?;
        if crowd.filled.load(Ordering::Acquire) {
            for part in &crowd.inventory {
                outbox.send(part.clone()).await?;
            }
        }
        let (holdings, last) = (Vec::new(), true);
        self.say(&PeerMessage::Inventory { holdings, last });
        self.say(&PeerMessage::Lookup {
            id: LAST,
            upstream: origin().upstream,
            repository: origin().repository,
            reference: Reference::Tag("none".to_owned()),
        });
        loop {
            let message = next(&mut inbound, SILENCE).await?;
            self.take(crowd, message);
        }
    }

    fn take(&self, crowd: &Crowd, message: SchedulerMessage) {
        match message {
            SchedulerMessage::Found { id: LAST, .. } => crowd.is_known(self, true),
            SchedulerMessage::Neighbours { task, add, .. } if !add.is_empty() => {
                self.answered(&task, &[]);
            }
            SchedulerMessage::Grant(grant) => {
                let task = grant.task;
                self.answered(
                    &task,
                    &[
                        PeerMessage::LeaseAccepted { task },
                        PeerMessage::LeaseFirstByte { task, ranges: true },
                    ],
                );
            }
            _ => {}
        }
    }

    /// The answer to a join came: the host says this, and that it holds all.
    fn answered(&self, task: &TaskId, say: &[PeerMessage]) {
        let mut waits = lock(&self.waits);
        if waits.as_ref().is_none_or(|(waiting, _)| waiting != task) {
            return;
        }
        if let Some((task, answer)) = waits.take() {
            let _ = answer.send(Ok(()));
            for message in say {
                self.say(message);
            }
            self.say(&PeerMessage::Done { task });
        }
    }

    /// Whether the session takes it; `None` without one.
    fn say(&self, message: &PeerMessage) -> Option<bool> {
        let outbox = lock(&self.outbox);
        let outbox = outbox.as_ref()?;
        Some(outbox.try_send(message.into()).is_ok())
    }

    async fn open(&self, url: &str) -> Result<Streaming<v1::SchedulerMessage>> {
        let endpoint = self.connector.endpoint(url)?;
        let connected = endpoint.connect_with_connector(self.connector.clone());
        let mut client =
            SchedulerClient::new(connected.await?).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let reply = client.session(ReceiverStream::new(messages)).await?;
        let mut inbound = reply.into_inner();
        let first = inbound.next().await.context("no challenge")??;
        let Some(scheduler_message::Kind::Challenge(challenge)) = first.kind else {
            bail!("no challenge");
        };
        let hello = v1::PeerMessage {
            kind: Some(peer_message::Kind::Hello(self.hello(&challenge.nonce))),
        };
        outbox.try_send(hello)?;
        let welcome = next(&mut inbound, OPEN_TIMEOUT).await?;
        anyhow::ensure!(
            matches!(welcome, SchedulerMessage::Welcome { .. }),
            "no welcome"
        );
        *lock(&self.outbox) = Some(outbox);
        Ok(inbound)
    }

    fn hello(&self, nonce: &[u8]) -> v1::Hello {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let epoch = u64::try_from(now.unwrap_or_default().as_micros()).unwrap_or(u64::MAX);
        let signature = self.key.sign(&session_challenge(nonce, epoch));
        let hello = Hello {
            epoch,
            ..self.hello.clone()
        };
        v1::Hello {
            signature: signature.to_vec().into(),
            ..(&hello).into()
        }
    }
}

/// Of a host that holds so many contents, but for the last message.
fn inventory(holds: usize) -> Vec<v1::PeerMessage> {
    let held = PieceSet::full(lengths().pieces());
    let holding = |number| Holding {
        task: task(&format!("held {number}")),
        lengths: lengths(),
        held: held.clone(),
        reading: PieceSet::new(),
        wanted: false,
        origin: Some(origin()),
    };
    let all: Vec<Holding> = (0..holds).map(holding).collect();
    let part = |holdings: &[Holding]| {
        let (holdings, last) = (holdings.to_vec(), false);
        (&PeerMessage::Inventory { holdings, last }).into()
    };
    all.chunks(INVENTORY).map(part).collect()
}

async fn next(
    inbound: &mut Streaming<v1::SchedulerMessage>,
    limit: Duration,
) -> Result<SchedulerMessage> {
    let message = tokio::time::timeout(limit, inbound.next()).await;
    let message = message.context("silence")?.context("the stream ended")??;
    Ok(message.try_into()?)
}

fn task(name: &str) -> TaskId {
    TaskId::from(Digest::sha256(name.as_bytes()))
}

fn lengths() -> Lengths {
    Lengths::of(SIZE).expect("a size that makes pieces")
}

fn origin() -> Origin {
    Origin {
        upstream: "docker.io".parse().expect("a registry's name"),
        repository: "library/bench".parse().expect("a repository's name"),
        kind: OriginKind::Blob,
        private: false,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
