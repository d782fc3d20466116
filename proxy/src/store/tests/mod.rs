//! The store on real files.

pub(crate) mod disk;
mod endless;
mod restart;
mod room;
mod scrub;

use std::{fs, time::Duration};

use bytesize::ByteSize;
use darter_api::{Digest, Grant, NodeKey, PieceDigest, Proof, Statement};

use super::*;
use darter_api::proof::GroupDigest;

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 % 251) as u8).collect()
}

fn open(dir: &Path) -> (Store, Vec<Found>) {
    Store::open(dir, &Options::default(), Metrics::default()).unwrap()
}

/// Writes and seals a piece as a download does; its holder states it.
pub(crate) fn store_piece(partial: &Partial, bytes: &[u8], index: u32) {
    let range = partial.lengths().piece_range(PieceIndex(index));
    let piece = &bytes[range.start as usize..range.end as usize];
    partial.write(range.start, piece).unwrap();
    seal_piece(partial, bytes, index).unwrap();
}

fn seal_piece(partial: &Partial, bytes: &[u8], index: u32) -> io::Result<()> {
    let (task, lengths, index) = (partial.task(), partial.lengths(), PieceIndex(index));
    let range = lengths.piece_range(index);
    let piece = &bytes[range.start as usize..range.end as usize];
    let groups: Vec<GroupDigest> = piece.chunks(64 * 1024).map(GroupDigest::of).collect();
    let key = NodeKey::from_seed([1; 32]);
    let grant = Grant::sign(&key, key.id(), task, lengths, 0..lengths.pieces(), 5);
    let statement = Statement::sign(&key, &task, &lengths, index, PieceDigest::of(&groups));
    let proof = Proof {
        grant: grant.into(),
        statement,
    };
    partial.seal(index, piece.len() as u64, &groups, Some(&proof))
}

/// As an older version, or somebody's umask, has left it.
#[test]
fn nobody_else_may_look_into_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    fs::create_dir(&path).unwrap();
    for directory in [dir.path(), &path] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let (store, _) = open(&path);
    store_whole(&store, &content(70_000));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(dir.path()), 0o755, "what is above is others', too");
}

/// Stores all of it.
fn store_whole(store: &Store, bytes: &[u8]) -> TaskId {
    let (task, partial) = begin(store, bytes);
    (0..partial.lengths().pieces()).for_each(|index| store_piece(&partial, bytes, index));
    partial.commit().unwrap();
    task
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
            piece.span(piece.range()).read().unwrap(),
            bytes[piece.range().start as usize..piece.range().end as usize]
        );
    }
    assert!(store.whole(&task).is_none());
    let mut hasher = PrefixHasher::new(&task);
    hasher.advance(&partial, 1_000_000).unwrap();
    assert_eq!(hasher.finish(), *task.digest());
    partial.commit().unwrap();
    let blob = store.whole(&task).unwrap();
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
            .verify(&task, &proof.grant.lengths, PieceIndex(2), |_| true)
            .is_ok()
    );
}

#[test]
fn what_became_whole_stays_for_who_read_it_growing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let bytes = content(300_000);
    let (task, partial) = begin(&store, &bytes);
    (0..2).for_each(|index| store_piece(&partial, &bytes, index));
    let reader = partial.clone();
    partial.commit().unwrap();
    assert!(!store.delete(&task));
    drop(reader);
    assert!(store.delete(&task));
    assert_eq!(store.take_gone(), [task]);
    assert_eq!(store.usage(), (0, 0));
}

#[test]
fn what_proves_a_blob_s_pieces_is_kept_only_while_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let task = store_whole(&store, &content(600_000));
    let keeps = || match store.0.index.get(&task).unwrap().value() {
        Entry::Whole(whole) => whole.keeps_ledger(),
        Entry::Growing(_) => false,
    };
    let piece = store.piece(&task, PieceIndex(1)).unwrap().unwrap();
    store.tidy();
    assert!(keeps(), "a piece of it is being sent");
    drop(piece);
    store.tidy();
    assert!(!keeps());
    let piece = store.piece(&task, PieceIndex(1)).unwrap().unwrap();
    assert!(piece.proof().is_some(), "it is read again");
}

#[test]
fn a_blob_with_a_media_type_is_no_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for (kind, usage) in [
        (OriginKind::Blob, (1000, 0)),
        (OriginKind::Manifest, (1000, 1001)),
    ] {
        let bytes = content(1000 + usage.1.min(1) as usize);
        let origin = Origin {
            upstream: "registry.test".parse().unwrap(),
            repository: "app".parse().unwrap(),
            kind,
            private: false,
        };
        let lengths = Lengths::of(bytes.len() as u64).unwrap();
        let partial = store.begin(
            TaskId::from(Digest::sha256(&bytes)),
            lengths,
            Some(&origin),
            Some("application/octet-stream"),
        );
        partial.unwrap().commit().unwrap();
        assert_eq!(store.usage(), usage);
    }
    drop(store);
    assert_eq!(open(dir.path()).0.usage(), (1000, 1001));
}
