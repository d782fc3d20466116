//! Contents whose size nobody tells: read whole without the swarm, then stored.
//!
//! Where there is a scheduler, one host of all that want it does this ([`super::sizing`]), and
//! the others get it from there.
//! The body goes to a file of the spool directory while it is hashed. Only when it matched
//! its digest does it become a content like others, stated by this host, so that peers
//! can have it. Its size is remembered then. Nothing says that such a body ends: beyond a part of the
//! store's capacity the spool has what is free, and nothing is evicted for it. Failure: what the store has no room for is given
//! to those who wait from the spool; what the spool has no room for is hashed to its end, and
//! given from the source. Nothing of what is wrong is kept; the next client tries afresh.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use darter_api::{Hasher, Lengths, OriginKind, PieceSet, lengths::MAX_SIZE};
use futures::StreamExt as _;
use tokio::sync::mpsc;

use super::{
    FULL_FOR, Input, Shared, blocking,
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
    store::{Store, make_private},
    swarm::core::event::Event,
};

/// Chunks between the network and the disk.
const CHUNKS: usize = 8;
/// The disk is asked for room for so many bytes at a time.
const ROOM: u64 = 4 << 20;
/// One part in so many of what the store can reach: a longer spool evicts nothing.
const SHARE: u64 = 4;

impl Shared {
    /// Reads all of a content; [`Phase::Stored`] when it is right and there is room for it.
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
        let store = self.store.clone();
        let written = Arc::new(AtomicBool::new(!store.is_closed()));
        let writes = Arc::clone(&written);
        let spooling =
            tokio::task::spawn_blocking(move || spool(&store, path, hasher, queue, &writes));
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
            if written.load(Ordering::Relaxed) {
                // Once to the spool, and once to the store.
                self.limits.pass(Direction::Disk, class, 2 * length).await;
            }
            self.metrics.bytes(From::Source, bytes.len() as u64);
            if chunks.send(bytes).await.is_err() {
                break;
            }
        }
        drop(chunks);
        let spooled = spooling.await.map_err(io::Error::other);
        let spooled = spooled.map_err(|cause| OpenError::Store(Arc::new(cause)))?;
        if spooled.hasher.finish() != digest {
            let what = "the body does not match its digest";
            return Err(source(SourceError::Protocol(what)));
        }
        let lengths = Lengths::of(spooled.size);
        let lengths = lengths.map_err(|_| source(SourceError::Protocol("it is too large")))?;
        // Who comes next need not wait for all of it.
        self.claims.put(want.task, &want.origin, lengths.size());
        let Some(file) = spooled.file else {
            let askers = Arc::clone(&entry.askers);
            let through = self.through(want.task, lengths.size(), media_type, askers);
            return Ok(Phase::Through(through));
        };
        let content = Spooled {
            file: Arc::new(file),
            lengths,
            media_type,
        };
        // A copy to the store is not given up in the middle: who begins the same content again
        // would write to the same file beside it.
        let Some(_kept) = self.live.keep(&want.task, entry) else {
            return Ok(Phase::Spooled(content));
        };
        match self.keep(want, entry, content.clone()).await {
            Ok(()) => Ok(Phase::Stored),
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(Phase::Stored),
            Err(cause) => {
                tracing::warn!(task = %want.task, %cause, "the store does not take a content; it is given without");
                Ok(Phase::Spooled(content))
            }
        }
    }

    /// Makes a spooled content one of the store's.
    async fn keep(
        self: &Arc<Self>,
        want: &Want,
        entry: &Entry,
        spooled: Spooled,
    ) -> io::Result<()> {
        let (shared, want) = (Arc::clone(self), want.clone());
        let (task, origin, lengths) = (want.task, want.origin.clone(), spooled.lengths);
        let askers = Arc::clone(&entry.askers);
        let copy = blocking(&self.tasks, "keeping", move || {
            let media_type = spooled.media_type.clone();
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
            let written = copy(&shared, &download, &spooled);
            written.inspect_err(|_| shared.store.close_for(FULL_FOR))?;
            download.partial.clone().commit()
        });
        copy.await?;
        self.metrics.completed.inc();
        let stored = Event::Stored {
            task,
            lengths,
            held: PieceSet::full(lengths.pieces()),
            origin: Some(origin),
        };
        let _ = self.inbox.send(Input::Event(stored)).await;
        Ok(())
    }
}

/// A content that matches its digest, in a file without a name.
#[derive(Debug, Clone)]
pub(super) struct Spooled {
    pub(super) file: Arc<File>,
    pub(super) lengths: Lengths,
    pub(super) media_type: Option<String>,
}

/// A body that came.
struct Body {
    /// Without a name; none, if the disk had no room for all of it.
    file: Option<File>,
    size: u64,
    hasher: Hasher,
}

/// Writes a body as long as there is room, which `writes` tells, and hashes all of it. Blocks on
/// the disk.
fn spool(
    store: &Store,
    path: PathBuf,
    hasher: Hasher,
    mut queue: mpsc::Receiver<Bytes>,
    writes: &AtomicBool,
) -> Body {
    let file = if store.is_closed() {
        Err(io::ErrorKind::StorageFull.into())
    } else {
        create(&path)
    };
    let most = store.reach().map_or(0, |all| all / SHARE);
    let (mut file, mut room) = (file.inspect_err(say).ok(), 0);
    writes.store(file.is_some(), Ordering::Relaxed);
    let mut body = Body {
        file: None,
        size: 0,
        hasher,
    };
    while let Some(bytes) = queue.blocking_recv() {
        if let Some(spool) = &file
            && let Err(cause) = write(store, spool, body.size, &bytes, &mut room, most)
        {
            say(&cause);
            file = None;
            writes.store(false, Ordering::Relaxed);
        }
        body.hasher.update(&bytes);
        body.size += bytes.len() as u64;
    }
    body.file = file;
    body
}

fn say(cause: &io::Error) {
    tracing::warn!(%cause, "no room for a content of untold size; it is read to its end, and then once more");
}

/// A new file, whose name is gone at once.
fn create(path: &Path) -> io::Result<File> {
    if let Some(spool) = path.parent() {
        make_private(spool)?;
    }
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).open(path)?;
    fs::remove_file(path)?;
    Ok(file)
}

/// Writes where there is room: up to `room`, which grows; what others have makes way up to `most`.
fn write(
    store: &Store,
    file: &File,
    at: u64,
    bytes: &[u8],
    room: &mut u64,
    most: u64,
) -> io::Result<()> {
    let end = at + bytes.len() as u64;
    if end > *room {
        let more = (end - *room).max(ROOM);
        if *room + more <= most {
            store.spare(more)?;
        } else {
            store.spare_free(more)?;
        }
        *room += more;
    }
    let written = file.write_all_at(bytes, at);
    written.inspect_err(|_| store.close_for(FULL_FOR))
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
    let (mut offset, size) = (0, spooled.lengths.size());
    // Pieces are a multiple of this, so that no chunk crosses a piece's end.
    let mut buffer = vec![0; 64 * 1024];
    while offset < size {
        let length = (size - offset).min(buffer.len() as u64) as usize;
        spooled.file.read_exact_at(&mut buffer[..length], offset)?;
        cutter.take(&Chunk {
            offset,
            bytes: Bytes::copy_from_slice(&buffer[..length]),
        })?;
        offset += length as u64;
    }
    Ok(())
}
