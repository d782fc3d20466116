//! What the driver counts.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Where bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum From {
    /// The upstream.
    Source,
    /// Another peer.
    Peer,
    /// The own store, which held the content whole before it was asked for.
    Cache,
}

/// Why a download failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Reason {
    /// The source refused the right to read.
    Refused,
    /// The source has no such content.
    Missing,
    /// Neither source nor peers can be reached.
    Unreachable,
    /// The source's size is not the one asked for.
    WrongSize,
    /// It does not match its digest.
    Corrupt,
    /// The store can't take it.
    Store,
}

/// A label `from`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FromLabel {
    from: From,
}

/// A label `reason`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabel {
    reason: Reason,
}

/// Counters of one host's downloads. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(super) downloads: Gauge,
    pub(super) readers: Gauge,
    pub(super) started: Counter,
    pub(super) completed: Counter,
    pub(super) source_reads: Counter,
    pub(super) source_resumes: Counter,
    pub(super) source_cuts: Counter,
    pub(super) resumed_bytes: Counter,
    pub(super) streamed_through: Counter,
    pub(super) liars: Counter,
    failed: Family<ReasonLabel, Counter>,
    bytes: Family<FromLabel, Counter>,
    pieces: Family<FromLabel, Counter>,
}

impl Metrics {
    /// Registers all of it.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("swarm");
        registry.register("downloads", "Downloads under way", self.downloads.clone());
        registry.register(
            "readers",
            "Responses that read a growing content",
            self.readers.clone(),
        );
        registry.register("downloads_started", "Downloads begun", self.started.clone());
        registry.register(
            "downloads_completed",
            "Downloads verified and stored",
            self.completed.clone(),
        );
        registry.register(
            "downloads_failed",
            "Downloads given up",
            self.failed.clone(),
        );
        registry.register(
            "source_reads",
            "Requests to sources for content",
            self.source_reads.clone(),
        );
        registry.register(
            "source_resumes",
            "Reads of sources resumed after a fault",
            self.source_resumes.clone(),
        );
        registry.register(
            "source_cuts",
            "Reads of sources left before their end: what was on its way is lost",
            self.source_cuts.clone(),
        );
        registry.register(
            "resumed_bytes",
            "Bytes found on disk by a download that began again",
            self.resumed_bytes.clone(),
        );
        registry.register(
            "streamed_through",
            "Responses streamed without storing",
            self.streamed_through.clone(),
        );
        registry.register(
            "liars",
            "Hosts that signed pieces which a content's digest refuted",
            self.liars.clone(),
        );
        registry.register(
            "content_bytes",
            "Content bytes by where they came from",
            self.bytes.clone(),
        );
        registry.register(
            "pieces",
            "Pieces verified and stored by where they came from",
            self.pieces.clone(),
        );
    }

    pub(super) fn failed(&self, reason: Reason) {
        self.failed.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(super) fn bytes(&self, from: From, bytes: u64) {
        self.bytes.get_or_create(&FromLabel { from }).inc_by(bytes);
    }

    pub(super) fn piece(&self, from: From) {
        self.pieces.get_or_create(&FromLabel { from }).inc();
    }

    /// Content bytes so far from sources, peers and the own store.
    pub fn totals(&self) -> (u64, u64, u64) {
        let of = |from| self.bytes.get_or_create(&FromLabel { from }).get();
        (of(From::Source), of(From::Peer), of(From::Cache))
    }
}
