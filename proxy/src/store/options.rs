//! Bounds of the store.

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// Bounds of the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Bytes of blobs at most; the least recently used go first, and what does not fit
    /// beside those in use is passed on without being stored. Contents that are read in small
    /// parts take an eighth of it besides, 4 GiB at most. Default 64 GiB.
    pub capacity: ByteSize,
    /// Bytes of manifests at most, which are not counted above. Default 256 MiB.
    pub manifest_capacity: ByteSize,
    /// Eviction in the background begins at this share of the capacity, in per cent.
    /// Default 95.
    pub high_watermark: u8,
    /// And ends at this one. Default 85.
    pub low_watermark: u8,
    /// Bytes of the file system that are left to others: blobs are evicted for them, and
    /// without any left nothing more is stored. Default 1 GiB.
    pub min_free: ByteSize,
    /// Bytes a second that are read again in search of rot, every content at most once a
    /// day; 0 reads none. Default 8 MiB. Costs so much of the disk, and some of a core.
    pub scrub_rate: ByteSize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            capacity: ByteSize::gib(64),
            manifest_capacity: ByteSize::mib(256),
            high_watermark: 95,
            low_watermark: 85,
            min_free: ByteSize::gib(1),
            scrub_rate: ByteSize::mib(8),
        }
    }
}

impl Options {
    pub(super) fn capacity(&self, manifest: bool) -> u64 {
        let capacity = if manifest {
            self.manifest_capacity
        } else {
            self.capacity
        };
        capacity.as_u64()
    }

    /// This share of the capacity.
    pub(super) fn share(&self, manifest: bool, percent: u8) -> u64 {
        self.capacity(manifest) / 100 * u64::from(percent.min(100))
    }
}
