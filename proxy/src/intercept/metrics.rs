//! What the interception counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::sync::OwnedSemaphorePermit;

use super::refusal::Refusal;

/// What becomes of a CONNECT, or of an `Upgrade`.
#[derive(Debug, Clone, Copy)]
pub(super) enum TunnelKind {
    /// TLS ends here.
    Terminated,
    /// Bytes are passed on unread.
    Blind,
    /// The same, to a registry that has switched to another protocol.
    Upgraded,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct To {
    to: &'static str,
}

/// Counts of tunnels, certificates and refusals. Clones count together.
#[derive(Debug, Clone, Default)]
pub(super) struct Metrics {
    tunnels: Family<Kind, Counter>,
    open: Family<Kind, Gauge>,
    refusals: Family<Reason, Counter>,
    requests: Family<To, Counter>,
    pub(super) leaves: Counter,
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "intercept_tunnels",
            "Tunnels opened by CONNECT, or by an upgrade to another protocol",
            self.tunnels.clone(),
        );
        registry.register(
            "intercept_tunnels_open",
            "Tunnels open now",
            self.open.clone(),
        );
        registry.register(
            "intercept_refusals",
            "Requests and tunnels refused, by reason",
            self.refusals.clone(),
        );
        registry.register(
            "intercept_requests",
            "Intercepted requests, by whether the mirror, the upstream or the rule of a file answered",
            self.requests.clone(),
        );
        registry.register(
            "intercept_leaves",
            "Certificates made for upstreams",
            self.leaves.clone(),
        );
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        let reason = refusal.reason();
        self.refusals.get_or_create(&Reason { reason }).inc();
    }

    pub(super) fn answered_by(&self, to: &'static str) {
        self.requests.get_or_create(&To { to }).inc();
    }

    /// Counts a tunnel until the guard is dropped, which gives its place back.
    pub(super) fn tunnel(&self, kind: TunnelKind, place: OwnedSemaphorePermit) -> OpenTunnel {
        let kind = match kind {
            TunnelKind::Terminated => "terminated",
            TunnelKind::Blind => "blind",
            TunnelKind::Upgraded => "upgraded",
        };
        self.tunnels.get_or_create(&Kind { kind }).inc();
        let open = self.open.get_or_create_owned(&Kind { kind });
        open.inc();
        OpenTunnel {
            open,
            _place: place,
        }
    }
}

/// A tunnel's place and its count.
#[derive(Debug)]
pub(super) struct OpenTunnel {
    open: Gauge,
    _place: OwnedSemaphorePermit,
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.open.dec();
    }
}
