//! A whole host but for its fronts: store, links, piece server and driver.

use std::{ops::Range, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use bytesize::ByteSize;
use darter_api::{
    End, Grant, HostId, NodeKey, PieceIndex, PieceSet, SchedulerName, TaskId, UpstreamName,
    session::{Neighbour, PeerMessage, Purpose, Role, SchedulerMessage},
};
use darter_runtime::{
    Tasks,
    server::{Server, ServerOptions},
    tls::Connector,
};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc;

use super::{
    clock::Clock,
    origin::{TestSource, origin},
};
use crate::{
    content::{Content, Contents as _, Excerpt, OpenError, ReadError, Sizing, Want},
    credential::Credential,
    limits::Limits,
    rights::{self, Proofs},
    session::{List, Session, SessionEvent},
    store::{self, Store},
    swarm::{
        core::{self, event::Event},
        driver::{
            Input, Metrics, Parts, Policy, Prefetch, Swarm, Trust,
            cutter::{Chunk, Cutter, self_lease},
            excerpts_router,
            order::Order,
        },
    },
    transfer::{self, Links, server::PieceServer},
};

/// The scheduler of all tests that have one.
pub(super) fn scheduler_name() -> SchedulerName {
    SchedulerName::new("http://scheduler:8002")
}

/// Whoever waits in vain fails after this: enough for the slowest machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

pub(super) struct Host {
    pub(super) swarm: Swarm,
    pub(super) store: Store,
    pub(super) key: Arc<NodeKey>,
    address: std::net::SocketAddr,
    scheduler: mpsc::Sender<SessionEvent>,
    said: tokio::sync::Mutex<mpsc::Receiver<PeerMessage>>,
    tasks: Tasks,
}

pub(super) enum Scheduler {
    None,
    /// The test speaks for it.
    Test,
}

/// What a test sets of a host.
struct Set {
    options: store::Options,
    limits: Limits,
    prefetch: Prefetch,
    trust: Policy,
}

impl Default for Set {
    fn default() -> Self {
        Self {
            options: store_options(),
            limits: Limits::default(),
            prefetch: Prefetch::Off,
            trust: Policy::Members,
        }
    }
}

impl Host {
    pub(super) async fn alone(directory: &Path, source: &Arc<TestSource>) -> Self {
        Self::start(directory, source, 1, Scheduler::None).await
    }

    /// With a store of so many bytes.
    pub(super) async fn bounded(directory: &Path, source: &Arc<TestSource>, bytes: u64) -> Self {
        let options = store::Options {
            capacity: ByteSize::b(bytes),
            ..store_options()
        };
        let set = Set {
            options,
            ..Set::default()
        };
        Self::with(directory, source, 1, Scheduler::None, set).await
    }

    /// That completes what is read in part.
    pub(super) async fn prefetching(directory: &Path, source: &Arc<TestSource>) -> Self {
        let set = Set {
            prefetch: Prefetch::AfterFirstRange,
            ..Set::default()
        };
        Self::with(directory, source, 1, Scheduler::None, set).await
    }

    pub(super) async fn start(
        directory: &Path,
        source: &Arc<TestSource>,
        seed: u8,
        scheduler: Scheduler,
    ) -> Self {
        Self::with(directory, source, seed, scheduler, Set::default()).await
    }

    /// A host that believes grants of its schedulers alone.
    pub(super) async fn strict(directory: &Path, source: &Arc<TestSource>, seed: u8) -> Self {
        let set = Set {
            trust: Policy::Schedulers,
            ..Set::default()
        };
        Self::with(directory, source, seed, Scheduler::Test, set).await
    }

    pub(super) async fn limited(
        directory: &Path,
        source: &Arc<TestSource>,
        seed: u8,
        scheduler: Scheduler,
        limits: Limits,
    ) -> Self {
        let set = Set {
            limits,
            ..Set::default()
        };
        Self::with(directory, source, seed, scheduler, set).await
    }

    async fn with(
        directory: &Path,
        source: &Arc<TestSource>,
        seed: u8,
        scheduler: Scheduler,
        set: Set,
    ) -> Self {
        let Set {
            options,
            limits,
            prefetch,
            trust,
        } = set;
        let tasks = Tasks::new();
        let key = Arc::new(NodeKey::from_seed([seed; 32]));
        let (store, found) = Store::open(
            &directory.join("store"),
            &options,
            store::Metrics::default(),
        )
        .unwrap();
        let spool = directory.join("spool");
        let transfers = transfer::Metrics::default();
        let (link_events, links_received) = mpsc::channel(1024);
        let links = Links::new(
            Arc::clone(&key),
            Connector::plain(),
            link_events,
            tasks.clone(),
            transfers.clone(),
        );
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = server.local_addr();
        let pieces = PieceServer::new(
            store.clone(),
            transfer::fair::Slots::new(4, 4),
            limits.clone(),
            transfers.clone(),
        );
        let (scheduler_says, session_events) = mpsc::channel(64);
        let trust = Trust::open(&directory.join("trusted"), key.id(), trust).unwrap();
        let (session, said) = Session::recorded(&scheduler_name());
        if matches!(scheduler, Scheduler::Test) {
            let list = List::new([scheduler_name().url()], false);
            let listed = scheduler_says.try_send(SessionEvent::Listed(list));
            listed.unwrap();
        }
        let session = match scheduler {
            Scheduler::None => None,
            Scheduler::Test => Some((session, session_events)),
        };
        let parts = Parts {
            options: core_options(),
            key: Arc::clone(&key),
            store: store.clone(),
            found,
            source: Arc::clone(source) as _,
            proofs: Proofs::new(&rights::Options::default()),
            trust,
            links: links.clone(),
            link_events: links_received,
            session,
            spool,
            prefetch: tokio::sync::watch::channel(prefetch).1,
            limits,
            metrics: Metrics::default(),
            transfers,
        };
        let swarm = Swarm::start(parts, &tasks);
        let router = tonic::service::Routes::new(links.service())
            .into_axum_router()
            .merge(pieces.router())
            .merge(excerpts_router(&swarm));
        server.serve("peer", router, &tasks, ServerOptions::default());
        Self {
            swarm,
            store,
            key,
            address,
            scheduler: scheduler_says,
            said: tokio::sync::Mutex::new(said),
            tasks,
        }
    }

    pub(super) async fn says(&self, event: SessionEvent) {
        self.scheduler.send(event).await.unwrap();
    }

    pub(super) async fn hears(&self, message: SchedulerMessage) {
        let message = Box::new(message);
        self.says(SessionEvent::Message(scheduler_name(), message))
            .await;
    }

    /// Waits until it has told its scheduler this.
    pub(super) async fn has_said(&self, message: &PeerMessage) {
        let what = format!("{message:?}");
        self.hears_itself_say(&what, |said| said == message).await;
    }

    /// Waits until it has told its scheduler something like this.
    pub(super) async fn has_said_such(&self, is_such: impl Fn(&PeerMessage) -> bool) {
        self.hears_itself_say("such a message", is_such).await;
    }

    async fn hears_itself_say(&self, what: &str, is_such: impl Fn(&PeerMessage) -> bool) {
        let mut said = self.said.lock().await;
        let hears = async { while !is_such(&said.recv().await.unwrap()) {} };
        let heard = tokio::time::timeout(PATIENCE, hears).await;
        assert!(heard.is_ok(), "waited in vain for {what}");
    }

    /// For what it must do within a time.
    pub(super) fn clock(&self) -> Clock {
        Clock::start(&self.tasks)
    }

    pub(super) fn id(&self) -> HostId {
        self.key.id()
    }

    pub(super) fn as_neighbour(&self) -> Neighbour {
        Neighbour {
            host: self.id(),
            address: self.address,
            role: Role::Peer,
        }
    }

    pub(super) async fn open(&self, task: TaskId) -> Result<Content, OpenError> {
        self.open_as(task, None).await
    }

    pub(super) async fn open_as(
        &self,
        task: TaskId,
        credential: Option<Credential>,
    ) -> Result<Content, OpenError> {
        let want = Want {
            credential,
            ..want(task)
        };
        self.swarm.open(want).await
    }

    /// As a client of another registry.
    pub(super) async fn open_at(
        &self,
        upstream: &UpstreamName,
        task: TaskId,
    ) -> Result<Content, OpenError> {
        let mut want = want(task);
        want.origin.upstream = upstream.clone();
        self.swarm.open(want).await
    }

    /// As a client of another repository there.
    pub(super) async fn open_in(
        &self,
        upstream: &UpstreamName,
        repository: &str,
        task: TaskId,
    ) -> Result<Content, OpenError> {
        let mut want = want(task);
        want.origin.upstream = upstream.clone();
        want.origin.repository = repository.parse().unwrap();
        self.swarm.open(want).await
    }

    /// As a client that knows the size.
    pub(super) async fn open_sized(&self, task: TaskId, size: u64) -> Result<Content, OpenError> {
        let size = Some(size);
        self.swarm.open(Want { size, ..want(task) }).await
    }

    /// As a client that has to be told its size, or would like to be.
    pub(super) async fn open_for_size(
        &self,
        task: TaskId,
        sizing: Sizing,
    ) -> Result<Content, OpenError> {
        let want = Want {
            sizing,
            ..want(task)
        };
        self.swarm.open(want).await
    }

    /// Reads a range as a client does that wants nothing else.
    pub(super) async fn excerpt(
        &self,
        task: TaskId,
        range: Range<u64>,
    ) -> Result<Bytes, ReadError> {
        let excerpt = Excerpt {
            ranges: 1,
            bytes: range.end - range.start,
        };
        let want = Want {
            excerpt: Some(excerpt),
            ..want(task)
        };
        let content = self.swarm.open(want).await.unwrap();
        let parts: Vec<Bytes> = content.reader.read(range).try_collect().await?;
        Ok(parts.concat().into())
    }

    pub(super) async fn pull(&self, task: TaskId) -> Result<Bytes, ReadError> {
        read(&self.open(task).await.unwrap()).await.0
    }

    /// Stops everything and gives the store back.
    pub(super) async fn stop(self) {
        let Self {
            swarm,
            store,
            tasks,
            ..
        } = self;
        drop(swarm);
        assert!(tasks.stop(Duration::from_secs(60)).await);
        drop(store);
    }
}

/// The scheduler that a test speaks for, and hosts among each other, have the time that a slow
/// machine needs: who does not wait for them reads the source on its own.
fn core_options() -> core::Options {
    core::Options {
        join_timeout: Duration::from_secs(10),
        starved_timeout: Duration::from_secs(30),
        ..core::Options::default()
    }
}

/// Tests share their disk with others.
pub(super) fn store_options() -> store::Options {
    store::Options {
        min_free: ByteSize::b(0),
        ..store::Options::default()
    }
}

fn want(task: TaskId) -> Want {
    Want {
        task,
        origin: origin(),
        size: None,
        credential: None,
        purpose: Purpose::Pull,
        excerpt: None,
        sizing: Sizing::Unneeded,
    }
}

/// All bytes, and how many came before an error.
pub(super) async fn read(content: &Content) -> (Result<Bytes, ReadError>, usize) {
    let mut stream = content.reader.read(content.all());
    let mut bytes = Vec::new();
    while let Some(item) = stream.next().await {
        match item {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(error) => return (Err(error), bytes.len()),
        }
    }
    let length = bytes.len();
    (Ok(bytes.into()), length)
}

/// Waits until it is so.
pub(super) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let wait = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}

impl Swarm {
    /// As after a write that found no space.
    pub(super) fn pretend_full(&self) {
        self.0.store.close_for(Duration::from_secs(60));
    }

    /// As when a piece is sealed, and its worker is cut off before it says so.
    pub(super) fn pretend_sealed(&self, task: &TaskId, piece: u32, content: &Bytes) {
        let download = self.0.live.download(task).unwrap();
        let range = download.lengths.piece_range(PieceIndex(piece));
        let grant = Arc::new(self_lease(&self.0.key, &download, piece..piece + 1));
        let order = Order::new(PieceSet::from_iter([piece]), grant);
        let limits = self.0.limits.clone();
        let key = Arc::clone(&self.0.key);
        let mut cutter = Cutter::new(download, Arc::new(order), key, limits);
        let chunk = Chunk {
            offset: range.start,
            bytes: content.slice(range.start as usize..range.end as usize),
        };
        assert_eq!(cutter.take(&chunk).unwrap(), Some(PieceIndex(piece)));
    }

    /// As when pieces of a content were read by this grant.
    pub(super) async fn pretend_read(&self, grant: Grant, pieces: Range<u32>, content: &Bytes) {
        let task = grant.task;
        let download = self.0.live.download(&task).unwrap();
        let order = Order::new(PieceSet::from_range(pieces.clone()), Arc::new(grant));
        let (key, limits) = (Arc::clone(&self.0.key), self.0.limits.clone());
        let mut cutter = Cutter::new(Arc::clone(&download), Arc::new(order), key, limits);
        for piece in pieces.map(PieceIndex) {
            let Range { start, end } = download.lengths.piece_range(piece);
            let chunk = Chunk {
                offset: start,
                bytes: content.slice(start as usize..end as usize),
            };
            assert_eq!(cutter.take(&chunk).unwrap(), Some(piece));
            let read = Event::SourcePiece { task, piece };
            self.0.inbox.send(Input::Event(read)).await.unwrap();
        }
        self.0.verifiers.advance(&download);
    }

    /// As when somebody said where a content ends.
    pub(super) async fn pretend_end(&self, task: TaskId, end: End) {
        let (download, past) = (self.0.live.download(&task).unwrap(), end.piece());
        assert!(download.ends(end, false));
        let ends = Event::Ends { task, past };
        self.0.inbox.send(Input::Event(ends)).await.unwrap();
        self.0.verifiers.advance(&download);
    }

    /// Where a content ends for all that is known.
    pub(super) fn end(&self, task: &TaskId) -> Option<u64> {
        self.0.live.download(task)?.stated_size()
    }

    /// As when a write in mid-blob finds no space.
    pub(super) fn pretend_store_failed(&self, task: &TaskId) {
        let download = self.0.live.download(task).unwrap();
        self.0.store_failed(&download);
    }
}
