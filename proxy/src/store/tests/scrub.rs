//! Rot on disk.

use super::{super::scrub, *};

/// Flips a bit in the middle of a whole content.
fn rot(dir: &Path, task: &TaskId) {
    let path = dir.join("blobs/sha256").join(task.digest().hex());
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
}

fn scrubbing(rate: ByteSize) -> Options {
    Options {
        scrub_rate: rate,
        min_free: ByteSize::b(0),
        ..Options::default()
    }
}

#[tokio::test]
async fn every_content_is_read_again_and_what_is_rotten_goes() {
    let dir = tempfile::tempdir().unwrap();
    let options = scrubbing(ByteSize::gib(1));
    let (store, _) = Store::open(dir.path(), &options, Metrics::default()).unwrap();
    let tasks = [2_500_000, 300_000, 10].map(|size| store_whole(&store, &content(size)));
    rot(dir.path(), &tasks[0]);
    let reader = store.whole(&tasks[0]).unwrap();
    let round = async {
        while store.metrics().rounds() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = scrub::scrub(store.clone()) => panic!("it goes on for ever"),
        () = round => {}
    }
    assert!(store.whole(&tasks[0]).is_none(), "whoever reads it");
    assert!(store.whole(&tasks[1]).is_some() && store.whole(&tasks[2]).is_some());
    assert_eq!(store.take_gone(), [tasks[0]]);
    assert_eq!(store.usage(), (300_010, 0));
    drop(reader);
    store_whole(&store, &content(2_500_000));
    assert!(store.scrub(&tasks[0]));
}

#[tokio::test(start_paused = true)]
async fn a_scrub_takes_its_time_and_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let options = scrubbing(ByteSize::mib(1));
    let open = || {
        Store::open(dir.path(), &options, Metrics::default())
            .unwrap()
            .0
    };
    let store = open();
    for nth in 0..5 {
        store_whole(&store, &content((4 << 20) + nth));
    }
    let began = tokio::time::Instant::now();
    let scrubbed = async |store: &Store, bytes: u64| {
        while store.metrics().scrubbed_bytes() < bytes {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = scrub::scrub(store.clone()) => panic!("it goes on for ever"),
        () = scrubbed(&store, 13 << 20) => {}
    }
    let took = began.elapsed();
    assert!((12..16).contains(&took.as_secs()), "{took:?}");
    drop(store);

    // Twelve seconds had passed when the third was done; the place was noted then.
    let store = open();
    let round = async {
        while store.metrics().rounds() == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        () = scrub::scrub(store.clone()) => panic!("it goes on for ever"),
        () = round => {}
    }
    let read = store.metrics().scrubbed_bytes() >> 20;
    assert_eq!(read, 8, "the two that were left");
}

#[test]
fn a_content_that_cannot_be_read_any_more_is_rotten() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let task = store_whole(&store, &content(300_000));
    let path = dir.path().join("blobs/sha256").join(task.digest().hex());
    fs::write(path, b"short").unwrap();
    assert!(!store.scrub(&task));
    assert!(store.stat(&task).is_none());
}
