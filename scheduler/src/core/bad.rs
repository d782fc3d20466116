//! Who is a bad neighbour: found by what its children measure, taken back when it recovers.
//!
//! A child's newest sample of a parent is slow by one of two measures. Against the parent's
//! own past: more than six standard deviations above the mean of its window without that
//! sample, or twenty times the mean while the window is short; and twice what the child's
//! other parents need at the moment, so that a swarm that slows down as a whole accuses
//! nobody. Against the parents that the child also uses: its level, how many times slower
//! than the median of the others its children find it, is six (robust) deviations above
//! the levels of those; that finds who was never fast, and no child's own slowness counts.
//! Requests that brought nothing are slow too. When three children agree, the host is bad:
//! it is introduced to nobody but one child every 30 s, whose samples let it recover.
//!
//! Owner of state: [`Record`], one a host, gone with its session. Everything is bounded.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use darter_api::{HostId, Timestamp, session::ParentReport};

use super::{Cluster, hosts::Host};

/// Samples that are remembered of a host.
const WINDOW: usize = 64;
/// A window with fewer says nothing of what is usual; then [`FACTOR`] times the mean is slow.
const ENOUGH: usize = 30;
/// A window with fewer says nothing at all.
const FEW: usize = 5;
/// Standard deviations.
const SIGMAS: f32 = 6.0;
const FACTOR: f32 = 20.0;
/// Samples spread by at least this share of their mean: six of it are two and a half times
/// the mean, so that what hardly ever varies may.
const SPREAD: f32 = 0.25;
/// Other parents of a child that make a population.
const POPULATION: usize = 3;
/// Against the own past, slow is also so many times slower than other parents are now.
const AGAINST_OTHERS: f32 = 2.0;
/// Other parents are, now, what they were within this.
const LATELY: Duration = Duration::from_secs(3);
/// A level is the mean of as many samples, and moves on with the newest ones.
const LEVEL_OF: u32 = 8;
/// A level of fewer samples says nothing.
const ENOUGH_FOR_LEVEL: u32 = 3;
/// Children that have to agree.
const REPORTERS: usize = 3;
/// Children whose word is kept.
const MAX_REPORTERS: usize = 16;
/// What a child found is forgotten after this, and so is what it measured of a parent.
const MEMORY: Duration = Duration::from_secs(60);
/// Between two children that are let to a bad host to try it.
const PROBE_EVERY: Duration = Duration::from_secs(30);
/// Samples in a row that are not slow end it.
const RECOVERED: u32 = 3;
/// Parents whose samples are kept of a child.
const MAX_PARENTS: usize = 64;
/// A host that so many caught sending rot is no neighbour any more.
const ROT_REPORTERS: usize = 3;

/// What is known of a host as a parent, and of its own parents.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Microseconds a MiB, none that were found slow.
    window: VecDeque<f32>,
    /// A running mean of logarithms: how many times slower than their other parents its
    /// children find it.
    level: f32,
    /// Samples in it, up to [`LEVEL_OF`].
    compared: u32,
    /// Children that found it slow last time, and when.
    slow_for: BTreeMap<HostId, Timestamp>,
    bad: Option<Bad>,
    /// Newest samples of its own parents.
    parents: BTreeMap<HostId, (f32, Timestamp)>,
}

#[derive(Debug, Clone, Copy)]
struct Bad {
    probed: Timestamp,
    /// Samples in a row that were not slow.
    clean: u32,
}

impl Record {
    /// Whether it is far slower than it used to be.
    fn is_unlike_itself(&self, sample: f32) -> bool {
        let count = self.window.len();
        if count < FEW {
            return false;
        }
        let mean = self.window.iter().sum::<f32>() / count as f32;
        if count < ENOUGH {
            return sample > mean * FACTOR;
        }
        let squares = self.window.iter().map(|one| (one - mean).powi(2));
        let deviation = (squares.sum::<f32>() / count as f32).sqrt();
        sample > mean + SIGMAS * deviation.max(mean * SPREAD)
    }

    /// What is kept stays within its limits.
    #[cfg(test)]
    pub(super) fn is_bounded(&self) -> bool {
        self.window.len() <= WINDOW
            && self.slow_for.len() <= MAX_REPORTERS
            && self.parents.len() <= MAX_PARENTS
    }

    /// Takes a sample into the level.
    fn compare(&mut self, sample: f32, others: f32) {
        self.compared = LEVEL_OF.min(self.compared + 1);
        self.level += ((sample / others).ln() - self.level) / self.compared as f32;
    }

    fn learn(&mut self, sample: f32) {
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(sample);
    }

    /// Takes a child's word; whether it tells of a change for the better or worse.
    fn judge(&mut self, now: Timestamp, child: HostId, is_slow: bool) {
        self.slow_for.retain(|_, at| now.since(*at) < MEMORY);
        if !is_slow {
            self.slow_for.remove(&child);
        } else if self.slow_for.len() < MAX_REPORTERS {
            self.slow_for.insert(child, now);
        }
        match &mut self.bad {
            None if self.slow_for.len() >= REPORTERS => {
                self.bad = Some(Bad {
                    probed: now,
                    clean: 0,
                });
            }
            None => {}
            Some(bad) if is_slow => bad.clean = 0,
            Some(bad) => {
                bad.clean += 1;
                if bad.clean >= RECOVERED {
                    self.bad = None;
                    self.slow_for.clear();
                }
            }
        }
    }

    /// Notes what a parent of this host needed.
    fn used(&mut self, now: Timestamp, parent: HostId, sample: f32) {
        self.parents.retain(|_, (_, at)| now.since(*at) < MEMORY);
        if self.parents.len() < MAX_PARENTS || self.parents.contains_key(&parent) {
            self.parents.insert(parent, (sample, now));
        }
    }
}

/// The value that half of the others lie below; `None` for fewer than make a population.
fn median(mut values: Vec<f32>) -> Option<f32> {
    values.sort_unstable_by(f32::total_cmp);
    let median = values.get(values.len() / 2);
    median.copied().filter(|_| values.len() >= POPULATION)
}

/// Median and deviation, as far as outliers allow: 1.4826 times the median distance from
/// the median is a normal distribution's standard deviation.
fn population(levels: Vec<f32>) -> Option<(f32, f32)> {
    let middle = median(levels.clone())?;
    let distances = levels.iter().map(|one| (one - middle).abs());
    Some((middle, 1.4826 * median(distances.collect())?))
}

/// Microseconds for a MiB, nobody being faster than 20 GiB/s.
fn sample(report: &ParentReport) -> Option<f32> {
    let mebibytes = report.bytes as f32 / (1 << 20) as f32;
    (report.pieces > 0 && report.bytes > 0).then(|| (report.busy_us as f32 / mebibytes).max(50.0))
}

/// Whether enough children caught it sending rot.
pub(super) fn is_rotten(host: &Host) -> bool {
    host.rot_seen_by.len() >= ROT_REPORTERS
}

impl Cluster {
    /// A child tells what came from its parents in the last second.
    pub(super) fn parents_reported(&mut self, now: Timestamp, child: HostId, all: &[ParentReport]) {
        for report in all.iter().filter(|report| report.host != child) {
            if let (Some(sample), Some(known)) = (sample(report), self.hosts.get_mut(&child)) {
                known.record.used(now, report.host, sample);
            }
        }
        for report in all.iter().filter(|report| report.host != child) {
            self.parent_reported(now, child, report);
        }
    }

    fn parent_reported(&mut self, now: Timestamp, child: HostId, report: &ParentReport) {
        let sample = sample(report);
        let levels = population(self.levels_beside(now, &child, &report.host));
        let lately = median(self.samples_beside(now, &child, &report.host));
        if report.rot > 0 {
            self.caught(now, &report.host, child);
        }
        let zone = self.zone_of(&child).unwrap_or_default().to_owned();
        let Some(parent) = self.hosts.get_mut(&report.host) else {
            return;
        };
        parent.remember(report.pieces, report.failures + report.rot);
        let is_slow = match sample {
            None => report.failures > 0,
            Some(sample) => {
                if let Some(others) = lately {
                    parent.record.compare(sample, others);
                }
                let level = parent.record.level;
                let is_known = parent.record.compared >= ENOUGH_FOR_LEVEL;
                let unlike_itself = parent.record.is_unlike_itself(sample)
                    && lately.is_some_and(|others| sample > others * AGAINST_OTHERS);
                let far_above = |(median, deviation): (f32, f32)| {
                    level > median + SIGMAS * deviation.max(SPREAD)
                };
                let unlike_others = is_known && levels.is_some_and(far_above);
                unlike_itself || unlike_others
            }
        };
        if let Some(sample) = sample {
            let rate = 1e6 * (1 << 20) as f32 / sample;
            parent.measured(&zone, rate);
            let usual = self.usual_rate.get_or_insert(rate);
            *usual += (rate - *usual) / 64.0;
            if !is_slow {
                parent.record.learn(sample);
            }
        }
        if sample.is_some() || report.failures > 0 {
            parent.record.judge(now, child, is_slow);
        }
        if report.given_up
            && let Some(child) = self.hosts.get_mut(&child)
        {
            child.block(now, report.host);
        }
    }

    /// A child's other parents, those left out that are bad, and what they needed when.
    fn beside(
        &self,
        child: &HostId,
        parent: &HostId,
    ) -> impl Iterator<Item = (&HostId, f32, Timestamp)> {
        let parents = self.hosts.get(child).map(|child| &child.record.parents);
        let others = parents.into_iter().flatten();
        others
            .filter(move |(other, _)| *other != parent && !self.is_slow(other))
            .map(|(other, (sample, at))| (other, *sample, *at))
    }

    /// The levels of a child's other parents.
    fn levels_beside(&self, now: Timestamp, child: &HostId, parent: &HostId) -> Vec<f32> {
        let others = self.beside(child, parent);
        let used = others.filter(|(.., at)| now.since(*at) < MEMORY);
        used.filter_map(|(other, ..)| Some(self.hosts.get(other)?.record.level))
            .collect()
    }

    /// What a child's other parents need at the moment.
    fn samples_beside(&self, now: Timestamp, child: &HostId, parent: &HostId) -> Vec<f32> {
        let others = self.beside(child, parent);
        let lately = others.filter(|(.., at)| now.since(*at) < LATELY);
        lately.map(|(_, sample, _)| sample).collect()
    }

    /// Whether a host is to get no new neighbours.
    pub(super) fn is_bad(&self, host: &HostId) -> bool {
        self.hosts
            .get(host)
            .is_none_or(|host| is_rotten(host) || host.record.bad.is_some())
    }

    /// A child caught a host sending rot: with enough of them it is nobody's parent and
    /// nobody's reader any more.
    pub(super) fn caught(&mut self, now: Timestamp, host: &HostId, by: HostId) {
        let Some(known) = self.hosts.get_mut(host) else {
            return;
        };
        let before = is_rotten(known);
        known.caught_by(by);
        if is_rotten(known) && !before {
            self.disown(now, host);
        }
    }

    /// Whether a host is bad for being slow: better than nobody.
    pub(super) fn is_slow(&self, host: &HostId) -> bool {
        self.hosts
            .get(host)
            .is_some_and(|host| !is_rotten(host) && host.record.bad.is_some())
    }

    /// The same, as it can be read out.
    pub fn is_found_slow(&self, host: &HostId) -> bool {
        self.is_slow(host)
    }

    /// Whether one child may try a slow host now.
    pub(super) fn is_probe_due(&self, host: &HostId) -> bool {
        let bad = self.hosts.get(host).and_then(|host| host.record.bad);
        self.is_slow(host) && bad.is_some_and(|bad| self.now.since(bad.probed) >= PROBE_EVERY)
    }

    /// A child was introduced to it.
    pub(super) fn probed(&mut self, host: &HostId) {
        let now = self.now;
        if let Some(bad) = self
            .hosts
            .get_mut(host)
            .and_then(|host| host.record.bad.as_mut())
        {
            bad.probed = now;
        }
    }
}
