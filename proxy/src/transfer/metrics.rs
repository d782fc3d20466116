//! What is counted of transfers.

use std::sync::atomic::AtomicI64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Why a request for a piece was answered as it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `sent`, `busy`, `not_held`, `bad_request`.
    pub outcome: &'static str,
}

/// Counts of links, sessions and uploads. Cheap to clone; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Requests of other peers for pieces.
    pub uploads: Family<Outcome, Counter>,
    /// Bytes of pieces handed to other peers.
    pub upload_bytes: Counter,
    /// Pieces being sent now.
    pub uploading: Gauge<i64, AtomicI64>,
    /// Links that stand.
    pub links: Gauge<i64, AtomicI64>,
    /// Links that were not made because too many stand.
    pub links_refused: Counter,
    /// Sessions with schedulers that stand.
    pub sessions: Gauge<i64, AtomicI64>,
    /// 1 where there are schedulers, or a manager that knows them; with a list of peers, sessions
    /// come and go.
    pub sessions_expected: Gauge<i64, AtomicI64>,
    /// Attempts to open a session.
    pub session_attempts: Counter,
}

impl Metrics {
    /// Shows them as `peer_...`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "peer_uploads",
            "Requests of other peers for pieces",
            self.uploads.clone(),
        );
        registry.register(
            "peer_upload_bytes",
            "Bytes of pieces sent to other peers",
            self.upload_bytes.clone(),
        );
        registry.register(
            "peer_uploading",
            "Pieces being sent",
            self.uploading.clone(),
        );
        registry.register(
            "peer_links",
            "Links to other peers that stand",
            self.links.clone(),
        );
        registry.register(
            "peer_links_refused",
            "Links that were not made because too many stand",
            self.links_refused.clone(),
        );
        registry.register(
            "peer_sessions",
            "Sessions with schedulers that stand",
            self.sessions.clone(),
        );
        registry.register(
            "peer_sessions_expected",
            "Whether there is to be a session with a scheduler at any time",
            self.sessions_expected.clone(),
        );
        registry.register(
            "peer_session_attempts",
            "Attempts to open a session",
            self.session_attempts.clone(),
        );
    }

    pub(super) fn upload(&self, outcome: &'static str) {
        self.uploads.get_or_create(&Outcome { outcome }).inc();
    }
}
