//! A disk that is full, and has room again.

use std::sync::Arc;

use futures::StreamExt as _;
use tempfile::tempdir;

use super::{
    host::{Host, until},
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
    let mut stream = content.reader.read(content.all());
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
