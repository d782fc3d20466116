//! Room: the store's own bounds, and the space that it leaves to others on the disk.
//!
//! Owner of state: [`Room`]; one asks for room at a time, so that none is given twice.
//! Invariants: the least recently used content goes first; what is in use or pinned
//! stays; nothing is evicted for a content that would not fit all the same. Room is asked
//! for when a content begins, for all of it, or as it grows where nobody knows how large it is
//! ([`super::endless`]); in the background [`Store::tidy`] keeps some
//! ready. Failure: without room a content is refused, and its clients are served without
//! the store; after a failed write all are, for a while.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use darter_api::TaskId;
use parking_lot::Mutex;

use super::{Entry, Store, unix_seconds};

/// Who may have room, and whether there is any at all.
#[derive(Debug, Default)]
pub(super) struct Room {
    asking: Mutex<()>,
    closed_until: Mutex<Option<Instant>>,
    /// As it was last shown.
    full: AtomicBool,
}

impl Store {
    /// Accounts for a content, if there is room or can be made.
    pub(super) fn reserve(&self, size: u64, manifest: bool) -> io::Result<()> {
        self.with_room(|| {
            self.make_room(size, manifest)?;
            self.account(size, manifest);
            Ok(())
        })
    }

    /// One asks at a time; who is refused is counted.
    pub(super) fn with_room(&self, ask: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _one = self.0.room.asking.lock();
        ask().inspect_err(|_| self.0.metrics.refused())
    }

    /// Evicts what stands in the way of `size` more bytes. One asks at a time.
    pub(super) fn make_room(&self, size: u64, manifest: bool) -> io::Result<()> {
        self.free(self.over(size, manifest), manifest, Entry::size)?;
        self.make_disk_room(size)
    }

    /// What the blobs could take together: the capacity, or what the disk has for them if that is less.
    ///
    /// # Errors
    /// When the file system does not say what is free.
    pub(super) fn reach(&self) -> io::Result<u64> {
        // What is given but not written yet is among what is free.
        let there = self.on_disk().saturating_add(self.free_bytes()?);
        let disk = there.saturating_sub(self.0.options.min_free.as_u64());
        Ok(disk.min(self.0.options.capacity(false)))
    }

    /// By how much the store would be over its capacity with `size` bytes more.
    pub(super) fn over(&self, size: u64, manifest: bool) -> u64 {
        let capacity = self.0.options.capacity(manifest);
        (self.used(manifest) + size).saturating_sub(capacity)
    }

    /// Sees to it that the disk takes `size` more bytes, beside all that is still to be
    /// written, and leaves others theirs.
    pub(super) fn make_disk_room(&self, size: u64) -> io::Result<()> {
        let freed = self.free(self.short_of(size)?, false, Entry::size_on_disk);
        freed.inspect_err(|_| self.show_full(true))
    }

    /// How much the disk lacks for that.
    pub(super) fn short_of(&self, size: u64) -> io::Result<u64> {
        let wanted = size + self.promised() + self.0.options.min_free.as_u64();
        Ok(wanted.saturating_sub(self.free_bytes()?))
    }

    /// Evicts as much as this, or nothing when that can't be had.
    fn free(&self, bytes: u64, manifests: bool, size: fn(&Entry) -> u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let candidates = self.candidates(manifests, size);
        let most: u64 = candidates.iter().map(|(_, size)| size).sum();
        if most < bytes || self.evict(candidates, bytes) < bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Evicts in this order until so many bytes are free; how many are.
    pub(super) fn evict(&self, candidates: Vec<(TaskId, u64)>, bytes: u64) -> u64 {
        let mut freed = 0;
        for (task, size) in candidates {
            if freed >= bytes {
                break;
            }
            // It may have been pinned, or taken into use, since the list was made.
            if self.take_out(&task, |entry| entry.is_free() && !self.is_pinned(&task)) {
                tracing::debug!(%task, "evicted");
                freed += size;
                self.0.metrics.evicted(size);
            }
        }
        freed
    }

    /// What may go and what it gives back, the least recently used first.
    pub(super) fn candidates(
        &self,
        manifests: bool,
        size: fn(&Entry) -> u64,
    ) -> Vec<(TaskId, u64)> {
        let mut candidates: Vec<(u64, TaskId, u64)> = self
            .0
            .index
            .iter()
            .filter(|entry| entry.is_free() && entry.is_manifest() == manifests)
            // What has become another content gives nothing back.
            .filter(|entry| entry.size() > 0)
            .filter(|entry| !self.is_pinned(entry.key()))
            .map(|entry| {
                let used = match entry.value() {
                    Entry::Whole(whole) => whole.used.load(Ordering::Relaxed),
                    // A download that nobody goes on with is worth least.
                    Entry::Growing(_) => 0,
                };
                (used, *entry.key(), size(entry.value()))
            })
            .collect();
        candidates.sort_unstable();
        candidates
            .into_iter()
            .map(|(_, task, size)| (task, size))
            .collect()
    }

    /// Asked while the index is held: who holds the pins must not ask for the index.
    fn is_pinned(&self, task: &TaskId) -> bool {
        self.0.pins.lock().holds(task, unix_seconds())
    }

    /// Sees to it that the disk takes bytes that are kept beside the store's contents.
    ///
    /// # Errors
    /// When the disk has no room for them.
    pub fn spare(&self, bytes: u64) -> io::Result<()> {
        let _one = self.0.room.asking.lock();
        self.make_disk_room(bytes)
    }

    /// Bytes of blobs at most.
    pub fn capacity(&self) -> u64 {
        self.0.options.capacity(false)
    }

    /// Brings the store back from its high watermark to the low one, frees what
    /// others on the disk need, and the memory of contents that nobody uses. Blocks as long as the disk takes; for a slow background
    /// loop.
    pub fn tidy(&self) {
        let pinned = self.0.pins.lock().expire(unix_seconds());
        self.0.metrics.show_pinned(pinned);
        let options = &self.0.options;
        for manifests in [false, true] {
            let used = self.used(manifests);
            if used > options.share(manifests, options.high_watermark) {
                let over = used - options.share(manifests, options.low_watermark);
                self.evict(self.candidates(manifests, Entry::size), over);
            }
        }
        for entry in &self.0.index {
            if let Entry::Whole(whole) = entry.value()
                && entry.is_free()
            {
                whole.forget_ledger();
            }
        }
        self.drop_closed(Instant::now());
        if let Err(cause) = self.tidy_disk() {
            tracing::warn!(%cause, "the disk's free space can't be told");
        }
    }

    fn tidy_disk(&self) -> io::Result<()> {
        let floor = self.0.options.min_free.as_u64();
        let short = floor.saturating_sub(self.free_bytes()?);
        if short > 0 {
            self.evict(self.candidates(false, Entry::size_on_disk), short);
        }
        let free = self.free_bytes()?;
        self.0.metrics.show_free(free);
        self.show_full(free < floor || self.is_closed());
        Ok(())
    }

    /// After a write that failed: nothing begins for so long.
    pub fn close_for(&self, time: Duration) {
        *self.0.room.closed_until.lock() = Some(Instant::now() + time);
        self.show_full(self.is_closed());
    }

    /// Whether a write has failed a while ago, so that contents had better be passed on
    /// without being stored.
    pub fn is_closed(&self) -> bool {
        let until = *self.0.room.closed_until.lock();
        until.is_some_and(|until| Instant::now() < until)
    }

    fn show_full(&self, full: bool) {
        self.0.metrics.show_full(full);
        match (self.0.room.full.swap(full, Ordering::Relaxed), full) {
            (false, true) => {
                tracing::warn!(store = ?self, "the disk is full; contents are passed on without being stored");
            }
            (true, false) => tracing::info!(store = ?self, "the disk has room again"),
            _ => {}
        }
    }

    fn used(&self, manifests: bool) -> u64 {
        let (blobs, manifest_bytes) = self.usage();
        if manifests { manifest_bytes } else { blobs }
    }

    /// Bytes of blobs that are on the disk.
    fn on_disk(&self) -> u64 {
        let blobs = self.0.index.iter().filter(|entry| !entry.is_manifest());
        blobs.map(|entry| entry.size_on_disk()).sum()
    }

    /// Bytes that downloads under way have still to write.
    fn promised(&self) -> u64 {
        let promised = self.0.index.iter().map(|entry| match entry.value() {
            Entry::Growing(growing) if !entry.is_free() => growing.missing_bytes(),
            _ => 0,
        });
        promised.sum()
    }

    /// Bytes that the file system still gives.
    fn free_bytes(&self) -> io::Result<u64> {
        let space = rustix::fs::statvfs(self.0.layout.root())?;
        // Some network file systems don't tell.
        let told = space.f_blocks > 0;
        Ok(if told {
            space.f_bavail * space.f_frsize
        } else {
            u64::MAX
        })
    }
}
