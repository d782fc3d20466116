//! What two peers say to each other over their link: availability, never bytes.
//!
//! One stream a pair of hosts, for all tasks.

use crate::{lengths::Lengths, origin::Origin, pieces::PieceSet, proof::Grant, task::TaskId};

/// From a peer to a neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkMessage {
    /// Tell me what you have of this task, now and as it grows, until I unsubscribe. Once more
    /// for the same task: the same, and all that is held again.
    Subscribe {
        /// The task.
        task: TaskId,
        /// The geometry I know; a mismatch is answered by nothing.
        lengths: Lengths,
        /// Whether somebody waits for it here, a client or a preheat: who reads it only because
        /// others want it, or has it and gives it out, keeps nobody else reading. Peers of a
        /// version that did not tell count as waiting.
        waits: bool,
    },
    /// I no longer want to hear of it.
    Unsubscribe {
        /// The task.
        task: TaskId,
    },
    /// Ask me for these: all that is held after a subscribe, then batches (at most
    /// every 20 ms). Additive.
    Have {
        /// The task.
        task: TaskId,
        /// The pieces, verified and on disk.
        pieces: PieceSet,
    },
    /// Don't ask me for these any more (evicted, or disputed).
    Lost {
        /// The task.
        task: TaskId,
        /// The pieces.
        pieces: PieceSet,
    },
    /// I am reading these from the source; wait for my `have`. Replaces the last one.
    Reading {
        /// The task.
        task: TaskId,
        /// The pieces; empty when I read nothing.
        pieces: PieceSet,
    },
}

impl LinkMessage {
    /// The task it is about.
    pub const fn task(&self) -> &TaskId {
        match self {
            Self::Subscribe { task, .. }
            | Self::Unsubscribe { task }
            | Self::Have { task, .. }
            | Self::Lost { task, .. }
            | Self::Reading { task, .. } => task,
        }
    }
}

/// What goes with a request for groups of a content that is read in small parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// Where the content can be read.
    pub origin: Origin,
    /// The right of the host that is asked to read it there.
    pub grant: Grant,
}
