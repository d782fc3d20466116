//! Who of a task's members knows whom.
//!
//! Few of the millions of members have neighbours, those that take or give it at the moment: who has
//! none is not in here.

use std::collections::{BTreeMap, BTreeSet};

use darter_api::HostId;

/// Nobody, to be pointed at.
static NOBODY: BTreeSet<HostId> = BTreeSet::new();

/// Each one's neighbours, whose neighbour it is; nobody's are empty.
#[derive(Debug, Default)]
pub(super) struct Neighbours(BTreeMap<HostId, BTreeSet<HostId>>);

impl Neighbours {
    /// The two are neighbours from now on.
    pub(super) fn meet(&mut self, host: HostId, other: HostId) {
        self.0.entry(host).or_default().insert(other);
        self.0.entry(other).or_default().insert(host);
    }

    pub(super) fn of(&self, host: &HostId) -> &BTreeSet<HostId> {
        self.0.get(host).unwrap_or(&NOBODY)
    }

    /// It is nobody's neighbour any more; whose it was.
    pub(super) fn remove(&mut self, host: &HostId) -> BTreeSet<HostId> {
        let lost = self.0.remove(host).unwrap_or_default();
        for neighbour in &lost {
            if let Some(left) = self.0.get_mut(neighbour) {
                left.remove(host);
                if left.is_empty() {
                    self.0.remove(neighbour);
                }
            }
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use darter_api::NodeKey;

    use super::*;

    #[test]
    fn who_has_no_neighbour_left_takes_no_place() {
        let [one, two, three] = [1, 2, 3].map(|seed| NodeKey::from_seed([seed; 32]).id());
        let mut all = Neighbours::default();
        all.meet(one, two);
        all.meet(three, one);
        assert_eq!(all.of(&one), &BTreeSet::from([two, three]));
        assert_eq!(all.of(&two), &BTreeSet::from([one]));
        assert_eq!(all.remove(&two), BTreeSet::from([one]));
        assert_eq!(all.of(&one), &BTreeSet::from([three]));
        assert_eq!(all.remove(&two), BTreeSet::new());
        assert_eq!(all.remove(&one), BTreeSet::from([three]));
        assert!(all.0.is_empty());
    }
}
