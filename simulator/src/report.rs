//! What a run showed.

use std::{fmt, time::Duration};

/// Figures of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Clients that wanted a content to its end, on hosts that lived, times contents.
    pub expected: usize,
    /// How long those that got it took, from the first client's start; sorted.
    pub times: Vec<Duration>,
    /// Bytes that left the source.
    pub origin_bytes: u64,
    /// Bytes of all contents.
    pub content_bytes: u64,
    /// Bytes that left hosts.
    pub peer_bytes: u64,
    /// Times that a host read the source by its own leave.
    pub self_leases: u64,
    /// Leases that schedulers granted.
    pub grants: u64,
    /// No swarm can be faster.
    pub bound: Duration,
    /// Share of the seeds' uplinks that was used until the last host was done.
    pub seed_use: f64,
    /// Events that the run took.
    pub events: u64,
}

impl Report {
    /// Whether everybody got everything.
    pub fn all_completed(&self) -> bool {
        self.times.len() == self.expected
    }

    /// When the last one was done.
    pub fn makespan(&self) -> Duration {
        self.times.last().copied().unwrap_or_default()
    }

    /// When `percent` of all were done.
    pub fn percentile(&self, percent: usize) -> Duration {
        let at = (self.times.len() * percent).div_ceil(100).saturating_sub(1);
        self.times.get(at).copied().unwrap_or_default()
    }

    /// Bytes that left the source in sizes of the contents.
    pub fn origin_copies(&self) -> f64 {
        self.origin_bytes as f64 / self.content_bytes.max(1) as f64
    }

    /// The makespan as a multiple of the bound.
    pub fn over_bound(&self) -> f64 {
        self.makespan().as_secs_f64() / self.bound.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{} done; last {:.2} s = {:.2} x the bound of {:.2} s, median {:.2} s, p99 {:.2} s; \
             {:.3} origin copies, {} grants, {} self-leases; seed uplink {:.0} %; {} events",
            self.times.len(),
            self.expected,
            self.makespan().as_secs_f64(),
            self.over_bound(),
            self.bound.as_secs_f64(),
            self.percentile(50).as_secs_f64(),
            self.percentile(99).as_secs_f64(),
            self.origin_copies(),
            self.grants,
            self.self_leases,
            self.seed_use * 100.0,
            self.events,
        )
    }
}
