//! How far a download is, and who waits for it to get on.
//!
//! Owner of state: [`Growth`], under its download's one short lock, wakes those watches that wait
//! for what came. Invariants: bytes in `readable` are on disk and are either verified or the
//! source's own; the content's last [`GROUP_BYTES`] are shown to readers only once its whole
//! digest matched. As long as that has not told where it ends, any bytes may be its last, whoever
//! says otherwise.

use std::{collections::HashMap, ops::Range, sync::Arc, time::Instant};

use darter_api::{GROUP_BYTES, PieceSet};
use tokio::sync::Notify;

use super::{download::Download, runs::ByteRuns};
use crate::{content::ReadError, source::SourceError};

/// How far it is.
pub(super) struct Growth {
    /// The content's, as far as anybody said.
    pub(super) stated: Option<u64>,
    /// Its size was not known when it began: what is `stated` counts once the digest matched.
    pub(super) is_open: bool,
    pub(super) readable: ByteRuns,
    pub(super) held: PieceSet,
    pub(super) verdict: Verdict,
    /// Grows when bytes that could be read were taken back.
    pub(super) round: u32,
    pub(super) end: Option<ReadError>,
    /// Committed, or not to be.
    pub(super) settled: bool,
    pub(super) through: bool,
    pub(super) media_type: Option<String>,
    pub(super) source_error: Option<Arc<SourceError>>,
    /// How often it had grown when its source last ended it where that can't be.
    pub(super) doubted: Option<u64>,
    pub(super) grown: Option<Instant>,
    /// How often bytes came that were not there before.
    pub(super) growths: u64,
    pub(super) readings: usize,
    /// A source has been read, and may have written over what is there.
    pub(super) was_read: bool,
    pub(super) watches: HashMap<u64, Place>,
    pub(super) next_watch: u64,
}

/// Where a watch waits.
pub(super) struct Place {
    /// The byte that it lacks; none, if it waits for the end alone.
    pub(super) at: Option<u64>,
    pub(super) wake: Arc<Notify>,
}

impl Growth {
    /// These bytes can be read, if they could not before.
    pub(super) fn grow(&mut self, bytes: Range<u64>) {
        if !self.readable.insert(bytes.clone()) {
            return;
        }
        self.grown = Some(Instant::now());
        self.growths += 1;
        for place in self.watches.values() {
            // Without an end, what comes shows that what came before is not the last of it.
            if place
                .at
                .is_some_and(|at| self.size().is_none() || bytes.contains(&at))
            {
                place.wake.notify_one();
            }
        }
    }

    /// Bytes of the content, once that is known for sure.
    pub(super) fn size(&self) -> Option<u64> {
        let is_sure = !self.is_open || self.verdict == Verdict::Good;
        self.stated.filter(|_| is_sure)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.settled || self.end.is_some() || self.through
    }

    /// Something changed that concerns everybody.
    pub(super) fn wake_all(&self) {
        for place in self.watches.values() {
            place.wake.notify_one();
        }
    }

    /// What a reader at `at` can do.
    fn view(&self, at: u64) -> View {
        let known = self.size();
        let shown = match (known, self.verdict) {
            (Some(size), Verdict::Good) => size,
            (Some(size), _) => size.saturating_sub(GROUP_BYTES),
            (None, _) => {
                let end = self.readable.end().min(self.stated.unwrap_or(u64::MAX));
                end.saturating_sub(GROUP_BYTES)
            }
        };
        let until = self.readable.end_of_run(at).min(shown);
        if until > at {
            View::Until(until)
        } else if let Some(size) = known.filter(|size| at >= *size) {
            View::Over(size)
        } else if self.through {
            View::Through
        } else if let Some(end) = &self.end {
            View::Ended(end.clone())
        } else {
            View::Wait
        }
    }
}

/// Somebody who waits for a download to get on, until dropped.
pub(super) struct Watch {
    pub(super) download: Arc<Download>,
    pub(super) id: u64,
    pub(super) wake: Arc<Notify>,
}

impl Watch {
    /// What a reader at `at` can do, in this round; [`Watch::changed`] ends when that has changed.
    pub(super) fn view(&self, at: u64) -> (View, u32) {
        let mut growth = self.download.growth.lock();
        if let Some(place) = growth.watches.get_mut(&self.id) {
            place.at = Some(at);
        }
        (growth.view(at), growth.round)
    }

    /// Waits for a change, also for one since the last wait. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.download.growth.lock().watches.remove(&self.id);
    }
}

/// What the content's own digest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not all bytes are hashed yet.
    Pending,
    /// It matches.
    Good,
    /// It does not.
    Bad,
}

/// What a reader at some place can do.
#[derive(Debug)]
pub(super) enum View {
    /// Read up to here.
    Until(u64),
    /// Nothing: the content has so many bytes, for sure.
    Over(u64),
    /// Wait for a change.
    Wait,
    /// The store can't take more: read on from the source itself.
    Through,
    /// It is over.
    Ended(ReadError),
}
