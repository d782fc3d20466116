//! Grants whose signatures were checked: hundreds of pieces come with the same one.
//!
//! Owner of state: [`Grants`] keeps the last [`MOST`] of them, whole, so that nothing but the very
//! same grant is taken for one of them. Nothing fails; what was forgotten is checked again.

use std::{collections::VecDeque, sync::Arc};

use darter_api::Grant;
use parking_lot::Mutex;

/// A content has a few under way (a holder has up to eight runs), an image some tens of contents.
const MOST: usize = 64;

/// See the module. Cheap to clone; clones share what they know.
#[derive(Debug, Clone, Default)]
pub(super) struct Grants(Arc<Mutex<VecDeque<Grant>>>);

impl Grants {
    /// Whether the signature is the granter's.
    pub(super) fn is_authentic(&self, grant: &Grant) -> bool {
        if self.0.lock().contains(grant) {
            return true;
        }
        let is_authentic = grant.is_authentic();
        if is_authentic {
            self.remember(grant);
        }
        is_authentic
    }

    fn remember(&self, grant: &Grant) {
        let mut known = self.0.lock();
        if known.len() == MOST {
            known.pop_back();
        }
        known.push_front(grant.clone());
    }
}

#[cfg(test)]
mod tests {
    use darter_api::{Digest, Lengths, NodeKey, TaskId};

    use super::*;

    fn grant(number: u32) -> Grant {
        let granter = NodeKey::from_seed([1; 32]);
        let task = TaskId::from(Digest::sha256(b"content"));
        let lengths = Lengths::of(10_000_000).unwrap();
        let holder = NodeKey::from_seed([2; 32]).id();
        Grant::sign(&granter, holder, task, lengths, number..number + 1, 0)
    }

    #[test]
    fn only_the_very_same_grant_is_known() {
        let grants = Grants::default();
        let good = grant(0);
        assert!(grants.is_authentic(&good) && grants.is_authentic(&good));
        let wider = Grant {
            pieces: 0..9,
            ..good.clone()
        };
        let other = Grant {
            signature: [0; 64],
            ..good
        };
        for wrong in [wider, other] {
            assert!(!grants.is_authentic(&wrong) && !grants.is_authentic(&wrong));
        }
        assert_eq!(grants.0.lock().len(), 1);
    }

    #[test]
    fn few_are_kept() {
        let grants = Grants::default();
        for number in 0..MOST as u32 + 9 {
            assert!(grants.is_authentic(&grant(number)));
        }
        assert_eq!(grants.0.lock().len(), MOST);
        assert!(grants.is_authentic(&grant(0)));
    }
}
