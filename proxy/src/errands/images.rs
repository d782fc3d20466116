//! What images are made of, as far as the store has their manifests.

use std::collections::HashSet;

use darter_api::{Digest, TaskId, preheat::MOST_CONTENTS};

use crate::{content::MAX_MANIFEST_BYTES, manifest::Manifest, store::Store};

/// What a manifest in the store says; `None` where it is not here whole, or is none.
fn read(store: &Store, task: &TaskId) -> Option<Manifest> {
    let (size, _) = store.stat(task)?;
    // A layer that looks like one names nothing.
    if size > MAX_MANIFEST_BYTES || !store.is_manifest(task) {
        return None;
    }
    let bytes = store.whole(task)?.read(0..size).ok()?;
    Manifest::parse(&bytes).ok()
}

fn names(manifest: &Manifest) -> impl Iterator<Item = TaskId> {
    let all = manifest.manifests().chain(manifest.blobs());
    all.flatten().map(|one| one.digest.into())
}

/// The roots and what they name, manifests of indexes too; those first that name others.
pub(super) fn made_of(store: &Store, roots: &[TaskId]) -> Vec<Digest> {
    let mut known: HashSet<TaskId> = roots.iter().copied().collect();
    let mut all: Vec<TaskId> = roots.to_vec();
    let mut at = 0;
    while let Some(task) = all.get(at).copied() {
        at += 1;
        let Some(manifest) = read(store, &task) else {
            continue;
        };
        for named in names(&manifest) {
            if all.len() < MOST_CONTENTS && known.insert(named) {
                all.push(named);
            }
        }
    }
    all.truncate(MOST_CONTENTS);
    all.iter().map(|task| *task.digest()).collect()
}

/// What pinned images need, those apart whose manifests are among `dropped`.
pub(super) fn needed_by_pinned(store: &Store, dropped: &[TaskId]) -> HashSet<TaskId> {
    let dropped: HashSet<&TaskId> = dropped.iter().collect();
    let mut needed = HashSet::new();
    for task in store.pinned() {
        if dropped.contains(&task) || !store.is_manifest(&task) {
            continue;
        }
        needed.insert(task);
        needed.extend(made_of(store, &[task]).into_iter().map(TaskId::of_content));
    }
    needed
}
