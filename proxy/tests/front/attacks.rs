//! What is known to be tried against proxies like this one: the exact replies, and that the
//! targets see no connection.

use std::time::Duration;

use bytes::Bytes;
use darter_api::Digest;
use darter_runtime::Tasks;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    bench::{Bench, GIVE_UP, PATIENCE, blob_path, upstream},
    registry::{Access, End, Framing, MANIFEST_TYPE, OWN_WORDS, Registry, Reply, Shelf, content},
};

fn blob() -> Bytes {
    content(400_000, 1)
}

const UNKNOWN: &str = r#"{"errors":[{"code":"NAME_UNKNOWN","detail":null,"message":"this mirror does not know the registry"}]}"#;
const INVALID: &str =
    r#"{"errors":[{"code":"NAME_INVALID","detail":null,"message":"invalid repository name"}]}"#;

#[tokio::test]
async fn what_a_client_says_is_never_dialled() {
    let (bench, registry) = Bench::good(Shelf::new().blob("app", &blob())).await;
    let trap = Registry::good(Shelf::new().blob("app", &blob()), &bench.tasks).await;
    let path = blob_path("app", &blob());
    let at = trap.address();
    let cases = [
        (format!("{path}?ns=169.254.169.254"), 404, UNKNOWN),
        (format!("{path}?ns=127.0.0.1:22"), 404, UNKNOWN),
        (format!("{path}?ns={at}"), 404, UNKNOWN),
        (format!("{path}?ns=evil@{at}"), 404, UNKNOWN),
        (format!("{path}?ns=registry.test@{at}"), 404, UNKNOWN),
        (format!("{path}?ns=http://{at}"), 404, UNKNOWN),
        (format!("{path}?ns=registry.test&ns={at}"), 404, UNKNOWN),
        ("/v2/..%2f..%2fetc/tags/list".to_owned(), 400, INVALID),
        ("/v2/app/..%2fb/tags/list".to_owned(), 400, INVALID),
        ("/v2/app/../b/tags/list".to_owned(), 400, INVALID),
        (format!("/v2/{at}/app/tags/list"), 400, INVALID),
    ];
    for (path, status, body) in cases {
        let answer = bench.get(&*path).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        // Which key comes first is nobody's concern.
        let said: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        let wanted: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(said, wanted, "{path}");
        assert!(answer.took < PATIENCE, "{path}: {:?}", answer.took);
    }
    let absolute = bench.ask(format!("http://{at}{path}")).send().await;
    assert_eq!(
        (absolute.status.as_u16(), absolute.code().as_str()),
        (403, "DENIED")
    );
    assert_eq!((registry.connections(), trap.connections()), (0, 0));
    bench.stop().await;
}

#[tokio::test]
async fn tls_on_the_plain_port_is_told_so_and_the_mirror_goes_on() {
    let (bench, registry) = Bench::good(Shelf::new().blob("app", &blob())).await;
    let mut socket = TcpStream::connect(bench.address).await.expect("it listens");
    let hello = [0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
    socket.write_all(&hello).await.expect("room for a hello");
    let mut reply = String::new();
    let read = tokio::time::timeout(GIVE_UP, socket.read_to_string(&mut reply));
    read.await.expect("an answer in time").expect("no reset");
    assert!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
    assert_eq!(registry.connections(), 0);
    bench.get(blob_path("app", &blob())).await.is_whole(&blob());
    bench.stop().await;
}

/// A registry that wants a token of `realm`.
async fn challenging(realm: String, tasks: &Tasks) -> Registry {
    Registry::twisted(Shelf::new(), tasks, move |_, _| {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"x\"");
        Reply::new(401)
            .header("WWW-Authenticate", challenge)
            .header("Content-Type", "application/json")
            .body(OWN_WORDS)
    })
    .await
}

#[tokio::test]
async fn a_realm_beside_the_registry_or_elsewhere_is_asked_only_where_it_is_listed() {
    for (host, listed) in [
        // Another port of the registry's own host.
        ("127.0.0.1", false),
        ("127.0.0.1", true),
        // Another host.
        ("127.0.0.2", false),
    ] {
        let tasks = Tasks::new();
        let trap = Registry::at(host, Shelf::new(), &tasks, |_, _| {
            Reply::new(200).body(r#"{"token":"of-the-trap"}"#)
        })
        .await;
        let realm = format!("{}/token", trap.url());
        let registry = challenging(realm.clone(), &tasks).await;
        let mut one = upstream("registry.test", registry.url());
        if listed {
            one.realms = vec![trap.address().to_string()];
        }
        let bench = Bench::of(vec![one], tasks).await;
        let answer = bench.get(blob_path("app", &blob())).await;
        assert_eq!(answer.status.as_u16(), 401, "{realm}");
        let challenge = format!("Bearer realm=\"{realm}\",service=\"x\"");
        assert_eq!(answer.header("www-authenticate"), challenge);
        assert_eq!(answer.body, OWN_WORDS);
        assert_eq!(trap.connections() > 0, listed, "{realm}");
        bench.stop().await;
    }
}

#[tokio::test]
async fn of_a_token_reply_without_end_little_is_read_and_the_registrys_refusal_stands() {
    const GIGABYTE: u64 = 1 << 30;
    let shelf = Shelf::new()
        .blob("app", &blob())
        .access("app", Access::AnonymousToken);
    // 1 GB in the announcement, and 64 MB on the way at most.
    let flood = content(64 << 20, 5);
    for framing in [Framing::Length, Framing::Chunked] {
        let flood = flood.clone();
        let (bench, registry) = Bench::twisted(shelf.clone(), move |seen, good| {
            if seen.path != "/token" {
                return good;
            }
            let reply = Reply::new(200).body(flood.clone()).framing(framing);
            match framing {
                Framing::Length => reply
                    .framing(Framing::UntilEnd)
                    .header("Content-Length", GIGABYTE.to_string()),
                _ => reply,
            }
        })
        .await;
        let answer = bench.get(blob_path("app", &blob())).await;
        assert_eq!(answer.status.as_u16(), 401);
        assert_eq!(answer.body, OWN_WORDS);
        assert!(answer.took < PATIENCE, "{:?}", answer.took);
        // What the limit lets through, and what sockets hold, each time that it was asked.
        let asked = registry.asked("GET", "/token").len() as u64;
        assert!(
            registry.sent() < asked * (16 << 20),
            "{} bytes",
            registry.sent()
        );
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_token_reply_that_never_ends_costs_seconds_only() {
    let shelf = Shelf::new()
        .blob("app", &blob())
        .access("app", Access::AnonymousToken);
    let (bench, _registry) = Bench::impatient(shelf, |seen, good| {
        if seen.path == "/token" {
            good.end(End::Stall(10))
        } else {
            good
        }
    })
    .await;
    let answer = bench.get(blob_path("app", &blob())).await;
    assert_eq!(answer.status.as_u16(), 401);
    assert!(answer.took < PATIENCE, "{:?}", answer.took);
    bench.stop().await;
}

#[tokio::test]
async fn what_waits_for_a_token_shares_one() {
    let shelf = (0..8).fold(Shelf::new(), |shelf, n| {
        shelf.blob("app", &content(90_000, n))
    });
    let shelf = shelf.access("app", Access::AnonymousToken);
    let (bench, registry) = Bench::twisted(shelf, |seen, good| {
        if seen.path == "/token" {
            good.end(End::Late(Duration::from_millis(300)))
        } else {
            good
        }
    })
    .await;
    let bench_ = &bench;
    let all = (0..8).map(|n| async move {
        let blob = content(90_000, n);
        bench_.get(blob_path("app", &blob)).await.is_whole(&blob);
    });
    futures::future::join_all(all).await;
    assert_eq!(registry.asked("GET", "/token").len(), 1);
    bench.stop().await;
}

/// Somebody's image names another one's layer, with a size of his own.
#[tokio::test]
async fn a_manifest_that_lies_about_a_size_keeps_nobody_from_the_content() {
    let digest = Digest::sha256(&blob());
    let lie = Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{}}}]}}"#,
        blob().len() + 1,
    ));
    for repository in ["app", "evil"] {
        let shelf = Shelf::new().blob("app", &blob()).blob("evil", &blob());
        let shelf = shelf.manifest("evil", "v1", &lie);
        let (bench, _registry) = Bench::good(shelf).await;
        bench.get("/v2/evil/manifests/v1").await.is_whole(&lie);
        for _ in 0..2 {
            let answer = bench.get(blob_path(repository, &blob())).await;
            answer.is_whole(&blob());
        }
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_store_that_refuses_what_was_signed_is_not_the_registrys_refusal() {
    // The first URL has expired on its way; the second one never works.
    for (works, wanted) in [(1, 200), (usize::MAX, 502)] {
        let tasks = Tasks::new();
        let store = Registry::at("127.0.0.2", Shelf::new(), &tasks, move |seen, _| {
            let nth = seen.query.trim_start_matches("n=").parse().unwrap_or(0);
            if nth < works {
                return Reply::new(403).body("<Error><Code>AccessDenied</Code></Error>");
            }
            Reply::new(200).body(blob())
        })
        .await;
        let to = store.url();
        let registry = Registry::twisted(
            Shelf::new().blob("app", &blob()),
            &tasks,
            move |seen, good| match seen.method.as_str() {
                "GET" => Reply::new(307).header("Location", format!("{to}/blob?n={}", seen.before)),
                _ => good,
            },
        )
        .await;
        let mut one = upstream("registry.test", registry.url());
        one.redirects = vec!["127.0.0.2".to_owned()];
        let bench = Bench::of(vec![one], tasks).await;
        let answer = bench.get(blob_path("app", &blob())).await;
        assert_eq!(answer.status.as_u16(), wanted);
        if wanted == 200 {
            answer.is_whole(&blob());
        }
        bench.stop().await;
    }
}
