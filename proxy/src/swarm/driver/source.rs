//! Reading a source: one long stream cut into pieces.
//!
//! Owner of state: a run owns its place in the content. What came goes to the [`super::writer`].
//! Invariant: a piece is sealed only when all its bytes came in this run, under a grant of its
//! [`super::order`]. Failure: a stream that breaks or
//! ends early is asked for again from the next byte on, with growing pauses that begin
//! anew whenever the content grew; what can't be repaired ends the run with a reason. Where
//! nobody knows the size a stream that ends is the content's end if the digest of all bytes says
//! so, or, where not all of them are here, if it ends there again; else it was cut. If all are here
//! and it ends there again, or before what is here, something of that is wrong: it is taken back.

use std::{io, ops::Range, sync::Arc};

use bytes::Bytes;
use darter_api::{NodeKey, PieceIndex, READ_OVER_BYTES, session::LeaseEnd};
use futures::{StreamExt as _, stream::BoxStream};
use tokio::sync::mpsc;

use super::{
    Input,
    body::{STALL, begin, cut, range_start, skip_to},
    cutter::{Chunk, Cutter},
    download::Download,
    metrics::{From, Metrics},
    order::Order,
    proven::Proven,
    verify::Verifiers,
    writer::{Closed, Writer},
};
use crate::{
    limits::{Direction, Limits},
    source::{Source, SourceError},
    swarm::core::event::Event,
};

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
        let mut writer = self.writer();
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

    fn writer(&self) -> Writer {
        let cutter = Cutter::new(
            Arc::clone(&self.download),
            Arc::clone(&self.order),
            Arc::clone(&self.key),
            self.limits.clone(),
        );
        let download = Arc::clone(&self.download);
        let (inbox, metrics) = (self.inbox.clone(), self.metrics.clone());
        Writer::start(cutter, download, inbox, metrics, self.verifiers.clone())
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
