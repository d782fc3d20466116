//! Who may have room, and who has to go for it.

use super::{disk::SmallDisk, *};

fn open_with(dir: &Path, options: Options) -> Store {
    Store::open(dir, &options, Metrics::default()).unwrap().0
}

fn bounded(capacity: u64) -> Options {
    Options {
        capacity: ByteSize::b(capacity),
        min_free: ByteSize::b(0),
        ..Options::default()
    }
}

fn refused<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|cause| cause.kind() == io::ErrorKind::StorageFull)
}

fn try_begin(store: &Store, size: u64) -> io::Result<Partial> {
    let task = TaskId::from(Digest::sha256(&size.to_be_bytes()));
    store.begin(task, Lengths::of(size).unwrap(), None, None)
}

#[test]
fn the_background_keeps_room_ready() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), bounded(1_000_000));
    let tasks: Vec<TaskId> = (0..10)
        .map(|nth| store_whole(&store, &content(95_000 - nth)))
        .collect();
    store.tidy();
    assert_eq!(store.take_gone(), [], "at the high watermark");
    let held = store.whole(&tasks[0]).unwrap();
    store_whole(&store, &content(20_000));
    store.tidy();
    let (used, _) = store.usage();
    assert!((750_000..=850_000).contains(&used), "{used}");
    assert!(store.whole(&tasks[0]).is_some(), "in use");
    drop(held);
}

#[test]
fn the_least_recently_used_goes_for_a_new_one_but_not_what_is_held_or_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), bounded(1_000_000));
    let tasks =
        [200_000, 200_001, 200_002, 200_003].map(|size| store_whole(&store, &content(size)));
    let held = store.whole(&tasks[0]).unwrap();
    let until = SystemTime::now() + Duration::from_secs(60);
    store.pin(tasks[1], until).unwrap();
    drop(try_begin(&store, 399_990).unwrap());
    assert!(store.whole(&tasks[0]).is_some(), "held");
    assert!(store.whole(&tasks[1]).is_some(), "pinned");
    let gone = store.take_gone();
    assert_eq!(gone.len(), 1, "no more than was needed");
    assert!(tasks[2..].contains(&gone[0]));
    let path = dir.path().join("blobs/sha256").join(gone[0].digest().hex());
    assert!(!path.exists());
    assert!(!store.delete(&tasks[0]), "held");
    drop(held);
    assert!(store.delete(&tasks[0]));
}

#[test]
fn a_pin_outlives_a_restart_and_ends_with_its_content() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), bounded(1_000_000));
    let task = store_whole(&store, &content(500_000));
    let until = SystemTime::now() + Duration::from_secs(60);
    store.pin(task, until).unwrap();
    drop(store);
    let store = open_with(dir.path(), bounded(1_000_000));
    assert!(refused(try_begin(&store, 600_000)));
    assert!(store.delete(&task), "a pin is no guard");
    store_whole(&store, &content(500_000));
    assert!(try_begin(&store, 600_000).is_ok());
    assert_eq!(store.take_gone(), [task, task]);
}

#[test]
fn what_was_pinned_or_opened_since_it_was_chosen_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), bounded(1_000_000));
    let [pinned, opened, idle] =
        [200_000, 200_001, 200_002].map(|size| store_whole(&store, &content(size)));
    let chosen = store.candidates(false, Entry::size);
    assert_eq!(chosen.len(), 3);
    let until = SystemTime::now() + Duration::from_secs(60);
    store.pin(pinned, until).unwrap();
    let held = store.whole(&opened).unwrap();
    assert_eq!(store.evict(chosen, u64::MAX), 200_002);
    assert_eq!(store.take_gone(), [idle]);
    drop(held);
    assert_eq!(store.pinned(), [pinned]);
}

#[test]
fn nothing_is_evicted_for_what_does_not_fit_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), bounded(1_000_000));
    let small = store_whole(&store, &content(300_000));
    assert!(refused(try_begin(&store, 1_000_001)), "larger than all");
    let large = try_begin(&store, 600_000).unwrap();
    assert!(refused(try_begin(&store, 500_000)), "beside one in use");
    assert!(store.whole(&small).is_some());
    assert_eq!(store.take_gone(), []);
    assert_eq!(store.usage().0, 900_000);
    drop(large);
    assert!(try_begin(&store, 500_000).is_ok());
    assert!(
        store.whole(&small).is_some(),
        "the abandoned one went first"
    );
}

#[test]
fn manifests_have_bounds_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        manifest_capacity: ByteSize::b(1000),
        ..bounded(1_000_000)
    };
    let store = open_with(dir.path(), options);
    let manifest = |bytes: &[u8]| {
        let task = TaskId::from(Digest::sha256(bytes));
        let lengths = Lengths::of(bytes.len() as u64).unwrap();
        let partial = store.begin(task, lengths, None, Some("type")).unwrap();
        partial.write(0, bytes).unwrap();
        partial.commit().unwrap();
        task
    };
    let first = manifest(&content(600));
    for nth in 0..6 {
        store_whole(&store, &content(400_000 + nth));
    }
    assert!(store.whole(&first).is_some(), "blobs don't push it out");
    let second = manifest(&content(601));
    assert!(store.take_gone().contains(&first));
    assert!(store.whole(&second).is_some());
    assert_eq!(store.usage().1, 601);
}

#[test]
fn others_have_their_share_of_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), bounded(1 << 30));
    let task = store_whole(&store, &content(300_000));
    drop(store);
    let options = Options {
        min_free: ByteSize::b(u64::MAX / 4),
        ..bounded(1 << 30)
    };
    let store = open_with(dir.path(), options);
    assert!(refused(try_begin(&store, 1000)));
    assert!(store.whole(&task).is_some(), "not in vain");
    assert!(store.metrics().is_full());
    store.tidy();
    assert!(store.whole(&task).is_none(), "others need the space");
}

#[test]
fn a_full_disk_takes_blobs_again_when_it_has_room() {
    let Some(disk) = SmallDisk::mount(8 << 20) else {
        return;
    };
    let store = open_with(&disk.path().join("store"), bounded(1 << 30));
    let old = store_whole(&store, &content(2 << 20));
    let bytes = content(5 << 20);
    let (task, partial) = begin(&store, &bytes);
    assert!(refused(try_begin(&store, 4 << 20)), "promised to the other");
    store_piece(&partial, &bytes, 0);
    disk.fill();
    let rest = partial.write(1 << 20, &bytes[1 << 20..]);
    assert!(refused(rest));
    drop(partial);
    assert!(refused(try_begin(&store, 4 << 20)));
    disk.empty();

    let (same, partial) = begin(&store, &bytes);
    assert_eq!(
        (same, partial.held().len()),
        (task, 1),
        "it is gone on with"
    );
    drop(partial);
    drop(try_begin(&store, 6 << 20).unwrap());
    assert!(store.take_gone().contains(&old), "evicted for it");
    store.tidy();
    assert!(!store.metrics().is_full());
}

#[test]
fn a_record_that_a_full_disk_took_in_part_loses_none_behind_it() {
    let Some(disk) = SmallDisk::mount(32 << 20) else {
        return;
    };
    let path = disk.path().join("store");
    let store = open_with(&path, bounded(1 << 30));
    let bytes = content(10 << 20);
    let (task, partial) = begin(&store, &bytes);
    let pieces = partial.lengths().pieces();
    partial.write(0, &bytes).unwrap();
    disk.fill();
    // The journal's page is full in the middle of a record.
    let torn = (0..pieces).find(|index| seal_piece(&partial, &bytes, *index).is_err());
    let torn = torn.unwrap();
    assert!(!partial.held().contains(torn), "it does not count");
    disk.empty();
    drop(partial);

    let (_, partial) = begin(&store, &bytes);
    for index in partial.held().missing(pieces).iter() {
        seal_piece(&partial, &bytes, index).unwrap();
    }
    partial.commit().unwrap();
    let proven = |store: &Store| {
        let piece = |index| store.piece(&task, PieceIndex(index)).unwrap();
        (0..pieces).all(|index| piece(index).is_some_and(|piece| piece.proof().is_some()))
    };
    assert!(proven(&store));
    drop(store);
    assert!(proven(&open_with(&path, bounded(1 << 30))));
}
