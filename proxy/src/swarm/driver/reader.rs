//! Reading contents: growing ones by tailing their file, whole ones from the store.
//!
//! Owner of state: every stream owns its place. A slow reader holds no buffer but the one
//! it was given last, and blocks nobody. Failure: what was given before an error was right
//! as far as it could be known; bytes found to be wrong afterwards end the stream short.

use std::{io, ops::Range, sync::Arc};

use darter_api::TaskId;
use darter_runtime::server::span::Span;
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};

use super::{
    Shared,
    download::Download,
    growth::{Verdict, View, Watch},
    live::Hold,
    mailbox::Letter,
    metrics::From,
    solo::Held,
    through::{Through, begun},
};
use crate::{
    content::{ReadError, Reader},
    store::Blob,
    swarm::core::event::ReaderId,
};

/// Bytes of a growing file given at once. They were written a moment ago, so that they are
/// in memory.
const TAIL_CHUNK: u64 = 1 << 20;
/// Bytes of a whole file given at once. What of them is not in memory is brought there by a
/// blocking thread.
const STORED_CHUNK: u64 = 1 << 20;
/// Parts of a whole file that are brought into memory ahead of the client.
const READ_AHEAD: usize = 2;

/// Nothing.
pub(super) struct EmptyReader;

impl Reader for EmptyReader {
    fn spans(&self, _: Range<u64>) -> BoxStream<'static, Result<Span, ReadError>> {
        futures::stream::empty().boxed()
    }
}

/// A content that the store holds whole.
pub(super) struct StoredReader {
    pub(super) blob: Blob,
    pub(super) shared: Arc<Shared>,
}

impl Reader for StoredReader {
    fn spans(&self, range: Range<u64>) -> BoxStream<'static, Result<Span, ReadError>> {
        let end = range.end.min(self.blob.size());
        let (blob, metrics) = (self.blob.clone(), self.shared.metrics.clone());
        let starts = (range.start..end).step_by(STORED_CHUNK as usize);
        futures::stream::iter(starts)
            .map(move |start| {
                let (blob, metrics) = (blob.clone(), metrics.clone());
                async move {
                    let wanted = start..(start + STORED_CHUNK).min(end);
                    if !blob.is_cached(&wanted) {
                        let (blob, wanted) = (blob.clone(), wanted.clone());
                        let read = tokio::task::spawn_blocking(move || blob.cache(wanted)).await;
                        read.map_err(io::Error::other)
                            .flatten()
                            .map_err(store_error)?;
                    }
                    metrics.bytes(From::Cache, wanted.end - wanted.start);
                    Ok(Span::File(blob.span(wanted)))
                }
            })
            .buffered(READ_AHEAD)
            .boxed()
    }

    fn is_here(&self) -> bool {
        true
    }
}

/// A content that is read from the source for every reader, without being stored.
pub(super) struct ThroughReader(pub(super) Through);

impl Reader for ThroughReader {
    fn spans(&self, range: Range<u64>) -> BoxStream<'static, Result<Span, ReadError>> {
        self.0.clone().read(range).map_ok(Span::Bytes).boxed()
    }
}

/// A short content that the store did not take, from memory.
pub(super) struct HeldReader(pub(super) Held);

impl Reader for HeldReader {
    fn spans(&self, range: Range<u64>) -> BoxStream<'static, Result<Span, ReadError>> {
        let bytes = &self.0.bytes;
        let at =
            |offset: u64| usize::try_from(offset).map_or(bytes.len(), |at| at.min(bytes.len()));
        let part = bytes.slice(at(range.start)..at(range.end).max(at(range.start)));
        futures::stream::iter([Ok(Span::Bytes(part))]).boxed()
    }

    fn is_here(&self) -> bool {
        true
    }
}

/// A content that grows.
pub(super) struct GrowingReader {
    pub(super) hold: Arc<Hold>,
    pub(super) download: Arc<Download>,
    pub(super) shared: Arc<Shared>,
}

impl Reader for GrowingReader {
    fn spans(&self, range: Range<u64>) -> BoxStream<'static, Result<Span, ReadError>> {
        let end = range.end.min(self.download.size().unwrap_or(u64::MAX));
        let tail = Tail {
            place: Place::new(&self.shared, self.download.task),
            watch: self.download.watch(),
            round: self.download.round(),
            download: Arc::clone(&self.download),
            shared: Arc::clone(&self.shared),
            _hold: Arc::clone(&self.hold),
            at: range.start,
            end,
            given: false,
            through: None,
        };
        futures::stream::unfold(tail, |mut tail| async move {
            let item = tail.next().await?;
            if item.is_err() {
                tail.at = tail.end;
            }
            Some((item, tail))
        })
        .boxed()
    }

    fn is_here(&self) -> bool {
        self.download.verdict() == Verdict::Good && !self.download.goes_through()
    }
}

/// The name with the core of somebody who waits for bytes, for as long as it lives.
pub(super) struct Place {
    shared: Arc<Shared>,
    task: TaskId,
    reader: ReaderId,
    told: Option<Range<u32>>,
}

impl Place {
    pub(super) fn new(shared: &Arc<Shared>, task: TaskId) -> Self {
        shared.metrics.readers.inc();
        Self {
            reader: shared.next_reader(),
            shared: Arc::clone(shared),
            task,
            told: None,
        }
    }

    pub(super) fn tell(&mut self, wants: Range<u32>) {
        if self.told.as_ref() != Some(&wants) {
            self.told = Some(wants.clone());
            self.shared.mailbox.moved(self.task, self.reader, wants);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.metrics.readers.dec();
        let gone = Letter::ReaderGone(self.task, self.reader);
        self.shared.mailbox.put(gone);
    }
}

struct Tail {
    place: Place,
    watch: Watch,
    /// Bytes taken back since are not what was given.
    round: u32,
    download: Arc<Download>,
    shared: Arc<Shared>,
    _hold: Arc<Hold>,
    at: u64,
    /// What was asked for; a content of unknown size may end before it.
    end: u64,
    given: bool,
    through: Option<BoxStream<'static, Result<Span, ReadError>>>,
}

impl Tail {
    async fn next(&mut self) -> Option<Result<Span, ReadError>> {
        loop {
            if self.at >= self.end {
                return None;
            }
            if let Some(through) = &mut self.through {
                let item = through.next().await;
                if let Some(Ok(span)) = &item {
                    self.at += span.len();
                }
                return item;
            }
            let (view, round) = self.watch.view(self.at);
            if round != self.round && self.given {
                return Some(Err(ReadError::Corrupt));
            }
            self.round = round;
            match view {
                View::Until(until) => return Some(Ok(self.take(until))),
                // What was given past its end is not of this content.
                View::Over(size) if self.at > size && self.given => {
                    return Some(Err(ReadError::Corrupt));
                }
                View::Over(_) => return None,
                View::Ended(why) => return Some(Err(why)),
                View::Through => {
                    self.shared.metrics.streamed_through.inc();
                    let through = self.through_source();
                    let begun = begun(&self.download, self.at).await;
                    let read = through.read_on(self.at..self.end, begun);
                    self.through = Some(read.map_ok(Span::Bytes).boxed());
                }
                View::Wait => {
                    self.tell_place();
                    tokio::select! {
                        () = self.watch.changed() => {}
                        () = self.shared.tasks.token().cancelled() => {
                            return Some(Err(ReadError::ShuttingDown));
                        }
                    }
                }
            }
        }
    }

    fn through_source(&self) -> Through {
        let Download { task, askers, .. } = &*self.download;
        let (size, media_type) = (self.download.size(), self.download.media_type());
        self.shared
            .through(*task, size, media_type, Arc::clone(askers))
    }

    fn take(&mut self, until: u64) -> Span {
        let until = until.min(self.end).min(self.at + TAIL_CHUNK);
        self.tell_place();
        let span = self.download.partial.span(self.at..until);
        self.at = until;
        self.given = true;
        Span::File(span)
    }

    fn tell_place(&mut self) {
        self.place
            .tell(self.download.lengths.pieces_of(self.at..self.end));
    }
}

fn store_error(cause: io::Error) -> ReadError {
    ReadError::Store(Arc::new(cause))
}
