//! What hosts learned from upstreams themselves, for when an upstream can't be reached.

use std::collections::{HashMap, VecDeque};

use darter_api::{
    Repository, Timestamp, UpstreamName,
    session::{Observation, Reference},
};

/// Observations kept; the oldest go first.
const MAX: usize = 200_000;

type Key = (UpstreamName, Repository, Reference);

#[derive(Debug, Default)]
pub(super) struct Observations {
    newest: HashMap<Key, (Observation, Timestamp)>,
    order: VecDeque<Key>,
}

impl Observations {
    /// Only what anybody may read is kept: a private repository's tags are its readers'.
    pub(super) fn insert(&mut self, now: Timestamp, seen: Observation) {
        let key = (
            seen.upstream.clone(),
            seen.repository.clone(),
            seen.reference.clone(),
        );
        if !seen.public {
            self.newest.remove(&key);
            return;
        }
        let was_known = self.newest.insert(key.clone(), (seen, now)).is_some();
        if !was_known {
            self.order.push_back(key);
        }
        while self.order.len() > MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.newest.remove(&oldest);
            }
        }
    }

    /// Forgets what a tag stood for.
    pub(super) fn forget(&mut self, upstream: &UpstreamName, repository: &Repository, tag: &str) {
        let reference = Reference::Tag(tag.to_owned());
        let key = (upstream.clone(), repository.clone(), reference);
        if self.newest.remove(&key).is_some() {
            self.order.retain(|one| *one != key);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.newest.len().max(self.order.len())
    }

    pub(super) fn find(
        &self,
        now: Timestamp,
        upstream: &UpstreamName,
        repository: &Repository,
        reference: &Reference,
    ) -> Option<Observation> {
        let key = (upstream.clone(), repository.clone(), reference.clone());
        let (seen, at) = self.newest.get(&key)?;
        let waited = u64::try_from(now.since(*at).as_millis()).unwrap_or(u64::MAX);
        Some(Observation {
            age_ms: seen.age_ms.saturating_add(waited),
            ..seen.clone()
        })
    }
}
