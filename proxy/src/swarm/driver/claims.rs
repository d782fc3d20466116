//! How large contents are, and what comes after them, by the manifests that name them.
//!
//! Owner of state: [`Claims`], bounded. Invariant: what a manifest says is believed of contents
//! of its own repository alone, since anybody may push one that names others' contents with a
//! size of his own; and it counts no more once a source says otherwise.

use darter_api::{Lengths, Origin, Repository, TaskId, UpstreamName};
use moka::sync::Cache;

/// Remembered; some 200 bytes each.
const MOST: u64 = 50_000;

type Key = (TaskId, UpstreamName, Repository);

#[derive(Debug, Clone, Copy)]
struct Claim {
    size: u64,
    /// What the manifest names after it.
    next: Option<TaskId>,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Claims(Cache<Key, Claim>);

impl Default for Claims {
    fn default() -> Self {
        Self(Cache::new(MOST))
    }
}

impl Claims {
    /// A manifest of the origin's repository says so.
    pub(super) fn put(&self, task: TaskId, origin: &Origin, size: u64) {
        let key = key(task, origin);
        let next = self.0.get(&key).and_then(|claim| claim.next);
        self.0.insert(key, Claim { size, next });
    }

    /// A manifest of the origin's repository says all of these, in this order. The first is its
    /// configuration, which is also read by who wants nothing else: nothing comes after that.
    pub(super) fn put_all(&self, tasks: &[(TaskId, Lengths)], origin: &Origin) {
        for (place, (task, lengths)) in tasks.iter().enumerate() {
            let next = tasks.get(place + 1).filter(|_| place > 0);
            let claim = Claim {
                size: lengths.size(),
                next: next.map(|(next, _)| *next),
            };
            self.0.insert(key(*task, origin), claim);
        }
    }

    /// Its source says otherwise.
    pub(super) fn refute(&self, task: TaskId, origin: &Origin) {
        self.0.invalidate(&key(task, origin));
    }

    /// The size in bytes that is claimed there.
    pub(super) fn get(&self, task: &TaskId, origin: &Origin) -> Option<u64> {
        Some(self.0.get(&key(*task, origin))?.size)
    }

    /// What comes after a content, and how large it is: the small ones among the next `most`.
    pub(super) fn small_after(
        &self,
        task: &TaskId,
        origin: &Origin,
        most: usize,
    ) -> Vec<(TaskId, Lengths)> {
        let mut key = key(*task, origin);
        let mut next = self.0.get(&key).and_then(|claim| claim.next);
        let following = std::iter::from_fn(|| {
            let task = next?;
            key.0 = task;
            let claim = self.0.get(&key)?;
            next = claim.next;
            Some((task, Lengths::of(claim.size).ok()?))
        });
        let small = following
            .take(most)
            .filter(|(_, lengths)| lengths.is_small());
        small.collect()
    }
}

fn key(task: TaskId, origin: &Origin) -> Key {
    (task, origin.upstream.clone(), origin.repository.clone())
}

#[cfg(test)]
mod tests {
    use darter_api::{Digest, OriginKind};

    use super::*;

    fn origin(repository: &str) -> Origin {
        Origin {
            upstream: "corp.test".parse().unwrap(),
            repository: repository.parse().unwrap(),
            kind: OriginKind::Blob,
            private: false,
        }
    }

    fn tasks(sizes: &[u64]) -> Vec<(TaskId, Lengths)> {
        let task = |(place, size): (usize, &u64)| {
            let digest = Digest::sha256(format!("{place}").as_bytes());
            (TaskId::of_content(digest), Lengths::of(*size).unwrap())
        };
        sizes.iter().enumerate().map(task).collect()
    }

    #[test]
    fn what_comes_after_a_layer_is_what_its_own_repository_s_manifest_says() {
        let (claims, app) = (Claims::default(), origin("app"));
        let named = tasks(&[900, 100, 1 << 30, 200, 300, 400]);
        claims.put_all(&named, &app);
        let after = |place: usize, most| claims.small_after(&named[place].0, &app, most);
        assert_eq!(after(0, 9), [], "a configuration is read alone too");
        assert_eq!(after(1, 9), named[3..], "large ones are passed over");
        assert_eq!(after(1, 3), named[3..5], "and counted");
        assert_eq!(after(5, 9), []);
        assert_eq!(after(1, 0), []);
        let other = claims.small_after(&named[1].0, &origin("other"), 9);
        assert_eq!(other, []);
        // What a source says of one changes nothing of its place; what it refutes is not known.
        claims.put(named[3].0, &app, 201);
        assert_eq!(after(3, 9), named[4..]);
        claims.refute(named[4].0, &app);
        assert_eq!(after(1, 9), [(named[3].0, Lengths::of(201).unwrap())]);
    }

    #[test]
    fn contents_named_in_a_circle_end() {
        let (claims, app) = (Claims::default(), origin("app"));
        let [a, b, c]: [_; 3] = tasks(&[1, 2, 3]).try_into().unwrap();
        claims.put_all(&[c, a, b, a, b, c], &app);
        assert_eq!(claims.small_after(&a.0, &app, 9), [b, c]);
        claims.put_all(&[c, b, a], &app);
        let circle = claims.small_after(&a.0, &app, 9);
        assert!(circle.len() <= 9, "{circle:?}");
        claims.put_all(&[c, a, b], &app);
        assert!(claims.small_after(&b.0, &app, 9).len() <= 9);
    }
}
