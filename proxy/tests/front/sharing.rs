//! Many clients, one fetch.

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::watch;

use crate::{
    bench::{Bench, blob_path, until},
    registry::{End, MANIFEST_TYPE, Registry, Shelf, content},
};

const SIZE: usize = 6_000_000;

/// A registry whose blobs stop after `at` bytes until the gate is opened.
async fn gated(blob: &Bytes, at: usize) -> (Bench, Registry, watch::Sender<bool>) {
    let (gate, opened) = watch::channel(false);
    let (bench, registry) = Bench::twisted(Shelf::new().blob("app", blob), move |seen, good| {
        if seen.is("GET", "/blobs/") {
            let left = at.saturating_sub(usize::try_from(seen.start()).unwrap_or(usize::MAX));
            return good.end(End::Gate(left, opened.clone()));
        }
        good
    })
    .await;
    (bench, registry, gate)
}

#[tokio::test]
async fn clients_of_the_same_cold_blob_cause_one_fetch() {
    let blob = content(SIZE, 1);
    let (bench, registry) = Bench::good(Shelf::new().blob("app", &blob)).await;
    let (bench_, path) = (&bench, blob_path("app", &blob));
    let answers = join_all((0..8).map(|_| bench_.get(&*path))).await;
    answers.iter().for_each(|answer| answer.is_whole(&blob));
    assert_eq!(registry.asked("GET", "/blobs/").len(), 1);
    assert_eq!(registry.sent(), SIZE as u64);
    bench.stop().await;
}

#[tokio::test]
async fn clients_of_the_same_cold_tag_cause_one_fetch_of_the_manifest() {
    let manifest = Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}"}}"#
    ));
    let (bench, registry) = Bench::good(Shelf::new().manifest("app", "v1", &manifest)).await;
    let bench_ = &bench;
    let answers = join_all((0..8).map(|_| bench_.get("/v2/app/manifests/v1"))).await;
    answers.iter().for_each(|answer| answer.is_whole(&manifest));
    assert_eq!(registry.asked("GET", "/manifests/").len(), 1);
    assert_eq!(registry.asked("HEAD", "/manifests/v1").len(), 1);
    let heads = registry.asked("HEAD", "/manifests/sha256").len();
    assert!(heads <= 1, "the same question is asked once: {heads}");
    bench.stop().await;
}

#[tokio::test]
async fn a_cold_blob_costs_one_head_and_one_get() {
    let blob = content(100_000, 5);
    let (bench, registry) = Bench::good(Shelf::new().blob("app", &blob)).await;
    bench.get(blob_path("app", &blob)).await.is_whole(&blob);
    assert_eq!(registry.asked("GET", "/blobs/").len(), 1);
    assert_eq!(registry.asked("HEAD", "/blobs/").len(), 1);
    bench.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_nothing_from_those_who_stay() {
    let blob = content(SIZE, 2);
    let (bench, registry, gate) = gated(&blob, 1_000_000).await;
    let path = blob_path("app", &blob);
    let mut leaving = bench.ask(&*path).open().await;
    let staying = bench.ask(&*path).open().await;
    leaving.read(500_000).await;
    drop(leaving);
    gate.send_replace(true);
    staying.finish().await.is_whole(&blob);
    assert_eq!(registry.asked("GET", "/blobs/").len(), 1);
    assert_eq!(registry.sent(), SIZE as u64);
    bench.stop().await;
}

#[tokio::test]
async fn who_comes_after_a_client_that_left_does_not_fetch_again_what_came() {
    let blob = content(SIZE, 3);
    let (bench, registry, gate) = gated(&blob, 3_000_000).await;
    let path = blob_path("app", &blob);
    let mut leaving = bench.ask(&*path).open().await;
    leaving.read(2_900_000).await;
    drop(leaving);
    gate.send_replace(true);
    bench.get(&*path).await.is_whole(&blob);
    // What lay in socket buffers, and the piece that was cut, may come twice.
    let slack = 1_500_000;
    assert!(
        registry.sent() < SIZE as u64 + slack,
        "{} bytes left",
        registry.sent()
    );
    let starts: Vec<u64> = registry
        .asked("GET", "/blobs/")
        .iter()
        .map(|seen| seen.start())
        .collect();
    assert!(starts.len() <= 2, "{starts:?}");
    assert!(
        starts[1..].iter().all(|start| *start >= 2_000_000),
        "{starts:?}"
    );
    bench.stop().await;
}

#[tokio::test]
async fn when_all_have_left_the_registry_is_read_no_further() {
    let blob = content(60_000_000, 4);
    let (bench, registry) = Bench::good(Shelf::new().blob("app", &blob)).await;
    let mut leaving = bench.ask(blob_path("app", &blob)).open().await;
    leaving.read(100_000).await;
    drop(leaving);
    // It settles: two looks apart show the same.
    let mut last = u64::MAX;
    let mut quiet = 0;
    until("the registry is left alone", || {
        let sent = registry.sent();
        quiet = if sent == last { quiet + 1 } else { 0 };
        last = sent;
        quiet > 60
    })
    .await;
    // A holder lingers for a while; on loopback a lot comes in that time.
    assert!(registry.asked("GET", "/blobs/").len() == 1);
    bench.stop().await;
}

#[tokio::test]
async fn chunk_wise_readers_that_abort_all_the_time_make_nothing_leave_twice() {
    const CHUNK: usize = 700_000;
    let blob = content(SIZE, 6);
    let (bench, registry) = Bench::good(Shelf::new().blob("app", &blob)).await;
    let (bench_, path, blob_) = (&bench, blob_path("app", &blob), &blob);
    let path = path.as_str();
    let chunks: Vec<usize> = (0..SIZE).step_by(CHUNK).collect();
    for wave in chunks.chunks(3) {
        join_all(wave.iter().map(|start| async move {
            let (start, end) = (*start, (*start + CHUNK).min(SIZE));
            let ask = bench_.ask(path).header("range", format!("bytes={start}-"));
            let mut open = ask.open().await;
            assert_eq!(open.response.status().as_u16(), 206);
            let got = open.read(end - start).await;
            assert!(got[..end - start] == blob_[start..end]);
            // And away, in the middle of the body.
        }))
        .await;
    }
    let slack = SIZE as u64 / 4;
    assert!(
        registry.sent() < SIZE as u64 + slack,
        "{} bytes left",
        registry.sent()
    );
    assert!(
        registry.asked("GET", "/blobs/").len() <= 4,
        "{:?}",
        registry.asked("GET", "/blobs/")
    );
    bench.stop().await;
}
