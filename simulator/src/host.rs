//! A peer: the real download core, and what its shell keeps.
//!
//! The shell does what the proxy's driver does: it serves pieces from few slots (the proxy's
//! own [`Turns`]); it gives requests up that stall; it starts a download with its first reader
//! and stops it with its last one.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    time::Duration,
};

use darter_api::{
    HostId, Lengths, PieceSet, TaskId, Timestamp,
    session::{Purpose, Role},
};
use darter_proxy::{
    swarm::core::{
        Node,
        event::{ReaderId, RequestId},
    },
    transfer::turns::Turns,
};

use crate::{
    drain::Drain,
    network::{Place, TransferId},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) role: Role,
    pub(crate) kind: Kind,
    pub(crate) zone: usize,
    /// When its client came.
    pub(crate) began: Option<Timestamp>,
    /// Places of the contents that its client has not begun with, in its order.
    pub(crate) rest: VecDeque<usize>,
    /// Those it has begun with and is not done with.
    pub(crate) reading: BTreeSet<TaskId>,
    pub(crate) node: Node,
    pub(crate) alive: bool,
    /// When the core wants to be woken.
    pub(crate) deadline: Option<Timestamp>,
    /// Its sessions that are wanted, by scheduler.
    pub(crate) lines: BTreeMap<usize, Line>,
    /// How many there have been.
    pub(crate) sessions: u64,
    pub(crate) links: BTreeSet<Place>,
    pub(crate) requests: BTreeMap<RequestId, Asked>,
    /// When requests are next looked at for stalls.
    pub(crate) stall_watch: Option<Timestamp>,
    /// Upload slots, as the proxy has them.
    pub(crate) slots: Turns<Place, Upload>,
    /// When a slot is next lent.
    pub(crate) lends: Option<Timestamp>,
    pub(crate) tasks: BTreeMap<TaskId, Local>,
    pub(crate) next_reader: u64,
    pub(crate) drain: Drain,
}

/// A session that is wanted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Line {
    /// Its number, while there is one.
    pub(crate) session: Option<u64>,
    /// Attempts since the last one.
    pub(crate) tries: u32,
}

impl Host {
    /// The number of the session with a scheduler, while there is one.
    pub(crate) fn session(&self, scheduler: usize) -> Option<u64> {
        self.lines.get(&scheduler)?.session
    }
}

/// What is wrong with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing.
    Healthy,
    /// Its links are slow.
    Slow,
    /// Its links turn slow, and may recover.
    Turns,
    /// What it sends to others fails its check.
    Rotten,
}

/// A piece asked of a parent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) parent: Place,
    pub(crate) task: TaskId,
    pub(crate) piece: u32,
    pub(crate) since: Timestamp,
    pub(crate) last_byte: Timestamp,
    pub(crate) stall_after: Duration,
    pub(crate) begun: bool,
    /// Its bytes, once they flow.
    pub(crate) transfer: Option<TransferId>,
}

/// What a host has of a task.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) lengths: Lengths,
    pub(crate) held: PieceSet,
    pub(crate) readers: BTreeMap<ReaderId, Range<u32>>,
    /// The scheduler asked for it.
    pub(crate) fetching: bool,
    pub(crate) purpose: Purpose,
    /// The core was told to start, and not to stop since.
    pub(crate) started: bool,
    pub(crate) stream: Option<Stream>,
    pub(crate) committed: Option<Timestamp>,
    pub(crate) failed: bool,
}

/// A source being read.
#[derive(Debug, Clone)]
pub(crate) enum Stream {
    /// It was asked; nothing came yet. The number tells it from a later one.
    Asked(u64, PieceSet),
    /// It flows; whether its first byte came.
    Flows(TransferId, bool),
}

/// One piece that a child asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Upload {
    pub(crate) child: Place,
    pub(crate) request: RequestId,
    pub(crate) task: TaskId,
    pub(crate) piece: u32,
}

impl Host {
    /// Its data centre as its hello tells it; nothing where there is only one.
    pub(crate) fn zone_name(&self, zones: usize) -> String {
        if zones > 1 {
            format!("zone {}", self.zone)
        } else {
            String::new()
        }
    }
}

impl Local {
    pub(crate) fn new(lengths: Lengths) -> Self {
        Self {
            lengths,
            held: PieceSet::new(),
            readers: BTreeMap::new(),
            fetching: false,
            purpose: Purpose::Pull,
            started: false,
            stream: None,
            committed: None,
            failed: false,
        }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.held.len() == self.lengths.pieces()
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.fetching || !self.readers.is_empty()
    }
}
