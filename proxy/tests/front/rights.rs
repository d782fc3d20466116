//! Who may read what this proxy holds.

use std::time::Duration;

use bytes::Bytes;
use darter_api::Digest;
use darter_runtime::Tasks;
use http::StatusCode;

use crate::{
    bench::{Bench, GIVE_UP, PATIENCE, blob_path, impatient, until, upstream},
    registry::{Access, MANIFEST_TYPE, OWN_WORDS, Registry, Reply, Shelf, content},
};

const RIGHT: &str = "Bearer the-right-one";
const WRONG: &str = "Bearer a-wrong-one";

fn blob() -> Bytes {
    content(900_000, 1)
}

fn manifest() -> Bytes {
    Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}"}}"#
    ))
}

fn paths(repository: &str) -> [String; 3] {
    [
        blob_path(repository, &blob()),
        format!("/v2/{repository}/manifests/{}", Digest::sha256(&manifest())),
        format!("/v2/{repository}/manifests/v1"),
    ]
}

fn shelf(repository: &str, access: Access) -> Shelf {
    let shelf = Shelf::new().access(repository, access);
    shelf
        .blob(repository, &blob())
        .manifest(repository, "v1", &manifest())
}

#[tokio::test]
async fn what_one_may_read_is_the_registrys_refusal_to_others() {
    for access in [
        Access::Bearer(RIGHT.to_owned()),
        Access::Basic(RIGHT.to_owned()),
    ] {
        let scheme = if matches!(access, Access::Basic(_)) {
            "Basic "
        } else {
            "Bearer "
        };
        let (bench, registry) = Bench::good(shelf("private", access)).await;
        for path in paths("private") {
            let mine = bench.ask(&*path).authorized(Some(RIGHT)).send().await;
            assert_eq!(mine.status, StatusCode::OK, "{path}");
        }
        let sent = registry.sent();
        for path in paths("private") {
            for method in ["GET", "HEAD"] {
                for other in [None, Some(WRONG)] {
                    let ask = bench.ask(&*path).method(method).authorized(other);
                    let answer = ask.send().await;
                    let case = format!("{method} {path} {other:?}");
                    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{case}");
                    assert!(
                        answer.header("www-authenticate").starts_with(scheme),
                        "{case}"
                    );
                    if method == "GET" {
                        assert_eq!(answer.body, OWN_WORDS, "{case}");
                    }
                    let conditional = bench
                        .ask(&*path)
                        .method(method)
                        .authorized(other)
                        .header("if-none-match", format!("\"{}\"", Digest::sha256(&blob())));
                    assert_eq!(
                        conditional.send().await.status,
                        StatusCode::UNAUTHORIZED,
                        "{case}"
                    );
                }
            }
            let range = bench.ask(&*path).header("range", "bytes=0-9");
            assert_eq!(range.send().await.status, StatusCode::UNAUTHORIZED);
            let mine = bench.ask(&*path).authorized(Some(RIGHT)).send().await;
            assert_eq!(
                mine.status,
                StatusCode::OK,
                "the right one still may: {path}"
            );
        }
        // Refusals are all that left since.
        let mut fetches = registry.asked("GET", "/blobs/");
        fetches.retain(|seen| seen.header("authorization") == Some(RIGHT));
        assert_eq!(fetches.len(), 1, "one fetch of the blob");
        assert!(registry.sent() - sent < 100_000);
        bench.stop().await;
    }
}

#[tokio::test]
async fn others_are_refused_while_the_content_is_still_coming() {
    let (gate, opened) = tokio::sync::watch::channel(false);
    let shelf = shelf("private", Access::Bearer(RIGHT.to_owned()));
    let (bench, _registry) = Bench::twisted(shelf, move |seen, good| {
        if seen.is("GET", "/blobs/") && good.status == 200 {
            return good.end(crate::registry::End::Gate(500_000, opened.clone()));
        }
        good
    })
    .await;
    let path = blob_path("private", &blob());
    let mut mine = bench.ask(&*path).authorized(Some(RIGHT)).open().await;
    mine.read(300_000).await;
    for other in [None, Some(WRONG)] {
        let answer = bench.ask(&*path).authorized(other).send().await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer.body, OWN_WORDS);
    }
    gate.send_replace(true);
    let rest = mine.finish().await;
    assert_eq!(rest.end, crate::bench::BodyEnd::Whole);
    bench.stop().await;
}

/// As a client does whose token has ended.
#[tokio::test]
async fn who_asks_again_with_a_right_is_not_told_what_it_was_told_without() {
    let blobs: Vec<Bytes> = (1..=16).map(|seed| content(90_000, seed)).collect();
    let described = blobs.iter().map(|blob| {
        let (digest, size) = (Digest::sha256(blob), blob.len());
        format!(r#"{{"mediaType":"application/octet-stream","digest":"{digest}","size":{size}}}"#)
    });
    let layers = described.collect::<Vec<_>>().join(",");
    let manifest =
        format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","layers":[{layers}]}}"#);
    let shelf = Shelf::new().access("private", Access::Bearer(RIGHT.to_owned()));
    let shelf = blobs
        .iter()
        .fold(shelf, |shelf, blob| shelf.blob("private", blob));
    let (bench, _registry) = Bench::good(shelf.manifest("private", "v1", &manifest.into())).await;
    // With its manifest sizes are known, and a download begins before it is known for whom.
    let named = bench
        .ask("/v2/private/manifests/v1")
        .authorized(Some(RIGHT));
    assert_eq!(named.send().await.status, StatusCode::OK);
    for blob in blobs.iter().rev() {
        let path = blob_path("private", blob);
        assert_eq!(bench.get(&*path).await.status, StatusCode::UNAUTHORIZED);
        let again = bench.ask(&*path).authorized(Some(RIGHT)).send().await;
        again.is_whole(blob);
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_public_content_needs_nothing_and_the_anonymous_token_is_the_proxys_own() {
    let (bench, registry) = Bench::good(shelf("public", Access::AnonymousToken)).await;
    for path in paths("public") {
        let answer = bench.get(&*path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert_eq!(answer.header("www-authenticate"), "");
    }
    // A credential that is no good here doesn't harm what is public.
    let odd = bench
        .ask(blob_path("public", &blob()))
        .authorized(Some(WRONG));
    odd.send().await.is_whole(&blob());
    let tokens = registry.asked("GET", "/token");
    assert_eq!(tokens.len(), 1, "one token serves them all");
    assert!(tokens[0].header("authorization").is_none());
    assert!(
        tokens[0].query.contains("repository%3Apublic%3Apull"),
        "{}",
        tokens[0].query
    );
    bench.stop().await;
}

#[tokio::test]
async fn a_clients_credential_reaches_its_own_upstream_and_no_other() {
    let tasks = Tasks::new();
    let one = Registry::good(shelf("private", Access::Bearer(RIGHT.to_owned())), &tasks).await;
    let two = Registry::good(shelf("private", Access::Bearer(RIGHT.to_owned())), &tasks).await;
    let list = vec![
        upstream("one.test", one.url()),
        upstream("two.test", two.url()),
    ];
    let bench = Bench::of(list, tasks).await;
    let path = blob_path("private", &blob());
    bench
        .ask(&*path)
        .authorized(Some(RIGHT))
        .send()
        .await
        .is_whole(&blob());
    assert_eq!(two.connections(), 0);
    // The other upstream has to say so itself, although the bytes are here.
    let before = two.seen().len();
    let there = bench
        .ask(format!("{path}?ns=two.test"))
        .authorized(Some(WRONG))
        .send()
        .await;
    assert_eq!(there.status, StatusCode::UNAUTHORIZED);
    assert!(two.seen().len() > before);
    // No token server sees what the client showed.
    for registry in [&one, &two] {
        let tokens = registry.asked("GET", "/token");
        assert!(
            tokens
                .iter()
                .all(|seen| seen.header("authorization").is_none())
        );
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_cached_blob_is_served_under_another_repository_only_if_the_registry_has_it_there() {
    let shelf = Shelf::new()
        .blob("one", &blob())
        .blob("two", &blob())
        .blob("three", &content(10, 3));
    let (bench, registry) = Bench::good(shelf).await;
    bench.get(blob_path("one", &blob())).await.is_whole(&blob());
    let sent = registry.sent();
    bench.get(blob_path("two", &blob())).await.is_whole(&blob());
    for method in ["GET", "HEAD"] {
        let absent = bench
            .ask(blob_path("three", &blob()))
            .method(method)
            .send()
            .await;
        assert_eq!(absent.status, StatusCode::NOT_FOUND, "{method}");
    }
    assert_eq!(
        registry.asked("GET", "/blobs/").len(),
        1,
        "it is fetched once"
    );
    assert!(registry.sent() < sent + 1000);
    let member = format!("/v2/two/blobs/{}", Digest::sha256(&blob()));
    assert!(
        !registry.asked("HEAD", &member).is_empty(),
        "it was asked whether it is there"
    );
    bench.stop().await;
}

#[tokio::test]
async fn a_manifest_that_names_a_digest_proves_nothing() {
    let naming = Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}]}}"#,
        Digest::sha256(&blob()),
        blob().len(),
    ));
    let shelf = shelf("private", Access::Bearer(RIGHT.to_owned())).manifest("thief", "v1", &naming);
    let (bench, _registry) = Bench::good(shelf).await;
    let mine = bench
        .ask(blob_path("private", &blob()))
        .authorized(Some(RIGHT));
    mine.send().await.is_whole(&blob());
    bench.get("/v2/thief/manifests/v1").await.is_whole(&naming);
    let stolen = bench.get(blob_path("thief", &blob())).await;
    assert_eq!(stolen.status, StatusCode::NOT_FOUND);
    bench.stop().await;
}

/// How the registry goes away.
async fn after_it_is_gone(reply: fn() -> Reply) {
    let gone = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_gone = std::sync::Arc::clone(&gone);
    let tasks = Tasks::new();
    let other = content(50_000, 9);
    let shelf = shelf("private", Access::Bearer(RIGHT.to_owned()))
        .blob("public", &other)
        .manifest("public", "v1", &manifest());
    let registry = Registry::twisted(shelf, &tasks, move |_, good| {
        if is_gone.load(std::sync::atomic::Ordering::SeqCst) {
            reply()
        } else {
            good
        }
    })
    .await;
    let list = vec![upstream("registry.test", registry.url())];
    let bench = Bench::with(tasks, |options| {
        impatient(options);
        options.upstreams = list;
        options.mirror.tag_ttl = Duration::from_millis(50);
        options.rights.allowed_for = Duration::from_millis(50);
        options.rights.refused_for = Duration::from_millis(50);
    })
    .await;
    for path in paths("private") {
        assert_eq!(
            bench
                .ask(&*path)
                .authorized(Some(RIGHT))
                .send()
                .await
                .status,
            StatusCode::OK
        );
    }
    bench
        .get(blob_path("public", &other))
        .await
        .is_whole(&other);
    bench
        .get("/v2/public/manifests/v1")
        .await
        .is_whole(&manifest());
    until("it is kept", || {
        !registry.asked("GET", "/blobs/").is_empty()
    })
    .await;
    tokio::time::sleep(Duration::from_millis(120)).await;
    gone.store(true, std::sync::atomic::Ordering::SeqCst);
    // What was confirmed holds.
    for path in paths("private") {
        let mine = bench.ask(&*path).authorized(Some(RIGHT)).send().await;
        assert_eq!(mine.status, StatusCode::OK, "{path}");
        assert!(mine.took < PATIENCE, "{path}: {:?}", mine.took);
    }
    bench
        .get(blob_path("public", &other))
        .await
        .is_whole(&other);
    bench
        .get("/v2/public/manifests/v1")
        .await
        .is_whole(&manifest());
    // What was not, does not.
    for path in paths("private") {
        for stranger in [None, Some(WRONG)] {
            let answer = bench.ask(&*path).authorized(stranger).send().await;
            let case = format!("{path} {stranger:?}");
            assert!(answer.status.is_server_error(), "{case}: {}", answer.status);
            assert!(answer.took < PATIENCE, "{case}: {:?}", answer.took);
        }
    }
    let elsewhere = bench.get(blob_path("public", &blob())).await;
    assert!(elsewhere.status.is_server_error(), "{}", elsewhere.status);
    bench.stop().await;
}

#[tokio::test]
async fn a_confirmed_right_holds_while_the_registry_fails_and_no_other() {
    after_it_is_gone(|| Reply::new(500)).await;
}

#[tokio::test]
async fn a_confirmed_right_holds_while_the_registry_hangs_up_and_no_other() {
    after_it_is_gone(|| Reply::new(500).end(crate::registry::End::HangUp)).await;
}

#[tokio::test]
async fn a_confirmed_right_holds_while_the_registry_is_silent_and_no_other() {
    after_it_is_gone(Reply::silent).await;
}

#[tokio::test]
async fn a_right_that_was_taken_away_ends() {
    let revoked = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_revoked = std::sync::Arc::clone(&revoked);
    let tasks = Tasks::new();
    let shelf = shelf("private", Access::Bearer(RIGHT.to_owned()));
    let registry = Registry::twisted(shelf, &tasks, move |seen, good| {
        if is_revoked.load(std::sync::atomic::Ordering::SeqCst) && seen.path != "/token" {
            return Reply::new(401)
                .header("WWW-Authenticate", "Basic realm=\"x\"")
                .body(OWN_WORDS);
        }
        good
    })
    .await;
    let list = vec![upstream("registry.test", registry.url())];
    let bench = Bench::with(tasks, |options| {
        options.upstreams = list;
        options.rights.allowed_for = Duration::from_millis(50);
        options.rights.refused_for = Duration::from_millis(50);
    })
    .await;
    let path = blob_path("private", &blob());
    bench
        .ask(&*path)
        .authorized(Some(RIGHT))
        .send()
        .await
        .is_whole(&blob());
    revoked.store(true, std::sync::atomic::Ordering::SeqCst);
    let began = std::time::Instant::now();
    loop {
        let answer = bench.ask(&*path).authorized(Some(RIGHT)).send().await;
        if answer.status == StatusCode::UNAUTHORIZED {
            assert_eq!(answer.body, OWN_WORDS);
            break;
        }
        assert!(began.elapsed() < GIVE_UP, "the memory of a right ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bench.stop().await;
}

/// Nothing is taken away by it, nothing remembered, and nobody let in.
#[tokio::test]
async fn a_store_that_the_registry_leads_to_has_no_word_in_it() {
    futures::future::join_all([400, 401, 404, 405, 407, 451].map(no_word)).await;
}

async fn no_word(status: u16) {
    let other = content(50_000, 9);
    let shelf = shelf("private", Access::Bearer(RIGHT.to_owned())).blob("private", &other);
    let (fails, is_failing) = tokio::sync::watch::channel(false);
    let tasks = Tasks::new();
    let store = Registry::at("127.0.0.2", Shelf::new(), &tasks, move |_, _| {
        Reply::new(status)
    })
    .await;
    let to = store.url();
    let registry = Registry::twisted(shelf, &tasks, move |seen, good| {
        if *is_failing.borrow() && good.status < 300 && seen.path.contains("/blobs/") {
            return Reply::new(307).header("Location", format!("{to}{}", seen.path));
        }
        good
    })
    .await;
    let mut one = upstream("registry.test", registry.url());
    one.redirects = vec!["127.0.0.2".to_owned()];
    let bench = Bench::with(tasks, |options| {
        options.upstreams = vec![one];
        options.rights.allowed_for = Duration::ZERO;
        options.rights.refused_for = Duration::from_secs(60);
    })
    .await;
    let (path, unknown) = (blob_path("private", &blob()), blob_path("private", &other));
    let ask = |path: &str, shown| bench.ask(path).authorized(Some(shown)).send();
    ask(&path, RIGHT).await.is_whole(&blob());
    fails.send_replace(true);
    let began = std::time::Instant::now();
    while store.asked("HEAD", "/blobs/").len() < 3 {
        ask(&path, RIGHT).await.is_whole(&blob());
        assert!(began.elapsed() < GIVE_UP, "it is not asked");
    }
    let answer = ask(&unknown, RIGHT).await.status.as_u16();
    assert_eq!(answer, if status == 404 { 404 } else { 502 }, "{status}");
    assert_eq!(ask(&path, WRONG).await.status, StatusCode::UNAUTHORIZED);
    fails.send_replace(false);
    ask(&unknown, RIGHT).await.is_whole(&other);
    bench.stop().await;
}

/// No refusal, but a word: the registry is there, and what it said before counts no more.
#[tokio::test]
async fn a_registry_that_says_no_in_other_words_is_not_out_of_reach() {
    for word in [402, 451] {
        let shelf = shelf("private", Access::Bearer(RIGHT.to_owned()));
        let (taken, is_taken) = tokio::sync::watch::channel(false);
        let tasks = Tasks::new();
        let registry = Registry::twisted(shelf, &tasks, move |_, good| {
            if *is_taken.borrow() {
                return Reply::new(word);
            }
            good
        })
        .await;
        let list = vec![upstream("registry.test", registry.url())];
        let bench = Bench::with(tasks, |options| {
            options.upstreams = list;
            options.rights.allowed_for = Duration::ZERO;
            options.rights.refused_for = Duration::ZERO;
        })
        .await;
        let path = blob_path("private", &blob());
        let ask = || bench.ask(&*path).authorized(Some(RIGHT)).send();
        ask().await.is_whole(&blob());
        taken.send_replace(true);
        // What the registry said a moment ago is one answer for all who ask.
        let began = std::time::Instant::now();
        while ask().await.status == StatusCode::OK {
            assert!(began.elapsed() < GIVE_UP, "{word}: it is still given");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(ask().await.status, StatusCode::BAD_GATEWAY, "{word}");
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_public_repository_that_was_made_private_is_nobodys_not_even_within_the_grace() {
    // 0: public, 1: private, 2: gone.
    let state = std::sync::Arc::new(std::sync::atomic::AtomicU8::new(0));
    let now = std::sync::Arc::clone(&state);
    let tasks = Tasks::new();
    let registry = Registry::twisted(
        shelf("app", Access::Public),
        &tasks,
        move |_, good| match now.load(std::sync::atomic::Ordering::SeqCst) {
            0 => good,
            1 => Reply::new(401)
                .header("WWW-Authenticate", "Basic realm=\"x\"")
                .body(OWN_WORDS),
            _ => Reply::new(500).end(crate::registry::End::HangUp),
        },
    )
    .await;
    let list = vec![upstream("registry.test", registry.url())];
    let bench = Bench::with(tasks, |options| {
        options.upstreams = list;
        options.mirror.tag_ttl = Duration::from_millis(50);
        options.rights.allowed_for = Duration::from_millis(50);
        options.rights.refused_for = Duration::from_millis(50);
    })
    .await;
    for path in paths("app") {
        assert_eq!(bench.get(&*path).await.status, StatusCode::OK, "{path}");
    }
    state.store(1, std::sync::atomic::Ordering::SeqCst);
    for path in paths("app") {
        let began = std::time::Instant::now();
        while bench.get(&*path).await.status != StatusCode::UNAUTHORIZED {
            assert!(began.elapsed() < GIVE_UP, "{path}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    state.store(2, std::sync::atomic::Ordering::SeqCst);
    for path in paths("app") {
        let began = std::time::Instant::now();
        loop {
            // The refusal is remembered for a moment, then nobody knows.
            let status = bench.get(&*path).await.status;
            assert!(!status.is_success(), "{path}: {status}");
            if status.is_server_error() {
                break;
            }
            assert!(began.elapsed() < GIVE_UP, "{path}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    bench.stop().await;
}

#[tokio::test]
async fn the_same_blob_is_everybodys_in_one_repository_and_its_owners_in_another() {
    let shelf = shelf("private", Access::Bearer(RIGHT.to_owned())).blob("public", &blob());
    let (bench, registry) = Bench::good(shelf).await;
    let ask = |repository, who| {
        bench
            .ask(blob_path(repository, &blob()))
            .authorized(who)
            .send()
    };
    ask("public", None).await.is_whole(&blob());
    for who in [None, Some(WRONG)] {
        let refused = ask("private", who).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        assert_eq!(refused.body, OWN_WORDS);
        ask("public", who).await.is_whole(&blob());
    }
    ask("private", Some(RIGHT)).await.is_whole(&blob());
    let mut reads = registry.asked("GET", "/blobs/");
    reads.retain(|seen| seen.header("range").is_none());
    assert_eq!(reads.len(), 1);
    bench.stop().await;
}

#[tokio::test]
async fn the_next_token_is_there_before_the_last_one_ends() {
    let (bench, registry) = Bench::twisted(shelf("app", Access::AnonymousToken), |seen, good| {
        if seen.path != "/token" {
            return good;
        }
        // Fourteen seconds, less what is taken off for the way.
        Reply::new(200).body(r#"{"token":"anonymous-app","expires_in":24}"#)
    })
    .await;
    let tag = "/v2/app/tags/list";
    let began = std::time::Instant::now();
    while registry.asked("GET", "/token").len() < 2 {
        bench.get(tag).await;
        assert!(began.elapsed() < GIVE_UP, "it is never renewed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        began.elapsed() > Duration::from_secs(3),
        "it is renewed at once"
    );
    bench.get(tag).await;
    let mut bare = registry.asked("GET", tag);
    bare.retain(|seen| seen.header("authorization").is_none());
    assert_eq!(bare.len(), 1, "only the very first question was refused");
    bench.stop().await;
}

#[tokio::test]
async fn a_remembered_right_costs_a_warm_blob_nothing_that_can_be_seen() {
    const ROUNDS: usize = 1000;
    /// Of the median; of one in a hundred the machine's other work has more to say.
    const MOST: Duration = Duration::from_micros(300);
    let small = content(1000, 7);
    let shelf = Shelf::new()
        .blob("public", &small)
        .blob("private", &small)
        .access("private", Access::Bearer(RIGHT.to_owned()));
    let (bench, registry) = Bench::good(shelf).await;
    let both = ["public", "private"].map(|repository| blob_path(repository, &small));
    let mut took = [const { Vec::new() }; 2];
    for round in 0..=ROUNDS {
        for (path, took) in both.iter().zip(&mut took) {
            let began = std::time::Instant::now();
            let got = bench.ask(&**path).authorized(Some(RIGHT)).send().await;
            // The first time is the one that is remembered.
            if round > 0 {
                took.push(began.elapsed());
            }
            got.is_whole(&small);
        }
    }
    let at = |times: &mut Vec<Duration>, percent: usize| {
        times.sort_unstable();
        times[times.len() * percent / 100]
    };
    let [mut public, mut private] = took;
    for percent in [50, 99] {
        let (public, private) = (at(&mut public, percent), at(&mut private, percent));
        println!("p{percent}: {public:?} public, {private:?} with a remembered right");
    }
    let (public, private) = (at(&mut public, 50), at(&mut private, 50));
    let added = private.saturating_sub(public);
    // Where all is slow, so is the question.
    assert!(added <= MOST.max(public / 4), "{added:?} more");
    assert!(
        registry.seen().len() < 20,
        "the registry is not asked again"
    );
    bench.stop().await;
}

#[tokio::test]
async fn a_token_that_turns_out_to_be_too_little_is_replaced() {
    let shelf = shelf("app", Access::Public);
    let (bench, registry) = Bench::twisted(shelf, |seen, good| {
        if seen.path == "/token" {
            let token = if seen.before == 0 { "small" } else { "large" };
            let reply = format!(r#"{{"token":"{token}","expires_in":120}}"#);
            return Reply::new(200).body(reply);
        }
        let is_blob = seen.path.contains("/blobs/");
        match seen.header("authorization") {
            None => {
                let host = seen.header("host").unwrap_or_default();
                let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"x\"");
                Reply::new(401).header("WWW-Authenticate", challenge)
            }
            Some("Bearer small") if is_blob => Reply::new(403),
            Some(_) => good,
        }
    })
    .await;
    let [blob_at, manifest_at, _] = paths("app");
    assert_eq!(bench.get(&*manifest_at).await.status, StatusCode::OK);
    assert_eq!(registry.asked("GET", "/token").len(), 1);
    // A younger one is what the registry means to give.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    bench.get(&*blob_at).await.is_whole(&blob());
    assert_eq!(registry.asked("GET", "/token").len(), 2);
    bench.stop().await;
}
