//! Whose grants make a piece believable.
//!
//! Owner of state: the set of scheduler keys, kept in a file of the data directory so
//! that stored proofs still count after a restart without a scheduler. Failure: a file
//! that can't be written costs only that; one that can't be read is an error at start.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use darter_api::{Grant, HostId};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

/// Keys kept at most; a cluster has a few schedulers, and old ones fade.
const MOST_KEYS: usize = 256;

/// Whose grants count beside the schedulers'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Members may lease to themselves, so that a swarm works without a scheduler. Then
    /// anybody's grant counts: whoever holds a forged one could have leased to itself.
    #[default]
    Members,
    /// Only what a scheduler granted counts, and what this host read itself.
    Schedulers,
}

/// The keys whose grants count.
#[derive(Debug)]
pub struct Trust {
    own: HostId,
    policy: Policy,
    path: PathBuf,
    keys: RwLock<BTreeSet<HostId>>,
}

impl Trust {
    /// Reads the keys kept at `path`, a file of one hex key a line, if it is there.
    ///
    /// # Errors
    /// When the file is there and can't be read.
    pub fn open(path: &Path, own: HostId, policy: Policy) -> io::Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let keys = text.lines().filter_map(|line| line.trim().parse().ok());
        Ok(Self {
            own,
            policy,
            path: path.to_owned(),
            keys: RwLock::new(keys.take(MOST_KEYS).collect()),
        })
    }

    /// Whether the granter's word counts. The signature is the caller's to check.
    pub fn covers(&self, grant: &Grant) -> bool {
        grant.granter == self.own
            || self.policy == Policy::Members
            || self.keys.read().contains(&grant.granter)
    }

    /// Whether a scheduler that this host has met granted it, or the host itself: what it takes to
    /// have this host read a source for another. The signature is the caller's to check.
    pub fn obeys(&self, grant: &Grant) -> bool {
        grant.granter == self.own || self.keys.read().contains(&grant.granter)
    }

    /// These keys count from now on. Blocks on a small file where one is new.
    pub fn add(&self, keys: &[HostId]) {
        let mut known = self.keys.write();
        let before = known.len();
        for key in keys {
            if known.len() < MOST_KEYS {
                known.insert(*key);
            }
        }
        if known.len() == before {
            return;
        }
        let text: String = known.iter().map(|key| format!("{key}\n")).collect();
        let fresh = self.path.with_extension("new");
        let written = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &self.path));
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "can't keep the schedulers' keys");
        }
    }
}

#[cfg(test)]
mod tests {
    use darter_api::{Digest, Lengths, NodeKey, TaskId};

    use super::*;

    fn grant(granter: u8, holder: u8) -> Grant {
        let granter = NodeKey::from_seed([granter; 32]);
        let holder = NodeKey::from_seed([holder; 32]).id();
        let task = TaskId::from(Digest::sha256(b""));
        Grant::sign(&granter, holder, task, Lengths::of(1).unwrap(), 0..1, 0)
    }

    #[test]
    fn keys_outlive_a_restart_and_members_are_a_choice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trusted");
        let own = NodeKey::from_seed([9; 32]).id();
        let scheduler = NodeKey::from_seed([1; 32]).id();
        let trust = Trust::open(&path, own, Policy::Schedulers).unwrap();
        assert!(!trust.covers(&grant(1, 2)));
        assert!(!trust.covers(&grant(2, 2)));
        assert!(trust.covers(&grant(9, 9)));
        trust.add(&[scheduler]);
        let again = Trust::open(&path, own, Policy::Members).unwrap();
        assert!(again.covers(&grant(1, 2)));
        assert!(again.covers(&grant(2, 2)));
        // The word of a scheduler that is gone, and that this host never met.
        assert!(again.covers(&grant(3, 2)));
        assert!(again.obeys(&grant(1, 2)) && again.obeys(&grant(9, 9)));
        assert!(!again.obeys(&grant(3, 2)) && !again.obeys(&grant(2, 2)));
        let strict = Trust::open(&path, own, Policy::Schedulers).unwrap();
        assert!(strict.covers(&grant(1, 2)));
        assert!(!strict.covers(&grant(3, 2)));
    }
}
