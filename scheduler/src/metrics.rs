//! What a scheduler counts.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::core::Counts;

/// Gauges and counts of a scheduler. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Sessions that stand.
    pub sessions: Gauge<i64, AtomicI64>,
    tasks: Gauge<i64, AtomicI64>,
    leases: Gauge<i64, AtomicI64>,
    granted: Counter<u64, AtomicU64>,
    expired: Counter<u64, AtomicU64>,
    returned: Counter<u64, AtomicU64>,
    moved: Counter<u64, AtomicU64>,
    /// Messages from peers.
    pub received: Counter,
    /// Messages to peers.
    pub sent: Counter,
    /// Seconds from a message to its commands.
    pub decision: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            sessions: Gauge::default(),
            tasks: Gauge::default(),
            leases: Gauge::default(),
            granted: Counter::default(),
            expired: Counter::default(),
            returned: Counter::default(),
            moved: Counter::default(),
            received: Counter::default(),
            sent: Counter::default(),
            decision: Histogram::new([1e-5, 1e-4, 1e-3, 5e-3, 2e-2, 0.1, 0.5]),
        }
    }
}

impl Metrics {
    /// Shows them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "sessions",
            "Sessions with peers that stand",
            self.sessions.clone(),
        );
        registry.register(
            "tasks",
            "Tasks that a peer holds or wants",
            self.tasks.clone(),
        );
        registry.register("leases", "Leases that live", self.leases.clone());
        registry.register("leases_granted", "Leases granted", self.granted.clone());
        registry.register(
            "leases_expired",
            "Leases that ran out",
            self.expired.clone(),
        );
        registry.register(
            "leases_returned",
            "Leases that came back",
            self.returned.clone(),
        );
        registry.register(
            "leases_moved",
            "Leases that went from a slow holder to a better one",
            self.moved.clone(),
        );
        registry.register(
            "messages_received",
            "Messages from peers",
            self.received.clone(),
        );
        registry.register("messages_sent", "Messages to peers", self.sent.clone());
        registry.register(
            "decision_seconds",
            "From a message to its commands",
            self.decision.clone(),
        );
    }

    pub(crate) fn show(&self, counts: &Counts) {
        let size = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.tasks.set(size(counts.tasks));
        self.leases.set(size(counts.leases));
        for (counter, now) in [
            (&self.granted, counts.granted),
            (&self.expired, counts.expired),
            (&self.returned, counts.returned),
            (&self.moved, counts.moved),
        ] {
            counter.inc_by(now.saturating_sub(counter.get()));
        }
    }
}
