//! A task's members by the place where they stand, for sampling.
//!
//! Members of equal locality are one cell. Which one that is its locality says, which stays the
//! same for as long as it is a member. There are cells only for large swarms, and while somebody
//! is introduced to others now and then: most of the millions of members just hold what nobody asks
//! for.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use darter_api::{HostId, Timestamp, session::Locality};
use rand::{RngExt as _, rngs::SmallRng};

/// Cells that nobody has asked for so long are given up: some milliseconds' work in a swarm of
/// ten thousand, should somebody ask again.
const LAST: Duration = Duration::from_secs(300);

/// See the module.
#[derive(Debug)]
pub(super) struct Cells {
    cells: BTreeMap<Arc<Locality>, Vec<Arc<HostId>>>,
    /// When they were last asked for.
    pub(super) used: Timestamp,
}

impl Cells {
    /// Of these members.
    pub(super) fn new<'a>(
        now: Timestamp,
        members: impl Iterator<Item = (&'a Arc<HostId>, &'a Arc<Locality>)>,
    ) -> Self {
        let mut all = Self {
            cells: BTreeMap::new(),
            used: now,
        };
        for (host, place) in members {
            all.insert(host, place);
        }
        all
    }

    pub(super) fn insert(&mut self, host: &Arc<HostId>, place: &Arc<Locality>) {
        let cell = self.cells.entry(Arc::clone(place)).or_default();
        if cell.len() == cell.capacity() {
            // There are millions of them: not twice as many.
            cell.reserve_exact(cell.len() / 8 + 4);
        }
        cell.push(Arc::clone(host));
    }

    /// Takes out a member that stands there, named by what it was put in with.
    pub(super) fn remove(&mut self, place: &Locality, host: &Arc<HostId>) {
        let Some(cell) = self.cells.get_mut(place) else {
            return;
        };
        // Microseconds for ten thousand: what they point to is not looked at.
        if let Some(at) = cell.iter().position(|one| Arc::ptr_eq(one, host)) {
            cell.swap_remove(at);
        }
        if cell.is_empty() {
            self.cells.remove(place);
        }
    }

    /// Whether nobody has asked for them for long.
    pub(super) fn is_unused(&self, now: Timestamp) -> bool {
        now.since(self.used) >= LAST
    }

    /// Members in the places that `reached` allows: all, if they are no more than `count`,
    /// else as many at random, a quarter of them from `home` itself. Some may be the same.
    pub(super) fn sample(
        &self,
        home: &Locality,
        reached: impl Fn(&Locality) -> bool,
        count: usize,
        rng: &mut SmallRng,
    ) -> Vec<HostId> {
        let cells = self.cells.iter();
        let reached: Vec<(&Locality, &Vec<Arc<HostId>>)> = cells
            .filter(|(place, _)| reached(place))
            .map(|(place, cell)| (place.as_ref(), cell))
            .collect();
        let members: usize = reached.iter().map(|(_, cell)| cell.len()).sum();
        if members <= count {
            let cells = reached.iter();
            return cells
                .flat_map(|(_, cell)| cell.iter().map(|host| **host))
                .collect();
        }
        let mut found = Vec::with_capacity(count);
        let own = reached.iter().find(|(place, _)| *place == home);
        if let Some((_, cell)) = own.filter(|_| reached.len() > 1) {
            let near = (0..count / 4).map(|_| *cell[rng.random_range(0..cell.len())]);
            found.extend(near);
        }
        while found.len() < count {
            let mut at = rng.random_range(0..members);
            for (_, cell) in &reached {
                if let Some(host) = cell.get(at) {
                    found.push(**host);
                    break;
                }
                at -= cell.len();
            }
        }
        found
    }

    /// Members in the places that `reached` allows.
    pub(super) fn iter<'a>(
        &'a self,
        reached: impl Fn(&Locality) -> bool + 'a,
    ) -> impl Iterator<Item = HostId> + 'a {
        let cells = self.cells.iter();
        cells
            .filter(move |(place, _)| reached(place))
            .flat_map(|(_, cell)| cell.iter().map(|host| **host))
    }

    /// Members that are in them.
    #[cfg(any(test, fuzzing))]
    pub(super) fn count(&self) -> usize {
        self.cells.values().map(Vec::len).sum()
    }
}
