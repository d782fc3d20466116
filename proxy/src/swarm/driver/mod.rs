//! The driver: the thin shell that turns the core's commands into work, and what happens
//! into its events.
//!
//! Owner of state: one actor owns the core's [`Node`](crate::swarm::core::Node); the
//! workers it starts (reading a source, fetching a piece, hashing, committing) and the
//! readers share a [`download::Download`] each. Invariants: the actor never waits for
//! anybody, so that whoever waits for its bounded inbox gets on; a task has one download,
//! however many clients wait; a client's credential goes to the source and nowhere else.
//! Failure: a worker's end is an event; a download that fails ends its readers' bodies
//! short; a full disk turns readers to the source.

mod actor;
mod ahead;
mod askers;
mod attempts;
mod body;
mod claims;
mod closing;
mod contents;
mod cutter;
mod download;
mod excerpts;
mod growth;
mod have;
mod live;
mod lookup;
mod mailbox;
mod metrics;
mod order;
mod piece;
mod proven;
mod reader;
mod runs;
mod signers;
mod sizing;
mod solo;
mod source;
#[cfg(test)]
mod tests;
mod through;
mod trust;
mod turns;
mod verify;
mod waits;
mod writer;

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use darter_api::{NodeKey, TaskId, session::Observation};
use darter_runtime::Tasks;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub use darter_api::configuration::Prefetch;
pub use excerpts::router as excerpts_router;
pub use have::HaveError;
pub use metrics::Metrics;
pub use trust::{Policy, Trust};

use crate::{
    limits::Limits,
    rights::Proofs,
    session::{Session, SessionEvent},
    source::Source,
    store::{Found, Store},
    swarm::core::{
        self,
        event::{Event, ReaderId, RequestId},
    },
    transfer::{self, LinkEvent, Links, PieceClient},
};
use ahead::Ahead;
use askers::Askers;
use claims::Claims;
use download::Download;
use excerpts::Excerpts;
use live::Live;
use mailbox::{Letter, Mailbox};
use proven::Proven;
use sizing::Sizes;
use source::RunError;
use through::Through;
use turns::Turns;
use verify::Verifiers;

/// Events that wait for the actor; who has more waits.
const INBOX: usize = 1024;
/// After the disk was full, contents are streamed without trying to store them for so long.
const FULL_FOR: Duration = Duration::from_secs(5);

/// What a driver is made of.
pub struct Parts {
    /// Settings of the core.
    pub options: core::Options,
    /// The host's key.
    pub key: Arc<NodeKey>,
    /// Where content is kept.
    pub store: Store,
    /// What was in it at start.
    pub found: Vec<Found>,
    /// Where contents come from in the first place.
    pub source: Arc<dyn Source>,
    /// Who may read what, as far as reading shows.
    pub proofs: Proofs,
    /// Whose grants count.
    pub trust: Trust,
    /// Links to other peers, and what happens to them.
    pub links: Links,
    /// What happens to links.
    pub link_events: mpsc::Receiver<LinkEvent>,
    /// The sessions with schedulers, if there may be any, and what happens to them.
    pub session: Option<(Session, mpsc::Receiver<SessionEvent>)>,
    /// A directory of its own, emptied at start, for what is read in small parts.
    pub spool: PathBuf,
    /// What becomes of contents of which small parts are read.
    pub prefetch: watch::Receiver<Prefetch>,
    /// What may be moved a second.
    pub limits: Limits,
    /// Counts.
    pub metrics: Metrics,
    /// Counts of the transfers, from which the host's load is told.
    pub transfers: transfer::Metrics,
}

/// All downloads of this host; see [`crate::content::Contents`]. Cheap to clone.
#[derive(Clone)]
pub struct Swarm(Arc<Shared>);

impl Swarm {
    /// Starts the actor; it ends with `tasks`.
    pub fn start(parts: Parts, tasks: &Tasks) -> Self {
        // What a killed process left there is of no use.
        let _ = std::fs::remove_dir_all(&parts.spool);
        let (inbox, received) = mpsc::channel(INBOX);
        let (mailbox, claims) = (Arc::new(Mailbox::default()), Claims::default());
        let (session, session_events) = parts.session.unzip();
        let shared = Arc::new(Shared {
            client: PieceClient::new(
                parts.key.id(),
                parts.links.connector().clone(),
                parts.limits.clone(),
            ),
            excerpts: Excerpts::new(parts.spool, parts.store.capacity(), parts.prefetch),
            key: parts.key,
            store: parts.store,
            source: parts.source,
            trust: parts.trust,
            links: parts.links,
            proven: Proven {
                proofs: parts.proofs,
                claims: claims.clone(),
                inbox: inbox.clone(),
            },
            session,
            live: Arc::new(Live::new(Arc::clone(&mailbox))),
            mailbox,
            unsized_contents: Sizes::new(inbox.clone()),
            ahead: Ahead::new(parts.options.ahead),
            inbox,
            claims,
            lookups: Mutex::default(),
            manifests: Arc::new(Semaphore::new(solo::MOST_HELD)),
            next_id: AtomicU64::new(1),
            verifiers: Verifiers::new(tasks.clone()),
            limits: parts.limits,
            turns: Turns::new(),
            metrics: parts.metrics,
            transfers: parts.transfers,
            tasks: tasks.clone(),
        });
        let actor = actor::Actor::new(Arc::clone(&shared), parts.options);
        let inputs = actor::Inputs {
            received,
            links: parts.link_events,
            session: session_events,
        };
        tasks.spawn_vital("swarm", actor.run(inputs, parts.found));
        Self(shared)
    }

    /// Content bytes so far from sources, peers and the own store.
    pub fn totals(&self) -> (u64, u64, u64) {
        self.0.metrics.totals()
    }
}

/// What actor, workers and readers share.
struct Shared {
    key: Arc<NodeKey>,
    store: Store,
    source: Arc<dyn Source>,
    trust: Trust,
    links: Links,
    session: Option<Session>,
    proven: Proven,
    client: PieceClient,
    live: Arc<Live>,
    mailbox: Arc<Mailbox>,
    inbox: mpsc::Sender<Input>,
    unsized_contents: Sizes,
    excerpts: Excerpts,
    ahead: Ahead,
    claims: Claims,
    lookups: Mutex<HashMap<u64, oneshot::Sender<Option<Observation>>>>,
    /// Places of manifests in memory ([`solo`]).
    manifests: Arc<Semaphore>,
    next_id: AtomicU64,
    verifiers: Verifiers,
    limits: Limits,
    turns: Turns,
    metrics: Metrics,
    transfers: transfer::Metrics,
    tasks: Tasks,
}

/// Runs blocking work that the group waits for when it ends, so that the store is free
/// then. Dropping the future lets the work go on.
async fn blocking<T: Send + 'static>(
    tasks: &Tasks,
    name: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let worker = tasks.spawn_draining(name, tokio::task::spawn_blocking(work));
    let ended = worker.await.map_err(io::Error::other)?;
    ended.map_err(io::Error::other)?
}

/// What workers tell the actor.
enum Input {
    /// For the core as it is.
    Event(Event),
    /// A request ended; void if it was cancelled meanwhile.
    Requested(RequestId, Event),
    /// A reading of a source ended; void if it was stopped meanwhile.
    SourceEnded {
        task: TaskId,
        id: u64,
        result: Result<(), RunError>,
    },
    /// The digest has spoken, and a good download was committed, or not.
    Completed {
        download: Arc<Download>,
        result: Completion,
    },
}

/// How a whole download ended.
enum Completion {
    /// What the core is to know beside that.
    Committed(Option<Box<Event>>),
    Corrupt,
    Failed(io::Error),
    /// It was given up before.
    Void,
}

impl Shared {
    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn next_reader(&self) -> ReaderId {
        ReaderId(self.next_id())
    }

    /// A content of this size, if it is known, from its source alone.
    fn through(
        &self,
        task: TaskId,
        size: Option<u64>,
        media_type: Option<String>,
        askers: Arc<Askers>,
    ) -> Through {
        Through {
            source: Arc::clone(&self.source),
            task,
            size,
            media_type,
            askers,
            proven: self.proven.clone(),
            limits: self.limits.clone(),
            metrics: Arc::new(self.metrics.clone()),
        }
    }

    /// The store does not take a download's bytes: its readers go on without it.
    fn store_failed(&self, download: &Arc<Download>) {
        if !download.partial.was_refused() {
            self.store.close_for(FULL_FOR);
        }
        if download.go_through() {
            let letter = Letter::StoreFailed(Arc::clone(download));
            self.mailbox.put(letter);
        }
    }
}
