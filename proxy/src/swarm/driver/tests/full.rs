//! A disk that is full, and has room again.

use std::sync::Arc;

use futures::StreamExt as _;
use tempfile::tempdir;

use super::{
    host::{Host, read, until},
    origin::{Fault, TestSource, content, task_of},
};
use crate::store::tests::disk::SmallDisk;

#[tokio::test]
async fn a_disk_that_fills_up_in_mid_blob_costs_its_reader_nothing() {
    let Some(disk) = SmallDisk::mount(16 << 20) else {
        return;
    };
    let bytes = content(3_000_001, 1);
    let task = task_of(&bytes);
    let source = Arc::new(TestSource::new([bytes.clone()]));
    source.fault(Fault::Stall(1_000_000));
    let host = Host::alone(disk.path(), &source).await;
    let content = host.open(task).await.unwrap();
    let mut stream = content.reader.read(0..content.size);
    let mut got = Vec::new();
    while got.len() < 960_000 {
        got.extend_from_slice(&stream.next().await.unwrap().unwrap());
    }
    disk.fill();
    source.flowing.send_replace(true);
    while let Some(item) = stream.next().await {
        got.extend_from_slice(&item.unwrap());
    }
    assert!(got == bytes);
    let reads = source.reads();
    let [None, Some(rest)] = &reads[..] else {
        panic!("it is gone on with: {reads:?}");
    };
    assert!(rest.start > 900_000, "{rest:?}");
    drop((content, stream));
    assert!(host.store.whole(&task).is_none());
    assert!(host.pull(task).await.unwrap() == bytes, "without the store");

    disk.empty();
    until("the store is tried again", || !host.store.is_closed()).await;
    assert!(host.pull(task).await.unwrap() == bytes);
    until("it is committed", || host.store.whole(&task).is_some()).await;
    host.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_is_passed_on_without_the_store() {
    let (large, small) = (content(3_000_001, 1), content(200_000, 2));
    let source = Arc::new(TestSource::new([large.clone(), small.clone()]));
    let dir = tempdir().unwrap();
    let host = Host::bounded(dir.path(), &source, 1_000_000).await;
    for _ in 0..2 {
        assert!(host.pull(task_of(&large)).await.unwrap() == large);
    }
    assert_eq!(source.reads(), [None, None]);
    let twice = 2 * large.len() as u64;
    assert_eq!(host.swarm.totals(), (twice, 0, 0), "it is counted");
    assert!(host.store.lengths(&task_of(&large)).is_none());
    assert!(host.pull(task_of(&small)).await.unwrap() == small);
    until("it is committed", || {
        host.store.whole(&task_of(&small)).is_some()
    })
    .await;
    host.stop().await;
}

#[tokio::test]
async fn what_tells_no_size_is_given_from_the_spool_where_the_store_is_too_small() {
    let bytes = content(3_000_001, 3);
    let task = task_of(&bytes);
    let source = Arc::new(TestSource::new([bytes.clone()]).without_sizes());
    let dir = tempdir().unwrap();
    let host = Host::bounded(dir.path(), &source, 1_000_000).await;
    let (one, two) = tokio::join!(host.pull(task), host.pull(task));
    assert!(one.unwrap() == bytes && two.unwrap() == bytes);
    assert_eq!(source.reads(), [None]);
    let spool = std::fs::read_dir(dir.path().join("spool")).unwrap();
    assert_eq!(spool.count(), 0);
    // Its size is known now: nobody waits for its end.
    source.fault(Fault::Stall(1_000_000));
    let content = host.open(task).await.unwrap();
    source.flowing.send_replace(true);
    assert!(read(&content).await.0.unwrap() == bytes);
    drop(content);
    host.stop().await;
}

#[tokio::test]
async fn what_tells_no_size_evicts_nothing_beyond_its_share() {
    let Some(disk) = SmallDisk::mount(16 << 20) else {
        return;
    };
    let small = [1, 2, 3, 4, 5, 6].map(|seed| content(1_000_000, seed));
    let bytes = content(3_000_001, 7);
    let tells = Arc::new(TestSource::new(small.clone()));
    let host = Host::bounded(disk.path(), &tells, 12_000_000).await;
    for bytes in &small {
        let task = task_of(bytes);
        assert!(host.pull(task).await.unwrap() == bytes);
        until("it is committed", || host.store.whole(&task).is_some()).await;
    }
    host.stop().await;
    let source = Arc::new(TestSource::new([bytes.clone()]).without_sizes());
    let host = Host::bounded(disk.path(), &source, 12_000_000).await;
    disk.fill();
    assert!(host.pull(task_of(&bytes)).await.unwrap() == bytes);
    for bytes in &small {
        assert!(host.store.whole(&task_of(bytes)).is_some(), "it stays");
    }
    host.stop().await;
}

#[tokio::test]
async fn what_tells_no_size_is_read_twice_where_the_disk_has_no_room() {
    let Some(disk) = SmallDisk::mount(16 << 20) else {
        return;
    };
    let bytes = content(3_000_001, 4);
    let task = task_of(&bytes);
    let source = Arc::new(TestSource::new([bytes.clone()]).without_sizes());
    let host = Host::alone(disk.path(), &source).await;
    disk.fill();
    assert!(host.pull(task).await.unwrap() == bytes);
    assert_eq!(source.reads(), [None, None]);
    host.stop().await;
}
