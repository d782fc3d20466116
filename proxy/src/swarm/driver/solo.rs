//! Contents whose size nobody tells: read whole without the swarm, then stored.
//!
//! Where there is a scheduler, one host of all that want it does this ([`super::sizing`]), and
//! the others get it from there.
//! The body goes to a file of the spool directory while it is hashed. Only when it matched
//! its digest does it become a content like others, stated by this host, so that peers
//! can have it. Failure: nothing of it is kept; the next client tries afresh.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use darter_api::{Hasher, Lengths, OriginKind, PieceSet, lengths::MAX_SIZE};
use futures::StreamExt as _;
use tokio::sync::mpsc;

use super::{
    Input, Shared,
    cutter::{Chunk, Cutter, self_lease},
    download::Download,
    live::{Entry, Phase},
    metrics::From,
    source::{Order, begin, skip_to},
    waits::class_of,
};
use crate::{
    content::{MAX_MANIFEST_BYTES, OpenError, Want},
    limits::Direction,
    source::SourceError,
    store::make_private,
    swarm::core::event::Event,
};

/// Chunks between the network and the disk.
const CHUNKS: usize = 8;

impl Shared {
    /// Reads all of a content; [`Phase::Stored`] when it is right.
    pub(super) async fn read_alone(
        self: &Arc<Self>,
        want: &Want,
        entry: &Entry,
        media_type: Option<String>,
    ) -> Result<Phase, OpenError> {
        let digest = *want.task.digest();
        let source = |error| OpenError::Source(Arc::new(error));
        self.metrics.source_reads.inc();
        let body = begin(
            &*self.source,
            &digest,
            None,
            None,
            &entry.askers,
            &self.proven,
        );
        let body = body.await.map_err(source)?;
        let media_type = body.stat.media_type.clone().or(media_type);
        let mut reading = self.unsized_contents.reading(want.task);
        let (chunks, queue) = mpsc::channel(CHUNKS);
        let path = self
            .spool
            .join(format!("{}-{}", digest.hex(), self.next_id()));
        let hasher = Hasher::new(digest.algorithm());
        let spooling = tokio::task::spawn_blocking(move || spool(path, hasher, queue));
        let mut stream = skip_to(body, 0);
        let class = class_of(want.purpose);
        let mut left = match want.origin.kind {
            OriginKind::Manifest => MAX_MANIFEST_BYTES,
            OriginKind::Blob => MAX_SIZE,
        };
        while let Some(item) = stream.next().await {
            let bytes = item.map_err(source)?;
            let taken = left.checked_sub(bytes.len() as u64);
            left = taken.ok_or_else(|| source(SourceError::Protocol("it is too large")))?;
            *entry.arrived.lock() = Some(Instant::now());
            reading.goes_on();
            let length = bytes.len() as u64;
            self.limits.pass(Direction::Source, class, length).await;
            // Once to the spool, and once to the store.
            self.limits.pass(Direction::Disk, class, 2 * length).await;
            self.metrics.bytes(From::Source, bytes.len() as u64);
            if chunks.send(bytes).await.is_err() {
                break;
            }
        }
        drop(chunks);
        let spooled = spooling.await.map_err(io::Error::other).flatten();
        let spooled = spooled.map_err(|cause| OpenError::Store(Arc::new(cause)))?;
        if spooled.hasher.clone().finish() != digest {
            let what = "the body does not match its digest";
            return Err(source(SourceError::Protocol(what)));
        }
        self.keep(want, entry, media_type, spooled).await
    }

    /// Makes a spooled content one of the store's.
    async fn keep(
        self: &Arc<Self>,
        want: &Want,
        entry: &Entry,
        media_type: Option<String>,
        spooled: Spooled,
    ) -> Result<Phase, OpenError> {
        let wrong = |_| OpenError::Source(Arc::new(SourceError::Protocol("it is too large")));
        let lengths = Lengths::of(spooled.size).map_err(wrong)?;
        let (shared, want) = (Arc::clone(self), want.clone());
        let (task, origin) = (want.task, want.origin.clone());
        let askers = Arc::clone(&entry.askers);
        let copy = tokio::task::spawn_blocking(move || {
            let partial =
                shared
                    .store
                    .begin(task, lengths, Some(&want.origin), media_type.as_deref())?;
            let download = Download::new(
                task,
                lengths,
                want.origin,
                want.purpose,
                partial,
                askers,
                media_type,
            );
            let download = Arc::new(download);
            copy(&shared, &download, &spooled)?;
            download.partial.clone().commit()
        });
        let copied = copy.await.map_err(io::Error::other).flatten();
        copied.map_err(|cause| OpenError::Store(Arc::new(cause)))?;
        self.metrics.completed.inc();
        let stored = Event::Stored {
            task,
            lengths,
            held: PieceSet::full(lengths.pieces()),
            origin: Some(origin),
        };
        let _ = self.inbox.send(Input::Event(stored)).await;
        Ok(Phase::Stored)
    }
}

/// A body on disk.
struct Spooled {
    path: PathBuf,
    size: u64,
    hasher: Hasher,
}

impl Drop for Spooled {
    fn drop(&mut self) {
        if let Err(cause) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %cause, "a spooled body remains");
        }
    }
}

fn spool(path: PathBuf, hasher: Hasher, mut queue: mpsc::Receiver<Bytes>) -> io::Result<Spooled> {
    if let Some(spool) = path.parent() {
        make_private(spool)?;
    }
    let mut file = File::create_new(&path)?;
    let mut spooled = Spooled {
        path,
        size: 0,
        hasher,
    };
    while let Some(bytes) = queue.blocking_recv() {
        file.write_all(&bytes)?;
        spooled.hasher.update(&bytes);
        spooled.size += bytes.len() as u64;
    }
    Ok(spooled)
}

fn copy(shared: &Shared, download: &Arc<Download>, spooled: &Spooled) -> io::Result<()> {
    let pieces = download.lengths.pieces();
    let grant = Arc::new(self_lease(&shared.key, download, 0..pieces));
    let order = Arc::new(Order::new(PieceSet::full(pieces), grant));
    let mut cutter = Cutter::new(
        Arc::clone(download),
        order,
        Arc::clone(&shared.key),
        shared.limits.clone(),
    );
    let mut file = File::open(&spooled.path)?;
    let mut offset = 0;
    // Pieces are a multiple of this, so that no chunk crosses a piece's end.
    let mut buffer = vec![0; 64 * 1024];
    while offset < spooled.size {
        let length = (spooled.size - offset).min(buffer.len() as u64) as usize;
        file.read_exact(&mut buffer[..length])?;
        cutter.take(&Chunk {
            offset,
            bytes: Bytes::copy_from_slice(&buffer[..length]),
        })?;
        offset += length as u64;
    }
    Ok(())
}
