//! A task's members by the place where they stand, for sampling.
//!
//! Members of equal locality are one cell; a member knows where in its cell it is, so that
//! coming and going cost the same in a swarm of any size. Which cell that is its locality says,
//! which stays the same for as long as it is a member.

use std::{collections::BTreeMap, sync::Arc};

use darter_api::{HostId, session::Locality};
use rand::{RngExt as _, rngs::SmallRng};

/// Where in its cell a member is to be found, if it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat(u32);

impl Default for Seat {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl Seat {
    pub(super) const fn is_taken(self) -> bool {
        self.0 != u32::MAX
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Cells {
    cells: BTreeMap<Arc<Locality>, Vec<Arc<HostId>>>,
}

impl Cells {
    pub(super) fn insert(&mut self, host: Arc<HostId>, place: &Arc<Locality>) -> Seat {
        let cell = self.cells.entry(Arc::clone(place)).or_default();
        if cell.len() == cell.capacity() {
            // There are millions of seats: not twice as many.
            cell.reserve_exact(cell.len() / 8 + 4);
        }
        cell.push(host);
        Seat(u32::try_from(cell.len() - 1).unwrap_or(u32::MAX))
    }

    /// Frees a seat; who sits there now, if somebody moved up.
    pub(super) fn remove(&mut self, place: &Locality, seat: Seat) -> Option<HostId> {
        let cell = self.cells.get_mut(place)?;
        let at = seat.0 as usize;
        if at < cell.len() {
            cell.swap_remove(at);
        }
        let moved = cell.get(at).map(|host| **host);
        if cell.is_empty() {
            self.cells.remove(place);
        }
        moved
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

    /// Members that have a seat.
    #[cfg(any(test, fuzzing))]
    pub(super) fn count(&self) -> usize {
        self.cells.values().map(Vec::len).sum()
    }
}
