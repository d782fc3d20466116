//! What a crash may lose, and what it may not.

use proptest::prelude::*;

use super::*;

/// Where a content's data lies.
fn data_of(dir: &Path, kind: &str, task: &TaskId) -> std::path::PathBuf {
    dir.join(kind).join("sha256").join(task.digest().hex())
}

fn journal_of(dir: &Path, kind: &str, task: &TaskId) -> std::path::PathBuf {
    data_of(dir, kind, task).with_extension("journal")
}

#[test]
fn a_machine_that_restarts_is_trusted_only_as_far_as_was_synced() {
    let dir = tempfile::tempdir().unwrap();
    let (synced, unsynced, started) = (content(300_000), content(400_000), content(600_000));
    let boot =
        |id: &str| open::open(dir.path(), &Options::default(), Metrics::default(), id).unwrap();
    let (store, _) = boot("one");
    store_whole(&store, &synced);
    store.make_durable();
    store_whole(&store, &unsynced);
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
fn a_start_that_is_cut_short_makes_the_next_one_trust_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let boot = |id: &str| open::open(dir.path(), &Options::default(), Metrics::default(), id);
    let (store, _) = boot("one").unwrap();
    let bytes = content(400_000);
    let task = store_whole(&store, &bytes);
    drop(store);
    fs::write(data_of(dir.path(), "blobs", &task), vec![0; bytes.len()]).unwrap();
    // A journal that can't be put back, of a content that comes before the rotten one.
    let other: TaskId = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    fs::write(journal_of(dir.path(), "blobs", &other), b"").unwrap();
    fs::write(data_of(dir.path(), "partial", &other), b"").unwrap();
    let obstacle = journal_of(dir.path(), "partial", &other);
    fs::create_dir(&obstacle).unwrap();
    assert!(boot("two").is_err());
    fs::remove_dir(&obstacle).unwrap();
    let (store, _) = boot("two").unwrap();
    assert!(store.whole(&task).is_none());
}

#[test]
fn a_commit_cut_between_its_renames_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(600_000);
    let (store, _) = open(dir.path());
    let (task, partial) = begin(&store, &bytes);
    (0..3).for_each(|index| store_piece(&partial, &bytes, index));
    drop((partial, store));
    fs::rename(
        journal_of(dir.path(), "partial", &task),
        journal_of(dir.path(), "blobs", &task),
    )
    .unwrap();

    let (store, found) = open(dir.path());
    assert!(!found[0].whole && found[0].held.len() == 3);
    let (_, partial) = begin(&store, &bytes);
    partial.commit().unwrap();
    let blob = store.whole(&task).unwrap();
    assert_eq!(blob.read(0..600_000).unwrap(), bytes);
}

#[test]
fn what_makes_no_sense_is_dropped_with_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let sizes = [300_000, 300_001, 300_002, 300_003];
    let tasks = sizes.map(|size| store_whole(&store, &content(size)));
    let good = store_whole(&store, &content(300_004));
    drop(store);
    let (data, journal) = (
        |nth: usize| data_of(dir.path(), "blobs", &tasks[nth]),
        |nth: usize| journal_of(dir.path(), "blobs", &tasks[nth]),
    );
    fs::write(journal(0), content(5000)).unwrap();
    fs::remove_file(journal(1)).unwrap();
    fs::remove_file(data(2)).unwrap();
    fs::write(data(3), b"short").unwrap();
    fs::write(dir.path().join("trash/17"), b"not yet freed").unwrap();

    let (store, found) = open(dir.path());
    assert_eq!(found.len(), 1);
    assert!(store.whole(&good).is_some());
    assert_eq!(store.usage(), (300_004, 0));
    for nth in 0..4 {
        assert!(!data(nth).exists() && !journal(nth).exists(), "{nth}");
    }
    assert_eq!(fs::read_dir(dir.path().join("trash")).unwrap().count(), 0);
}

#[test]
fn the_order_of_use_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        capacity: ByteSize::b(1_000_000),
        ..Options::default()
    };
    let open = || {
        Store::open(dir.path(), &options, Metrics::default())
            .unwrap()
            .0
    };
    let store = open();
    let tasks = [300_000, 300_001, 300_002].map(|size| store_whole(&store, &content(size)));
    drop(store);
    for (task, age) in tasks.iter().zip([500, 900, 700]) {
        let file = fs::File::options()
            .append(true)
            .open(data_of(dir.path(), "blobs", task));
        let then = SystemTime::now() - Duration::from_secs(age);
        file.unwrap().set_modified(then).unwrap();
    }

    // Used again, the oldest is the newest, after one more restart too.
    let store = open();
    assert!(store.whole(&tasks[1]).is_some());
    drop(store);
    let store = open();
    drop(begin(&store, &content(350_000)));
    assert_eq!(store.take_gone(), [tasks[2]]);
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
                prop_assert_eq!(piece.span(range.clone()).read().unwrap(), &bytes[range.start as usize..range.end as usize]);
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
