//! What the core knows: tasks, downloads, neighbours, requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    ops::Range,
    sync::Arc,
    time::Duration,
};

use darter_api::{
    Grant, HostId, Lengths, Origin, PieceSet, SchedulerName, TaskId, Timestamp, session::Purpose,
};

use super::{
    bits::Bits,
    event::{ReaderId, RequestId},
    offers::Offers,
    open::Open,
    reads::Reads,
    reports::Tally,
};

/// The children of what a scheduler had this seed fetch come within this, or never.
const CHILDREN_WITHIN: Duration = Duration::from_secs(10);

/// A task of which this host holds, or wants, something.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) lengths: Lengths,
    pub(super) origin: Option<Origin>,
    pub(super) held: PieceSet,
    /// What is read from the source right now.
    pub(super) reading: PieceSet,
    pub(super) download: Option<Download>,
    pub(super) announcer: Announcer,
    /// The scheduler that has it, and the one that was last told of it.
    pub(super) home: Option<SchedulerName>,
    pub(super) told: Option<SchedulerName>,
}

impl Task {
    pub(super) fn new(lengths: Lengths, home: Option<SchedulerName>) -> Self {
        Self {
            home,
            told: None,
            lengths,
            origin: None,
            held: PieceSet::new(),
            reading: PieceSet::new(),
            download: None,
            announcer: Announcer::default(),
        }
    }
}

/// The wanted part of a task.
#[derive(Debug)]
pub(super) struct Download {
    pub(super) purpose: Purpose,
    /// Earlier ones have lower places.
    pub(super) place: u64,
    /// Nobody on the host wants it any more, but children do.
    pub(super) abandoned: Option<Timestamp>,
    /// Of what a scheduler had this seed fetch: since when no neighbour waits for it. `None`
    /// once the driver was told that nobody does.
    pub(super) unwaited: Option<Timestamp>,
    /// A client of this host has read it.
    pub(super) has_clients: bool,
    pub(super) readers: BTreeMap<ReaderId, Range<u32>>,
    pub(super) in_flight: BTreeMap<u32, Vec<RequestId>>,
    pub(super) available: BTreeMap<HostId, Bits>,
    pub(super) read_by: BTreeMap<HostId, PieceSet>,
    /// Hosts not to be asked before a time.
    pub(super) avoided: BTreeMap<HostId, Timestamp>,
    /// Requests that stalled or did not reach their parent, since one of its came.
    pub(super) failures: BTreeMap<HostId, u32>,
    pub(super) lease: Lease,
    /// The own lease was taken because a live scheduler had not answered the join: at its
    /// first word it ends.
    pub(super) unanswered: bool,
    /// When it ends, unless a grant comes first.
    pub(super) yields: Option<Timestamp>,
    /// When it last got another scheduler, or the same one anew.
    pub(super) moved: Option<Timestamp>,
    /// When the join was sent, and whether it was answered.
    pub(super) joined: Option<Timestamp>,
    pub(super) answered: bool,
    /// When to stop waiting for an answer.
    pub(super) answer_by: Timestamp,
    pub(super) last_gain: Timestamp,
    /// When a neighbour last announced something that was missing here.
    pub(super) last_news: Timestamp,
    /// When the scheduler last said something about the task's neighbours.
    pub(super) last_word: Timestamp,
    /// Spreads what many hosts would otherwise do at the same moment.
    pub(super) jitter: Duration,
    pub(super) last_progress: Timestamp,
    /// What the scheduler was told then.
    pub(super) told: PieceSet,
    pub(super) last_starved: Timestamp,
    pub(super) completing: bool,
    pub(super) corrupted: u32,
    /// The own read of the source failed with this.
    pub(super) failed: Option<(darter_api::session::LeaseEnd, Timestamp)>,
}

/// The right to read the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lease {
    None,
    Granted(Arc<Grant>),
    Own,
}

impl Download {
    pub(super) fn new(now: Timestamp, purpose: Purpose, place: u64, jitter: Duration) -> Self {
        Self {
            purpose,
            place,
            abandoned: None,
            unwaited: Some(now + CHILDREN_WITHIN),
            has_clients: false,
            readers: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            available: BTreeMap::new(),
            read_by: BTreeMap::new(),
            avoided: BTreeMap::new(),
            failures: BTreeMap::new(),
            lease: Lease::None,
            unanswered: false,
            yields: None,
            moved: None,
            joined: None,
            answered: false,
            answer_by: now,
            last_gain: now,
            last_news: now,
            last_word: now,
            jitter,
            last_progress: now,
            told: PieceSet::new(),
            last_starved: now,
            completing: false,
            corrupted: 0,
            failed: None,
        }
    }

    /// A scheduler has this seed fetch it: its children are waited for anew.
    pub(super) fn asked_for(&mut self, now: Timestamp) {
        self.unwaited = Some(now + CHILDREN_WITHIN);
    }

    /// Whether a scheduler had this seed fetch it, and nobody waits for it any more.
    pub(super) fn is_forsaken(&self) -> bool {
        self.purpose == Purpose::Seed && self.unwaited.is_none()
    }

    /// Whether somebody waits for it here, and not only others elsewhere.
    pub(super) fn waits(&self) -> bool {
        self.abandoned.is_none() && (self.has_clients || self.purpose != Purpose::Seed)
    }

    /// Whether no neighbour has told anything of the task.
    pub(super) fn is_alone(&self) -> bool {
        self.available.is_empty() && self.read_by.is_empty()
    }

    /// For how long nothing has come, and no neighbour had anything new.
    pub(super) fn quiet(&self, now: Timestamp) -> Duration {
        now.since(self.last_gain.max(self.last_news))
    }

    /// Nobody waits for it yet.
    pub(super) fn is_ahead(&self) -> bool {
        self.purpose == Purpose::Preheat && self.readers.is_empty()
    }

    /// Whether its pieces made another content: neighbours' word counts for nothing then, and
    /// only the source is asked.
    pub(super) const fn is_disputed(&self) -> bool {
        self.corrupted > 0
    }

    /// Those that no neighbour holds or is reading.
    pub(super) fn unpromised(&self, pieces: &PieceSet) -> PieceSet {
        let mut rest = Bits::from(pieces);
        for set in self.available.values() {
            rest.subtract_bits(set);
        }
        for set in self.read_by.values() {
            rest.subtract(set);
        }
        rest.to_pieces()
    }
}

/// Who is told what of a task's pieces, and when.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    pub(super) subscribers: BTreeMap<HostId, Subscriber>,
    /// Pieces that are given out one by one.
    pub(super) offers: Offers,
    /// Pieces that came from peers and are announced once the others are given out.
    pub(super) later: PieceSet,
    /// Since when there are any.
    pub(super) later_since: Option<Timestamp>,
}

#[derive(Debug, Default)]
pub(super) struct Subscriber {
    /// Somebody waits for the task there.
    pub(super) waits: bool,
    /// It gives pieces out one by one itself: it reads the source, or has read it.
    pub(super) gives: bool,
    /// What the next batch tells it.
    pub(super) pending: Bits,
    /// What it was told of, or will be.
    pub(super) told: Bits,
    /// What it has announced itself.
    pub(super) known: Bits,
    /// Offers in a row that it did not take up.
    pub(super) ignored: u32,
}

/// Another host.
#[derive(Debug, Default)]
pub(super) struct Neighbourhood {
    pub(super) up: bool,
    pub(super) dialled: bool,
    /// Tasks for which the scheduler introduced it.
    pub(super) tasks: BTreeSet<TaskId>,
    /// Those of them that it subscribed to sooner than the scheduler introduced it: it was
    /// subscribed to in turn.
    pub(super) ahead: BTreeSet<TaskId>,
    pub(super) in_flight: u32,
    /// How long a piece takes there, as far as is known.
    pub(super) service: Option<Duration>,
    pub(super) info: Option<darter_api::session::Neighbour>,
    pub(super) redial_at: Option<Timestamp>,
    /// When something last went on over its link.
    pub(super) used: Timestamp,
    /// When it last said or gave anything.
    pub(super) heard: Timestamp,
    pub(super) failures: u32,
    /// What the scheduler is told next.
    pub(super) tally: Option<Tally>,
}

/// A piece asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) task: TaskId,
    pub(super) piece: u32,
    pub(super) host: HostId,
    pub(super) since: Timestamp,
    /// Requests to the host then, this one among them.
    pub(super) depth: u32,
    pub(super) begun: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) tasks: BTreeMap<TaskId, Task>,
    /// Tasks with something to do: a download, or pieces to announce.
    pub(super) busy: BTreeSet<TaskId>,
    pub(super) hosts: BTreeMap<HostId, Neighbourhood>,
    /// Whether one of them may have to be dialled again.
    pub(super) redials: bool,
    /// When it is looked for links that are idle.
    pub(super) links_due: Option<Timestamp>,
    /// Who wants to hear of tasks that are not known here yet, and whether somebody waits there.
    pub(super) early: BTreeMap<TaskId, BTreeMap<HostId, bool>>,
    /// Grants for tasks whose download has not been opened yet.
    pub(super) granted: BTreeMap<TaskId, (Vec<Arc<Grant>>, Timestamp)>,
    pub(super) requests: BTreeMap<RequestId, Request>,
    pub(super) reads: Reads,
    /// Offers that are open, of all tasks.
    pub(super) open_offers: Open,
    /// Tasks with pieces that wait for their first offer.
    pub(super) unoffered: BTreeSet<TaskId>,
    /// Whether there may be something to tell with the next batch.
    pub(super) untold: bool,
}

impl State {
    /// The next one that waits for offers, in order.
    pub(super) fn unoffered_after(&self, last: Option<TaskId>) -> Option<TaskId> {
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.unoffered.range((after, Bound::Unbounded));
        rest.next().copied()
    }
}
