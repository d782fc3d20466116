//! What a manager has all hosts do, beside pulls and preheats, and what became of it.
//!
//! A scheduler passes errands and results on and adds only that a host has left or says
//! nothing. Each host speaks for its own store.

use crate::{
    digest::Digest, origin::UpstreamName, pieces::PieceSet, preheat::ImageName, task::TaskId,
};

/// Tasks in one errand at most: all contents of an image.
pub const MOST_TASKS: usize = crate::preheat::MOST_CONTENTS;

/// What hosts are to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Errand {
    /// Say what an image is made of, as far as the own store tells.
    Contents(ImageName),
    /// Drop these, also what is being read; what is being downloaded stays.
    Drop {
        /// Which.
        tasks: Vec<TaskId>,
        /// Not what other images need that are pinned.
        spare: bool,
    },
    /// Forget what a tag stood for.
    ForgetTag(ImageName),
}

/// What a host did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrandResult {
    /// What an image is made of, as far as it knows, itself included.
    Contents(Vec<Digest>),
    /// Places in the errand's list; what is in none was not there.
    Dropped(Dropped),
    /// Nothing is remembered of the tag; the registry as the host's list names it first, if
    /// it is on it.
    Forgotten(Option<UpstreamName>),
    /// It did nothing, for this reason.
    Refused(String),
}

/// What became of each task of an errand, by its place in the list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dropped {
    /// It was here and is not any more.
    pub dropped: PieceSet,
    /// It is being downloaded, and stays.
    pub in_use: PieceSet,
    /// Another image needs it that is pinned.
    pub needed: PieceSet,
}

/// From a scheduler to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrandOrder {
    /// Comes back in the report; never used twice by a scheduler process.
    pub run: u64,
    /// What to do.
    pub errand: Errand,
}

/// From a host to the scheduler that sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrandReport {
    /// The order's.
    pub run: u64,
    /// What became of it.
    pub result: ErrandResult,
}
