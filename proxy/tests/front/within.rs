//! Failures in the middle of a body: repaired inside, or a clean short end.

use bytes::Bytes;
use darter_api::Digest;
use futures::future::join_all;

use crate::{
    bench::{Bench, BodyEnd, blob_path, until},
    registry::{End, Framing, Reply, Seen, Shelf, content},
};

const SIZE: usize = 3_000_001;
const CUT: usize = 1_100_000;

type Twist = fn(&Seen, Reply) -> Reply;

fn is_first_get(seen: &Seen) -> bool {
    seen.method == "GET" && seen.before == 0
}

/// Whatever it is, these are repaired.
const REPAIRED: [(&str, Twist); 10] = [
    ("an early FIN", |seen, good| {
        if is_first_get(seen) {
            good.end(End::Fin(CUT))
        } else {
            good
        }
    }),
    ("a reset", |seen, good| {
        if is_first_get(seen) {
            good.end(End::Rst(CUT))
        } else {
            good
        }
    }),
    ("a FIN a byte before the end", |seen, good| {
        if is_first_get(seen) {
            good.end(End::Fin(SIZE - 1))
        } else {
            good
        }
    }),
    ("a FIN after every 400 000 bytes", |seen, good| {
        if seen.method == "GET" {
            good.end(End::Fin(400_000))
        } else {
            good
        }
    }),
    ("a FIN, then 503, then a reset", |seen, good| {
        match (seen.method.as_str(), seen.before) {
            ("GET", 0) => good.end(End::Fin(CUT)),
            ("GET", 1) => Reply::new(503),
            ("GET", 2) => good.end(End::Rst(10_000)),
            _ => good,
        }
    }),
    ("a stall", |seen, good| {
        if is_first_get(seen) {
            good.end(End::Stall(CUT))
        } else {
            good
        }
    }),
    ("no ranges", |seen, good| {
        if seen.method != "GET" {
            return good;
        }
        let whole = Reply::new(200).body(content(SIZE, 7));
        if seen.before == 0 {
            whole.end(End::Fin(CUT))
        } else {
            whole
        }
    }),
    ("a chunked body", |_, good| good.framing(Framing::Chunked)),
    ("a chunked body that is cut", |seen, good| {
        if seen.method != "GET" {
            return good;
        }
        let chunked = good.framing(Framing::Chunked);
        if seen.before == 0 {
            chunked.end(End::Fin(CUT))
        } else {
            chunked
        }
    }),
    ("a body until the end of the connection", |seen, good| {
        if seen.method == "GET" {
            good.framing(Framing::UntilEnd)
        } else {
            good
        }
    }),
];

#[tokio::test]
async fn a_body_that_breaks_is_resumed_inside_and_right() {
    let blob = content(SIZE, 7);
    let blob = &blob;
    join_all(REPAIRED.iter().map(|(name, twist)| async move {
        let (bench, registry) = Bench::twisted(Shelf::new().blob("app", blob), twist).await;
        let answer = bench.get(blob_path("app", blob)).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.end),
            (200, &BodyEnd::Whole),
            "{name}"
        );
        assert!(answer.body == blob, "{name}");
        let gets = registry.asked("GET", "/blobs/");
        if name.starts_with("an early FIN") || name.starts_with("a reset") {
            let starts: Vec<u64> = gets.iter().map(|seen| seen.start()).collect();
            assert!(starts.len() == 2 && starts[0] == 0, "{name}: {starts:?}");
            assert!(
                starts[1] > 0 && starts[1] <= CUT as u64,
                "{name}: {starts:?}"
            );
        }
        if *name == "a stall" {
            assert_ne!(gets[0].connection, gets[1].connection, "{name}");
        }
        let before = gets.len();
        bench.get(blob_path("app", blob)).await.is_whole(blob);
        assert_eq!(
            registry.asked("GET", "/blobs/").len(),
            before,
            "{name}: it is kept"
        );
        bench.stop().await;
    }))
    .await;
}

#[tokio::test]
async fn an_upstream_that_stays_away_ends_the_body_short_and_clean() {
    let blob = content(SIZE, 8);
    let (bench, registry) = Bench::twisted(Shelf::new().blob("app", &blob), |seen, good| {
        match (seen.method.as_str(), seen.before) {
            ("GET", 0) => good.end(End::Fin(CUT)),
            ("GET", _) => Reply::new(404),
            _ => good,
        }
    })
    .await;
    let path = blob_path("app", &blob);
    let answer = bench.get(&*path).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.end),
        (200, &BodyEnd::Short)
    );
    assert!(
        answer.body.len() <= CUT && answer.body.len() > CUT / 2,
        "{}",
        answer.body.len()
    );
    assert!(answer.body == blob.slice(..answer.body.len()));
    assert_eq!(answer.header("content-length"), SIZE.to_string());
    assert!(registry.asked("GET", "/blobs/").len() >= 2);
    bench.stop().await;
}

/// A body that can never be right, whatever is tried.
const WRONG: [(&str, Twist); 5] = [
    ("another byte", |seen, good| {
        let mut body = good.body.to_vec();
        if seen.method == "GET" && !body.is_empty() {
            body[0] ^= 1;
        }
        good.body(body)
    }),
    ("another last byte", |seen, good| {
        let mut body = good.body.to_vec();
        if let (true, Some(last)) = (seen.method == "GET", body.last_mut()) {
            *last ^= 1;
        }
        good.body(body)
    }),
    ("another content of the same length", |seen, good| {
        if seen.method == "GET" {
            Reply::new(200).body(content(SIZE, 99))
        } else {
            good
        }
    }),
    ("too long a content", |seen, good| {
        if seen.method == "GET" {
            Reply::new(200).body(content(SIZE + 10, 9))
        } else {
            good
        }
    }),
    ("too short a content", |seen, good| {
        if seen.method == "GET" {
            Reply::new(200).body(content(SIZE - 10, 9))
        } else {
            good
        }
    }),
];

#[tokio::test]
async fn wrong_bytes_are_never_whole_and_never_kept() {
    let blob = content(SIZE, 9);
    let blob = &blob;
    join_all(WRONG.iter().map(|(name, twist)| async move {
        let (bench, registry) = Bench::twisted(Shelf::new().blob("app", blob), twist).await;
        for round in 1..=2 {
            let answer = bench.get(blob_path("app", blob)).await;
            match answer.status.as_u16() {
                502 => {}
                200 => {
                    assert_eq!(answer.end, BodyEnd::Short, "{name} {round}");
                    assert!(
                        answer.body.len() <= SIZE - 65_536,
                        "{name}: the end is withheld"
                    );
                }
                status => panic!("{name}: {status}"),
            }
        }
        let reads = registry.asked("GET", "/blobs/").len();
        assert!(reads > 1, "{name}: it is asked for again");
        bench.stop().await;
    }))
    .await;
}

#[tokio::test]
async fn wrong_bytes_once_are_right_the_next_time() {
    let blob = content(SIZE, 10);
    let (bench, _registry) = Bench::twisted(Shelf::new().blob("app", &blob), |seen, good| {
        if !is_first_get(seen) {
            return good;
        }
        let mut body = good.body.to_vec();
        body[SIZE / 2] ^= 1;
        good.body(body)
    })
    .await;
    let path = blob_path("app", &blob);
    let first = bench.get(&*path).await;
    assert_ne!(
        (
            first.status.as_u16(),
            first.end == BodyEnd::Whole && first.body != blob
        ),
        (200, true)
    );
    bench.get(&*path).await.is_whole(&blob);
    bench.stop().await;
}

#[tokio::test]
async fn an_encoded_body_is_refused_and_encoding_is_not_asked_for() {
    let blob = content(SIZE, 11);
    let (bench, registry) = Bench::twisted(Shelf::new().blob("app", &blob), |seen, good| {
        if seen.method == "GET" {
            good.header("Content-Encoding", "gzip")
        } else {
            good
        }
    })
    .await;
    let ask = bench.ask(blob_path("app", &blob));
    let answer = ask.header("accept-encoding", "gzip").send().await;
    assert_eq!(answer.status.as_u16(), 502);
    assert!(
        registry
            .seen()
            .iter()
            .all(|seen| seen.header("accept-encoding") == Some("identity"))
    );
    bench.stop().await;
}

#[tokio::test]
async fn a_registry_that_tells_no_length_is_read_whole_all_the_same() {
    let blob = content(SIZE, 12);
    let (bench, registry) = Bench::twisted(Shelf::new().blob("app", &blob), |_, good| Reply {
        framing: Framing::Chunked,
        ..good
    })
    .await;
    bench.get(blob_path("app", &blob)).await.is_whole(&blob);
    let sent = registry.sent();
    let range = bench
        .ask(blob_path("app", &blob))
        .header("range", "bytes=5-9")
        .send()
        .await;
    assert!(range.body == blob.slice(5..10));
    assert_eq!(registry.sent(), sent);
    bench.stop().await;
}

#[tokio::test]
async fn a_pooled_connection_that_the_registry_has_closed_is_no_failure() {
    // Every connection ends when its second request has come.
    let blobs: Vec<Bytes> = (20..26).map(|seed| content(100_000, seed)).collect();
    let shelf = blobs
        .iter()
        .fold(Shelf::new(), |shelf, blob| shelf.blob("app", blob));
    let counts = parking_lot::Mutex::new(std::collections::HashMap::new());
    let (bench, registry) = Bench::twisted(shelf, move |seen, good| {
        let mut counts = counts.lock();
        let count: &mut u32 = counts.entry(seen.connection).or_default();
        *count += 1;
        if *count == 1 {
            good
        } else {
            good.end(End::HangUp)
        }
    })
    .await;
    for blob in &blobs {
        bench.get(blob_path("app", blob)).await.is_whole(blob);
        bench.head(blob_path("app", blob)).await;
    }
    let digest = Digest::sha256(&blobs[0]).to_string();
    until("all was asked for", || {
        !registry.asked("GET", &digest).is_empty()
    })
    .await;
    bench.stop().await;
}
