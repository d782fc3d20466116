//! Contents that grow though nobody knows how large they will be.

use std::time::Instant;

use darter_api::{End, lengths::OPEN_PIECE_BYTES};

use super::{
    super::endless::{LINGER, Resealed},
    disk::SmallDisk,
    *,
};

const PIECE: usize = OPEN_PIECE_BYTES as usize;
/// Its last piece is short.
const SIZE: usize = 2 * PIECE + 100_000;

fn key() -> NodeKey {
    NodeKey::from_seed([1; 32])
}

fn proof(task: TaskId, lengths: Lengths, index: PieceIndex, digest: PieceDigest) -> Proof {
    let (key, pieces) = (key(), 0..lengths.pieces());
    let grant = Grant::sign(&key, key.id(), task, lengths, pieces, 5).into();
    let statement = Statement::sign(&key, &task, &lengths, index, digest);
    Proof { grant, statement }
}

fn begin_open(store: &Store, bytes: &[u8]) -> Partial {
    let task = TaskId::from(Digest::sha256(bytes)).opened();
    store.begin(task, Lengths::open(), None, None).unwrap()
}

/// A store of 8 MiB with seven contents of one.
fn nearly_full(dir: &Path) -> (Store, Vec<TaskId>) {
    let options = Options {
        capacity: ByteSize::b(8 << 20),
        min_free: ByteSize::b(0),
        ..Options::default()
    };
    let (store, _) = Store::open(dir, &options, Metrics::default()).unwrap();
    let kept = (0..7).map(|more| store_whole(&store, &content((1 << 20) + more)));
    let kept = kept.collect();
    (store, kept)
}

/// The piece's groups, up to the content's end.
fn seal_open(partial: &Partial, bytes: &[u8], index: u32) {
    let (task, lengths, index) = (partial.task(), partial.lengths(), PieceIndex(index));
    let start = lengths.piece_range(index).start;
    let piece = &bytes[start as usize..bytes.len().min(start as usize + PIECE)];
    partial.write(start, piece).unwrap();
    let groups: Vec<GroupDigest> = piece.chunks(64 * 1024).map(GroupDigest::of).collect();
    let proof = proof(task, lengths, index, PieceDigest::of(&groups));
    let length = piece.len() as u64;
    partial.seal(index, length, &groups, Some(&proof)).unwrap();
}

fn end(partial: &Partial, size: u64) {
    let (task, lengths) = (partial.task(), partial.lengths());
    let piece = End::piece_of(size).unwrap();
    let proof = proof(task, lengths, piece, PieceDigest::of_end(size));
    partial.ends(End { size, proof });
}

/// As the driver cuts it anew.
fn resealed(bytes: &[u8]) -> (Lengths, Vec<Resealed>) {
    let task = TaskId::from(Digest::sha256(bytes));
    let lengths = Lengths::of(bytes.len() as u64).unwrap();
    let (key, all) = (key(), 0..lengths.pieces());
    let grant = Arc::new(Grant::sign(&key, key.id(), task, lengths, all.clone(), 5));
    let pieces = all.map(PieceIndex).map(|index| {
        let range = lengths.piece_range(index);
        let piece = &bytes[range.start as usize..range.end as usize];
        let groups: Vec<GroupDigest> = piece.chunks(64 * 1024).map(GroupDigest::of).collect();
        let digest = PieceDigest::of(&groups);
        let statement = Statement::sign(&key, &task, &lengths, index, digest);
        let grant = Arc::clone(&grant);
        let proof = Some(Proof { grant, statement });
        Resealed {
            index,
            groups,
            proof,
        }
    });
    (lengths, pieces.collect())
}

fn grow(store: &Store, bytes: &[u8]) -> Partial {
    let partial = begin_open(store, bytes);
    (0..3).for_each(|index| seal_open(&partial, bytes, index));
    end(&partial, bytes.len() as u64);
    partial
}

/// What a process that is killed now leaves behind.
fn killed(dir: &Path) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => copy(&entry.path(), &to),
                false => drop(fs::copy(entry.path(), to).unwrap()),
            }
        }
    }
    let left = tempfile::tempdir().unwrap();
    copy(dir, left.path());
    left
}

/// Files under these, but for the store's own notes.
fn files(dir: &Path) -> usize {
    let count = |entry: fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => files(&entry.path()),
        false => 1,
    };
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| count(entry.unwrap())).sum()
}

/// The next start has nothing of it, and can begin it anew.
fn has_lost(left: &Path, bytes: &[u8]) {
    let (store, found) = open(left);
    assert_eq!(found, []);
    assert_eq!(store.usage(), (0, 0));
    for kind in ["blobs", "partial", "trash"] {
        assert_eq!(files(&left.join(kind)), 0, "{kind}");
    }
    let partial = grow(&store, bytes);
    let (lengths, pieces) = resealed(bytes);
    partial.close(lengths, pieces).unwrap();
    assert!(store.scrub(&TaskId::from(Digest::sha256(bytes))));
}

#[test]
fn it_becomes_a_content_with_a_size_and_its_pieces_stay_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(SIZE);
    let (store, _) = open(dir.path());
    let partial = grow(&store, &bytes);
    let task = TaskId::from(Digest::sha256(&bytes));
    assert!(partial.held().contains(3), "what lies past the end is held");
    assert!(store.whole(&task).is_none());
    let (lengths, pieces) = resealed(&bytes);
    // Written by somebody who thought that it went on.
    partial.write(SIZE as u64, b"more").unwrap();
    partial.close(lengths, pieces).unwrap();
    let blob = store.whole(&task).unwrap();
    assert_eq!(blob.read(0..SIZE as u64).unwrap(), bytes);
    assert_eq!(store.usage(), (SIZE as u64, 0));
    for (piece, length) in [(0, PIECE), (2, SIZE - 2 * PIECE), (3, 0), (60_000, 0)] {
        let piece = store.piece(&task.opened(), PieceIndex(piece));
        let piece = piece.unwrap().unwrap();
        let range = piece.range();
        assert_eq!(range.end - range.start, length as u64);
        assert_eq!(piece.end().map(|end| end.size), Some(SIZE as u64));
    }
    // It is here, with its size: nobody begins it without.
    let again = store.begin(task.opened(), Lengths::open(), None, None);
    let cause = again.map(|_| ()).unwrap_err();
    assert_eq!(cause.kind(), io::ErrorKind::AlreadyExists);
    drop((blob, partial, store));
    let (store, found) = open(dir.path());
    assert!(found.len() == 1 && found[0].whole);
    assert!(store.scrub(&task), "all of it is right");
    assert!(
        store
            .piece(&task.opened(), PieceIndex(0))
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_killed_process_loses_what_had_no_end_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(SIZE);
    let (store, _) = open(dir.path());
    let partial = begin_open(&store, &bytes);
    has_lost(killed(dir.path()).path(), &bytes);
    seal_open(&partial, &bytes, 0);
    partial
        .write(OPEN_PIECE_BYTES, &bytes[PIECE..PIECE + 70_000])
        .unwrap();
    has_lost(killed(dir.path()).path(), &bytes);
    (1..3).for_each(|index| seal_open(&partial, &bytes, index));
    end(&partial, SIZE as u64);
    has_lost(killed(dir.path()).path(), &bytes);
    let (lengths, pieces) = resealed(&bytes);
    let before = killed(dir.path());
    partial.close(lengths, pieces).unwrap();
    let after = killed(dir.path());

    // In between: the new journal has been written, or has been renamed as well.
    let task = TaskId::from(Digest::sha256(&bytes));
    let path = |dir: &Path, kind: &str, extension: &str| {
        let data = dir.join(kind).join("sha256").join(task.digest().hex());
        data.with_extension(extension)
    };
    let journal = fs::read(path(after.path(), "blobs", "journal")).unwrap();
    let sidecar = path(before.path(), "partial/open", "sidecar");
    fs::write(&sidecar, &journal).unwrap();
    let written = killed(before.path());
    has_lost(written.path(), &bytes);
    fs::rename(&sidecar, path(before.path(), "blobs", "journal")).unwrap();
    let renamed = killed(before.path());
    has_lost(renamed.path(), &bytes);

    let (store, found) = open(after.path());
    assert!(found.len() == 1 && found[0].whole);
    assert!(store.scrub(&task));
    assert_eq!(store.usage(), (SIZE as u64, 0));
}

#[test]
fn a_journal_whose_data_was_lost_does_not_speak_for_another_download() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(SIZE);
    let (store, _) = open(dir.path());
    // Who knew the size has one piece of it by now.
    let (task, sized) = begin(&store, &bytes);
    store_piece(&sized, &bytes, 2);
    drop(sized);
    let before = killed(dir.path());
    let partial = grow(&store, &bytes);
    let (lengths, pieces) = resealed(&bytes);
    partial.close(lengths, pieces).unwrap();
    let journal = format!("blobs/sha256/{}.journal", task.digest().hex());
    fs::copy(dir.path().join(&journal), before.path().join(&journal)).unwrap();

    let (_, found) = open(before.path());
    assert!(found.len() == 1 && !found[0].whole);
    assert_eq!(found[0].held, PieceSet::from_range(2..3));
}

#[test]
fn room_is_asked_for_as_it_grows_and_little_is_evicted_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, kept) = nearly_full(dir.path());
    let bytes = content(4 << 20);
    let partial = begin_open(&store, &bytes);
    let here = || {
        kept.iter()
            .filter(|task| store.whole(task).is_some())
            .count()
    };
    assert_eq!(here(), 7, "it asks for nothing yet");
    // A quarter of the capacity, for which the least recently used goes.
    (0..2).for_each(|index| seal_open(&partial, &bytes, index));
    let left = here();
    assert!((5..7).contains(&left), "{left}");
    let refused = partial.write(2 << 20, &bytes[2 << 20..]).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    assert!(partial.was_refused());
    assert_eq!(here(), left, "nothing goes for more than that");
    assert!(store.usage().0 <= 8 << 20);
    // What it was given is free again when it is given up.
    let task = partial.task();
    drop(partial);
    assert!(store.delete(&task));
    let whole = kept.iter().filter_map(|task| store.whole(task));
    assert_eq!(store.usage().0, whole.map(|blob| blob.size()).sum::<u64>());
}

#[test]
fn of_what_others_began_knowing_its_size_nothing_stays() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(SIZE);
    let (store, _) = open(dir.path());
    let (task, sized) = begin(&store, &bytes);
    store_piece(&sized, &bytes, 0);
    drop(sized);
    let partial = grow(&store, &bytes);
    let (lengths, pieces) = resealed(&bytes);
    partial.close(lengths, pieces).unwrap();
    assert_eq!(files(&dir.path().join("partial")), 0);
    assert_eq!(files(&dir.path().join("trash")), 0);
    assert_eq!(store.usage(), (SIZE as u64, 0));
    assert!(store.scrub(&task));
    drop(partial);
    store.drop_closed(Instant::now() + LINGER);
    assert!(store.delete(&task));
    assert_eq!(store.usage(), (0, 0));
    assert_eq!(files(&dir.path().join("blobs")), 0);
}

/// Its download would be told that it has all, and have nothing.
#[test]
fn what_somebody_downloads_knowing_its_size_is_left_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(SIZE);
    let (store, _) = open(dir.path());
    let (task, sized) = begin(&store, &bytes);
    store_piece(&sized, &bytes, 0);
    let partial = grow(&store, &bytes);
    let (lengths, pieces) = resealed(&bytes);
    let cause = partial.close(lengths, pieces).unwrap_err();
    assert_eq!(cause.kind(), io::ErrorKind::ResourceBusy);
    assert!(store.whole(&task).is_none());
    drop(partial);
    store.drop_closed(Instant::now() + LINGER);
    (1..lengths.pieces()).for_each(|index| store_piece(&sized, &bytes, index));
    sized.commit().unwrap();
    assert_eq!(files(&dir.path().join("partial")), 0);
    assert_eq!(store.usage(), (SIZE as u64, 0));
    assert!(store.scrub(&task));
}

#[test]
fn what_somebody_else_made_whole_meanwhile_stays_for_a_while_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(SIZE);
    let (store, _) = open(dir.path());
    let partial = grow(&store, &bytes);
    let task = store_whole(&store, &bytes);
    let (lengths, pieces) = resealed(&bytes);
    let cause = partial.close(lengths, pieces).unwrap_err();
    assert_eq!(cause.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(files(&dir.path().join("partial")), 0);
    drop(partial);
    let piece = |index| store.piece(&task.opened(), PieceIndex(index)).unwrap();
    let behind = piece(1).expect("who is behind still has it");
    let closed = Instant::now();
    store.drop_closed(closed);
    assert!(piece(1).is_some(), "it is not over");
    drop(behind);
    store.drop_closed(closed + LINGER);
    assert!(piece(1).is_none());
    assert_eq!(store.usage(), (SIZE as u64, 0), "nothing of it is counted");
    assert!(store.scrub(&task));
}

#[test]
fn what_it_was_given_and_has_not_written_is_not_there_twice() {
    let Some(disk) = SmallDisk::mount(16 << 20) else {
        return;
    };
    let options = Options {
        capacity: ByteSize::mib(64),
        min_free: ByteSize::b(0),
        ..Options::default()
    };
    let (store, _) = Store::open(disk.path(), &options, Metrics::default()).unwrap();
    let before = store.reach().unwrap();
    let partial = begin_open(&store, &content(4 << 20));
    partial.write(0, &[1]).unwrap();
    assert!(store.usage().0 >= 1 << 20, "more is given than is written");
    let after = store.reach().unwrap();
    assert!(after <= before, "{after} of {before}");
}

#[test]
fn several_together_evict_no_more_than_one() {
    let dir = tempfile::tempdir().unwrap();
    let (store, kept) = nearly_full(dir.path());
    let mut taken = 0;
    let partials: Vec<Partial> = (0..4)
        .map(|seed| begin_open(&store, &[seed; PIECE]))
        .collect();
    for partial in &partials {
        taken += usize::from(partial.write(0, &[0; PIECE]).is_ok());
    }
    assert_eq!(taken, 2, "a quarter of eight");
    let left = kept.iter().filter(|task| store.whole(task).is_some());
    assert!(left.count() >= 5);
}

#[test]
fn a_piece_of_another_end_is_not_given_away() {
    let bytes = content(SIZE);
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let partial = begin_open(&store, &bytes);
    let has = |index| {
        store
            .piece(&partial.task(), PieceIndex(index))
            .unwrap()
            .is_some()
    };
    seal_open(&partial, &bytes, 0);
    seal_open(&partial, &bytes, 1);
    // As many groups, the last of them shorter.
    let size = 2 * PIECE - 5;
    end(&partial, size as u64);
    assert!(has(0) && !has(1));
    seal_open(&partial, &bytes[..size], 1);
    assert!(has(1), "it came again");
    end(&partial, SIZE as u64);
    assert!(!has(1), "now it is short");
    partial
        .unseal(&PieceSet::full(partial.lengths().pieces()))
        .unwrap();
    seal_open(&partial, &bytes, 1);
    assert!(has(1) && !has(0));
}
