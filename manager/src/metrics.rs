//! What a manager counts.

use std::sync::atomic::AtomicI64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Which members.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Group {
    /// `scheduler`, `seed-peer`.
    pub(crate) kind: &'static str,
    /// `active`, `inactive`.
    pub(crate) state: &'static str,
}

/// What became of a beat.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    /// `accepted`, `refused`, `failed`.
    pub(crate) outcome: &'static str,
}

/// How a job ended, or where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct JobState {
    /// `PENDING`, `RUNNING`, `SUCCESS`, `FAILURE`, `CANCELLED`.
    pub(crate) state: &'static str,
}

/// A kind of request and how it was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Answer {
    /// The route's pattern, `other` for what is none, or the name of a gRPC method.
    pub(crate) route: String,
    /// Of HTTP; a gRPC method's are 200 and 503.
    pub(crate) status: u16,
}

/// Cheap to clone; clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) members: Family<Group, Gauge<i64, AtomicI64>>,
    pub(crate) beats: Family<Outcome, Counter>,
    pub(crate) requests: Family<Answer, Counter>,
    pub(crate) database_failures: Counter,
    /// Jobs that this manager ended.
    pub(crate) jobs_ended: Family<JobState, Counter>,
    /// Jobs in the database.
    pub(crate) jobs: Family<JobState, Gauge<i64, AtomicI64>>,
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("members", "Members that are known", self.members.clone());
        registry.register("beats", "Beats of members", self.beats.clone());
        let help = "Jobs that this manager ended";
        registry.register("jobs_ended", help, self.jobs_ended.clone());
        // From the start, so that a rule sees the first one as an increase.
        for state in ["SUCCESS", "FAILURE", "CANCELLED"] {
            drop(self.jobs_ended.get_or_create(&JobState { state }));
        }
        registry.register("jobs", "Jobs that are known", self.jobs.clone());
        registry.register("requests", "Requests answered", self.requests.clone());
        registry.register(
            "database_failures",
            "Queries that the database failed",
            self.database_failures.clone(),
        );
    }

    pub(crate) fn beat(&self, outcome: &'static str) {
        self.beats.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn job_ended(&self, state: &'static str) {
        self.jobs_ended.get_or_create(&JobState { state }).inc();
    }

    pub(crate) fn answered(&self, route: &str, status: u16) {
        let route = route.to_owned();
        self.requests.get_or_create(&Answer { route, status }).inc();
    }
}
