//! What the mirror counts.

use http::{Method, StatusCode};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use crate::content::Provenance;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    method: &'static str,
    kind: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Origin {
    from: &'static str,
}

/// Counts of requests and bodies.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    requests: Family<Request, Counter>,
    bytes: Family<Origin, Counter>,
    first_byte: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            bytes: Family::default(),
            first_byte: Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]),
        }
    }
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "mirror_requests",
            "Requests of clients",
            self.requests.clone(),
        );
        registry.register(
            "mirror_bytes",
            "Bytes of contents given to clients",
            self.bytes.clone(),
        );
        registry.register(
            "mirror_first_byte_seconds",
            "From a blob's request to its first bytes",
            self.first_byte.clone(),
        );
    }

    pub(super) fn answered(&self, method: &Method, kind: &'static str, status: StatusCode) {
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            _ => "other",
        };
        let status = status.as_u16();
        self.requests
            .get_or_create(&Request {
                method,
                kind,
                status,
            })
            .inc();
    }

    pub(super) fn first_byte(&self, seconds: f64) {
        self.first_byte.observe(seconds);
    }

    /// The counter of bytes with this provenance.
    pub(super) fn bytes(&self, provenance: Provenance) -> Counter {
        let from = match provenance {
            Provenance::Cache => "cache",
            Provenance::Download => "download",
        };
        self.bytes.get_or_create_owned(&Origin { from })
    }
}
