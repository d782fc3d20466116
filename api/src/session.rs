//! What a peer and a scheduler say to each other over their session.
//!
//! One bidirectional stream for as long as both live. At most about one progress
//! and load message a second, host and task, whatever the number of pieces.

use std::net::SocketAddr;

use crate::{
    digest::Digest,
    errand::{ErrandOrder, ErrandReport},
    host::HostId,
    lengths::Lengths,
    origin::Origin,
    origin::Repository,
    origin::UpstreamName,
    pieces::PieceSet,
    preheat::{PreheatOrder, PreheatReport},
    proof::Grant,
    task::TaskId,
};

/// What a node does for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Role {
    /// Pulls for its own clients, and gives what it has.
    #[default]
    Peer,
    /// Fetches from the source first, so that others need not.
    Seed,
}

/// Where a node stands, for preferring near neighbours. Empty strings are unknown; each is
/// [`MOST_WHERE`](crate::membership::MOST_WHERE) bytes at most.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Locality {
    /// Hosts that share a rack or a switch.
    pub host_group: String,
    /// The data centre.
    pub idc: String,
    /// From the widest to the narrowest, `region|zone|room`.
    pub location: String,
}

/// A peer's first message: who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Its public key.
    pub host: HostId,
    /// Grows with every session of this host: the end of an old stream never removes
    /// a host that has come back.
    pub epoch: u64,
    /// For people; at most [`MOST_NAME`](crate::membership::MOST_NAME) bytes.
    pub name: String,
    /// Where other peers reach it.
    pub address: SocketAddr,
    /// Its role.
    pub role: Role,
    /// Its place.
    pub locality: Locality,
    /// Pieces it sends at the same time.
    pub upload_slots: u32,
    /// Processor cores, if known.
    pub cores: Option<u32>,
    /// Whether it gives pieces to others.
    pub shares: bool,
    /// Of its software; empty is unknown.
    pub version: String,
}

/// One task of a host's inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The task.
    pub task: TaskId,
    /// Its geometry.
    pub lengths: Lengths,
    /// Pieces on disk, verified.
    pub held: PieceSet,
    /// Pieces being read from the source under a lease, the host's own included.
    pub reading: PieceSet,
    /// Whether somebody on the host still wants the rest.
    pub wanted: bool,
    /// Where it can be read.
    pub origin: Option<Origin>,
}

/// Why a task is joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Purpose {
    /// A client waits.
    #[default]
    Pull,
    /// The scheduler asked a seed to have it.
    Seed,
    /// It was asked for ahead of time.
    Preheat,
}

/// A wish to download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// The task.
    pub task: TaskId,
    /// Its geometry.
    pub lengths: Lengths,
    /// What is on disk already.
    pub held: PieceSet,
    /// Where it can be read.
    pub origin: Origin,
    /// Why.
    pub purpose: Purpose,
}

/// Why a lease comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseEnd {
    /// Nobody on the host and none of its neighbours waits any more.
    NotNeeded,
    /// The source refused the host's right (401, 403).
    Refused,
    /// The source has no such content (404).
    Missing,
    /// The source can't be reached or keeps failing.
    Unreachable,
    /// The source's size is not the task's.
    WrongSize,
}

/// What the host sees of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Complaint {
    /// It can't be reached.
    Unreachable,
    /// A piece did not come in time.
    Slow,
    /// It sent bytes or a proof that failed their check, or signed what a content's digest
    /// refuted.
    Rot,
}

/// What came from one parent since the last report on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ParentReport {
    /// Which.
    pub host: HostId,
    /// Verified pieces.
    pub pieces: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Microseconds they took, each shared among the requests that were under way to the
    /// parent when it was asked for.
    pub busy_us: u64,
    /// Requests that stalled or did not reach it.
    pub failures: u32,
    /// Requests answered with bytes or a proof that failed their check.
    pub rot: u32,
    /// Whether this host takes nothing from it any more, for minutes.
    pub given_up: bool,
}

/// A reference in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// A tag, whose digest may change; at most [`MOST_TAG`] bytes.
    Tag(String),
    /// A blob or manifest that was seen to be a member of the repository.
    Digest(Digest),
}

/// Bytes of a tag at most (OCI distribution specification, "Pulling manifests").
pub const MOST_TAG: usize = 128;
/// Bytes of a media type at most: RFC 6838, section 4.2, has 127 on each side of the slash.
pub const MOST_MEDIA_TYPE: usize = 255;

/// Something a host learned from an upstream itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The registry.
    pub upstream: UpstreamName,
    /// The repository.
    pub repository: Repository,
    /// What was asked for.
    pub reference: Reference,
    /// What it stood for.
    pub digest: Digest,
    /// The media type of a manifest, empty for a blob; at most [`MOST_MEDIA_TYPE`] bytes.
    pub media_type: String,
    /// Size in bytes, if it was told.
    pub size: Option<u64>,
    /// Whether an anonymous request could read it.
    pub public: bool,
    /// How long ago, in milliseconds.
    pub age_ms: u64,
}

/// A content of a public repository that a member of the cluster has read there itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicContent {
    /// Which.
    pub digest: Digest,
    /// Size in bytes, if it was told.
    pub size: Option<u64>,
    /// How long ago it was read, in milliseconds.
    pub age_ms: u64,
}

/// From a peer to its scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerMessage {
    /// Who it is; always first.
    Hello(Hello),
    /// What it holds and reads; follows the hello, in as many messages as it takes.
    Inventory {
        /// The next tasks.
        holdings: Vec<Holding>,
        /// Whether these are the last.
        last: bool,
    },
    /// These will be wanted soon: introduce me to who has them, but start nothing.
    Interest {
        /// The tasks and their geometry.
        tasks: Vec<(TaskId, Lengths)>,
        /// Where they can be read.
        origin: Origin,
    },
    /// I want to download this.
    Join(Join),
    /// What I have of a task; also renews its lease.
    Progress {
        /// The task.
        task: TaskId,
        /// All of its pieces that are on disk.
        held: PieceSet,
    },
    /// No neighbour has these pieces or reads them.
    Starved {
        /// The task.
        task: TaskId,
        /// The pieces.
        pieces: PieceSet,
    },
    /// I hold all of it, verified by its own digest.
    Done {
        /// The task.
        task: TaskId,
    },
    /// I no longer want the rest (what is held stays held).
    Leave {
        /// The task.
        task: TaskId,
    },
    /// The grant has arrived and the source is being asked.
    LeaseAccepted {
        /// The task.
        task: TaskId,
    },
    /// The source's first byte has arrived.
    LeaseFirstByte {
        /// The task.
        task: TaskId,
        /// Whether the source serves ranges, so that others could read other pieces.
        ranges: bool,
    },
    /// I will not read these.
    LeaseReturned {
        /// The task.
        task: TaskId,
        /// The pieces.
        pieces: PieceSet,
        /// Why.
        why: LeaseEnd,
    },
    /// I am reading these on my own lease, since no scheduler answered.
    SelfLeased {
        /// The task.
        task: TaskId,
        /// The pieces.
        pieces: PieceSet,
    },
    /// How busy the host is.
    Load {
        /// Pieces being sent.
        uploads: u32,
        /// Pieces being received.
        downloads: u32,
        /// Bytes sent in the last second.
        upload_bytes: u64,
    },
    /// A neighbour failed.
    Report {
        /// Which.
        neighbour: HostId,
        /// The task.
        task: TaskId,
        /// How.
        complaint: Complaint,
    },
    /// What came from which parent, at most about once a second.
    Parents {
        /// Those asked for pieces since the last report.
        parents: Vec<ParentReport>,
    },
    /// These are no longer on disk.
    Evicted {
        /// The tasks.
        tasks: Vec<TaskId>,
    },
    /// These were another scheduler's until now: others will soon say what they have of
    /// them, or read. Said before anything else about them.
    Moved {
        /// The tasks.
        tasks: Vec<TaskId>,
    },
    /// I end this session because nothing goes on. What I have told stays true; I come back
    /// before it changes.
    Resting,
    /// What an upstream said.
    Observed(Observation),
    /// What has any host observed of this? Answered by [`SchedulerMessage::Found`].
    Lookup {
        /// Comes back in the answer.
        id: u64,
        /// The registry.
        upstream: UpstreamName,
        /// The repository.
        repository: Repository,
        /// The reference.
        reference: Reference,
    },
    /// Its source does not tell how large this is: does anybody know? Answered by
    /// [`SchedulerMessage::Size`].
    SizeWanted {
        /// The task.
        task: TaskId,
    },
    /// I am about to read small parts of this, not all of it: who reads them from the source for
    /// all? Answered by [`SchedulerMessage::ExcerptsFrom`].
    ExcerptsWanted {
        /// The task.
        task: TaskId,
        /// Its geometry.
        lengths: Lengths,
        /// Where it can be read.
        origin: Origin,
    },
    /// How a preheat goes; for whoever ordered it.
    Preheat(PreheatReport),
    /// What became of an errand; for whoever ordered it.
    Errand(ErrandReport),
}

impl PeerMessage {
    /// The task that it is about, where it is about one.
    pub const fn task(&self) -> Option<&TaskId> {
        match self {
            Self::Join(join) => Some(&join.task),
            Self::Progress { task, .. }
            | Self::Starved { task, .. }
            | Self::Done { task }
            | Self::Leave { task }
            | Self::LeaseAccepted { task }
            | Self::LeaseFirstByte { task, .. }
            | Self::LeaseReturned { task, .. }
            | Self::SelfLeased { task, .. }
            | Self::Report { task, .. }
            | Self::ExcerptsWanted { task, .. }
            | Self::SizeWanted { task } => Some(task),
            Self::Hello(_)
            | Self::Inventory { .. }
            | Self::Interest { .. }
            | Self::Load { .. }
            | Self::Parents { .. }
            | Self::Evicted { .. }
            | Self::Moved { .. }
            | Self::Resting
            | Self::Observed(_)
            | Self::Lookup { .. }
            | Self::Preheat(_)
            | Self::Errand(_) => None,
        }
    }
}

/// A host to exchange pieces with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its public key.
    pub host: HostId,
    /// Its peer port.
    pub address: SocketAddr,
    /// Its role.
    pub role: Role,
}

/// From a scheduler to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchedulerMessage {
    /// The hello was accepted.
    Welcome {
        /// The scheduler's own key.
        scheduler: HostId,
        /// Keys whose grants count: this scheduler's and its fellows'.
        trusted: Vec<HostId>,
    },
    /// Sent every second, so that a peer knows a slow scheduler from a dead one.
    Heartbeat,
    /// Who else is in a task's swarm.
    Neighbours {
        /// The task.
        task: TaskId,
        /// New ones.
        add: Vec<Neighbour>,
        /// Ones that left or died.
        remove: Vec<HostId>,
    },
    /// The right to read pieces from the source.
    Grant(Grant),
    /// A right that ended.
    Revoked {
        /// The task.
        task: TaskId,
        /// The pieces.
        pieces: PieceSet,
    },
    /// Have this (to a seed, or for a preheat).
    Fetch {
        /// The task.
        task: TaskId,
        /// Its geometry.
        lengths: Lengths,
        /// Where it can be read.
        origin: Origin,
        /// Why.
        purpose: Purpose,
    },
    /// A join that can't be served: its geometry is not the one the task has.
    Mismatch {
        /// The task.
        task: TaskId,
        /// The geometry that the first grant fixed.
        lengths: Lengths,
    },
    /// Nobody can read the source for this task: each host that tried came back with
    /// this. The peer may still try with its own client's credential.
    Unavailable {
        /// The task.
        task: TaskId,
        /// Why the last one gave up.
        why: LeaseEnd,
        /// The peer is not to try either: its operator's rules say so.
        forbidden: bool,
    },
    /// The answer to a [`PeerMessage::Lookup`].
    Found {
        /// The lookup's.
        id: u64,
        /// The newest observation, if there is one.
        observation: Option<Observation>,
    },
    /// These blobs anybody may read in this repository: a member has done so, and the host
    /// is interested in them.
    Public {
        /// The registry.
        upstream: UpstreamName,
        /// The repository.
        repository: Repository,
        /// The blobs.
        contents: Vec<PublicContent>,
    },
    /// The answer to [`PeerMessage::SizeWanted`].
    Size {
        /// The task.
        task: TaskId,
        /// Its size in bytes, where a member knows it.
        size: Option<u64>,
    },
    /// The answer to [`PeerMessage::ExcerptsWanted`].
    ExcerptsFrom {
        /// The task.
        task: TaskId,
        /// The seed to ask, where there is one and it is not the host itself.
        seed: Option<ExcerptSeed>,
        /// Whether the host may read the source itself.
        source: bool,
    },
    /// Something to preheat; not the swarm's own business.
    Preheat(PreheatOrder),
    /// Have this done, and say what became of it.
    Errand(ErrandOrder),
}

/// Who reads small parts of a content for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExcerptSeed {
    /// Where it is.
    pub neighbour: Neighbour,
    /// Its right to read them: what makes its word count.
    pub grant: Grant,
}
