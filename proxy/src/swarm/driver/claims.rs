//! How large contents are, by the manifests that name them.
//!
//! Owner of state: [`Claims`], bounded. Invariant: what a manifest says is believed of contents
//! of its own repository alone, since anybody may push one that names others' contents with a
//! size of his own; and it counts no more once a source says otherwise.

use darter_api::{Origin, Repository, TaskId, UpstreamName};
use moka::sync::Cache;

/// Remembered; some 200 bytes each.
const MOST: u64 = 50_000;

type Key = (TaskId, UpstreamName, Repository);

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Claims(Cache<Key, u64>);

impl Default for Claims {
    fn default() -> Self {
        Self(Cache::new(MOST))
    }
}

impl Claims {
    /// A manifest of the origin's repository says so.
    pub(super) fn put(&self, task: TaskId, origin: &Origin, size: u64) {
        self.0.insert(key(task, origin), size);
    }

    /// Its source says otherwise.
    pub(super) fn refute(&self, task: TaskId, origin: &Origin) {
        self.0.invalidate(&key(task, origin));
    }

    /// The size in bytes that is claimed there.
    pub(super) fn get(&self, task: &TaskId, origin: &Origin) -> Option<u64> {
        self.0.get(&key(*task, origin))
    }
}

fn key(task: TaskId, origin: &Origin) -> Key {
    (task, origin.upstream.clone(), origin.repository.clone())
}
