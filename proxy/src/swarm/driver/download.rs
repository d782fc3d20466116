//! What a download's workers and readers share.
//!
//! Owner of state: nobody alone; [`Growth`] says which bytes can be read, and [`Waits`] who waits.
//! Failure: an ended download stays ended; who wants the content again opens a new one.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use darter_api::{End, Lengths, Origin, PieceIndex, PieceSet, TaskId, session::Purpose};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::{
    askers::Askers,
    attempts::Attempts,
    growth::{Growth, Place, Verdict, Watch},
    runs::ByteRuns,
    signers::Signers,
    turns::Turns,
    verify::Verifier,
    waits::{Waiter, Waits},
};
use crate::{
    content::{Progress, ReadError},
    limits::Class,
    source::SourceError,
    store::Partial,
};

/// See [`is_recent`].
const RECENT: Duration = Duration::from_secs(2);

/// One content being downloaded on this host.
pub(super) struct Download {
    pub(super) task: TaskId,
    pub(super) lengths: Lengths,
    pub(super) origin: Origin,
    pub(super) purpose: Purpose,
    pub(super) partial: Partial,
    pub(super) askers: Arc<Askers>,
    pub(super) verifier: Verifier,
    pub(super) signers: Signers,
    waits: Arc<Waits>,
    pub(super) growth: Mutex<Growth>,
    attempts: Mutex<Attempts>,
    forsaken: Notify,
}

impl Download {
    pub(super) fn new(
        task: TaskId,
        lengths: Lengths,
        origin: Origin,
        purpose: Purpose,
        partial: Partial,
        askers: Arc<Askers>,
        media_type: Option<String>,
    ) -> Self {
        let held = partial.held();
        let size = match lengths.is_open() {
            true => partial.end().map(|end| end.size),
            false => Some(lengths.size()),
        };
        let mut readable = ByteRuns::default();
        for run in held.runs() {
            let bytes = bytes_of(&lengths, run.start..run.end);
            readable.insert(bytes.start..bytes.end.min(size.unwrap_or(u64::MAX)));
        }
        let waits = Waits::new(purpose);
        if held.len() == lengths.pieces() {
            waits.over();
        }
        let growths = u64::from(held.len());
        let growth = Growth {
            stated: size,
            is_open: lengths.is_open(),
            readable,
            held,
            verdict: Verdict::Pending,
            round: 0,
            end: None,
            settled: false,
            through: false,
            media_type,
            source_error: None,
            doubted: None,
            grown: None,
            growths,
            readings: 0,
            was_read: false,
            watches: HashMap::new(),
            next_watch: 0,
        };
        Self {
            task,
            lengths,
            origin,
            purpose,
            partial,
            askers,
            verifier: Verifier::new(&task),
            signers: Signers::default(),
            waits: Arc::new(waits),
            growth: Mutex::new(growth),
            attempts: Mutex::new(Attempts::new()),
            forsaken: Notify::new(),
        }
    }

    /// Somebody joins it: it is as urgent as this at least, until the guard drops.
    pub(super) fn join(&self, purpose: Purpose, turns: &Turns) -> Option<Waiter> {
        self.waits.join(purpose, turns)
    }

    /// Whether somebody waits for it.
    pub(super) fn class(&self) -> Class {
        self.waits.class()
    }

    /// Watches it from now on.
    pub(super) fn watch(self: &Arc<Self>) -> Watch {
        let wake = Arc::<Notify>::default();
        let mut growth = self.growth.lock();
        let id = growth.next_watch;
        growth.next_watch += 1;
        let place = Place {
            at: None,
            wake: Arc::clone(&wake),
        };
        growth.watches.insert(id, place);
        Watch {
            download: Arc::clone(self),
            id,
            wake,
        }
    }

    pub(super) fn round(&self) -> u32 {
        self.growth.lock().round
    }

    pub(super) fn held(&self) -> PieceSet {
        self.growth.lock().held.clone()
    }

    pub(super) fn held_bytes(&self) -> u64 {
        let held = self.held();
        let bytes = held.runs().iter().map(|run| {
            let first = self.piece_range(PieceIndex(run.start));
            first.start..self.piece_range(PieceIndex(run.end - 1)).end
        });
        bytes.map(|bytes| bytes.end - bytes.start).sum()
    }

    /// Bytes of the content, once that is known for sure: told before it began, or by bytes that
    /// match its digest.
    pub(super) fn size(&self) -> Option<u64> {
        self.growth.lock().size()
    }

    /// The same as far as anybody said, who may lie.
    pub(super) fn stated_size(&self) -> Option<u64> {
        self.growth.lock().stated
    }

    /// The bytes of a piece, as far as anybody said: none past the end.
    pub(super) fn piece_range(&self, piece: PieceIndex) -> Range<u64> {
        let whole = self.lengths.piece_range(piece);
        let end = self.stated_size().unwrap_or(u64::MAX);
        whole.start.min(end)..whole.end.min(end)
    }

    /// It ends there, which was not known when it began: what lies past the end is held. Another
    /// end than the one that is known is not taken, but a nearer one of who has `checked` it
    /// against the content's digest: pieces before a farther one would be held that never came.
    /// Whether it ends there now.
    pub(super) fn ends(&self, end: End, checked: bool) -> bool {
        let (past, size) = (end.piece().0..self.lengths.pieces(), end.size);
        {
            let mut growth = self.growth.lock();
            match growth.stated {
                Some(known) if known == size => return true,
                Some(known) if !checked || known < size => return false,
                Some(_) => self
                    .signers
                    .keep_end(&self.partial, &end.proof.grant.holder),
                None => {}
            }
            growth.stated = Some(size);
            growth.held.insert_range(past);
            self.partial.ends(end);
            growth.wake_all();
        }
        if self.is_whole() {
            self.waits.over();
        }
        true
    }

    /// Waits until its size is known for sure, or will not be. Cancel-safe.
    pub(super) async fn sized(self: &Arc<Self>) -> Option<u64> {
        let watch = self.watch();
        loop {
            let size = self.size();
            if size.is_some() || self.growth.lock().is_settled() {
                return size;
            }
            watch.changed().await;
        }
    }

    pub(super) fn holds(&self, piece: PieceIndex) -> bool {
        self.growth.lock().held.contains(piece.0)
    }

    /// One past the last byte of the prefix that is on disk, of what is there by what is said.
    pub(super) fn prefix(&self) -> u64 {
        let growth = self.growth.lock();
        let end = growth.readable.end_of_run(0);
        end.min(growth.stated.unwrap_or(u64::MAX))
    }

    /// These bytes are on disk, and may be shown.
    pub(super) fn readable(&self, bytes: Range<u64>) {
        self.growth.lock().grow(bytes);
    }

    /// This piece is sealed. What its content's digest has proved as it came needs no other look,
    /// unless something else may have been written over it.
    pub(super) fn sealed(&self, piece: PieceIndex, is_proved: bool) {
        {
            let bytes = self.piece_range(piece);
            let mut growth = self.growth.lock();
            growth.held.insert(piece.0);
            growth.grow(bytes);
            if is_proved && !growth.was_read {
                growth.verdict = Verdict::Good;
                growth.wake_all();
            }
        }
        if self.is_whole() {
            self.waits.over();
        }
    }

    /// How often it grew, for [`Attempts`].
    pub(super) fn growths(&self) -> u64 {
        self.growth.lock().growths
    }

    /// The patience that is left with its source.
    pub(super) fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock()
    }

    /// The source is being read, until the guard drops.
    pub(super) fn reading(&self) -> Reading<'_> {
        let mut growth = self.growth.lock();
        growth.readings += 1;
        growth.was_read = true;
        drop(growth);
        Reading(self)
    }

    /// What those who wait may hope for.
    pub(super) fn progress(&self) -> Progress {
        let growth = self.growth.lock();
        if growth.grown.is_some_and(is_recent) {
            Progress::Arriving
        } else if growth.readings > 0 || growth.source_error.is_some() {
            Progress::Nothing
        } else {
            Progress::Peers
        }
    }

    /// These are not held after all; who read them is told that it was wrong.
    pub(super) fn taken_back(&self, pieces: &PieceSet) {
        self.waits.again();
        self.verifier.begin_anew(&self.task);
        let mut growth = self.growth.lock();
        growth.doubted = None;
        growth.held.subtract(pieces);
        for run in pieces.runs() {
            let bytes = bytes_of(&self.lengths, run.start..run.end);
            growth.readable.remove(bytes);
        }
        if self.lengths.is_open() {
            // Who said where it ends may be who lied.
            growth.stated = None;
        }
        growth.round += 1;
        growth.verdict = Verdict::Pending;
        growth.wake_all();
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.growth.lock().verdict
    }

    pub(super) fn judge(&self, verdict: Verdict) {
        let mut growth = self.growth.lock();
        growth.verdict = verdict;
        growth.wake_all();
    }

    /// It is given up; the first reason stands.
    pub(super) fn end(&self, why: ReadError) {
        {
            let mut growth = self.growth.lock();
            growth.end.get_or_insert(why);
            growth.wake_all();
        }
        self.waits.over();
    }

    pub(super) fn ended(&self) -> Option<ReadError> {
        self.growth.lock().end.clone()
    }

    /// The store takes no more: readers go to the source themselves. Whether this was
    /// news.
    pub(super) fn go_through(&self) -> bool {
        let mut growth = self.growth.lock();
        growth.wake_all();
        !std::mem::replace(&mut growth.through, true)
    }

    pub(super) fn goes_through(&self) -> bool {
        self.growth.lock().through
    }

    /// Whether all pieces are on disk; what is left is the verdict.
    pub(super) fn is_whole(&self) -> bool {
        self.growth.lock().held.len() == self.lengths.pieces()
    }

    /// Waits until the digest has spoken, or no verdict will come. Cancel-safe.
    pub(super) async fn judged(self: &Arc<Self>) -> Verdict {
        let watch = self.watch();
        loop {
            let verdict = self.verdict();
            if verdict != Verdict::Pending || self.ended().is_some() || self.goes_through() {
                return verdict;
            }
            watch.changed().await;
        }
    }

    /// No other host waits for it any more.
    pub(super) fn forsake(&self) {
        self.forsaken.notify_waiters();
    }

    /// Waits until no other host does. Cancel-safe.
    pub(super) async fn forsaken(&self) {
        self.forsaken.notified().await;
    }

    /// It is committed, or can't be.
    pub(super) fn settle(&self) {
        let mut growth = self.growth.lock();
        growth.settled = true;
        growth.wake_all();
    }

    /// Waits until the store has it whole, or it is known that it will not. Cancel-safe.
    pub(super) async fn settled(self: &Arc<Self>) {
        let watch = self.watch();
        loop {
            if self.growth.lock().is_settled() {
                return;
            }
            watch.changed().await;
        }
    }

    pub(super) fn media_type(&self) -> Option<String> {
        self.growth.lock().media_type.clone()
    }

    pub(super) fn learn_media_type(&self, media_type: Option<String>) {
        if let Some(media_type) = media_type {
            self.growth.lock().media_type.get_or_insert(media_type);
        }
    }

    /// Its source ended it where that can't be, for all that is here.
    pub(super) fn doubt(&self) {
        let mut growth = self.growth.lock();
        growth.doubted = Some(growth.growths);
    }

    /// Whether that is the last that is known of it.
    pub(super) fn is_doubted(&self) -> bool {
        let growth = self.growth.lock();
        growth.doubted == Some(growth.growths)
    }

    pub(super) fn source_failed(&self, error: Arc<SourceError>) {
        self.growth.lock().source_error = Some(error);
    }

    pub(super) fn source_error(&self) -> Option<Arc<SourceError>> {
        self.growth.lock().source_error.clone()
    }
}

/// Bytes that came so lately are a sign that more will.
fn is_recent(then: Instant) -> bool {
    then.elapsed() < RECENT
}

/// See [`Download::reading`].
pub(super) struct Reading<'a>(&'a Download);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.growth.lock().readings -= 1;
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Download({})", self.task)
    }
}

/// The bytes that a run of pieces covers.
fn bytes_of(lengths: &Lengths, pieces: Range<u32>) -> Range<u64> {
    let first = lengths.piece_range(PieceIndex(pieces.start));
    let last = lengths.piece_range(PieceIndex(pieces.end - 1));
    first.start..last.end
}
