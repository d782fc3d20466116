//! Reading a source: one long stream cut into pieces.
//!
//! Owner of state: a run owns its place in the content; a thread of its own writes, hashes
//! and seals, so that the network is read while the disk is written. Invariants: bytes are
//! shown to readers only after they were written; a piece is sealed only when all its
//! bytes came in this run, under a grant that covers it. Failure: a stream that breaks or
//! ends early is asked for again from the next byte on, with growing pauses that begin
//! anew whenever the content grew; what can't be repaired ends the run with a reason. Where
//! nobody knows the size a stream that ends is the content's end if the digest of all bytes says
//! so, or, where not all of them are here, if it ends there again; else it was cut. If all are here
//! and it ends there again, or before what is here, something of that is wrong: it is taken back.

use std::{io, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use darter_api::{
    Digest, End, Grant, Lengths, NodeKey, PieceIndex, PieceSet, READ_OVER_BYTES, TaskId,
    session::LeaseEnd,
};
use futures::{FutureExt as _, StreamExt as _, stream::BoxStream};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinError, JoinHandle},
};

use super::{
    Input,
    askers::Askers,
    cutter::{Chunk, Cutter, Ends},
    download::Download,
    metrics::{From, Metrics},
    proven::Proven,
    verify::Verifiers,
};
use crate::{
    limits::{Direction, Limits},
    source::{Body, Read, Source, SourceError},
    store::PrefixHasher,
    swarm::core::event::Event,
};

/// Chunks between the network and the writing thread; at most a few hundred KiB each.
/// When they are full the source is read no faster than the disk is written.
const CHUNKS: usize = 8;
/// No byte for so long: the stream counts as broken.
pub(super) const STALL: Duration = Duration::from_secs(30);
/// Grants remembered by one reading.
const MOST_GRANTS: usize = 16;

/// Asks a source for one client after the other until one is not refused, and passes on what
/// that proves. What has another size than is known is another content.
pub(super) async fn begin(
    source: &dyn Source,
    digest: &Digest,
    range: Option<Range<u64>>,
    size: Option<u64>,
    askers: &Askers,
    proven: &Proven,
) -> Result<Body, SourceError> {
    let begun = askers.ask(|asker| {
        let body = source.read(Read {
            origin: asker.origin.clone(),
            digest: *digest,
            range: range.clone(),
            credential: asker.credential.clone(),
        });
        let (claims, origin) = (proven.claims.clone(), asker.origin.clone());
        let task = TaskId::from(*digest);
        async move {
            let body = body.await?;
            let is_other = |told: u64| size.is_some_and(|size| size != told);
            if body.stat.size.is_some_and(is_other) {
                claims.refute(task, &origin);
                return Err(SourceError::WrongSize);
            }
            Ok(body)
        }
        .boxed()
    });
    let (asker, body) = begun.await?;
    proven.given(&asker.origin, digest, asker.credential.as_ref(), &body);
    Ok(body)
}

/// Where to ask for a range from, to have what lies at `at`. What may end there is asked for with a
/// byte that is known to be: a range of nothing would be refused.
pub(super) const fn range_start(at: u64, has_size: bool) -> u64 {
    if has_size { at } else { at.saturating_sub(1) }
}

/// A body's bytes from `at` on, where the source began before it. One that ends before it was cut:
/// it says nothing of what comes at `at`.
pub(super) fn skip_to(body: Body, at: u64) -> BoxStream<'static, Result<Bytes, SourceError>> {
    let skip = at.saturating_sub(body.offset);
    let late = body.offset > at;
    let skipped =
        futures::stream::unfold((body.stream, skip), move |(mut stream, skip)| async move {
            let Some(item) = stream.next().await else {
                let early = cut("the body ended early");
                return (skip > 0).then(|| (Err(early), (stream, 0)));
            };
            if late {
                let late = SourceError::Protocol("its range begins too late");
                return Some((Err(late), (stream, 0)));
            }
            let over = item
                .as_ref()
                .map_or(skip, |bytes| skip.min(bytes.len() as u64));
            let rest = item.map(|mut bytes| bytes.split_off(over as usize));
            Some((rest, (stream, skip - over)))
        });
    skipped.boxed()
}

/// What is to be read, and whose word makes it count; may change while it is read, and
/// the stream goes on if it can.
#[derive(Debug)]
pub(super) struct Order(Mutex<Ordered>);

#[derive(Debug)]
struct Ordered {
    pieces: PieceSet,
    /// The newest first.
    grants: Vec<Arc<Grant>>,
}

impl Order {
    pub(super) fn new(pieces: PieceSet, grant: Arc<Grant>) -> Self {
        let grants = vec![grant];
        Self(Mutex::new(Ordered { pieces, grants }))
    }

    /// From now on these, by this word. Earlier grants stay for what they covered.
    pub(super) fn change(&self, pieces: PieceSet, grant: Arc<Grant>) {
        let mut ordered = self.0.lock();
        ordered.pieces = pieces;
        ordered.grants.insert(0, grant);
        ordered.grants.truncate(MOST_GRANTS);
    }

    /// The grant that covers a piece.
    pub(super) fn grant(&self, piece: PieceIndex) -> Option<Arc<Grant>> {
        let ordered = self.0.lock();
        let mut grants = ordered.grants.iter();
        grants
            .find(|grant| grant.pieces.contains(&piece.0))
            .cloned()
    }

    fn wants(&self, piece: PieceIndex) -> bool {
        self.0.lock().pieces.contains(piece.0)
    }

    fn read(&self, piece: PieceIndex) {
        self.0.lock().pieces.remove(piece.0);
    }

    /// There is nothing from this piece on.
    fn ends(&self, past: PieceIndex) {
        self.0.lock().pieces.remove_range(past.0..u32::MAX);
    }

    /// The lowest piece still to be read, from `from` on.
    pub(super) fn next(&self, from: u32) -> Option<u32> {
        let ordered = self.0.lock();
        let run = ordered.pieces.runs().iter().find(|run| run.end > from)?;
        Some(run.start.max(from))
    }

    /// The next bytes to ask for: from the first piece on, over small gaps.
    fn next_range(&self, lengths: &Lengths) -> Option<Range<u64>> {
        let ordered = self.0.lock();
        let mut runs = ordered.pieces.runs().iter();
        let first = runs.next()?;
        let (start, mut end) = (first.start, first.end);
        for run in runs {
            let gap = u64::from(run.start - end) * u64::from(lengths.piece_length());
            if gap > READ_OVER_BYTES {
                break;
            }
            end = run.end;
        }
        let start = lengths.piece_range(PieceIndex(start)).start;
        Some(start..lengths.piece_range(PieceIndex(end - 1)).end)
    }
}

/// One reading of pieces of a content from its source.
pub(super) struct SourceRun {
    pub(super) source: Arc<dyn Source>,
    pub(super) proven: Proven,
    pub(super) download: Arc<Download>,
    pub(super) order: Arc<Order>,
    pub(super) key: Arc<NodeKey>,
    pub(super) limits: Limits,
    pub(super) metrics: Metrics,
    pub(super) verifiers: Verifiers,
    pub(super) inbox: mpsc::Sender<Input>,
}

/// Why a run ends before its last piece.
#[derive(Debug)]
pub(super) enum RunError {
    /// The source does not give it.
    Source(LeaseEnd),
    /// The store does not take it.
    Store(io::Error),
    /// What is here is not the beginning of what the source has.
    Refuted,
}

impl SourceRun {
    /// Reads all its pieces. Cancel-safe: dropping it closes the stream, and the thread
    /// ends with what it has.
    pub(super) async fn run(self) -> Result<(), RunError> {
        let _reading = self.download.reading();
        let mut writer = Writer::start(&self);
        self.download.attempts().begin();
        let mut seen = Seen::default();
        while let Some(range) = self.order.next_range(&self.download.lengths) {
            let outcome = self.stream(range, &mut writer, &mut seen).await;
            match outcome {
                Ok(()) => {}
                Err(StreamError::Writer) => break,
                Err(StreamError::Source(error)) => self.pause_after(error).await?,
                Err(StreamError::Refuted) => {
                    // Nothing may be written once it is taken back.
                    writer.finish().await.map_err(RunError::Store)?;
                    return Err(RunError::Refuted);
                }
            }
        }
        writer.finish().await.map_err(RunError::Store)
    }

    /// Reads one range, as far as the source gives it; pieces that came whole leave the
    /// set, and a piece that was cut is gone on with at its next byte.
    async fn stream(
        &self,
        range: Range<u64>,
        writer: &mut Writer,
        seen: &mut Seen,
    ) -> Result<(), StreamError> {
        let lengths = self.download.lengths;
        let at = writer.resume_at(range.start);
        let all = at == 0 && range.end == lengths.size();
        let from = range_start(at, !lengths.is_open());
        self.metrics.source_reads.inc();
        let digest = self.download.task.digest();
        let begun = begin(
            &*self.source,
            digest,
            (!all).then_some(from..range.end),
            // Who said where it ends may have lied.
            self.download.size().filter(|_| !lengths.is_open()),
            &self.download.askers,
            &self.proven,
        );
        let reply = begun.await.map_err(|error| match error {
            // A byte of what is here is past the end there.
            error if lengths.is_open() && error.is_past_the_end() => StreamError::Refuted,
            error => StreamError::Source(error),
        })?;
        self.download
            .learn_media_type(reply.stat.media_type.clone());
        let ranges = reply.ranges;
        // A source without ranges sends all; what may be read of it can still grow.
        let end = if reply.offset == 0 && !ranges {
            lengths.size()
        } else {
            range.end
        };
        let mut body = Counted {
            run: self,
            stream: skip_to(reply, at),
            at,
            end,
        };
        while body.at < end && self.is_worth_going_on(body.at) {
            let mut bytes = match tokio::time::timeout(STALL, body.stream.next()).await {
                Ok(Some(item)) => item.map_err(StreamError::Source)?,
                Ok(None) if lengths.is_open() => {
                    body.end = body.at;
                    return self.ended(body.at, ranges, writer, seen).await;
                }
                Ok(None) => return Err(StreamError::Source(cut("the body ended early"))),
                Err(_) => return Err(StreamError::Source(cut("the body stalled"))),
            };
            if bytes.is_empty() {
                continue;
            }
            let at = body.at;
            bytes.truncate(usize::try_from(end - at).unwrap_or(usize::MAX));
            if !std::mem::replace(&mut seen.first_byte, true) {
                let task = self.download.task;
                let begun = Input::Event(Event::SourceFirstByte { task, ranges });
                let _ = self.inbox.send(begun).await;
            }
            // Nothing more is read until these have passed, so that the source waits.
            self.pass(Direction::Source, bytes.len()).await;
            self.metrics.bytes(From::Source, bytes.len() as u64);
            body.at += bytes.len() as u64;
            self.hand_over(at, bytes, writer).await?;
        }
        if lengths.is_open() && body.at >= lengths.size() {
            let endless = SourceError::Protocol("it is too large");
            return Err(StreamError::Source(endless));
        }
        Ok(())
    }

    /// The stream of a content of untold size ended: so does the content, if that can be. A source
    /// that serves `ranges` is asked a second time where its digest says nothing.
    async fn ended(
        &self,
        size: u64,
        ranges: bool,
        writer: &mut Writer,
        seen: &mut Seen,
    ) -> Result<(), StreamError> {
        let again = seen.doubted.replace(size) == Some(size);
        let ends = writer.end(size, again || !ranges).await;
        if let Some((past, last)) = ends.map_err(|Closed| StreamError::Writer)? {
            self.order.ends(last.unwrap_or(past));
            return Ok(());
        }
        let is_here = self.download.prefix() >= size;
        if is_here || again {
            self.download.doubt();
        }
        if !again {
            return Err(StreamError::Source(cut("the body ended early")));
        }
        if is_here {
            return Err(StreamError::Refuted);
        }
        let wrong = SourceError::Protocol("it ends elsewhere than was said");
        Err(StreamError::Source(wrong))
    }

    async fn pass(&self, direction: Direction, bytes: usize) {
        let class = self.download.class();
        self.limits.pass(direction, class, bytes as u64).await;
    }

    /// Whether the stream will soon come to a piece that is still to be read.
    fn is_worth_going_on(&self, at: u64) -> bool {
        let lengths = &self.download.lengths;
        let here = lengths.piece_at(at).map_or(u32::MAX, |piece| piece.0);
        self.order.next(here).is_some_and(|next| {
            let start = lengths.piece_range(PieceIndex(next)).start;
            start.saturating_sub(at) <= READ_OVER_BYTES
        })
    }

    /// Gives the writer the bytes of pieces that are still to be read.
    async fn hand_over(
        &self,
        mut at: u64,
        mut bytes: Bytes,
        writer: &mut Writer,
    ) -> Result<(), StreamError> {
        let lengths = self.download.lengths;
        while !bytes.is_empty() {
            let Some(piece) = lengths.piece_at(at) else {
                break;
            };
            let range = lengths.piece_range(piece);
            let part = bytes.split_to(bytes.len().min((range.end - at) as usize));
            let end = at + part.len() as u64;
            if self.order.wants(piece) {
                if at == range.start && self.download.holds(piece) {
                    // Whoever brought it may have been cut off before the core heard of it.
                    let task = self.download.task;
                    let read = Input::Event(Event::SourcePiece { task, piece });
                    let _ = self.inbox.send(read).await;
                    self.order.read(piece);
                } else {
                    let chunk = Chunk {
                        offset: at,
                        bytes: part,
                    };
                    self.pass(Direction::Disk, chunk.bytes.len()).await;
                    writer
                        .put(chunk)
                        .await
                        .map_err(|Closed| StreamError::Writer)?;
                    if end == range.end {
                        self.order.read(piece);
                    }
                }
            }
            at = end;
        }
        Ok(())
    }

    /// Waits before the next attempt, or ends the run.
    async fn pause_after(&self, error: SourceError) -> Result<(), RunError> {
        let retryable = error.is_retryable();
        let end = lease_end(&error);
        let asked = error.asks_for();
        tracing::debug!(task = %self.download.task, %error, "reading the source was interrupted");
        self.download.source_failed(Arc::new(error));
        let growths = self.download.growths();
        let pause = self.download.attempts().next_pause(growths, asked);
        let pause = pause.filter(|_| retryable);
        let Some(pause) = pause else {
            return Err(RunError::Source(end));
        };
        self.metrics.source_resumes.inc();
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// What a run has seen so far.
#[derive(Default)]
struct Seen {
    first_byte: bool,
    /// Where a content of untold size ended, which its digest did not say, or not yet.
    doubted: Option<u64>,
}

/// A body, from `at` on. Whoever drops it before its end loses what is on its way: up to all that
/// the socket has room for, which the source has sent all the same.
struct Counted<'a> {
    run: &'a SourceRun,
    stream: BoxStream<'static, Result<Bytes, SourceError>>,
    at: u64,
    end: u64,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if self.at < self.end {
            self.run.metrics.source_cuts.inc();
            let (task, at, end) = (self.run.download.task, self.at, self.end);
            tracing::debug!(%task, at, end, "a reading of the source is left before its end");
        }
    }
}

/// What a body that does not come whole amounts to.
pub(super) fn cut(what: &'static str) -> SourceError {
    SourceError::broken(what, io::Error::from(io::ErrorKind::UnexpectedEof))
}

/// What a scheduler is told of an error.
pub(super) fn lease_end(error: &SourceError) -> LeaseEnd {
    match error {
        SourceError::Refused(_) | SourceError::Forbidden => LeaseEnd::Refused,
        error if error.is_missing() => LeaseEnd::Missing,
        SourceError::WrongSize => LeaseEnd::WrongSize,
        _ => LeaseEnd::Unreachable,
    }
}

enum StreamError {
    Source(SourceError),
    /// The writing thread ended; its own result says why.
    Writer,
    /// See [`RunError::Refuted`].
    Refuted,
}

struct Closed;

/// States where a content ends, unless the digest of all that came says otherwise. Where not all of
/// it is here, only what is `sure`.
fn end(
    download: &Download,
    cutter: &mut Cutter,
    size: u64,
    sure: bool,
) -> io::Result<Option<Ends>> {
    if End::piece_of(size).is_none() {
        return Ok(None);
    }
    let checked = download.prefix() >= size;
    if checked {
        let mut hasher = download.verifier.known();
        if hasher.position() > size {
            // Somebody gave more than there is.
            hasher = PrefixHasher::new(&download.task);
        }
        hasher.advance(&download.partial, size)?;
        if hasher.finish() != *download.task.digest() {
            return Ok(None);
        }
    } else if !sure {
        return Ok(None);
    }
    cutter.end(size, checked)
}

/// What the writing thread is to do.
enum Work {
    Write(Chunk),
    /// All came, up to this byte: says where the content ends, unless its digest says otherwise;
    /// whether that is sure where the digest says nothing.
    End(u64, bool, oneshot::Sender<Option<Ends>>),
}

/// The thread that writes.
struct Writer {
    chunks: mpsc::Sender<Work>,
    thread: JoinHandle<Result<io::Result<()>, JoinError>>,
    lengths: Lengths,
    /// Where the last chunk ended.
    at: u64,
}

impl Writer {
    fn start(run: &SourceRun) -> Self {
        let (chunks, mut queue) = mpsc::channel::<Work>(CHUNKS);
        let mut cutter = Cutter::new(
            Arc::clone(&run.download),
            Arc::clone(&run.order),
            Arc::clone(&run.key),
            run.limits.clone(),
        );
        let (inbox, verifiers) = (run.inbox.clone(), run.verifiers.clone());
        let (metrics, download) = (run.metrics.clone(), Arc::clone(&run.download));
        let tasks = verifiers.tasks.clone();
        let thread = tokio::task::spawn_blocking(move || {
            let task = download.task;
            let sealed = |piece| {
                metrics.piece(From::Source);
                let read = Input::Event(Event::SourcePiece { task, piece });
                // An actor that is gone needs no news.
                let _ = inbox.blocking_send(read);
            };
            while let Some(work) = queue.blocking_recv() {
                match work {
                    Work::Write(chunk) => {
                        if let Some(piece) = cutter.take(&chunk)? {
                            sealed(piece);
                        }
                    }
                    Work::End(size, sure, answer) => {
                        let end = end(&download, &mut cutter, size, sure)?;
                        if let Some((past, last)) = end {
                            last.into_iter().for_each(sealed);
                            let ends = Input::Event(Event::Ends { task, past });
                            let _ = inbox.blocking_send(ends);
                        }
                        // Who asked may have left.
                        let _ = answer.send(end);
                    }
                }
                verifiers.advance(&download);
            }
            Ok(())
        });
        let thread = tasks.spawn_draining("source writer", thread);
        Self {
            chunks,
            thread,
            lengths: run.download.lengths,
            at: 0,
        }
    }

    /// Where to go on when `start`'s piece was cut before.
    fn resume_at(&self, start: u64) -> u64 {
        let same =
            self.at > start && self.lengths.piece_at(self.at) == self.lengths.piece_at(start);
        if same { self.at } else { start }
    }

    async fn put(&mut self, chunk: Chunk) -> Result<(), Closed> {
        self.at = chunk.offset + chunk.bytes.len() as u64;
        let work = Work::Write(chunk);
        self.chunks.send(work).await.map_err(|_| Closed)
    }

    /// The content ends there, for all that is known: what there is to be said of it, if its digest
    /// does not contradict, and if it is `sure` or the digest says so.
    async fn end(&mut self, size: u64, sure: bool) -> Result<Option<Ends>, Closed> {
        let (answer, answered) = oneshot::channel();
        let work = Work::End(size, sure, answer);
        self.chunks.send(work).await.map_err(|_| Closed)?;
        answered.await.map_err(|_| Closed)
    }

    /// Waits until all is written.
    async fn finish(self) -> io::Result<()> {
        drop(self.chunks);
        let ended = self.thread.await.map_err(io::Error::other)?;
        ended.map_err(io::Error::other)?
    }
}
