//! Where a registry's replies may make the proxy go, and with what.

use bytes::Bytes;
use darter_runtime::Tasks;
use http::StatusCode;

use crate::{
    bench::{Bench, PATIENCE, blob_path, upstream},
    registry::{Registry, Reply, Shelf, content},
};

/// Another address of this machine, which no list names.
const ELSEWHERE: &str = "127.0.0.2";

fn blob() -> Bytes {
    content(400_000, 1)
}

/// A proxy whose registry sends every GET of a blob to `to`.
async fn redirecting(to: String, listed: Vec<String>, tasks: Tasks) -> (Bench, Registry) {
    let registry = Registry::twisted(
        Shelf::new().blob("app", &blob()),
        &tasks,
        move |seen, good| {
            if seen.method == "GET" && seen.path.contains("/blobs/") {
                return Reply::new(307).header("Location", format!("{to}{}", seen.path));
            }
            good
        },
    )
    .await;
    let mut one = upstream("registry.test", registry.url());
    one.redirects = listed;
    (Bench::of(vec![one], tasks).await, registry)
}

#[tokio::test]
async fn a_redirect_to_a_private_address_is_502_and_nothing_is_dialled() {
    for scheme in ["http", "https"] {
        for host in [ELSEWHERE, "127.0.0.1", "localhost", "[::ffff:127.0.0.2]"] {
            let tasks = Tasks::new();
            let trap = Registry::at(ELSEWHERE, Shelf::new(), &tasks, |_, good| good).await;
            let near = Registry::good(Shelf::new(), &tasks).await;
            let port = if host.ends_with("1") || host == "localhost" {
                near.address().port()
            } else {
                trap.address().port()
            };
            let to = format!("{scheme}://{host}:{port}");
            let (bench, _registry) = redirecting(to.clone(), Vec::new(), tasks).await;
            let answer = bench.get(blob_path("app", &blob())).await;
            assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{to}");
            assert!(answer.took < PATIENCE, "{to}: {:?}", answer.took);
            assert_eq!((trap.connections(), near.connections()), (0, 0), "{to}");
            bench.stop().await;
        }
    }
}

#[tokio::test]
async fn a_listed_redirect_is_followed_without_the_authorization() {
    for listed in [ELSEWHERE.to_owned(), "127.0.0.2/32".to_owned()] {
        let tasks = Tasks::new();
        let cdn = Registry::at(
            ELSEWHERE,
            Shelf::new().blob("app", &blob()),
            &tasks,
            |_, good| good,
        )
        .await;
        let (bench, registry) = redirecting(cdn.url(), vec![listed.clone()], tasks).await;
        let ask = bench
            .ask(blob_path("app", &blob()))
            .authorized(Some("Bearer of-a-client"));
        ask.send().await.is_whole(&blob());
        let arrived = cdn.seen();
        assert!(!arrived.is_empty(), "{listed}");
        assert!(
            arrived
                .iter()
                .all(|seen| seen.header("authorization").is_none()),
            "{listed}"
        );
        let shown = registry.asked("GET", "/blobs/");
        assert!(
            shown
                .iter()
                .any(|seen| seen.header("authorization") == Some("Bearer of-a-client"))
        );
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_redirect_on_the_same_host_keeps_the_authorization_and_another_port_loses_it() {
    let tasks = Tasks::new();
    let other = Registry::good(Shelf::new().blob("app", &blob()), &tasks).await;
    let to = other.url();
    let registry = Registry::twisted(
        Shelf::new().blob("app", &blob()),
        &tasks,
        move |seen, good| {
            if seen.method != "GET" || !seen.path.contains("/blobs/") {
                return good;
            }
            match seen.query.as_str() {
                "" => Reply::new(302).header("Location", format!("{}?here=1", seen.path)),
                _ => Reply::new(302).header("Location", format!("{to}{}", seen.path)),
            }
        },
    )
    .await;
    let list = vec![
        upstream("registry.test", registry.url()),
        upstream("other.test", other.url()),
    ];
    let bench = Bench::of(list, tasks).await;
    let ask = bench
        .ask(blob_path("app", &blob()))
        .authorized(Some("Bearer of-a-client"));
    ask.send().await.is_whole(&blob());
    let here: Vec<_> = registry
        .seen()
        .into_iter()
        .filter(|seen| seen.query == "here=1")
        .collect();
    assert!(
        here.iter()
            .any(|seen| seen.header("authorization").is_some())
    );
    assert!(
        other
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
    bench.stop().await;
}

#[tokio::test]
async fn redirects_without_end_or_sense_are_502() {
    for location in [
        "",
        "http://",
        "//",
        "ftp://127.0.0.1/x",
        "loop",
        "http://user:pass@127.0.0.1/x",
    ] {
        let tasks = Tasks::new();
        let registry = Registry::twisted(
            Shelf::new().blob("app", &blob()),
            &tasks,
            move |seen, good| {
                if seen.method != "GET" {
                    return good;
                }
                match location {
                    "loop" => {
                        Reply::new(302).header("Location", format!("{}?{}", seen.path, seen.before))
                    }
                    other => Reply::new(302).header("Location", other),
                }
            },
        )
        .await;
        let bench = Bench::of(vec![upstream("registry.test", registry.url())], tasks).await;
        let answer = bench.get(blob_path("app", &blob())).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{location}");
        assert!(answer.took < PATIENCE, "{location}");
        assert!(registry.asked("GET", "/blobs/").len() <= 12, "{location}");
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_token_realm_on_a_foreign_host_is_never_dialled() {
    let tasks = Tasks::new();
    let trap = Registry::at(ELSEWHERE, Shelf::new(), &tasks, |_, good| good).await;
    let realm = format!("Bearer realm=\"{}/token\",service=\"x\"", trap.url());
    let challenge = realm.clone();
    let registry = Registry::twisted(Shelf::new().blob("app", &blob()), &tasks, move |_, _| {
        Reply::new(401).header("WWW-Authenticate", challenge.clone())
    })
    .await;
    let bench = Bench::of(vec![upstream("registry.test", registry.url())], tasks).await;
    for path in [
        blob_path("app", &blob()),
        "/v2/app/manifests/v1".to_owned(),
        "/v2/app/tags/list".to_owned(),
    ] {
        let answer = bench.get(&*path).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(answer.header("www-authenticate"), realm, "{path}");
    }
    assert_eq!(trap.connections(), 0);
    bench.stop().await;
}

#[tokio::test]
async fn a_token_server_that_redirects_leads_nowhere() {
    let tasks = Tasks::new();
    let trap = Registry::at(ELSEWHERE, Shelf::new(), &tasks, |_, good| good).await;
    let to = trap.url();
    let shelf = Shelf::new()
        .blob("app", &blob())
        .access("app", crate::registry::Access::AnonymousToken);
    let registry = Registry::twisted(shelf, &tasks, move |seen, good| {
        if seen.path == "/token" {
            Reply::new(302).header("Location", format!("{to}/token"))
        } else {
            good
        }
    })
    .await;
    let bench = Bench::of(vec![upstream("registry.test", registry.url())], tasks).await;
    let answer = bench.get(blob_path("app", &blob())).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(trap.connections(), 0);
    bench.stop().await;
}
