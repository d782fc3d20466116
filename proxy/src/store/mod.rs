//! Content on disk, addressed by its digest.
//!
//! ```text
//! lock                                one process owns the directory
//! boot                                the boot id under which it was written last
//! blobs/<algorithm>/<hex>             whole and verified
//! blobs/<algorithm>/<hex>.journal     geometry, origin, group digests, proofs
//! partial/<algorithm>/<hex>[.journal] the same, being downloaded
//! partial/open/<algorithm>/<hex>      the same, while nobody knows its size
//! trash/<number>                      dropped, and soon gone
//! pins                                what is to stay, and until when
//! scrubbed                            how far the scrub's round is
//! ```
//!
//! Owner of state: [`Store`] owns the directory and the index of what is in it; nothing
//! else writes there. Invariant: what stands under `blobs` has matched its digest, and a
//! piece that the journal names was verified and written before. A killed process loses
//! nothing but pieces in flight. A machine that restarts loses what no background batch
//! had made durable: partial downloads, and whole blobs after a failed new check.
//!
//! Nothing that a guard ([`Blob`], [`Partial`]) is held of is evicted or deleted.
//! All calls block for as long as the disk does, which mostly is the page cache.

mod blob;
mod durable;
mod endless;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod hasher;
mod journal;
mod layout;
mod metrics;
mod open;
mod options;
mod partial;
mod pins;
mod room;
mod scrub;
mod upkeep;

use std::{
    io,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use darter_api::{Lengths, Origin, OriginKind, PieceIndex, PieceSet, TaskId};
use dashmap::{DashMap, Entry as Slot};
use parking_lot::Mutex;

pub use blob::{Blob, StoredPiece};
pub use endless::Resealed;
pub use hasher::PrefixHasher;
pub use metrics::Metrics;
pub use open::OpenError;
pub use options::Options;
pub use partial::Partial;
pub use scrub::scrub;
pub use upkeep::upkeep;

use blob::Whole;
use layout::Layout;
pub(crate) use layout::make_private;
use partial::Growing;
use pins::Pins;
use room::Room;

/// What was on disk when the store was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The task.
    pub task: TaskId,
    /// Its geometry.
    pub lengths: Lengths,
    /// Pieces on disk.
    pub held: PieceSet,
    /// Where it came from.
    pub origin: Option<Origin>,
    /// Whether it is whole and verified.
    pub whole: bool,
}

/// What became of a content that was to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It was not here.
    Absent,
    /// It is not here any more.
    Dropped,
    /// It is being downloaded.
    Growing,
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    layout: Layout,
    options: Options,
    index: DashMap<TaskId, Entry>,
    blob_bytes: AtomicU64,
    manifest_bytes: AtomicU64,
    room: Room,
    pins: Mutex<Pins>,
    /// Dropped since it was last asked; one entry a content at most between two beats of
    /// the swarm.
    gone: Mutex<Vec<TaskId>>,
    /// Committed, but not yet durable.
    fresh: Mutex<Vec<TaskId>>,
    metrics: Metrics,
    /// Held for as long as the store is; unlocks when closed.
    _lock: std::fs::File,
}

enum Entry {
    Whole(Arc<Whole>),
    Growing(Arc<Growing>),
}

impl Entry {
    fn lengths(&self) -> Lengths {
        match self {
            Self::Whole(whole) => whole.lengths,
            Self::Growing(growing) => growing.lengths,
        }
    }
}

impl Store {
    /// Opens a directory, and tells what is in it.
    ///
    /// # Errors
    /// When another process owns the directory, or it can't be used.
    pub fn open(
        directory: &Path,
        options: &Options,
        metrics: Metrics,
    ) -> Result<(Self, Vec<Found>), OpenError> {
        open::open(directory, options, metrics, &open::boot_id())
    }

    /// A whole blob; holding it keeps it.
    pub fn whole(&self, task: &TaskId) -> Option<Blob> {
        let whole = match self.0.index.get(task)?.value() {
            Entry::Whole(whole) => Arc::clone(whole),
            Entry::Growing(_) => return None,
        };
        match Blob::open(Arc::clone(&whole), &self.0.layout) {
            Ok(blob) => Some(blob),
            Err(cause) => {
                tracing::warn!(%task, %cause, "a stored blob can't be opened");
                // Anything else, such as too many open files, says nothing of the blob.
                if matches!(
                    cause.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidData
                ) {
                    self.drop_whole(&Arc::downgrade(&whole), task);
                }
                None
            }
        }
    }

    /// Size and media type of a whole blob, without opening it.
    pub fn stat(&self, task: &TaskId) -> Option<(u64, Option<String>)> {
        match self.0.index.get(task)?.value() {
            Entry::Whole(whole) => Some((whole.lengths.size(), whole.media_type.clone())),
            Entry::Growing(_) => None,
        }
    }

    /// Begins a download, or goes on with what is on disk of it.
    ///
    /// # Errors
    /// When the files can't be made, there is no room
    /// ([`io::ErrorKind::StorageFull`]), or the content is whole already ([`io::ErrorKind::AlreadyExists`]).
    pub fn begin(
        &self,
        task: TaskId,
        lengths: Lengths,
        origin: Option<&Origin>,
        media_type: Option<&str>,
    ) -> io::Result<Partial> {
        if let Some(partial) = self.resume(&task, lengths)? {
            // What is still to be written of it is promised by now.
            self.make_disk_room(0)?;
            return Ok(partial);
        }
        if task.is_open() && self.stat(&task.closed()).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let manifest = is_manifest(origin, media_type);
        // What nobody knows the size of asks for room as it grows.
        let size = if task.is_open() { 0 } else { lengths.size() };
        self.reserve(size, manifest)?;
        let created = Growing::create(&self.0.layout, task, lengths, origin, media_type);
        let created = created.inspect_err(|_| {
            self.unaccount(size, manifest);
            // What there is of it is of no use to anybody.
            drop(self.0.layout.remove(&task, false));
        });
        let growing = Arc::new(created?);
        let entry = Entry::Growing(Arc::clone(&growing));
        if let Some(before) = self.0.index.insert(task, entry) {
            self.unaccount(before.size(), before.is_manifest());
        }
        Ok(Partial::new(growing, self.clone()))
    }

    fn resume(&self, task: &TaskId, lengths: Lengths) -> io::Result<Option<Partial>> {
        match self.0.index.get(task).as_deref() {
            Some(Entry::Whole(_)) => Err(io::ErrorKind::AlreadyExists.into()),
            Some(Entry::Growing(growing)) if growing.goes_on_as(lengths) => {
                Ok(Some(Partial::new(Arc::clone(growing), self.clone())))
            }
            _ => Ok(None),
        }
    }

    /// A verified piece, from a whole blob or one that grows.
    ///
    /// # Errors
    /// When the journal or the data can't be read.
    pub fn piece(&self, task: &TaskId, index: PieceIndex) -> io::Result<Option<StoredPiece>> {
        let growing = match self.0.index.get(task).as_deref() {
            Some(Entry::Growing(growing)) => Some(Arc::clone(growing)),
            Some(Entry::Whole(_)) => None,
            None => return Ok(None),
        };
        if let Some(growing) = growing {
            return growing.piece(index);
        }
        self.whole(task).map_or(Ok(None), |blob| blob.piece(index))
    }

    /// The geometry of a content that is here, whole or not.
    pub fn lengths(&self, task: &TaskId) -> Option<Lengths> {
        Some(self.0.index.get(task)?.value().lengths())
    }

    /// The same of a content of which something is here: whoever gave it agreed.
    pub fn proven_lengths(&self, task: &TaskId) -> Option<Lengths> {
        match self.0.index.get(task)?.value() {
            Entry::Growing(growing) if growing.held().is_empty() => None,
            entry => Some(entry.lengths()),
        }
    }

    /// Keeps a content from eviction until then, whether it is here already or will be;
    /// it survives a restart. A later time that was said before stands.
    ///
    /// # Errors
    /// When the disk does not take the note, or 100,000 contents are pinned.
    pub fn pin(&self, task: TaskId, until: SystemTime) -> io::Result<()> {
        let mut pins = self.0.pins.lock();
        pins.pin(task, seconds(until))?;
        self.0.metrics.show_pinned(pins.expire(unix_seconds()));
        Ok(())
    }

    /// Lets it be evicted again.
    ///
    /// # Errors
    /// When the disk does not take the note; after a restart it is pinned again then.
    pub fn unpin(&self, task: &TaskId) -> io::Result<()> {
        let mut pins = self.0.pins.lock();
        pins.unpin(task)?;
        self.0.metrics.show_pinned(pins.expire(unix_seconds()));
        Ok(())
    }

    /// Drops a content; whether it was here and free.
    pub fn delete(&self, task: &TaskId) -> bool {
        let dropped = self.take_out(task, Entry::is_free);
        if dropped && let Err(cause) = self.unpin(task) {
            tracing::warn!(%task, %cause, "a dropped content's pin remains");
        }
        dropped
    }

    /// Drops a content for good, its pin too. Who has it open reads on; one that is being
    /// downloaded stays.
    pub fn remove(&self, task: &TaskId) -> Removal {
        let mut found = Removal::Absent;
        self.take_out(task, |entry| {
            let may_go = matches!(entry, Entry::Whole(_)) || entry.is_free();
            found = if may_go {
                Removal::Dropped
            } else {
                Removal::Growing
            };
            may_go
        });
        if found == Removal::Growing {
            return found;
        }
        if let Err(cause) = self.unpin(task) {
            tracing::warn!(%task, %cause, "a dropped content's pin remains");
        }
        found
    }

    /// Contents that are pinned, whether they are here or not.
    pub fn pinned(&self) -> Vec<TaskId> {
        self.0.pins.lock().all(unix_seconds())
    }

    /// Whether a content is here and counts as a manifest.
    pub fn is_manifest(&self, task: &TaskId) -> bool {
        let entry = self.0.index.get(task);
        entry.is_some_and(|entry| entry.value().is_manifest())
    }

    /// Drops a whole content whoever reads it, unless it is another one by now.
    fn drop_whole(&self, whole: &Weak<Whole>, task: &TaskId) -> bool {
        self.take_out(
            task,
            |entry| matches!(entry, Entry::Whole(one) if Arc::as_ptr(one) == whole.as_ptr()),
        )
    }

    /// Drops a content, if it may go. Index, files and the news of it change in one step:
    /// who begins the same content again does so after all three.
    fn take_out(&self, task: &TaskId, may_go: impl FnOnce(&Entry) -> bool) -> bool {
        let removed = {
            let Slot::Occupied(slot) = self.0.index.entry(*task) else {
                return false;
            };
            if !may_go(slot.get()) {
                return false;
            }
            let whole = matches!(slot.get(), Entry::Whole(_));
            let removed = self.0.layout.remove(task, whole);
            let entry = slot.remove();
            self.unaccount(entry.size(), entry.is_manifest());
            self.0.gone.lock().push(*task);
            removed
        };
        if let Err(cause) = removed {
            tracing::warn!(%task, %cause, "a dropped content's files remain");
        }
        true
    }

    /// What was dropped since the last call.
    pub fn take_gone(&self) -> Vec<TaskId> {
        std::mem::take(&mut *self.0.gone.lock())
    }

    /// Bytes taken by blobs and by manifests, partial ones at their full size.
    pub fn usage(&self) -> (u64, u64) {
        let load = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed);
        (load(&self.0.blob_bytes), load(&self.0.manifest_bytes))
    }

    /// Counts and gauges.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    fn account(&self, size: u64, manifest: bool) {
        let bytes = if manifest {
            &self.0.manifest_bytes
        } else {
            &self.0.blob_bytes
        };
        bytes.fetch_add(size, Ordering::Relaxed);
        self.0.metrics.show_usage(self.usage());
    }

    fn unaccount(&self, size: u64, manifest: bool) {
        let bytes = if manifest {
            &self.0.manifest_bytes
        } else {
            &self.0.blob_bytes
        };
        bytes.fetch_sub(size, Ordering::Relaxed);
        self.0.metrics.show_usage(self.usage());
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.0.layout.root().display())
    }
}

impl Entry {
    /// Whether nobody holds a guard of it.
    fn is_free(&self) -> bool {
        match self {
            Self::Whole(whole) => Arc::strong_count(whole) == 1,
            Self::Growing(growing) => Arc::strong_count(growing) == 1,
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::Whole(whole) => whole.lengths.size(),
            Self::Growing(growing) => growing.size(),
        }
    }

    /// As far as it is written.
    fn size_on_disk(&self) -> u64 {
        match self {
            Self::Whole(whole) => whole.lengths.size(),
            Self::Growing(growing) => growing.size().saturating_sub(growing.missing_bytes()),
        }
    }

    fn is_manifest(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.manifest,
            Self::Growing(growing) => growing.is_manifest(),
        }
    }
}

/// Whether a content counts as a manifest. Registries tell a media type of blobs too.
fn is_manifest(origin: Option<&Origin>, media_type: Option<&str>) -> bool {
    origin.map_or(media_type.is_some(), |origin| {
        origin.kind == OriginKind::Manifest
    })
}

/// Seconds since the Unix epoch.
fn unix_seconds() -> u64 {
    seconds(SystemTime::now())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
pub(crate) mod tests;
