//! Gauges and counts of the store.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// What the store counts. Cheap to clone; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    blob_bytes: Gauge<u64, AtomicU64>,
    manifest_bytes: Gauge<u64, AtomicU64>,
    commits: Counter,
    evictions: Counter,
    evicted_bytes: Counter,
    refused: Counter,
    full: Gauge,
    pinned: Gauge,
    free_bytes: Gauge<u64, AtomicU64>,
    rotten: Counter,
    scrubbed_bytes: Counter,
    scrub_rounds: Counter,
}

impl Metrics {
    /// Shows them as `store_...`.
    pub fn register(&self, registry: &mut Registry) {
        let mut add = |name: &str, help: &str, metric: &Counter| {
            registry.register(name, help, metric.clone())
        };
        add("store_commits", "Contents that became whole", &self.commits);
        add(
            "store_evictions",
            "Contents that had to go",
            &self.evictions,
        );
        add(
            "store_evicted_bytes",
            "Bytes of contents that had to go",
            &self.evicted_bytes,
        );
        add(
            "store_refused",
            "Contents that there was no room for",
            &self.refused,
        );
        add(
            "store_rotten",
            "Stored contents that did not match their digest any more",
            &self.rotten,
        );
        add(
            "store_scrubbed_bytes",
            "Bytes read again in search of rot",
            &self.scrubbed_bytes,
        );
        add(
            "store_scrub_rounds",
            "Times that all contents were read again",
            &self.scrub_rounds,
        );
        registry.register(
            "store_full",
            "1 while the disk has no room, and contents are passed on without being stored",
            self.full.clone(),
        );
        registry.register(
            "store_pinned",
            "Contents that are not to be evicted for a time",
            self.pinned.clone(),
        );
        registry.register(
            "store_free_bytes",
            "Bytes that the file system still gives",
            self.free_bytes.clone(),
        );
        registry.register(
            "store_blob_bytes",
            "Bytes of blobs on disk, and room kept for those that grow",
            self.blob_bytes.clone(),
        );
        registry.register(
            "store_manifest_bytes",
            "Bytes of manifests on disk",
            self.manifest_bytes.clone(),
        );
    }

    pub(super) fn show_usage(&self, (blobs, manifests): (u64, u64)) {
        self.blob_bytes.set(blobs);
        self.manifest_bytes.set(manifests);
    }

    pub(super) fn committed(&self) {
        self.commits.inc();
    }

    pub(super) fn evicted(&self, bytes: u64) {
        self.evictions.inc();
        self.evicted_bytes.inc_by(bytes);
    }

    pub(super) fn refused(&self) {
        self.refused.inc();
    }

    pub(super) fn show_full(&self, full: bool) {
        self.full.set(i64::from(full));
    }

    #[cfg(test)]
    pub(super) fn scrubbed_bytes(&self) -> u64 {
        self.scrubbed_bytes.get()
    }

    #[cfg(test)]
    pub(super) fn rounds(&self) -> u64 {
        self.scrub_rounds.get()
    }

    #[cfg(test)]
    pub(super) fn is_full(&self) -> bool {
        self.full.get() == 1
    }

    pub(super) fn show_pinned(&self, contents: usize) {
        self.pinned.set(i64::try_from(contents).unwrap_or(i64::MAX));
    }

    pub(super) fn show_free(&self, bytes: u64) {
        self.free_bytes.set(bytes);
    }

    pub(super) fn rotten(&self) {
        self.rotten.inc();
    }

    pub(super) fn scrubbed(&self, bytes: u64) {
        self.scrubbed_bytes.inc_by(bytes);
    }

    pub(super) fn scrub_round(&self) {
        self.scrub_rounds.inc();
    }
}
