//! Who of several candidates is the better neighbour.
//!
//! Points add up: near ones first, then what a request to it will probably bring, free
//! slots and places, what it holds already, and whether it kept its word. Chance counts for up to one
//! point, so that not everybody takes the same one for the best; weights are in that unit.

use darter_api::{HostId, TaskId, session::Locality};
use rand::RngExt as _;

use super::{Cluster, task::Task};

impl Cluster {
    /// How good a neighbour `other` would be for `host`.
    pub(super) fn score(&mut self, id: &TaskId, host: &HostId, other: &HostId) -> f64 {
        let chance = f64::from(self.rng.random::<u32>()) / f64::from(u32::MAX);
        let weights = &self.options.weights;
        let (Some(known), Some(task)) = (self.hosts.get(other), self.tasks.get(id)) else {
            return f64::MIN;
        };
        let zone = self.zone_of(host).unwrap_or_default();
        let pieces = f64::from(task.lengths.pieces().max(1));
        let held = task.held(other).len();
        // What is not known is neither good nor bad.
        let rate = known.rate_to(zone).zip(self.usual_rate);
        let rate = rate.map_or(0.5, |(rate, usual)| f64::from(rate / (rate + usual)));
        let asked = f64::from(known.fulfilled + known.failed);
        let kept = if asked > 0.0 {
            f64::from(known.fulfilled) / asked
        } else {
            1.0
        };
        let places = 1.0 - task.degree(other) as f64 / self.room(task).max(1) as f64;
        let distance = self.distance(task, host, other);
        chance - f64::from(weights.locality) * f64::from(distance)
            + f64::from(weights.rate) * rate
            + f64::from(weights.load) * known.free(self.now).unwrap_or(0.5)
            + f64::from(weights.progress) * f64::from(held) / pieces
            + f64::from(weights.history) * kept
            + f64::from(weights.places) * places
    }

    /// How far a candidate is, in steps: readers of the source and seeds are always near,
    /// and so is who brings the task into the zone.
    pub(super) fn distance(&self, task: &Task, host: &HostId, other: &HostId) -> u32 {
        if self.is_source(task, other) || self.is_gateway(task, other) {
            return 0;
        }
        match (self.hosts.get(host), self.hosts.get(other)) {
            (Some(here), Some(there)) => steps(&here.place, &there.place),
            _ => 10,
        }
    }
}

/// 1 in the same host group, 2 in the same data centre, more for each differing part of
/// the location.
fn steps(here: &Locality, there: &Locality) -> u32 {
    if !here.host_group.is_empty() && here.host_group == there.host_group {
        return 1;
    }
    if !here.idc.is_empty() && here.idc == there.idc {
        return 2;
    }
    let shared = here
        .location
        .split('|')
        .zip(there.location.split('|'))
        .take_while(|(a, b)| a == b && !a.is_empty())
        .count();
    8 - (shared as u32).min(5)
}
