//! What goes into the download core, and what comes out.

use std::{ops::Range, sync::Arc};

use darter_api::{
    HostId, Lengths, Origin, PieceIndex, PieceSet, SchedulerName, TaskId,
    link::LinkMessage,
    session::{LeaseEnd, Neighbour, PeerMessage, Purpose, SchedulerMessage},
};

/// One request of one piece from one parent. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// One client's response that wants bytes in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReaderId(pub u64);

/// Why a piece did not come from a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceFailure {
    /// All its upload slots are taken (503).
    Busy,
    /// It does not hold the piece any more (404).
    NotHeld,
    /// It can't be reached, or the connection broke.
    Unreachable,
    /// No byte came in time; the driver enforces the request's stall limit.
    Stalled,
    /// Bytes or proof failed their check.
    Rot,
    /// The own store could not take it.
    Store,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody on this host wants a task: begin, or go on with, its download.
    Start {
        /// The task.
        task: TaskId,
        /// Its geometry.
        lengths: Lengths,
        /// Where it can be read.
        origin: Origin,
        /// What is on disk already.
        held: PieceSet,
        /// Why.
        purpose: Purpose,
    },
    /// A reader's next piece; sent when it appears and whenever it moves on.
    Reader {
        /// The task.
        task: TaskId,
        /// Which reader.
        reader: ReaderId,
        /// The piece it waits for, and one past the last it wants.
        wants: Range<u32>,
    },
    /// A reader ended or left.
    ReaderGone {
        /// The task.
        task: TaskId,
        /// Which reader.
        reader: ReaderId,
    },
    /// Nobody on this host wants it any more.
    Stop {
        /// The task.
        task: TaskId,
    },
    /// A manifest was served whose contents will be wanted soon.
    Interest {
        /// The tasks.
        tasks: Vec<(TaskId, Lengths)>,
        /// Where they can be read.
        origin: Origin,
    },
    /// The store holds this, whole or in part, and nobody wants the rest: found at
    /// start, or stored without the swarm.
    Stored {
        /// The task.
        task: TaskId,
        /// Its geometry.
        lengths: Lengths,
        /// The verified pieces.
        held: PieceSet,
        /// Where it can be read, if known.
        origin: Option<Origin>,
    },
    /// The store dropped these.
    Evicted {
        /// The tasks.
        tasks: Vec<TaskId>,
    },

    /// These are the schedulers from now on.
    Schedulers {
        /// All of them, in any order.
        names: Vec<SchedulerName>,
        /// Whether sessions stand only while something goes on; else all stand all the time.
        on_demand: bool,
    },
    /// A session that was wanted stands (its hello is accepted). The core answers with its
    /// inventory and its joins.
    SessionUp(SchedulerName),
    /// A session that stood ended; it is made again.
    SessionDown(SchedulerName),
    /// Nobody listens where a scheduler should be; it is tried again.
    SessionRefused(SchedulerName),
    /// A scheduler spoke.
    Session(SchedulerName, SchedulerMessage),
    /// Something that is not the core's own for the scheduler whose business it is.
    Say(PeerMessage),

    /// The link to a neighbour stands.
    LinkUp(HostId),
    /// The link broke or could not be made.
    LinkDown(HostId),
    /// The neighbour spoke.
    Link {
        /// Who.
        host: HostId,
        /// What.
        message: LinkMessage,
    },

    /// The first bytes of a requested piece arrived.
    PieceBegun(RequestId),
    /// A requested piece is verified and on disk.
    PieceStored(RequestId),
    /// A requested piece will not come.
    PieceFailed {
        /// Which request.
        request: RequestId,
        /// Why.
        failure: PieceFailure,
    },

    /// The source's first byte arrived.
    SourceFirstByte {
        /// The task.
        task: TaskId,
        /// Whether the source serves ranges.
        ranges: bool,
    },
    /// A piece was read from the source, stated and stored.
    SourcePiece {
        /// The task.
        task: TaskId,
        /// The piece.
        piece: PieceIndex,
    },
    /// It turned out where a content ends whose size was not known when it began.
    Ends {
        /// The task.
        task: TaskId,
        /// The first piece that is not there any more: whoever knows that holds it and all
        /// behind it.
        past: PieceIndex,
    },
    /// Reading the source ended without the rest of its pieces, after all retries.
    SourceFailed {
        /// The task.
        task: TaskId,
        /// Why.
        why: LeaseEnd,
    },

    /// The blob matched its digest and is committed.
    Committed {
        /// The task.
        task: TaskId,
    },
    /// The blob failed its digest: these pieces (all, where it is not known which) are no
    /// longer held and are to be read again from the source.
    Corrupt {
        /// The task.
        task: TaskId,
        /// The pieces taken back.
        pieces: PieceSet,
    },
}

/// Whose word makes a read of the source count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    /// A scheduler's grant.
    Granted(Arc<darter_api::Grant>),
    /// The host's own: the driver signs a self-lease.
    Own,
}

/// Why a download is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownloadFailure {
    /// Neither a peer nor the source can give what is missing.
    Source(LeaseEnd),
    /// The cluster's rules forbid it.
    Forbidden,
    /// It failed its digest more often than is worth trying.
    Corrupt,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Tell a scheduler.
    Session(SchedulerName, PeerMessage),
    /// Have a session with a scheduler, and make it again whenever it ends:
    /// [`Event::SessionUp`], [`Event::SessionDown`] and [`Event::SessionRefused`] tell of it.
    Open(SchedulerName),
    /// End the session once all is said; no event of it follows.
    Close(SchedulerName),
    /// Have a link to this neighbour: [`Event::LinkUp`] or [`Event::LinkDown`] follows.
    Dial(Neighbour),
    /// The link is not needed any more.
    HangUp(HostId),
    /// Tell a neighbour.
    Link {
        /// Whom.
        host: HostId,
        /// What.
        message: LinkMessage,
    },
    /// Ask a parent for a piece. Exactly one of [`Event::PieceStored`] and
    /// [`Event::PieceFailed`] follows, unless it is cancelled.
    Request {
        /// Comes back in the events.
        request: RequestId,
        /// The parent.
        host: HostId,
        /// The task.
        task: TaskId,
        /// Its geometry.
        lengths: Lengths,
        /// The piece.
        piece: PieceIndex,
        /// Give up as stalled when no byte arrives for so long.
        stall_after: std::time::Duration,
    },
    /// Forget a request; no event of it follows.
    Cancel(RequestId),
    /// Read these pieces from the source, in order, over one long stream. A second command for
    /// the same task replaces the first one's pieces; earlier authorities go on to count
    /// for what they cover, and the stream goes on where it can.
    ReadSource {
        /// The task.
        task: TaskId,
        /// Its geometry.
        lengths: Lengths,
        /// Where.
        origin: Origin,
        /// Which pieces, those already on disk left out.
        pieces: PieceSet,
        /// Whose word makes it count.
        authority: Authority,
    },
    /// Stop reading the source for this task.
    StopSource {
        /// The task.
        task: TaskId,
    },
    /// All pieces are on disk: check the digest and commit.
    /// [`Event::Committed`] or [`Event::Corrupt`] follows.
    Complete {
        /// The task.
        task: TaskId,
    },
    /// Give up: its readers' bodies end short.
    Fail {
        /// The task.
        task: TaskId,
        /// Why.
        why: DownloadFailure,
    },
    /// The scheduler asks for this download; the driver opens it as its own reader and
    /// feeds [`Event::Start`].
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
    /// What a scheduler had this seed fetch is waited for by nobody any more: what holds it for
    /// the scheduler's sake lets it go.
    Forsaken {
        /// The task.
        task: TaskId,
    },
    /// The answer to a lookup.
    Found {
        /// The lookup's id.
        id: u64,
        /// The observation, if any host has one.
        observation: Option<darter_api::session::Observation>,
    },
    /// Grants by these keys count from now on.
    Trust(Vec<HostId>),
}
