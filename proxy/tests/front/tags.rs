//! What tags stand for, and for how long that is believed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use darter_api::Digest;
use darter_runtime::{Tasks, server::ClientAddress};
use http::{Request, StatusCode};
use tower::ServiceExt as _;

use crate::{
    bench::{Bench, upstream},
    registry::{MANIFEST_TYPE, Registry, Reply, Shelf},
};

fn manifest(n: usize) -> Bytes {
    Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","annotations":{{"n":"{n}"}}}}"#
    ))
}

/// A registry whose `app:v1` is the manifest of the moment; 9 is none, and more is away.
async fn moving(ttl: Duration, missing: Duration) -> (Bench, Registry, Arc<AtomicUsize>) {
    let now = Arc::new(AtomicUsize::new(1));
    let which = Arc::clone(&now);
    let tasks = Tasks::new();
    let shelf =
        Shelf::new()
            .manifest("app", "one", &manifest(1))
            .manifest("app", "two", &manifest(2));
    let registry = Registry::twisted(shelf, &tasks, move |seen, good| {
        let n = which.load(Ordering::SeqCst);
        match (n, seen.path.ends_with("/manifests/v1")) {
            (10.., _) => Reply::new(500),
            (9, true) => Reply::new(404),
            (n, true) => Reply::new(200)
                .header("Content-Type", MANIFEST_TYPE)
                .header(
                    "Docker-Content-Digest",
                    Digest::sha256(&manifest(n)).to_string(),
                )
                .body(manifest(n)),
            _ => good,
        }
    })
    .await;
    let list = vec![upstream("registry.test", registry.url())];
    let bench = Bench::with(tasks, |options| {
        options.upstreams = list;
        options.mirror.tag_ttl = ttl;
        options.mirror.tag_missing = missing;
        options.rights.allowed_for = Duration::from_millis(50);
    })
    .await;
    (bench, registry, now)
}

const TAG: &str = "/v2/app/manifests/v1";
const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_tag_is_believed_for_its_time_then_asked_for_by_head_alone() {
    let (bench, registry, now) = moving(Duration::from_millis(100), LONG).await;
    bench.get(TAG).await.is_whole(&manifest(1));
    now.store(2, Ordering::SeqCst);
    loop {
        let answer = bench.get(TAG).await;
        if answer.body == manifest(2) {
            break;
        }
        answer.is_whole(&manifest(1));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(registry.asked("GET", "/manifests/v1").len(), 0);
    assert_eq!(registry.asked("GET", "/manifests/sha256").len(), 2);
    // While the registry is away, what it was last.
    now.store(10, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(150)).await;
    bench.get(TAG).await.is_whole(&manifest(2));
    // When it is back and has no such tag, that counts, also when it is away again.
    now.store(9, Ordering::SeqCst);
    loop {
        let status = bench.get(TAG).await.status;
        if status == StatusCode::NOT_FOUND {
            break;
        }
        assert_eq!(status, StatusCode::OK);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    now.store(10, Ordering::SeqCst);
    assert_eq!(
        bench.get(TAG).await.status,
        StatusCode::NOT_FOUND,
        "believed for an hour here"
    );
    bench.stop().await;
}

#[tokio::test]
async fn that_there_is_no_such_tag_is_asked_once_in_its_time() {
    let (bench, registry, now) = moving(LONG, Duration::from_secs(3)).await;
    now.store(9, Ordering::SeqCst);
    let answer = bench.get(TAG).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (404, "MANIFEST_UNKNOWN")
    );
    let asked = registry.asked("HEAD", TAG).len();
    bench.get(TAG).await;
    assert_eq!(registry.asked("HEAD", TAG).len(), asked, "believed");
    now.store(1, Ordering::SeqCst);
    loop {
        let answer = bench.get(TAG).await;
        if answer.status == StatusCode::OK {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bench.stop().await;
}

#[tokio::test]
async fn one_tag_is_looked_up_anew_on_request_of_the_host_itself() {
    let (bench, registry, now) = moving(LONG, LONG).await;
    bench.get(TAG).await.is_whole(&manifest(1));
    bench
        .get("/v2/app/manifests/one")
        .await
        .is_whole(&manifest(1));
    now.store(2, Ordering::SeqCst);
    bench.get(TAG).await.is_whole(&manifest(1));
    let forget = |query: &str, from: [u8; 4]| {
        let path = format!("/tags?{query}");
        let request = Request::delete(path).body(Body::empty());
        let mut request = request.expect("a request");
        request
            .extensions_mut()
            .insert(ClientAddress((from, 9).into()));
        let operations = bench.operations();
        async move {
            operations
                .oneshot(request)
                .await
                .expect("infallible")
                .status()
                .as_u16()
        }
    };
    let here = [127, 0, 0, 1];
    assert_eq!(
        forget("upstream=other.test&repository=app&tag=v1", here).await,
        404
    );
    assert_eq!(
        forget("upstream=registry.test&repository=A&tag=v1", here).await,
        400
    );
    let tag = "upstream=registry.test&repository=app&tag=v1";
    assert_eq!(forget(tag, [10, 0, 0, 1]).await, 403);
    bench.get(TAG).await.is_whole(&manifest(1));
    assert_eq!(forget(tag, here).await, 204);
    bench.get(TAG).await.is_whole(&manifest(2));
    assert_eq!(registry.asked("HEAD", TAG).len(), 2);
    bench.stop().await;
}
