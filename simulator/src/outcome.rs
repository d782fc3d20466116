//! What is noted while a run goes on, and the report that comes of it.

use std::{ops::Range, time::Duration};

use darter_api::TaskId;

use crate::{
    Action, Report, Who,
    control::Control,
    host::Kind,
    network::Place,
    report::{Pull, Traffic},
    world::World,
};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    times: Vec<Duration>,
    pulls: Vec<Pull>,
    failed: usize,
    /// What each client had to take yet of what its host had when that had all of a content.
    pub(crate) behind: Vec<u64>,
    origin: Traffic,
    peers: Traffic,
    /// What seeds had sent when the last client was done.
    pub(crate) seeds_sent: u64,
    /// Peers that died.
    pub(crate) lost: usize,
    reader_died: bool,
}

impl World {
    /// A host has all of a content, or will never have it.
    pub(crate) fn settled(&mut self, host: Place, task: TaskId, whole: bool) {
        if !self.outstanding.remove(&(host, task)) {
            return;
        }
        if whole {
            self.outcome.times.push(self.now.since(self.begin));
            self.pulled(host);
        } else {
            self.outcome.failed += 1;
        }
        self.is_done_with(host, task);
        self.next_wave(self.now);
    }

    /// Notes a pull, if the content was the last one that the host lacked.
    fn pulled(&mut self, host: Place) {
        let peer = &self.hosts[host];
        let whole = peer.tasks.values().all(|local| local.committed.is_some());
        if let Some(began) = peer.began.filter(|_| whole) {
            self.outcome.pulls.push(Pull {
                done: self.now.since(self.begin),
                took: self.now.since(began),
                healthy: peer.kind == Kind::Healthy,
            });
        }
    }

    /// Looks at what has left the source.
    pub(crate) fn source_sent(&mut self) {
        let sent = self.network.sent(self.source);
        let now = self.now.since(self.begin);
        self.outcome.origin.note(now, sent);
        let share = sent as f64 / self.scenario.bytes().max(1) as f64;
        let due = self.scenario.reader_dies.is_some_and(|dies| share >= dies);
        if due && !self.outcome.reader_died {
            self.outcome.reader_died = true;
            self.act(Action::Kill(Who::Reader));
        }
    }

    /// A host has sent so much more.
    pub(crate) fn peer_sent(&mut self, bytes: u64) {
        let before = self.outcome.peers.sent.last().copied().unwrap_or(0);
        let now = self.now.since(self.begin);
        self.outcome.peers.note(now, before + bytes);
    }

    pub(crate) fn sent_by(&self, hosts: Range<Place>) -> u64 {
        hosts.map(|host| self.network.sent(host)).sum()
    }

    pub(crate) fn report(self, events: u64) -> Report {
        let (slow_hosts, wronged) = self.watched();
        let mut outcome = self.outcome;
        outcome.times.sort_unstable();
        outcome.pulls.sort_unstable_by_key(|pull| pull.done);
        let makespan = outcome.times.last().copied().unwrap_or_default();
        let seeds = 0..self.scenario.seeds;
        let capacity: u64 = seeds.map(|seed| self.network.up_rate(seed)).sum();
        let capacity = capacity as f64 * makespan.as_secs_f64();
        let places = 0..self.hosts.len();
        Report {
            slow_hosts,
            wronged,
            expected: outcome.times.len() + self.outstanding.len() + outcome.failed,
            origin_bytes: self.network.sent(self.source),
            content_bytes: self.scenario.bytes(),
            peer_bytes: places.map(|host| self.network.sent(host)).sum(),
            border_bytes: self.network.crossed_borders(),
            self_leases: self.self_leases,
            grants: self.controls.iter().map(Control::granted).sum(),
            bound: self.scenario.bound(),
            plain: self.scenario.plain(),
            seed_use: outcome.seeds_sent as f64 / capacity.max(1.0),
            lost: outcome.lost,
            events,
            said: self.said,
            trace: self.trace.lines,
            behind: outcome.behind,
            times: outcome.times,
            pulls: outcome.pulls,
            origin: outcome.origin,
            peers: outcome.peers,
        }
    }
}
