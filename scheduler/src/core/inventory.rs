//! Pages of tasks and hosts, for people who look through all of them.
//!
//! Nothing here changes anything. A page costs a look at every name, and at what those on it
//! hold: some milliseconds of a scheduler with a million tasks.

use std::{collections::BinaryHeap, net::SocketAddr};

use darter_api::{
    HostId, Lengths, PieceIndex, PieceSet, Repository, TaskId, Timestamp, UpstreamName,
};

use super::{Cluster, Summary};

/// Tasks of a host whose bytes are summed up.
const MOST_SUMMED: usize = 10_000;

/// A host, as it told of itself and as it is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSummary {
    /// Its public key.
    pub host: HostId,
    /// For people.
    pub name: String,
    /// Its peer port.
    pub address: SocketAddr,
    /// Of its software.
    pub version: String,
    /// Whether it is a seed.
    pub seed: bool,
    /// The data centre.
    pub idc: String,
    /// From the widest to the narrowest.
    pub location: String,
    /// Pieces that it sends at the moment, if it has said so lately.
    pub uploads: u32,
    /// Pieces that it sends at the same time at most.
    pub upload_slots: u32,
    /// Whether its session rests.
    pub resting: bool,
    /// Tasks that it has to do with.
    pub tasks: usize,
    /// Bytes that it holds.
    pub bytes: u64,
    /// Whether these are those of some tasks only.
    pub more: bool,
}

impl Cluster {
    /// The first tasks in the order of their names, after `after`.
    pub fn tasks_after(&self, after: Option<&TaskId>, most: usize) -> Vec<Summary> {
        let follows = |id: &&TaskId| after.is_none_or(|after| *id > after);
        let ids = smallest(self.tasks.keys().filter(follows).copied(), most);
        self.summaries_of(&ids)
    }

    /// Those of these tasks that are known.
    pub fn summaries_of(&self, ids: &[TaskId]) -> Vec<Summary> {
        let known = ids.iter().filter_map(|id| Some((id, self.tasks.get(id)?)));
        known.map(|(id, task)| task.summary(*id)).collect()
    }

    /// The first hosts in the order of their keys, after `after`.
    pub fn hosts_after(
        &self,
        now: Timestamp,
        after: Option<&HostId>,
        most: usize,
    ) -> Vec<HostSummary> {
        let follows = |host: &&HostId| after.is_none_or(|after| *host > after);
        let hosts = smallest(self.hosts.keys().filter(follows).copied(), most);
        let known = hosts.iter().filter_map(|host| self.host_summary(now, host));
        known.collect()
    }

    fn host_summary(&self, now: Timestamp, host: &HostId) -> Option<HostSummary> {
        let known = self.hosts.get(host)?;
        let held = known.tasks.keys().take(MOST_SUMMED).map(|id| {
            let task = self.tasks.get(id.as_ref());
            task.map_or(0, |task| bytes(task.lengths, task.held(host)))
        });
        Some(HostSummary {
            host: *host,
            name: known.hello.name.clone(),
            address: known.hello.address,
            version: known.hello.version.clone(),
            seed: self.seeds.contains(host),
            idc: known.place.idc.clone(),
            location: known.place.location.clone(),
            uploads: known.uploads(now),
            upload_slots: known.hello.upload_slots,
            resting: known.resting.is_some(),
            tasks: known.tasks.len(),
            bytes: held.sum(),
            more: known.tasks.len() > MOST_SUMMED,
        })
    }

    /// Nothing is remembered of what a tag stood for.
    pub fn forget_tag(&mut self, upstream: &UpstreamName, repository: &Repository, tag: &str) {
        self.observations.forget(upstream, repository, tag);
    }
}

/// So many pieces, but for what the last one is shorter.
fn bytes(lengths: Lengths, held: &PieceSet) -> u64 {
    let all = lengths.pieces();
    let pieces = match lengths.known_size() {
        Some(size) if held.len() == all => return size,
        Some(_) => held.len(),
        // What lies past the end is held by who knows it, and is nothing. Who has come so far has
        // the same bytes as a content with a size.
        None => Some(held.first_gap(0))
            .filter(|gap| *gap < all)
            .unwrap_or(0),
    };
    u64::from(pieces) * lengths.piece_bytes(PieceIndex(0))
}

/// The `most` smallest, in order.
fn smallest<T: Ord>(all: impl Iterator<Item = T>, most: usize) -> Vec<T> {
    let mut heap = BinaryHeap::new();
    for one in all {
        if heap.len() < most {
            heap.push(one);
        } else if heap.peek().is_some_and(|largest| one < *largest) {
            heap.pop();
            heap.push(one);
        }
    }
    heap.into_sorted_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_come_in_order() {
        let all = [5, 3, 9, 1, 7, 2];
        assert_eq!(smallest(all.into_iter(), 3), [1, 2, 3]);
        assert_eq!(smallest(all.into_iter(), 10), [1, 2, 3, 5, 7, 9]);
        assert_eq!(smallest(all.into_iter(), 0), Vec::<i32>::new());
    }
}
