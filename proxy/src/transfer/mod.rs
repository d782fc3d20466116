//! Moving pieces between peers, and telling who has what.
//!
//! One port: [`server`] answers for pieces over HTTP/1.1 and takes links over gRPC;
//! [`client`] fetches pieces; [`link`] keeps one stream a pair of hosts. Nothing here
//! decides anything: that is the swarm's core.

pub mod client;
pub mod fair;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod grants;
pub mod link;
mod metrics;
mod parents;
pub mod server;
pub mod turns;

use std::ops::Range;

use darter_api::{Lengths, PieceIndex, TaskId};
use serde::{Deserialize, Serialize};

pub use client::{FetchError, Fetched, PieceClient};
pub use link::{LinkEvent, Links};
pub use metrics::Metrics;

/// Bounds of what this host gives to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Pieces sent at the same time. Few, so that pieces arrive one after the other and
    /// can be passed on, instead of all late; enough that connections which begin slowly fill
    /// the uplink together. Default 4.
    pub upload_slots: usize,
    /// Requests that wait for a slot; further ones are told that the host is busy. Few: all
    /// who hear of a new piece ask the one that has it at once, and those who were turned
    /// away get it a moment later from those who were not. Default 4.
    pub upload_queue: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            upload_slots: 4,
            upload_queue: 4,
        }
    }
}

/// Says that nobody waits for the piece yet; value [`PREHEAT`].
pub(crate) const PURPOSE_HEADER: &str = "darter-purpose";
/// See [`PURPOSE_HEADER`].
pub(crate) const PREHEAT: &str = "preheat";
/// Names the requester, so that uploads are shared fairly between children.
pub(crate) const HOST_HEADER: &str = "darter-host";
/// The media type of a manifest.
pub(crate) const MEDIA_TYPE_HEADER: &str = "darter-media-type";
/// By whose leave groups are asked for, and where the content can be read: an
/// [`Excerpt`](darter_api::link::Excerpt) in Base64.
pub(crate) const EXCERPT_HEADER: &str = "darter-excerpt";
/// A proof is a few hundred bytes.
pub(crate) const MAX_PROOF_BYTES: usize = 4096;

/// Path and query of a piece.
pub(crate) fn piece_path(task: &TaskId, index: PieceIndex, lengths: &Lengths) -> String {
    format!("/v1/tasks/{task}/pieces/{index}?size={}", lengths.size())
}

/// Path and query of a run of groups, counted from the content's beginning.
pub(crate) fn groups_path(task: &TaskId, groups: &Range<u32>) -> String {
    let (first, count) = (groups.start, groups.len());
    format!("/v1/tasks/{task}/groups/{first}?count={count}")
}

#[cfg(test)]
mod tests;
