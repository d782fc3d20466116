//! Images in a store: what they are made of, and what goes with them.

use std::time::{Duration, SystemTime};

use darter_api::{Digest, Lengths, Origin, OriginKind};

use super::*;
use crate::store::{self, Options};

struct Shelf {
    store: Store,
    _dir: tempfile::TempDir,
}

impl Shelf {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let metrics = store::Metrics::default();
        let (store, _) = Store::open(dir.path(), &Options::default(), metrics).unwrap();
        Self { store, _dir: dir }
    }

    fn begin(&self, bytes: &[u8], kind: OriginKind) -> (TaskId, store::Partial) {
        let origin = Origin {
            upstream: "docker.io".parse().unwrap(),
            repository: "library/app".parse().unwrap(),
            kind,
            private: false,
        };
        let task = TaskId::of_content(Digest::sha256(bytes));
        let lengths = Lengths::of(bytes.len() as u64).unwrap();
        let partial = self.store.begin(task, lengths, Some(&origin), None);
        (task, partial.unwrap())
    }

    fn put(&self, bytes: &[u8], kind: OriginKind) -> TaskId {
        let (task, partial) = self.begin(bytes, kind);
        store::tests::store_piece(&partial, bytes, 0);
        partial.commit().unwrap();
        task
    }

    fn image(&self, layers: &[TaskId]) -> TaskId {
        let layers: Vec<String> = layers.iter().map(|task| entry(&task.to_string())).collect();
        let config = self.put(layers.join("").as_bytes(), OriginKind::Blob);
        let text = format!(
            r#"{{"config":{},"layers":[{}]}}"#,
            entry(&config.to_string()),
            layers.join(",")
        );
        self.put(text.as_bytes(), OriginKind::Manifest)
    }

    fn pin(&self, task: TaskId) {
        let until = SystemTime::now() + Duration::from_secs(600);
        self.store.pin(task, until).unwrap();
    }

    fn contents(&self, root: TaskId) -> Vec<TaskId> {
        let digests = made_of(&self.store, &[root]);
        digests.into_iter().map(TaskId::of_content).collect()
    }
}

/// As a manifest names something; sizes are of no interest here.
fn entry(digest: &str) -> String {
    format!(r#"{{"mediaType":"application/octet-stream","digest":"{digest}","size":1}}"#)
}

#[test]
fn an_image_is_what_its_manifests_name() {
    let shelf = Shelf::new();
    let layers = [b"one", b"two"].map(|bytes| shelf.put(bytes, OriginKind::Blob));
    let image = shelf.image(&layers);
    let entries = [entry(&image.to_string()), entry("md5:0")].join(",");
    let index = format!(r#"{{"manifests":[{entries}]}}"#);
    let index = shelf.put(index.as_bytes(), OriginKind::Manifest);
    let all = shelf.contents(index);
    assert_eq!((all.len(), &all[..2]), (5, [index, image].as_slice()));
    assert!(layers.iter().all(|layer| all.contains(layer)));
    let unknown = TaskId::of_content(Digest::sha256(b"unknown"));
    assert_eq!(shelf.contents(unknown), [unknown]);
}

#[test]
fn a_layer_is_no_manifest_whatever_it_looks_like() {
    let shelf = Shelf::new();
    let other = shelf.put(b"of another image", OriginKind::Blob);
    let forged = format!(r#"{{"layers":[{}]}}"#, entry(&other.to_string()));
    let forged = shelf.put(forged.as_bytes(), OriginKind::Blob);
    let image = shelf.image(&[forged]);
    assert!(!shelf.contents(image).contains(&other));
}

#[test]
fn what_another_pinned_image_needs_stays() {
    let shelf = Shelf::new();
    let [shared, own] = [b"shared", b"own of"].map(|bytes| shelf.put(bytes, OriginKind::Blob));
    let first = shelf.image(&[shared, own]);
    let second = shelf.image(&[shared]);
    let tasks = shelf.contents(first);
    for task in tasks.iter().chain(&shelf.contents(second)) {
        shelf.pin(*task);
    }
    let dropped = drop_all(&shelf.store, &tasks, true);
    assert_eq!((dropped.dropped.len(), dropped.needed.len()), (3, 1));
    assert!(shelf.store.stat(&shared).is_some() && shelf.store.stat(&own).is_none());
    assert!(
        !shelf.store.pinned().contains(&own),
        "nothing is left of it"
    );
    let dropped = drop_all(&shelf.store, &[shared], false);
    assert_eq!(dropped.dropped.len(), 1, "it was said by name");
}

#[test]
fn what_is_read_goes_and_what_is_downloaded_stays() {
    let shelf = Shelf::new();
    let read = shelf.put(b"read by somebody", OriginKind::Blob);
    let reader = shelf.store.whole(&read).unwrap();
    let (growing, partial) = shelf.begin(b"not yet here", OriginKind::Blob);
    let absent = TaskId::of_content(Digest::sha256(b"absent"));
    let dropped = drop_all(&shelf.store, &[absent, growing, read], true);
    assert_eq!(
        dropped,
        Dropped {
            dropped: PieceSet::from_range(2..3),
            in_use: PieceSet::from_range(1..2),
            ..Dropped::default()
        }
    );
    assert_eq!(reader.read(0..4).unwrap(), b"read"[..], "it ends cleanly");
    assert_eq!(shelf.store.take_gone(), [read]);
    drop(partial);
    assert_eq!(drop_all(&shelf.store, &[growing], true).dropped.len(), 1);
}
