//! A report as it is printed: for people, or as one JSON object.
//!
//! Nothing of it depends on the machine that plays: same scenario, same text to the byte.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{Pull, Report, Said, SlowHost, Spec};

/// Points of the completion curve.
const POINTS: usize = 100;

/// See the module. Times are seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The scenario's.
    pub title: String,
    /// The scenario's.
    pub seed: u64,
    /// Peers with a client.
    pub hosts: usize,
    /// Seed peers.
    pub seeds: usize,
    /// What each client pulled.
    pub bytes: u64,
    /// Contents.
    pub layers: u64,
    /// Pulls that were through in the end.
    pub completed: usize,
    /// Peers that died.
    pub lost: usize,
    /// Contents that a living host lacked in the end.
    pub unfinished: usize,
    /// When the last host was done, from the first client's start.
    pub makespan: f64,
    /// When the last one was that is neither slow nor sends rot.
    pub healthy_makespan: f64,
    /// How long pulls took, each from its client's start, of healthy hosts.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p999: f64,
    /// The longest.
    pub longest: f64,
    /// No swarm is faster; where hosts do not come at once, no pull.
    pub bound: f64,
    /// The longest pull of a healthy host as a multiple of the bound.
    pub ratio: f64,
    /// What of a healthy host's downlink, as the bound is concerned, was in use on average.
    pub link_use: f64,
    /// Bytes that left the source / bytes of the contents.
    pub origin_copies: f64,
    /// Bytes that left the source.
    pub origin_bytes: u64,
    /// What clients had not taken yet when their hosts had all of a content, on average; none where
    /// clients take all at once.
    pub behind: Option<u64>,
    /// Bytes that left hosts.
    pub peer_bytes: u64,
    /// Bytes that went from one zone to another.
    pub border_bytes: u64,
    /// The same in sizes of the contents, a zone.
    pub border_copies_a_zone: f64,
    /// How long plain pulls would take, all at the source.
    pub plain: Option<f64>,
    /// How many times longer that is than the makespan of healthy hosts.
    pub speed_up: Option<f64>,
    /// Leases that schedulers granted.
    pub grants: u64,
    /// Times that a host read the source by its own leave.
    pub self_leases: u64,
    /// Hosts that were slow always or for a while, and when that was found.
    pub slow_hosts: Vec<SlowHost>,
    /// Other hosts that a scheduler took for slow at some time.
    pub wronged: usize,
    /// Messages of the run.
    pub said: Said,
    /// Events of the run.
    pub events: u64,
    /// When each hundredth of the hosts was done.
    pub completion: Vec<f64>,
    /// What a point of the next curve spans.
    pub origin_span: f64,
    /// Bytes that had left the source in all at the end of each span.
    pub origin_sent: Vec<u64>,
}

impl Summary {
    /// What a run of a scenario showed.
    pub fn new(spec: &Spec, report: &Report) -> Self {
        let healthy = report.pulls.iter().filter(|pull| pull.healthy);
        let mut took: Vec<Duration> = healthy.clone().map(|pull| pull.took).collect();
        took.sort_unstable();
        let makespan = done(report.pulls.last());
        let healthy_makespan = done(healthy.clone().next_back());
        let longest = took.last().copied().unwrap_or_default();
        let bound = report.bound.as_secs_f64();
        let link = report.content_bytes as f64 / spec.down.bytes().max(1) as f64;
        let uses = took.iter().map(|took| link / took.as_secs_f64().max(1e-9));
        let size = report.content_bytes.max(1) as f64;
        let plain = report.plain.map(|plain| plain.as_secs_f64());
        Self {
            title: spec.title.clone(),
            seed: spec.seed,
            hosts: spec.hosts,
            seeds: spec.seeds,
            bytes: report.content_bytes,
            layers: spec.layers,
            completed: report.pulls.len(),
            lost: report.lost,
            unfinished: report.expected - report.times.len(),
            makespan,
            healthy_makespan,
            p50: per_mille(&took, 500),
            p99: per_mille(&took, 990),
            p999: per_mille(&took, 999),
            longest: longest.as_secs_f64(),
            bound,
            ratio: rounded(longest.as_secs_f64() / bound.max(1e-9)),
            link_use: rounded(uses.sum::<f64>() / took.len().max(1) as f64),
            origin_copies: rounded(report.origin_copies()),
            origin_bytes: report.origin_bytes,
            behind: mean(&report.behind),
            peer_bytes: report.peer_bytes,
            border_bytes: report.border_bytes,
            border_copies_a_zone: rounded(
                report.border_bytes as f64 / size / spec.zones.max(1) as f64,
            ),
            plain,
            speed_up: plain.map(|plain| rounded(plain / healthy_makespan.max(1e-9))),
            grants: report.grants,
            self_leases: report.self_leases,
            slow_hosts: report.slow_hosts.clone(),
            wronged: report.wronged,
            said: report.said.clone(),
            events: report.events,
            completion: completion(&report.pulls),
            origin_span: report.origin.span.as_secs_f64(),
            origin_sent: report.origin.sent.clone(),
        }
    }

    fn write_slow_hosts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, turns) in [("always slow", false), ("turn slow", true)] {
            let hosts = self.slow_hosts.iter().filter(|host| host.turns == turns);
            let used = hosts.clone().filter(|host| host.since.is_some()).count();
            if hosts.clone().count() == 0 {
                continue;
            }
            write!(
                f,
                "  {what:13} {} hosts, {used} of them used; found {}",
                hosts.clone().count(),
                spread(hosts.clone().filter_map(|host| host.found_after)),
            )?;
            let back = spread(hosts.filter_map(|host| host.back_after));
            match turns {
                true => writeln!(f, "; taken back {back}")?,
                false => writeln!(f)?,
            }
        }
        if !self.slow_hosts.is_empty() {
            writeln!(
                f,
                "  wronged       {} other hosts taken for slow",
                self.wronged
            )?;
        }
        Ok(())
    }

    /// Whether every host that lived got everything.
    pub const fn all_completed(&self) -> bool {
        self.unfinished == 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        writeln!(f, "{}", self.title)?;
        writeln!(
            f,
            "  {} hosts, {} seeds, {:.0} MB in {} layers, seed of randomness {}",
            self.hosts,
            self.seeds,
            megabytes(self.bytes),
            self.layers,
            self.seed,
        )?;
        writeln!(
            f,
            "  completed     {} of {} hosts, {} died, {} contents unfinished",
            self.completed, self.hosts, self.lost, self.unfinished,
        )?;
        writeln!(
            f,
            "  last host     {:.2} s; last healthy host {:.2} s",
            self.makespan, self.healthy_makespan,
        )?;
        writeln!(
            f,
            "  pulls         p50 {:.2} s, p99 {:.2} s, p99.9 {:.2} s, longest {:.2} s",
            self.p50, self.p99, self.p999, self.longest,
        )?;
        writeln!(
            f,
            "  bound         {:.2} s; longest / bound {:.2}; downlinks used {:.0} %",
            self.bound,
            self.ratio,
            self.link_use * 100.0,
        )?;
        writeln!(
            f,
            "  source        {:.3} copies, {:.0} MB; {} grants, {} self-leases",
            self.origin_copies,
            megabytes(self.origin_bytes),
            self.grants,
            self.self_leases,
        )?;
        writeln!(
            f,
            "  hosts sent    {:.0} MB; between zones {:.0} MB, {:.2} copies a zone",
            megabytes(self.peer_bytes),
            megabytes(self.border_bytes),
            self.border_copies_a_zone,
        )?;
        if let Some(behind) = self.behind {
            let behind = megabytes(behind);
            writeln!(
                f,
                "  clients       {behind:.1} MB behind their hosts (mean) when those had all of a content"
            )?;
        }
        if let (Some(plain), Some(speed_up)) = (self.plain, self.speed_up) {
            writeln!(
                f,
                "  plain pulls   {plain:.2} s: {speed_up:.1} times as long"
            )?;
        }
        self.write_slow_hosts(f)?;
        writeln!(f, "{}", self.said)?;
        write!(f, "  events        {}", self.events)
    }
}

/// How many there are, the median and the last.
fn spread(seconds: impl Iterator<Item = f64>) -> String {
    let mut all: Vec<f64> = seconds.collect();
    all.sort_unstable_by(f64::total_cmp);
    match (all.get(all.len() / 2), all.last()) {
        (Some(median), Some(last)) => {
            format!(
                "{} (median after {median:.1} s, last after {last:.1} s)",
                all.len()
            )
        }
        _ => "none".to_owned(),
    }
}

fn mean(bytes: &[u64]) -> Option<u64> {
    bytes.iter().sum::<u64>().checked_div(bytes.len() as u64)
}

fn done(pull: Option<&Pull>) -> f64 {
    pull.map_or(0.0, |pull| pull.done.as_secs_f64())
}

/// When so many of a thousand were through.
fn per_mille(sorted: &[Duration], mille: usize) -> f64 {
    let at = (sorted.len() * mille).div_ceil(1000).saturating_sub(1);
    sorted.get(at).map_or(0.0, Duration::as_secs_f64)
}

fn completion(pulls: &[Pull]) -> Vec<f64> {
    let at = |part: usize| (pulls.len() * part).div_ceil(POINTS).saturating_sub(1);
    let points = 1..=POINTS;
    points.map(|part| done(pulls.get(at(part)))).collect()
}

/// To four digits after the point: what follows says nothing.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
