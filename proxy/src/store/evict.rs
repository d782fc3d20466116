//! Keeping the store within its bounds: the least recently used content goes first.

use std::{sync::atomic::Ordering, time::Instant};

use darter_api::TaskId;

use super::{Entry, Store};

impl Store {
    /// Makes room for `size` more bytes. What is in use or pinned stays, so that the
    /// bound may be passed for a while.
    pub(super) fn make_room(&self, size: u64, manifest: bool) {
        for task in self.evict_for(size, manifest) {
            tracing::debug!(%task, "evicted");
        }
    }

    /// As `make_room`; the tasks that went.
    fn evict_for(&self, size: u64, manifest: bool) -> Vec<TaskId> {
        let options = &self.0.options;
        let capacity = if manifest {
            options.manifest_capacity
        } else {
            options.capacity
        };
        let (blobs, manifests) = self.usage();
        let used = if manifest { manifests } else { blobs };
        let share = |percent: u8| capacity.as_u64() / 100 * u64::from(percent.min(100));
        if used + size <= share(options.high_watermark) {
            return Vec::new();
        }
        let mut to_free = (used + size).saturating_sub(share(options.low_watermark));
        let mut evicted = Vec::new();
        for (task, size) in self.candidates(manifest) {
            if to_free == 0 {
                break;
            }
            if self.delete(&task) {
                to_free = to_free.saturating_sub(size);
                self.0.metrics.evicted();
                evicted.push(task);
            }
        }
        evicted
    }

    /// What may go, the least recently used first.
    fn candidates(&self, manifest: bool) -> Vec<(TaskId, u64)> {
        let now = Instant::now();
        self.0.pinned.retain(|_, until| *until > now);
        let mut candidates: Vec<(u64, TaskId, u64)> = self
            .0
            .index
            .iter()
            .filter(|entry| entry.is_free() && entry.is_manifest() == manifest)
            .filter(|entry| !self.0.pinned.contains_key(entry.key()))
            .map(|entry| {
                let used = match entry.value() {
                    Entry::Whole(whole) => whole.used.load(Ordering::Relaxed),
                    // A download that nobody goes on with is worth least.
                    Entry::Growing(_) => 0,
                };
                (used, *entry.key(), entry.size())
            })
            .collect();
        candidates.sort_unstable();
        candidates
            .into_iter()
            .map(|(_, task, size)| (task, size))
            .collect()
    }
}
