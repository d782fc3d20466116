//! The same with a scheduler, a seed and two peers: who fails, and who may read.

use std::{net::SocketAddr, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use darter_api::Digest;
use darter_proxy::app::Options;
use darter_runtime::{Tasks, server::ClientAddress, tls::Security};
use darter_scheduler::Scheduler;
use futures::future::join_all;
use http::{Request, StatusCode};
use prometheus_client::registry::Registry as Metrics;
use tempfile::TempDir;
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::{
    bench::{ANSWERED, Bench, BodyEnd, GIVE_UP, PATIENCE, blob_path, impatient, upstream},
    registry::{Access, End, Framing, OWN_WORDS, Registry, Reply, Seen, Shelf, content},
};

const RIGHT: &str = "Bearer the-right-one";

struct Swarm {
    registry: Registry,
    seed: Bench,
    peers: [Bench; 2],
    scheduler: Scheduler,
    tasks: Tasks,
    _dir: TempDir,
}

impl Swarm {
    async fn start(
        shelf: Shelf,
        twist: impl Fn(&Seen, Reply) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::changed(|_| {}, shelf, twist).await
    }

    async fn changed(
        change: fn(&mut Options),
        shelf: Shelf,
        twist: impl Fn(&Seen, Reply) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let tasks = Tasks::new();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = darter_scheduler::Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            data: dir.path().to_owned(),
            settle: Duration::from_millis(100),
            accept_timeout: ANSWERED,
            ..Default::default()
        };
        let mut metrics = Metrics::default();
        let scheduler = Scheduler::start(options, &Security::Plain, &tasks, &mut metrics).await;
        let scheduler = scheduler.expect("a scheduler starts");
        let address = scheduler.address();
        let registry = Registry::twisted(shelf, &tasks, twist).await;
        let list = vec![upstream("registry.test", registry.url())];
        let member = |seed| Bench::member(list.clone(), Tasks::new(), address, seed, change);
        let (seed, one, two) = (member(true).await, member(false).await, member(false).await);
        // Sessions are up well before the first question's answer is needed.
        join_all([&seed, &one, &two].map(Bench::has_a_session)).await;
        Self {
            registry,
            seed,
            peers: [one, two],
            scheduler,
            tasks,
            _dir: dir,
        }
    }

    /// Asks the scheduler's operations port, as from this host.
    async fn operations(&self, request: Request<Body>) -> serde_json::Value {
        let mut request = request;
        let here = ClientAddress(SocketAddr::from(([127, 0, 0, 1], 9)));
        request.extensions_mut().insert(here);
        let reply = self.scheduler.router().oneshot(request).await;
        let body = reply.expect("infallible").into_body();
        let body = axum::body::to_bytes(body, 1 << 20).await;
        serde_json::from_slice(&body.expect("a body")).unwrap_or_default()
    }

    async fn stop(self) {
        let [one, two] = self.peers;
        tokio::join!(one.stop(), two.stop(), self.seed.stop());
        assert!(self.tasks.stop(Duration::from_secs(60)).await);
    }
}

#[tokio::test]
async fn with_a_scheduler_too_a_failing_upstream_is_a_5xx_within_five_seconds() {
    type Twist = fn(&Seen, Reply) -> Reply;
    let faults: [(&str, Twist); 5] = [
        ("never answers", |_, _| Reply::silent()),
        ("answers HEAD and never GET", |seen, good| {
            if seen.method == "GET" {
                Reply::silent()
            } else {
                good
            }
        }),
        ("sends a head and no byte", |seen, good| {
            if seen.method == "GET" {
                good.end(End::Stall(0))
            } else {
                good
            }
        }),
        ("answers 500 to GET", |seen, good| {
            if seen.method == "GET" {
                Reply::new(500)
            } else {
                good
            }
        }),
        ("answers 503", |_, _| Reply::new(503)),
    ];
    let blob = content(500_000, 1);
    let manifest = Bytes::from_static(br#"{"schemaVersion":2,"layers":[]}"#);
    let shelf = Shelf::new()
        .blob("app", &blob)
        .manifest("app", "v1", &manifest);
    let swarms = join_all(
        faults
            .iter()
            .map(|(_, twist)| Swarm::changed(impatient, shelf.clone(), *twist)),
    )
    .await;
    let paths = [
        blob_path("app", &blob),
        "/v2/app/manifests/v1".to_owned(),
        format!("/v2/app/manifests/{}", Digest::sha256(&manifest)),
    ];
    let paths = &paths;
    join_all(
        faults
            .iter()
            .zip(swarms)
            .map(|((name, _), swarm)| async move {
                join_all(paths.iter().map(|path| swarm.peers[0].get(path)))
                    .await
                    .iter()
                    .zip(paths)
                    .for_each(|(answer, path)| {
                        let status = answer.status.as_u16();
                        assert!(matches!(status, 502 | 503), "{name}: {path}: {status}");
                        assert!(answer.took < PATIENCE, "{name}: {path}: {:?}", answer.took);
                    });
                swarm.stop().await;
            }),
    )
    .await;
}

#[tokio::test]
async fn what_the_swarm_holds_is_the_registrys_refusal_to_who_has_no_right() {
    let blob = content(3_000_000, 2);
    let shelf = Shelf::new()
        .access("private", Access::Bearer(RIGHT.to_owned()))
        .blob("private", &blob)
        .blob("public", &content(10, 1));
    let swarm = Swarm::start(shelf, |_, good| good).await;
    let path = blob_path("private", &blob);
    let [one, two] = &swarm.peers;
    one.ask(&*path)
        .authorized(Some(RIGHT))
        .send()
        .await
        .is_whole(&blob);
    for other in [None, Some("Bearer a-wrong-one")] {
        for bench in [one, two, &swarm.seed] {
            let answer = bench.ask(&*path).authorized(other).send().await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{other:?}");
            assert_eq!(answer.body, OWN_WORDS, "{other:?}");
        }
    }
    let elsewhere = two.get(blob_path("public", &blob)).await;
    assert_eq!(elsewhere.status, StatusCode::NOT_FOUND);
    two.ask(&*path)
        .authorized(Some(RIGHT))
        .send()
        .await
        .is_whole(&blob);
    let mut fetches = swarm.registry.asked("GET", "/blobs/");
    fetches.retain(|seen| seen.header("authorization") == Some(RIGHT));
    assert_eq!(fetches.len(), 1, "the second peer had it from the first");
    swarm.stop().await;
}

#[tokio::test]
async fn a_body_that_breaks_is_resumed_for_all_peers_at_once() {
    let blob = content(3_000_001, 3);
    let swarm = Swarm::start(Shelf::new().blob("app", &blob), |seen, good| {
        match (seen.method.as_str(), seen.before) {
            ("GET", 0) => good.end(End::Rst(900_000)),
            ("GET", 1) => good.end(End::Fin(900_000)),
            _ => good,
        }
    })
    .await;
    let path = blob_path("app", &blob);
    let [one, two] = &swarm.peers;
    let (first, second) = tokio::join!(one.get(&*path), two.get(&*path));
    first.is_whole(&blob);
    second.is_whole(&blob);
    let slack = 1_500_000;
    assert!(
        swarm.registry.sent() < blob.len() as u64 + slack,
        "{}",
        swarm.registry.sent()
    );
    swarm.stop().await;
}

#[tokio::test]
async fn a_source_that_always_breaks_off_at_the_same_byte_is_given_up_by_all() {
    const LAST: u64 = 900_001;
    let blob = content(3_000_001, 4);
    let swarm = Swarm::start(Shelf::new().blob("app", &blob), |seen, good| {
        if seen.method == "GET" {
            let left = LAST.saturating_sub(seen.start());
            good.end(End::Fin(left as usize))
        } else {
            good
        }
    })
    .await;
    let path = blob_path("app", &blob);
    let [one, two] = &swarm.peers;
    let answers = tokio::join!(one.get(&*path), two.get(&*path));
    for answer in [answers.0, answers.1] {
        assert_eq!(
            (answer.status.as_u16(), &answer.end),
            (200, &BodyEnd::Short)
        );
        assert!(answer.body == blob.slice(..answer.body.len()));
        assert!(
            answer.body.len() as u64 <= LAST,
            "no byte that never was read"
        );
    }
    let reads = || swarm.registry.asked("GET", "/blobs/").len();
    let asked = reads();
    assert!(asked < 50, "{asked} reads");
    // Longer than the longest pause between two attempts.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(reads(), asked, "nobody goes on asking");
    swarm.stop().await;
}

#[tokio::test]
async fn of_a_public_repository_one_member_asks_for_all() {
    const LAYERS: usize = 24;
    let layers: Vec<Bytes> = (0..LAYERS)
        .map(|layer| content(40_000 + layer, layer as u64))
        .collect();
    let listed = layers.iter().map(|layer| {
        let (digest, size) = (Digest::sha256(layer), layer.len());
        format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{size}}}"#)
    });
    let listed = listed.collect::<Vec<_>>().join(",");
    let manifest = format!(r#"{{"schemaVersion":2,"layers":[{listed}]}}"#);
    let mut shelf = Shelf::new().manifest("app", "v1", &Bytes::from(manifest));
    for layer in &layers {
        shelf = shelf.blob("app", layer);
    }
    let swarm = Swarm::start(shelf, |_, good| good).await;
    join_all(swarm.peers.iter().map(|peer| async {
        let manifest = peer.get("/v2/app/manifests/v1").await;
        assert_eq!(manifest.status, StatusCode::OK);
        let answers = join_all(layers.iter().map(|layer| peer.get(blob_path("app", layer))));
        for (answer, layer) in answers.await.iter().zip(&layers) {
            assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
            answer.is_whole(layer);
        }
    }))
    .await;
    let count = |method| swarm.registry.asked(method, "/blobs/").len();
    assert_eq!(count("GET"), LAYERS);
    // A word that a slow machine delays is not waited for; without any, each would be asked for.
    assert!(count("HEAD") <= LAYERS / 4, "{} questions", count("HEAD"));
    // A manifest that names a blob proves nothing, and neither does another repository.
    let elsewhere = swarm.peers[0].get(blob_path("other", &layers[0])).await;
    assert_eq!(elsewhere.status, StatusCode::NOT_FOUND);
    swarm.stop().await;
}

/// Of a registry that tells no size, neither to HEAD nor to a range, and whose first body stops
/// there until the gate is open.
fn untold(
    blob: &Bytes,
    stop: usize,
    gate: watch::Receiver<bool>,
) -> impl Fn(&Seen, Reply) -> Reply + Send + Sync + 'static {
    let whole = blob.clone();
    move |seen, good| {
        if !seen.path.contains("/blobs/") {
            return good;
        }
        let reply = Reply::new(200)
            .framing(Framing::Chunked)
            .body(whole.clone());
        match seen.header("range") {
            None if seen.method == "GET" => reply.end(End::Gate(stop, gate.clone())),
            _ => reply,
        }
    }
}

#[tokio::test]
async fn a_content_whose_size_nobody_tells_is_read_once_and_given_as_it_comes() {
    const HALF: usize = 4_000_000;
    let blob = content(9_000_001, 5);
    let (open, gate) = watch::channel(false);
    let twist = untold(&blob, HALF, gate);
    let swarm = Swarm::changed(impatient, Shelf::new().blob("app", &blob), twist).await;
    let path = blob_path("app", &blob);
    let [one, two] = &swarm.peers;
    let begun = [one, two].map(|peer| async {
        let mut begun = peer.ask(&*path).open().await;
        // Long before the registry's end: the seed reads, and both have its pieces.
        let came = begun.read(3_000_000).await;
        assert!(came == blob.slice(..came.len()));
        assert!(!begun.response.headers().contains_key("content-length"));
        (begun, came)
    });
    // Until here nobody can have come to the end.
    let begun = join_all(begun).await;
    open.send_replace(true);
    let ends = begun.into_iter().map(|(begun, came)| {
        let rest = blob.slice(came.len()..);
        async move { begun.finish().await.is_whole(&rest) }
    });
    join_all(ends).await;
    let mut reads = swarm.registry.asked("GET", "/blobs/");
    // Those with a range ask for the size, and take no more than a head.
    reads.retain(|seen| seen.header("range").is_none());
    assert_eq!(reads.len(), 1);
    // It has a size once it is committed, and so have its parts. Who comes before that, as one may
    // where the disk is slow, is given all of it.
    let ask = || one.ask(&*path).header("range", "bytes=8999999-").send();
    let mut part = ask().await;
    while part.status == StatusCode::OK {
        assert!(part.body == blob);
        part = ask().await;
    }
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(
        part.header("content-range"),
        "bytes 8999999-9000000/9000001"
    );
    assert!(part.body == blob.slice(8_999_999..));
    swarm.stop().await;
}

#[tokio::test]
async fn a_content_without_a_size_that_breaks_off_ends_short_for_all() {
    let blob = content(3_000_001, 8);
    let swarm = Swarm::start(Shelf::new().blob("app", &blob), {
        let whole = blob.clone();
        move |seen, good| {
            if !seen.path.contains("/blobs/") {
                return good;
            }
            let reply = Reply::new(200)
                .framing(Framing::Chunked)
                .body(whole.clone());
            match seen.method.as_str() {
                "GET" => reply.end(End::Fin(2_000_000)),
                _ => reply,
            }
        }
    })
    .await;
    let path = blob_path("app", &blob);
    let [one, two] = &swarm.peers;
    let answers = tokio::join!(one.get(&*path), two.get(&*path));
    for answer in [answers.0, answers.1] {
        let short = (answer.status.as_u16(), &answer.end);
        assert_eq!(short, (200, &BodyEnd::Short));
        assert!(answer.body == blob.slice(..answer.body.len()));
        assert!(answer.body.len() <= 2_000_000);
    }
    swarm.stop().await;
}

#[tokio::test]
async fn what_is_preheated_is_read_once_and_is_there_when_it_is_pulled() {
    let blob = content(3_000_000, 6);
    let swarm = Swarm::start(Shelf::new().blob("app", &blob), |_, good| good).await;
    let digest = Digest::sha256(&blob);
    let wish = format!(
        r#"{{"upstream":"registry.test","repository":"app","digest":"{digest}","size":{}}}"#,
        blob.len()
    );
    let ask = Request::post("/preheat").body(Body::from(wish));
    let answer = swarm.operations(ask.expect("a request")).await;
    assert_eq!(answer["asked"].as_array().map(Vec::len), Some(2));
    let is_everywhere = async {
        loop {
            let ask = Request::get(format!("/tasks/{digest}")).body(Body::empty());
            let graph = swarm.operations(ask.expect("a request")).await;
            let pieces = &graph["pieces"];
            let hosts = graph["hosts"].as_array().cloned().unwrap_or_default();
            if hosts.iter().filter(|host| host["held"] == *pieces).count() == 3 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let came = tokio::time::timeout(GIVE_UP, is_everywhere).await;
    assert!(came.is_ok(), "it comes to both peers and the seed");
    let reads = || swarm.registry.asked("GET", "/blobs/").len();
    assert_eq!(reads(), 1);
    for peer in &swarm.peers {
        peer.get(blob_path("app", &blob)).await.is_whole(&blob);
    }
    assert_eq!(reads(), 1);
    swarm.stop().await;
}
