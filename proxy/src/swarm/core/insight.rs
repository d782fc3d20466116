//! Why a piece does not come: what a host knows of it, for people and the simulator.
//!
//! Nothing here changes anything.

use std::time::Duration;

use darter_api::{HostId, TaskId, Timestamp};

use super::Node;

/// A neighbour that announced a piece, or is said to be about to have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lead {
    /// Which.
    pub host: HostId,
    /// It announced the piece; else it promised it.
    pub has: bool,
    /// Its link stands.
    pub up: bool,
    /// It is asked for nothing for so long.
    pub left_alone: Duration,
    /// Requests to it that are under way, of all contents.
    pub requests: u32,
    /// What a piece from it takes, as far as is known.
    pub service: Option<Duration>,
}

/// What becomes of a piece that is given out one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// It waits for its first offer.
    Waits,
    /// A host was offered it so long ago.
    Offered(HostId, Duration),
    /// It was, and is announced to nobody else.
    Known,
}

impl Node {
    /// Who could give a piece, as far as this host knows.
    pub fn leads(&self, now: Timestamp, task: &TaskId, piece: u32) -> Vec<Lead> {
        let known = self.state.tasks.get(task);
        let Some(download) = known.and_then(|task| task.download.as_ref()) else {
            return Vec::new();
        };
        let has = |host| {
            let set = download.available.get(host);
            set.is_some_and(|set| set.contains(piece))
        };
        let promises = |host| {
            let set = download.read_by.get(host);
            set.is_some_and(|set| set.contains(piece))
        };
        let hosts = self.state.hosts.iter();
        let found = hosts.filter(|(host, _)| has(host) || promises(host));
        let lead = found.map(|(host, known)| Lead {
            host: *host,
            has: has(host),
            up: known.up,
            left_alone: download
                .avoided
                .get(host)
                .map_or(Duration::ZERO, |until| until.since(now)),
            requests: known.in_flight,
            service: known.service,
        });
        lead.collect()
    }

    /// What becomes of a piece here, if it is given out one by one.
    pub fn given(&self, now: Timestamp, task: &TaskId, piece: u32) -> Option<Given> {
        let offers = &self.state.tasks.get(task)?.announcer.offers;
        offers.own.contains(piece).then(|| offers.given(now, piece))
    }
}
