//! One host without a scheduler: a good pull-through mirror.

use std::{sync::Arc, time::Duration};

use darter_api::{Lengths, UpstreamName};
use futures::StreamExt as _;
use http::HeaderValue;
use tempfile::tempdir;

use super::{
    host::{Host, PATIENCE, read, until},
    origin::{Fault, TestSource, content, task_of},
};
use crate::{
    content::{OpenError, Provenance, ReadError},
    credential::Credential,
    source::SourceError,
};

const SIZE: usize = 3_000_001;

#[tokio::test]
async fn a_cold_content_is_read_once_and_stored() {
    let bytes = content(SIZE, 1);
    let (source, dir) = (
        Arc::new(TestSource::new([bytes.clone()])),
        tempdir().unwrap(),
    );
    let host = Host::alone(dir.path(), &source).await;
    let task = task_of(&bytes);
    let (one, two) = tokio::join!(host.pull(task), host.pull(task));
    assert!(one.unwrap() == bytes && two.unwrap() == bytes);
    until("it is committed", || host.store.whole(&task).is_some()).await;
    let again = host.open(task).await.unwrap();
    assert_eq!(again.provenance, Provenance::Cache);
    assert!(read(&again).await.0.unwrap() == bytes);
    assert_eq!(source.reads(), [None], "one plain read");
    assert_eq!(source.sent(), SIZE as u64);
    drop(again);
    host.stop().await;
}

#[tokio::test]
async fn bytes_leave_while_the_source_stalls() {
    let bytes = content(SIZE, 2);
    let (source, dir) = (
        Arc::new(TestSource::new([bytes.clone()])),
        tempdir().unwrap(),
    );
    source.fault(Fault::Stall(100_000));
    let host = Host::alone(dir.path(), &source).await;
    let content = host.open(task_of(&bytes)).await.unwrap();
    let mut stream = content.reader.read(content.all());
    let mut got = Vec::new();
    while got.len() < 80_000 {
        got.extend_from_slice(&stream.next().await.unwrap().unwrap());
    }
    assert_eq!(got, bytes[..80_000]);
    source.flowing.send_replace(true);
    while let Some(item) = stream.next().await {
        got.extend_from_slice(&item.unwrap());
    }
    assert!(got == bytes);
    drop((content, stream));
    host.stop().await;
}

#[tokio::test]
async fn small_and_odd_sizes() {
    let sizes = [0, 1, 65_535, 65_536, 65_537, 262_144, 262_145, 700_000];
    let contents: Vec<_> = sizes
        .iter()
        .map(|size| content(*size, *size as u64))
        .collect();
    let (source, dir) = (
        Arc::new(TestSource::new(contents.clone())),
        tempdir().unwrap(),
    );
    let host = Host::alone(dir.path(), &source).await;
    for bytes in contents {
        assert!(
            host.pull(task_of(&bytes)).await.unwrap() == bytes,
            "{}",
            bytes.len()
        );
    }
    host.stop().await;
}

#[tokio::test]
async fn a_cut_body_is_resumed_at_its_next_byte() {
    let bytes = content(SIZE, 3);
    let (source, dir) = (
        Arc::new(TestSource::new([bytes.clone()])),
        tempdir().unwrap(),
    );
    source.fault(Fault::Cut(1_000_000));
    source.fault(Fault::Unreachable);
    source.fault(Fault::NoRanges);
    let host = Host::alone(dir.path(), &source).await;
    assert!(host.pull(task_of(&bytes)).await.unwrap() == bytes);
    let rest = Some(1_000_000..SIZE as u64);
    assert_eq!(source.reads(), [None, rest.clone(), rest]);
    host.stop().await;
}

#[tokio::test]
async fn what_is_read_through_is_not_cut_short_where_nobody_tells_its_size() {
    // In the middle, and where all has come but a byte.
    for (cut, seed) in [(1_000_000, 48), (SIZE as u64 - 1, 49)] {
        let bytes = content(SIZE, seed);
        let source = Arc::new(TestSource::new([bytes.clone()]).without_sizes());
        source.fault(Fault::Cut(cut));
        let dir = tempdir().unwrap();
        let host = Host::alone(dir.path(), &source).await;
        host.swarm.pretend_full();
        assert!(host.pull(task_of(&bytes)).await.unwrap() == bytes);
        let rest = Some(cut - 1..Lengths::open().size());
        assert_eq!(source.reads(), [None, rest]);
        host.stop().await;
    }
}

#[tokio::test]
async fn what_is_read_through_and_ends_wrong_is_doubted_once() {
    let bytes = content(SIZE, 50);
    let source = Arc::new(TestSource::new([bytes.clone()]).without_sizes());
    source.fault(Fault::Wrong(5));
    let dir = tempdir().unwrap();
    let host = Host::alone(dir.path(), &source).await;
    host.swarm.pretend_full();
    let content = host.open(task_of(&bytes)).await.unwrap();
    let (ended, came) = read(&content).await;
    assert!(matches!(ended, Err(ReadError::Corrupt)), "{ended:?}");
    assert!(came < SIZE);
    let last = Some(SIZE as u64 - 1..Lengths::open().size());
    assert_eq!(source.reads(), [None, last]);
    drop(content);
    host.stop().await;
}

#[tokio::test]
async fn wrong_bytes_are_not_committed_and_the_body_ends_short() {
    let bytes = content(SIZE, 4);
    let (source, dir) = (
        Arc::new(TestSource::new([bytes.clone()])),
        tempdir().unwrap(),
    );
    for _ in 0..5 {
        source.fault(Fault::Wrong(1_234_567));
    }
    let host = Host::alone(dir.path(), &source).await;
    let task = task_of(&bytes);
    let content = host.open(task).await.unwrap();
    let (ended, came) = read(&content).await;
    assert!(matches!(ended, Err(ReadError::Corrupt)), "{ended:?}");
    assert!(came < SIZE);
    assert!(host.store.whole(&task).is_none());
    drop(content);
    host.stop().await;
}

#[tokio::test]
async fn wrong_bytes_once_are_read_again_for_who_saw_none() {
    let bytes = content(60_000, 5);
    let (source, dir) = (
        Arc::new(TestSource::new([bytes.clone()])),
        tempdir().unwrap(),
    );
    source.fault(Fault::Wrong(7));
    let host = Host::alone(dir.path(), &source).await;
    assert!(host.pull(task_of(&bytes)).await.unwrap() == bytes);
    assert_eq!(source.reads().len(), 2);
    host.stop().await;
}

#[tokio::test]
async fn a_restart_asks_only_for_what_is_missing() {
    let bytes = content(SIZE, 6);
    let task = task_of(&bytes);
    let (source, dir) = (
        Arc::new(TestSource::new([bytes.clone()])),
        tempdir().unwrap(),
    );
    source.fault(Fault::Stall(1_400_000));
    let host = Host::alone(dir.path(), &source).await;
    let content = host.open(task).await.unwrap();
    let mut stream = content.reader.read(content.all());
    let mut got = 0;
    while got < 1_360_000 {
        got += stream.next().await.unwrap().unwrap().len();
    }
    drop((content, stream));
    host.stop().await;

    let host = Host::alone(dir.path(), &source).await;
    assert!(host.pull(task).await.unwrap() == bytes);
    let piece = 256 * 1024;
    assert_eq!(source.reads(), [None, Some(5 * piece..SIZE as u64)]);
    host.stop().await;
}

#[tokio::test]
async fn what_was_sealed_unheard_counts_all_the_same() {
    let bytes = content(SIZE, 16);
    let task = task_of(&bytes);
    let (source, dir) = (
        Arc::new(TestSource::new([bytes.clone()])),
        tempdir().unwrap(),
    );
    source.fault(Fault::Stall(400_000));
    let host = Host::alone(dir.path(), &source).await;
    let content = host.open(task).await.unwrap();
    let first = content.reader.read(content.all()).next().await;
    assert!(first.unwrap().is_ok());
    host.swarm.pretend_sealed(&task, 5, &bytes);
    source.flowing.send_replace(true);
    assert!(read(&content).await.0.unwrap() == bytes);
    until("it is committed", || host.store.whole(&task).is_some()).await;
    drop(content);
    host.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_stops_its_download() {
    let bytes = content(SIZE, 7);
    let task = task_of(&bytes);
    let (source, dir) = (
        Arc::new(TestSource::new([bytes.clone()])),
        tempdir().unwrap(),
    );
    source.fault(Fault::Stall(400_000));
    let host = Host::alone(dir.path(), &source).await;
    let content = host.open(task).await.unwrap();
    let first = content.reader.read(content.all()).next().await;
    assert!(first.unwrap().is_ok());
    drop(content);
    // Only the stalled read waits for this; once it is closed nobody listens.
    until("the source is let go of", || {
        source.flowing.receiver_count() == 0
    })
    .await;
    assert!(
        host.pull(task).await.unwrap() == bytes,
        "and it can go on later"
    );
    host.stop().await;
}

#[tokio::test]
async fn the_sources_refusal_comes_through() {
    let bytes = content(SIZE, 8);
    let task = task_of(&bytes);
    let credential = |text| Some(Credential::new(HeaderValue::from_static(text)));
    let source = TestSource::new([bytes.clone()]).only_for(credential("Bearer right").unwrap());
    let (source, dir) = (Arc::new(source), tempdir().unwrap());
    let host = Host::alone(dir.path(), &source).await;
    for wrong in [None, credential("Bearer wrong")] {
        let refused = host.open_as(task, wrong).await.err().unwrap();
        let OpenError::Source(cause) = refused else {
            panic!("{refused:?}")
        };
        assert!(matches!(*cause, SourceError::Refused(_)), "{cause:?}");
    }
    let content = host
        .open_as(task, credential("Bearer right"))
        .await
        .unwrap();
    assert!(read(&content).await.0.unwrap() == bytes);
    drop(content);
    host.stop().await;
}

/// Bob asks another registry, which may be his own, for Alice's content before she does.
#[tokio::test]
async fn a_credential_is_shown_only_where_its_client_asked() {
    let bytes = content(SIZE, 9);
    let task = task_of(&bytes);
    let own = Credential::new(HeaderValue::from_static("Bearer own"));
    let [registry, other] = ["registry.test", "other.test"].map(|name| name.parse().unwrap());
    let source = TestSource::new([bytes.clone()]).gated();
    let source = Arc::new(
        source
            .only_at(UpstreamName::clone(&registry))
            .only_for(own.clone()),
    );
    let dir = tempdir().unwrap();
    let host = Host::alone(dir.path(), &source).await;
    let mut bobs = Box::pin(host.open_at(&other, task));
    assert!(futures::poll!(bobs.as_mut()).is_pending());
    let mut alices = Box::pin(host.open_as(task, Some(own.clone())));
    assert!(futures::poll!(alices.as_mut()).is_pending());
    source.flowing.send_replace(true);
    let (alices, bobs) = tokio::join!(alices, bobs);
    let content = alices.expect("she is not told what Bob is");
    assert!(read(&content).await.0.unwrap() == bytes);
    assert_eq!(source.was_shown(&own), [registry].into());
    drop((content, bobs));
    host.stop().await;
}

/// Whoever is refused before a client's question was asked is nothing to that client.
#[tokio::test]
async fn nobodys_refusal_is_anothers() {
    let bytes = content(SIZE, 10);
    let task = task_of(&bytes);
    let bearer = |text| Credential::new(HeaderValue::from_static(text));
    let own = bearer("Bearer own");
    let source = Arc::new(
        TestSource::new([bytes.clone()])
            .gated()
            .only_for(own.clone()),
    );
    let dir = tempdir().unwrap();
    let host = Host::alone(dir.path(), &source).await;
    // More than are kept, all before the one that may.
    let names: Vec<String> = (0..20).map(|number| format!("Bearer {number}")).collect();
    let others = names.iter().map(|name| {
        let credential = Credential::new(HeaderValue::from_str(name).unwrap());
        host.open_as(task, Some(credential))
    });
    let mut others = Box::pin(futures::future::join_all(others));
    assert!(futures::poll!(others.as_mut()).is_pending());
    let mut owns = Box::pin(host.open_as(task, Some(own)));
    assert!(futures::poll!(owns.as_mut()).is_pending());
    source.flowing.send_replace(true);
    let (owns, others) = tokio::join!(owns, others);
    assert!(read(&owns.unwrap()).await.0.unwrap() == bytes);
    drop(others);
    host.stop().await;
}

/// Nor is it that those are gone whom others ask.
#[tokio::test]
async fn that_nobody_answers_others_is_nothing_to_who_asks_elsewhere() {
    let bytes = content(SIZE, 14);
    let task = task_of(&bytes);
    let dead: UpstreamName = "dead.test".parse().unwrap();
    let source = TestSource::new([bytes.clone()]).gated();
    let source = Arc::new(source.dead_at(dead.clone()));
    let dir = tempdir().unwrap();
    let host = Host::alone(dir.path(), &source).await;
    let names: Vec<String> = (0..8).map(|number| format!("invented/{number}")).collect();
    let others = names.iter().map(|name| host.open_in(&dead, name, task));
    let mut others = Box::pin(futures::future::join_all(others));
    assert!(futures::poll!(others.as_mut()).is_pending());
    let mut ours = Box::pin(host.open(task));
    assert!(futures::poll!(ours.as_mut()).is_pending());
    source.flowing.send_replace(true);
    let (ours, others) = tokio::join!(ours, others);
    assert!(read(&ours.unwrap()).await.0.unwrap() == bytes);
    drop(others);
    host.stop().await;
}

#[tokio::test]
async fn a_source_that_stays_away_ends_it_soon() {
    let bytes = content(SIZE, 9);
    let (source, dir) = (
        Arc::new(TestSource::new([bytes.clone()])),
        tempdir().unwrap(),
    );
    for _ in 0..10 {
        source.fault(Fault::Unreachable);
    }
    let host = Host::alone(dir.path(), &source).await;
    let (clock, pull) = (host.clock(), host.pull(task_of(&bytes)));
    let failed = tokio::time::timeout(PATIENCE, pull).await.unwrap();
    assert!(clock.now() < Duration::from_secs(5), "{:?}", clock.now());
    assert!(matches!(failed, Err(ReadError::Download(_))), "{failed:?}");
    host.stop().await;
}

#[tokio::test]
async fn ranges_are_exact() {
    let bytes = content(SIZE, 11);
    let (source, dir) = (
        Arc::new(TestSource::new([bytes.clone()])),
        tempdir().unwrap(),
    );
    let host = Host::alone(dir.path(), &source).await;
    let content = host.open(task_of(&bytes)).await.unwrap();
    for range in [
        0..1,
        262_143..262_145,
        2_999_999..3_000_001,
        1_000_000..2_900_000,
    ] {
        let mut stream = content.reader.read(range.clone());
        let mut got = Vec::new();
        while let Some(item) = stream.next().await {
            got.extend_from_slice(&item.unwrap());
        }
        assert!(
            got == bytes[range.start as usize..range.end as usize],
            "{range:?}"
        );
    }
    drop(content);
    host.stop().await;
}

#[tokio::test]
async fn a_full_disk_streams_through_and_withholds_the_end() {
    let bytes = content(SIZE, 12);
    let task = task_of(&bytes);
    let (source, dir) = (
        Arc::new(TestSource::new([bytes.clone()])),
        tempdir().unwrap(),
    );
    let host = Host::alone(dir.path(), &source).await;
    host.swarm.pretend_full();
    source.fault(Fault::Cut(500_000));
    source.fault(Fault::Unreachable);
    assert!(host.pull(task).await.unwrap() == bytes);
    let content = host.open(task).await.unwrap();
    let ranges = [
        0..10,
        900_000..2_000_000,
        2_900_000..2_950_000,
        1_000_000..3_000_001,
    ];
    for range in ranges {
        let mut stream = content.reader.read(range.clone());
        let mut got = Vec::new();
        while let Some(item) = stream.next().await {
            got.extend_from_slice(&item.unwrap());
        }
        assert!(
            got == bytes[range.start as usize..range.end as usize],
            "{range:?}"
        );
    }
    source.fault(Fault::Wrong(5));
    let (ended, came) = read(&content).await;
    assert!(matches!(ended, Err(ReadError::Corrupt)), "{ended:?}");
    assert_eq!(came, SIZE - 65_536);
    assert!(host.store.lengths(&task).is_none(), "nothing was stored");
    drop(content);
    host.stop().await;
}

#[tokio::test]
async fn a_store_that_fails_in_mid_blob_sends_readers_to_the_source() {
    let bytes = content(SIZE, 13);
    let (source, dir) = (
        Arc::new(TestSource::new([bytes.clone()])),
        tempdir().unwrap(),
    );
    source.fault(Fault::Stall(400_000));
    let host = Host::alone(dir.path(), &source).await;
    let task = task_of(&bytes);
    let content = host.open(task).await.unwrap();
    let mut stream = content.reader.read(content.all());
    let mut got = Vec::new();
    while got.len() < 360_000 {
        got.extend_from_slice(&stream.next().await.unwrap().unwrap());
    }
    host.swarm.pretend_store_failed(&task);
    while let Some(item) = stream.next().await {
        got.extend_from_slice(&item.unwrap());
    }
    assert!(got == bytes);
    drop((content, stream));
    host.stop().await;
}
