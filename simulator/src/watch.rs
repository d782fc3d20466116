//! Hosts that are slow always or for a while: when schedulers find it out, and when they take
//! them back.
//!
//! Owner of state: [`Watch`], one entry for each such host. It is looked at ten times a second
//! of virtual time while somebody waits for something, and not at all where no host is slow.

use std::time::Duration;

use darter_api::Timestamp;
use serde::Serialize;

use crate::{
    host::Kind,
    network::Place,
    world::{Happening, World},
};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    hosts: Vec<Watched>,
    /// Others that a scheduler took for slow.
    wronged: Vec<Place>,
}

#[derive(Debug)]
struct Watched {
    place: Place,
    turns: bool,
    /// Since when it is slow and somebody gets pieces from it.
    since: Option<Timestamp>,
    found: Option<Timestamp>,
    back: Option<Timestamp>,
}

/// What became of a slow host. Seconds of virtual time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SlowHost {
    /// Which peer, from zero.
    pub peer: usize,
    /// It was as fast as others at first, and is again later if the scenario says so.
    pub turns: bool,
    /// When it first sent something while slow, from the first client's start.
    pub since: Option<f64>,
    /// How long after that a scheduler took it for slow.
    pub found_after: Option<f64>,
    /// How long after it recovered no scheduler did so any more.
    pub back_after: Option<f64>,
}

impl World {
    /// Says what is to happen to hosts that are slow or turn so.
    pub(crate) fn watch(&mut self) {
        let unwell = |kind: Kind| matches!(kind, Kind::Slow | Kind::Turns);
        let hosts = self.hosts.iter().enumerate();
        let watched = hosts.filter(|(_, host)| unwell(host.kind));
        self.watch.hosts = watched
            .map(|(place, host)| Watched {
                place,
                turns: host.kind == Kind::Turns,
                since: None,
                found: None,
                back: None,
            })
            .collect();
        if self.watch.hosts.is_empty() {
            return;
        }
        self.queue.put(self.begin, Happening::Watches);
        if self.watch.hosts.iter().any(|host| host.turns) {
            let (turns, recovers) = (self.scenario.turns_at, self.scenario.recovers_at);
            self.queue.put(self.begin + turns, Happening::Turns(true));
            if let Some(recovers) = recovers {
                self.queue
                    .put(self.begin + recovers, Happening::Turns(false));
            }
        }
    }

    /// Those hosts that turn slow do so, or recover.
    pub(crate) fn turns(&mut self, slow: bool) {
        for place in 0..self.hosts.len() {
            let Kind::Turns = self.hosts[place].kind else {
                continue;
            };
            let kind = if slow { Kind::Slow } else { Kind::Healthy };
            let (up, down) = self.rates(self.hosts[place].role, kind);
            self.network.set_rates(place, up, down);
        }
    }

    pub(crate) fn watches(&mut self) {
        let now = self.now;
        let mut watch = std::mem::take(&mut self.watch);
        for host in &mut watch.hosts {
            let turns_at = self.begin + self.scenario.turns_at;
            let recovers = self.scenario.recovers_at.filter(|_| host.turns);
            let recovers = recovers.map(|after| self.begin + after);
            let is_well = recovers.is_some_and(|at| now >= at);
            let is_slow = !is_well && (!host.turns || now >= turns_at);
            if is_slow && self.network.is_sending(host.place) {
                host.since.get_or_insert(now);
            }
            let bad = self.is_found_slow(host.place);
            if is_slow && bad {
                host.found.get_or_insert(now);
            }
            if is_well && !bad && host.found.is_some() {
                host.back.get_or_insert(now);
            }
        }
        let turned = now >= self.begin + self.scenario.turns_at;
        for place in 0..self.hosts.len() {
            let is_well = match self.hosts[place].kind {
                Kind::Healthy => true,
                Kind::Turns => !turned,
                Kind::Slow | Kind::Rotten => false,
            };
            if is_well && self.is_found_slow(place) && !watch.wronged.contains(&place) {
                watch.wronged.push(place);
            }
        }
        self.watch = watch;
        if !self.outstanding.is_empty() {
            self.queue.put(now + EVERY, Happening::Watches);
        }
    }

    fn is_found_slow(&self, place: Place) -> bool {
        let clusters = self.controls.iter().filter_map(|one| one.cluster.as_ref());
        let host = &self.hosts[place].id;
        clusters.into_iter().any(|one| one.is_found_slow(host))
    }

    /// What became of hosts that were slow, and how many others were taken for it.
    pub(crate) fn watched(&self) -> (Vec<SlowHost>, usize) {
        let after = |at: Option<Timestamp>, since: Option<Timestamp>| {
            at.zip(since)
                .map(|(at, since)| at.since(since).as_secs_f64())
        };
        let recovered = self.scenario.recovers_at.map(|at| self.begin + at);
        let hosts = self.watch.hosts.iter().map(|host| SlowHost {
            peer: host.place - self.scenario.seeds,
            turns: host.turns,
            since: after(host.since, Some(self.begin)),
            found_after: after(host.found, host.since),
            back_after: after(host.back, recovered),
        });
        (hosts.collect(), self.watch.wronged.len())
    }
}
