//! Which hosts are to have it, and which find out what there is to have.

use std::collections::HashSet;

use darter_api::{HostId, preheat::Present};

use super::Wish;

/// Hosts that are meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) here: Vec<Present>,
    /// Those that the manager chose, and that have left since.
    pub(super) left: Vec<HostId>,
    /// What else of the wish is not here, in words.
    pub(super) missing: Vec<String>,
}

/// See [`Chosen`].
pub(super) fn chosen(wish: &Wish, present: &[Present]) -> Chosen {
    if !wish.only.is_empty() {
        let only: HashSet<&HostId> = wish.only.iter().collect();
        let here = present.iter().filter(|host| only.contains(&host.host));
        let here: Vec<Present> = here.cloned().collect();
        let known: HashSet<&HostId> = here.iter().map(|host| &host.host).collect();
        let left = wish.only.iter().filter(|host| !known.contains(host));
        return Chosen {
            left: left.copied().collect(),
            here,
            missing: Vec::new(),
        };
    }
    let is_meant = |host: &&Present| !wish.except.contains(&host.host);
    let present = present.iter().filter(is_meant).cloned();
    let (here, missing) = wish.choice.among(present.collect());
    Chosen {
        here,
        left: Vec::new(),
        missing,
    }
}

/// Who is to find out what there is to have, one after the other: seeds, which are there for the
/// registries, before others.
pub(super) fn resolvers(present: &[Present], targets: &[Present], most: usize) -> Vec<Present> {
    let seeds = present.iter().filter(|host| host.seed);
    let others = targets.iter().filter(|host| !host.seed);
    seeds.chain(others).take(most).cloned().collect()
}
