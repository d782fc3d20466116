//! Failures before a status line: the client knows within five seconds.

use std::time::Duration;

use bytes::Bytes;
use darter_api::Digest;
use darter_runtime::Tasks;
use futures::future::join_all;
use http::StatusCode;
use tokio::net::TcpListener;

use crate::{
    bench::{Bench, PATIENCE, blob_path, upstream},
    registry::{Access, End, Framing, OWN_WORDS, Reply, Seen, Shelf, content},
};

const SIZE: usize = 500_000;

fn manifest() -> Bytes {
    Bytes::from_static(br#"{"schemaVersion":2,"layers":[]}"#)
}

fn shelf() -> Shelf {
    Shelf::new()
        .blob("app", &content(SIZE, 1))
        .manifest("app", "v1", &manifest())
        .blob("token", &content(SIZE, 1))
        .manifest("token", "v1", &manifest())
        .access("token", Access::AnonymousToken)
}

fn paths(repository: &str) -> [String; 3] {
    [
        blob_path(repository, &content(SIZE, 1)),
        format!("/v2/{repository}/manifests/v1"),
        format!("/v2/{repository}/manifests/{}", Digest::sha256(&manifest())),
    ]
}

type Twist = fn(&Seen, Reply) -> Reply;

fn get(seen: &Seen) -> bool {
    seen.method == "GET" && seen.path.starts_with("/v2/")
}

/// Name, repository, what goes wrong.
const FAULTS: [(&str, &str, Twist); 14] = [
    ("never answers", "app", |_, _| Reply::silent()),
    ("answers HEAD and never GET", "app", |seen, good| {
        if get(seen) { Reply::silent() } else { good }
    }),
    ("sends a head and no byte", "app", |seen, good| {
        if get(seen) {
            good.end(End::Stall(0))
        } else {
            good
        }
    }),
    ("sends its head in drips", "app", |_, good| {
        good.end(End::Drip(Duration::from_millis(500)))
    }),
    ("hangs up on everybody", "app", |_, good| {
        good.end(End::HangUp)
    }),
    ("hangs up on GET", "app", |seen, good| {
        if get(seen) {
            good.end(End::HangUp)
        } else {
            good
        }
    }),
    ("resets every GET", "app", |seen, good| {
        if get(seen) {
            good.end(End::Rst(0))
        } else {
            good
        }
    }),
    ("answers 500", "app", |_, _| Reply::new(500)),
    ("answers 503", "app", |_, _| Reply::new(503)),
    ("answers 502 to GET alone", "app", |seen, good| {
        if get(seen) { Reply::new(502) } else { good }
    }),
    ("answers 503 to GET alone", "app", |seen, good| {
        if get(seen) { Reply::new(503) } else { good }
    }),
    (
        "asks for a token and is silent then",
        "token",
        |seen, good| {
            if seen.header("authorization").is_some() {
                Reply::silent()
            } else {
                good
            }
        },
    ),
    (
        "redirects to where nobody answers",
        "app",
        |seen, good| match (get(seen), seen.path.contains("/elsewhere/")) {
            (true, false) => {
                Reply::new(307).header("Location", format!("/v2/elsewhere{}", seen.path))
            }
            (true, true) => Reply::silent(),
            _ => good,
        },
    ),
    ("gives no length and stalls", "app", |seen, good| {
        let whole = Reply::new(good.status.min(200)).framing(Framing::Chunked);
        if get(seen) {
            whole.body(content(SIZE, 1)).end(End::Stall(100))
        } else {
            good.framing(Framing::Chunked)
        }
    }),
];

#[tokio::test]
async fn an_upstream_that_fails_before_the_first_byte_is_a_5xx_within_five_seconds() {
    let benches = join_all(
        FAULTS
            .iter()
            .map(|(_, _, twist)| Bench::impatient(shelf(), twist)),
    )
    .await;
    join_all(FAULTS.iter().zip(benches).map(|(fault, bench)| async move {
        let ((name, repository, _), (bench, _registry)) = (fault, bench);
        fails_in_time(&bench, name, repository).await;
        bench.stop().await;
    }))
    .await;
}

#[tokio::test]
async fn an_upstream_that_refuses_connections_is_a_5xx_at_once() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", closed.local_addr().expect("bound"));
    drop(closed);
    let bench = Bench::of(vec![upstream("registry.test", url)], Tasks::new()).await;
    fails_in_time(&bench, "refuses", "app").await;
    bench.stop().await;
}

async fn fails_in_time(bench: &Bench, name: &str, repository: &str) {
    // A second round sees what the first one's failure has left behind.
    for round in 1..=2 {
        join_all(paths(repository).iter().flat_map(|path| {
            [None, Some("Bearer of-a-client")].map(|credential| async move {
                let answer = bench.ask(path).authorized(credential).send().await;
                let status = answer.status.as_u16();
                let case = format!("{name}: {path} {credential:?} round {round}");
                assert!(matches!(status, 502 | 503), "{case}: {status}");
                assert!(answer.took < PATIENCE, "{case}: {:?}", answer.took);
                assert_ne!(answer.code(), "(no error body)", "{case}");
            })
        }))
        .await;
    }
}

#[tokio::test]
async fn a_silent_token_server_leaves_the_registrys_own_refusal() {
    let (bench, _registry) = Bench::impatient(shelf(), |seen, good| {
        if seen.path == "/token" {
            Reply::silent()
        } else {
            good
        }
    })
    .await;
    let answers = join_all(paths("token").map(|path| bench.get(path))).await;
    for answer in answers {
        let status = answer.status.as_u16();
        assert!(matches!(status, 401 | 502 | 503), "{status}");
        assert!(answer.took < PATIENCE, "{:?}", answer.took);
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_registry_that_is_slow_but_at_work_is_waited_for() {
    // Each reply takes its time: challenge, token, head, redirect, target.
    let (bench, _registry) = Bench::impatient(shelf(), |seen, good| {
        let slow = End::Late(Duration::from_millis(550));
        if get(seen) && seen.header("authorization").is_some() && seen.query.is_empty() {
            let to = format!("{}?signed=1", seen.path);
            return Reply::new(307).header("Location", to).end(slow);
        }
        good.end(slow)
    })
    .await;
    let bench = &bench;
    let answers = join_all(paths("token").map(|path| async move { bench.get(path).await })).await;
    answers[0].is_whole(&content(SIZE, 1));
    answers[1].is_whole(&manifest());
    answers[2].is_whole(&manifest());
}

#[tokio::test]
async fn too_many_requests_is_passed_on_as_503_with_its_retry_after() {
    type Case = (&'static str, Twist);
    let cases: [Case; 2] = [
        ("everything", |_, _| {
            Reply::new(429).header("Retry-After", "17")
        }),
        ("GET", |seen, good| {
            if get(seen) {
                Reply::new(429).header("Retry-After", "17")
            } else {
                good
            }
        }),
    ];
    for (name, twist) in cases {
        let (bench, _registry) = Bench::twisted(shelf(), twist).await;
        for path in paths("app") {
            let answer = bench.get(&*path).await;
            assert_eq!(
                answer.status,
                StatusCode::SERVICE_UNAVAILABLE,
                "{name} {path}"
            );
            assert_eq!(answer.header("retry-after"), "17", "{name} {path}");
            assert_eq!(answer.code(), "TOOMANYREQUESTS");
            assert!(answer.took < PATIENCE);
        }
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_short_wait_that_the_registry_asks_for_is_kept_inside() {
    let (bench, _registry) = Bench::twisted(shelf(), |seen, good| match seen.before {
        0 => Reply::new(429).header("Retry-After", "1"),
        _ => good,
    })
    .await;
    for path in paths("app") {
        let answer = bench.get(&*path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
    }
    bench.stop().await;
}

#[tokio::test]
async fn not_found_and_forbidden_are_passed_on_as_they_are() {
    let (bench, _registry) = Bench::twisted(shelf(), |seen, good| {
        if seen.path.contains("/forbidden/") {
            return Reply::new(403)
                .header("Content-Type", "application/json")
                .body(OWN_WORDS);
        }
        good
    })
    .await;
    for path in paths("nowhere") {
        let answer = bench.get(&*path).await;
        let code = if path.contains("/blobs/") {
            "BLOB_UNKNOWN"
        } else {
            "MANIFEST_UNKNOWN"
        };
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (404, code),
            "{path}"
        );
    }
    for path in paths("forbidden") {
        let answer = bench.get(&*path).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(answer.body, OWN_WORDS, "{path}");
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_manifest_over_the_limit_is_refused_before_it_is_read() {
    const HUGE: usize = 5 << 20;
    let huge = Bytes::from(vec![b' '; HUGE]);
    let shelf = Shelf::new().manifest("app", "huge", &huge);
    type Case = (&'static str, Framing, u64);
    let cases: [Case; 2] = [
        ("a length", Framing::Length, 0),
        // Read up to the limit, and what the sockets hold.
        ("no length", Framing::Chunked, 4 << 20),
    ];
    for (name, framing, most) in cases {
        let (bench, registry) =
            Bench::twisted(shelf.clone(), move |_, good| good.framing(framing)).await;
        for path in [
            "/v2/app/manifests/huge".to_owned(),
            format!("/v2/app/manifests/{}", Digest::sha256(&huge)),
        ] {
            let answer = bench.get(&*path).await;
            assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{name} {path}");
            assert!(answer.took < PATIENCE);
        }
        if most == 0 {
            assert_eq!(registry.sent(), 0, "{name}");
        }
        bench.stop().await;
    }
}

#[tokio::test]
async fn an_endless_manifest_is_not_read_for_ever() {
    let blob = content(64 << 20, 3);
    let digest = Digest::sha256(&blob).to_string();
    let path = format!("/v2/app/manifests/{digest}");
    let (bench, registry) = Bench::twisted(Shelf::new().blob("app", &blob), move |seen, _| {
        let reply = Reply::new(200).framing(Framing::Chunked);
        let reply = reply.header("Docker-Content-Digest", digest.clone());
        if seen.method == "GET" {
            reply.body(blob.clone())
        } else {
            reply
        }
    })
    .await;
    for path in ["/v2/app/manifests/v1", &path] {
        let answer = bench.get(path).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{path}");
    }
    let gets = registry.asked("GET", "/manifests/").len() as u64;
    assert!(
        registry.sent() < gets * (16 << 20),
        "{} bytes in {gets} reads",
        registry.sent()
    );
    bench.stop().await;
}
