//! What a crash may lose, and what it may not.

use std::fs;

use darter_api::{Digest, Grant, NodeKey, PieceDigest, Proof, Statement};
use proptest::prelude::*;

use super::*;
use darter_api::proof::GroupDigest;

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 % 251) as u8).collect()
}

fn open(dir: &Path) -> (Store, Vec<Found>) {
    Store::open(dir, &Options::default(), Metrics::default()).unwrap()
}

/// Writes and seals a piece as a download does; its holder states it.
fn store_piece(partial: &Partial, bytes: &[u8], index: u32) {
    let (task, lengths, index) = (partial.task(), partial.lengths(), PieceIndex(index));
    let range = lengths.piece_range(index);
    let piece = &bytes[range.start as usize..range.end as usize];
    partial.write(range.start, piece).unwrap();
    let groups: Vec<GroupDigest> = piece.chunks(64 * 1024).map(GroupDigest::of).collect();
    let key = NodeKey::from_seed([1; 32]);
    let grant = Grant::sign(&key, key.id(), task, lengths, 0..lengths.pieces(), 5);
    let statement = Statement::sign(&key, &task, &lengths, index, PieceDigest::of(&groups));
    let proof = Proof {
        grant: grant.into(),
        statement,
    };
    partial.seal(index, &groups, Some(&proof)).unwrap();
}

fn begin(store: &Store, bytes: &[u8]) -> (TaskId, Partial) {
    let task = TaskId::from(Digest::sha256(bytes));
    let lengths = Lengths::of(bytes.len() as u64).unwrap();
    (task, store.begin(task, lengths, None, None).unwrap())
}

#[test]
fn grows_commits_and_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(1_000_000);
    let (store, found) = open(dir.path());
    assert_eq!(found, []);
    let (task, partial) = begin(&store, &bytes);
    for index in [3, 0, 1, 2] {
        assert!(store.piece(&task, PieceIndex(index)).unwrap().is_none());
        store_piece(&partial, &bytes, index);
        let piece = store.piece(&task, PieceIndex(index)).unwrap().unwrap();
        assert_eq!(
            piece.read(piece.range()).unwrap(),
            bytes[piece.range().start as usize..piece.range().end as usize]
        );
    }
    assert!(store.whole(&task).is_none());
    let mut hasher = PrefixHasher::new(&task);
    hasher.advance(&partial, 1_000_000).unwrap();
    assert_eq!(hasher.finish(), *task.digest());
    let blob = partial.commit().unwrap();
    assert_eq!(blob.read(10..500_000).unwrap(), bytes[10..500_000]);
    let before = blob.piece(PieceIndex(2)).unwrap().unwrap();
    assert!(matches!(
        Store::open(dir.path(), &Options::default(), Metrics::default()),
        Err(OpenError::Locked(_))
    ));
    let proof = before.proof().cloned().unwrap();
    drop((blob, before, store));

    let (store, found) = open(dir.path());
    assert!(found[0].whole);
    assert_eq!(found[0].task, task);
    let piece = store.piece(&task, PieceIndex(2)).unwrap().unwrap();
    assert_eq!(piece.proof(), Some(&proof));
    assert!(
        proof
            .verify(&task, &piece.lengths(), PieceIndex(2), |_| true)
            .is_ok()
    );
}

#[test]
fn a_machine_that_restarts_is_trusted_only_as_far_as_was_synced() {
    let dir = tempfile::tempdir().unwrap();
    let (synced, unsynced, started) = (content(300_000), content(400_000), content(600_000));
    let boot =
        |id: &str| open::open(dir.path(), &Options::default(), Metrics::default(), id).unwrap();
    let (store, _) = boot("one");
    for bytes in [&synced, &unsynced] {
        let (_, partial) = begin(&store, bytes);
        (0..partial.lengths().pieces()).for_each(|index| store_piece(&partial, bytes, index));
        partial.commit().unwrap();
        if bytes.len() == 300_000 {
            store.make_durable();
        }
    }
    let (_, partial) = begin(&store, &started);
    store_piece(&partial, &started, 0);
    drop((partial, store));
    let lost = TaskId::from(Digest::sha256(&unsynced));
    let path = dir.path().join("blobs/sha256").join(lost.digest().hex());
    fs::write(&path, vec![0; unsynced.len()]).unwrap();

    let (store, found) = boot("two");
    let tasks: Vec<TaskId> = found.iter().map(|found| found.task).collect();
    assert_eq!(tasks, [TaskId::from(Digest::sha256(&synced))]);
    assert!(store.whole(&lost).is_none());
}

#[test]
fn evicts_the_least_recently_used_but_not_what_is_held_or_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        capacity: ByteSize::b(1_000_000),
        ..Options::default()
    };
    let (store, _) = Store::open(dir.path(), &options, Metrics::default()).unwrap();
    let mut tasks = Vec::new();
    for size in [200_000, 200_001, 200_002, 200_003] {
        let bytes = content(size);
        let (task, partial) = begin(&store, &bytes);
        store_piece(&partial, &bytes, 0);
        partial.commit().unwrap();
        tasks.push(task);
    }
    let held = store.whole(&tasks[0]).unwrap();
    store.pin(tasks[1], Duration::from_secs(60));
    drop(begin(&store, &content(400_000)));
    assert!(store.whole(&tasks[0]).is_some(), "held");
    assert!(store.whole(&tasks[1]).is_some(), "pinned");
    assert!(store.whole(&tasks[2]).is_none());
    assert!(store.take_evicted().contains(&tasks[2]));
    assert!(!store.delete(&tasks[0]), "held");
    drop(held);
    assert!(store.delete(&tasks[0]));
    assert!(
        !dir.path()
            .join("blobs/sha256")
            .join(tasks[0].digest().hex())
            .exists()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// kill -9 at any moment leaves files whose journal is cut anywhere, or torn: every
    /// piece that is reported has the right bytes.
    #[test]
    fn a_torn_journal_never_lies(cut in 0usize..6000, flip in any::<Option<usize>>(), order in Just((0u32..8).collect::<Vec<_>>()).prop_shuffle()) {
        let dir = tempfile::tempdir().unwrap();
        let bytes = content(2_000_000);
        let (store, _) = open(dir.path());
        let (task, partial) = begin(&store, &bytes);
        for index in &order {
            store_piece(&partial, &bytes, *index);
        }
        partial.unseal(&PieceSet::from_range(order[0]..order[0] + 1)).unwrap();
        drop((partial, store));
        let journal = dir.path().join("partial/sha256").join(format!("{}.journal", task.digest().hex()));
        let mut raw = fs::read(&journal).unwrap();
        raw.truncate(cut.min(raw.len()));
        if let (Some(flip), false) = (flip, raw.is_empty()) {
            let at = flip % raw.len();
            raw[at] ^= 0x40;
        }
        fs::write(&journal, raw).unwrap();

        let (store, found) = open(dir.path());
        for found in found {
            for index in found.held.iter() {
                let piece = store.piece(&task, PieceIndex(index)).unwrap().unwrap();
                let range = piece.range();
                prop_assert_eq!(piece.read(range.clone()).unwrap(), &bytes[range.start as usize..range.end as usize]);
                prop_assert!(piece.proof().unwrap().verify(&task, &found.lengths, PieceIndex(index), |_| true).is_ok());
            }
        }
        let (_, partial) = begin(&store, &bytes);
        for index in partial.held().missing(8).iter() {
            store_piece(&partial, &bytes, index);
        }
        prop_assert_eq!(partial.read(0..2_000_000).unwrap(), bytes);
    }
}
