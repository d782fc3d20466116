//! The thread that writes what a source brings.
//!
//! Owner of state: a thread of its own writes, hashes and seals, so that the network is read while
//! the disk is written. Invariant: bytes are shown to readers only after they were written. Failure:
//! what the store does not take ends the thread, and its own result says why.

use std::{io, sync::Arc};

use darter_api::{End, Lengths};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinError, JoinHandle},
};

use super::{
    Input,
    cutter::{Chunk, Cutter, Ends},
    download::Download,
    metrics::{From, Metrics},
    verify::Verifiers,
};
use crate::{store::PrefixHasher, swarm::core::event::Event};

/// Chunks between the network and the writing thread; at most a few hundred KiB each.
/// When they are full the source is read no faster than the disk is written.
const CHUNKS: usize = 8;

/// The thread has ended; its own result says why.
pub(super) struct Closed;

/// What the writing thread is to do.
enum Work {
    Write(Chunk),
    /// All came, up to this byte: says where the content ends, unless its digest says otherwise;
    /// whether that is sure where the digest says nothing.
    End(u64, bool, oneshot::Sender<Option<Ends>>),
}

/// The thread that writes.
pub(super) struct Writer {
    chunks: mpsc::Sender<Work>,
    thread: JoinHandle<Result<io::Result<()>, JoinError>>,
    lengths: Lengths,
    /// Where the last chunk ended.
    at: u64,
}

impl Writer {
    /// Writes what `cutter` makes of a download's bytes, and tells the actor.
    pub(super) fn start(
        mut cutter: Cutter,
        download: Arc<Download>,
        inbox: mpsc::Sender<Input>,
        metrics: Metrics,
        verifiers: Verifiers,
    ) -> Self {
        let (chunks, mut queue) = mpsc::channel::<Work>(CHUNKS);
        let lengths = download.lengths;
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
            lengths,
            at: 0,
        }
    }

    /// Where to go on when `start`'s piece was cut before.
    pub(super) fn resume_at(&self, start: u64) -> u64 {
        let same =
            self.at > start && self.lengths.piece_at(self.at) == self.lengths.piece_at(start);
        if same { self.at } else { start }
    }

    /// Bytes of pieces that are to be read, in order.
    pub(super) async fn put(&mut self, chunk: Chunk) -> Result<(), Closed> {
        self.at = chunk.offset + chunk.bytes.len() as u64;
        let work = Work::Write(chunk);
        self.chunks.send(work).await.map_err(|_| Closed)
    }

    /// The content ends there, for all that is known: what there is to be said of it, if its digest
    /// does not contradict, and if it is `sure` or the digest says so.
    pub(super) async fn end(&mut self, size: u64, sure: bool) -> Result<Option<Ends>, Closed> {
        let (answer, answered) = oneshot::channel();
        let work = Work::End(size, sure, answer);
        self.chunks.send(work).await.map_err(|_| Closed)?;
        answered.await.map_err(|_| Closed)
    }

    /// Waits until all is written.
    pub(super) async fn finish(self) -> io::Result<()> {
        drop(self.chunks);
        let ended = self.thread.await.map_err(io::Error::other)?;
        ended.map_err(io::Error::other)?
    }
}

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
