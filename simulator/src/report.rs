//! What a run showed.

use std::{fmt, time::Duration};

use crate::{Said, SlowHost};

/// Points of a traffic curve: when more are needed, each spans twice the time.
const POINTS: usize = 256;
/// What a point of it spans at first.
const SPAN: Duration = Duration::from_millis(50);

/// One host's pull of all contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pull {
    /// When it was done, from the first client's start.
    pub done: Duration,
    /// How long it took, from this client's own start.
    pub took: Duration,
    /// Whether the host was neither slow nor sending rot.
    pub healthy: bool,
}

/// Bytes that have left a place, over time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traffic {
    /// What a point spans.
    pub span: Duration,
    /// Bytes that had left in all at the end of each span.
    pub sent: Vec<u64>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            span: SPAN,
            sent: Vec::new(),
        }
    }
}

impl Traffic {
    /// So much has left by now; times never go back.
    pub(crate) fn note(&mut self, now: Duration, sent: u64) {
        let mut at = self.point(now);
        while at >= POINTS {
            let halves = self.sent.chunks(2);
            self.sent = halves.filter_map(|pair| pair.last().copied()).collect();
            self.span *= 2;
            at = self.point(now);
        }
        let before = self.sent.last().copied().unwrap_or(0);
        self.sent.resize(self.sent.len().max(at), before);
        self.sent.truncate(at);
        self.sent.push(sent);
    }

    fn point(&self, now: Duration) -> usize {
        (now.as_micros() / self.span.as_micros().max(1)) as usize
    }
}

/// Figures of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Clients that wanted a content to its end, on hosts that lived, times contents.
    pub expected: usize,
    /// How long those that got it took, from the first client's start; sorted.
    pub times: Vec<Duration>,
    /// Bytes that each client had not taken when its host had all of a content; nothing where
    /// clients take whatever there is.
    pub behind: Vec<u64>,
    /// Pulls of all contents, by the time that they were done.
    pub pulls: Vec<Pull>,
    /// Peers that died.
    pub lost: usize,
    /// Bytes that left the source.
    pub origin_bytes: u64,
    /// Bytes of all contents.
    pub content_bytes: u64,
    /// Bytes that left hosts.
    pub peer_bytes: u64,
    /// Bytes that went from one zone to another.
    pub border_bytes: u64,
    /// What left the source, over time.
    pub origin: Traffic,
    /// What left hosts, over time.
    pub peers: Traffic,
    /// Times that a host read the source by its own leave.
    pub self_leases: u64,
    /// Leases that schedulers granted.
    pub grants: u64,
    /// No swarm can be faster, as far as healthy hosts go; for hosts that come one after the
    /// other, no pull.
    pub bound: Duration,
    /// How long it would take with plain pulls, all at the source.
    pub plain: Option<Duration>,
    /// Share of the seeds' uplinks that was used until the last host was done.
    pub seed_use: f64,
    /// Hosts that were slow, always or for a while.
    pub slow_hosts: Vec<SlowHost>,
    /// Hosts that never were, and that a scheduler took for it at some time.
    pub wronged: usize,
    /// Events that the run took.
    pub events: u64,
    /// What hosts and schedulers told each other.
    pub said: Said,
    /// What hosts waited for while it went on, if the scenario asks for it.
    pub trace: Vec<String>,
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
