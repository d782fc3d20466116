//! Credentials of the proxy's own, and clients that it lets in itself.

use std::{os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use darter_proxy::{credential::Secret, upstream::OwnOptions};
use darter_runtime::Tasks;
use parking_lot::Mutex;

use crate::{
    bench::{Answer, Bench, blob_path, upstream},
    registry::{Access, Registry, Reply, Seen, Shelf, content},
};

fn blob() -> Bytes {
    content(500_000, 1)
}

fn basic(pair: &str) -> String {
    format!("Basic {}", STANDARD.encode(pair))
}

fn said(name: &str, password: &str) -> OwnOptions {
    OwnOptions {
        username: Some(name.to_owned()),
        password: Some(Secret::from(password)),
        ..OwnOptions::default()
    }
}

/// A registry whose `app` is for the name `proxy` with the password of the moment, by Basic or
/// by tokens.
async fn guarded(tasks: &Tasks, by_token: bool, password: Arc<Mutex<String>>) -> Registry {
    let shelf = Shelf::new().blob("app", &blob());
    let shelf = match by_token {
        true => shelf.access("app", Access::Bearer("Bearer of-the-proxy".to_owned())),
        false => shelf,
    };
    Registry::twisted(shelf, tasks, move |seen: &Seen, good| {
        let right = basic(&format!("proxy:{}", password.lock()));
        let is_right = seen.header("authorization") == Some(&right);
        match (by_token, seen.path.as_str(), is_right) {
            (true, "/token", true) => Reply::new(200).body(r#"{"token":"of-the-proxy"}"#),
            (true, "/token", false) if seen.header("authorization").is_some() => Reply::new(401),
            (false, _, false) => {
                Reply::new(401).header("WWW-Authenticate", "Basic realm=\"registry\"")
            }
            _ => good,
        }
    })
    .await
}

/// A proxy before it that has these credentials, and lets these clients in.
async fn bench(tasks: Tasks, registry: &Registry, own: OwnOptions, users: Option<&Path>) -> Bench {
    let mut one = upstream("registry.test", registry.url());
    one.credentials = Some(own);
    let htpasswd = users.map(Path::to_owned);
    Bench::with(tasks, |options| {
        options.upstreams = vec![one];
        options.clients.htpasswd = htpasswd;
    })
    .await
}

#[tokio::test]
async fn the_proxys_own_name_opens_registries_of_both_kinds_to_clients_of_this_host() {
    for by_token in [true, false] {
        let tasks = Tasks::new();
        let password = Arc::new(Mutex::new("right".to_owned()));
        let registry = guarded(&tasks, by_token, password).await;
        let bench = bench(tasks, &registry, said("proxy", "right"), None).await;
        for _ in 0..2 {
            bench.get(blob_path("app", &blob())).await.is_whole(&blob());
        }
        assert_eq!(bench.get("/v2/").await.status.as_u16(), 200);
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_wrong_name_of_the_proxys_own_is_403_and_says_nothing_of_the_registrys_challenge() {
    for by_token in [true, false] {
        let tasks = Tasks::new();
        let password = Arc::new(Mutex::new("right".to_owned()));
        let registry = guarded(&tasks, by_token, password).await;
        let bench = bench(tasks, &registry, said("proxy", "wrong"), None).await;
        let answer = bench.get(blob_path("app", &blob())).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (403, "DENIED")
        );
        assert_eq!(answer.header("www-authenticate"), "");
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_password_file_that_rotates_is_followed_without_a_failure() {
    for by_token in [true, false] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("password");
        std::fs::write(&file, "one\n").expect("a file");
        let tasks = Tasks::new();
        let password = Arc::new(Mutex::new("one".to_owned()));
        let registry = guarded(&tasks, by_token, Arc::clone(&password)).await;
        let own = OwnOptions {
            username: Some("proxy".to_owned()),
            password_file: Some(file.clone()),
            ..OwnOptions::default()
        };
        let bench = bench(tasks, &registry, own, None).await;
        let list = "/v2/app/blobs/sha256:".to_owned() + &"0".repeat(64);
        assert_eq!(bench.get(&*list).await.status.as_u16(), 404);
        std::fs::write(&file, "two\n").expect("a file");
        "two".clone_into(&mut password.lock());
        bench.get(blob_path("app", &blob())).await.is_whole(&blob());
        bench.stop().await;
    }
}

#[tokio::test]
async fn dockers_configuration_a_helper_and_a_token_file_open_it_too() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let auth = STANDARD.encode("proxy:right");
    let docker = format!(r#"{{"auths": {{"registry.test": {{"auth": "{auth}"}}}}}}"#);
    let script = "#!/bin/sh\nread server || true\n[ \"$1 $server\" = 'get registry.test' ] &&\n\
                  echo '{\"ServerURL\":\"registry.test\",\"Username\":\"proxy\",\"Secret\":\"right\"}'\n";
    let helper = file("docker-credential-darter-test", script);
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    let owns = [
        OwnOptions {
            docker_config: Some(file("config.json", &docker)),
            ..OwnOptions::default()
        },
        OwnOptions {
            docker_config: Some(file(
                "helped.json",
                &format!(
                    r#"{{"credHelpers": {{"registry.test": "{}"}}}}"#,
                    "darter-test"
                ),
            )),
            ..OwnOptions::default()
        },
        OwnOptions {
            token_file: Some(file("token", "of-the-proxy\n")),
            ..OwnOptions::default()
        },
    ];
    for (at, own) in owns.into_iter().enumerate() {
        let tasks = Tasks::new();
        let password = Arc::new(Mutex::new("right".to_owned()));
        let registry = guarded(&tasks, true, password).await;
        let bench = bench(tasks, &registry, own, None).await;
        let answer = bench.get(blob_path("app", &blob())).await;
        if at == 1 {
            // Helpers are looked for on PATH, where this one is not.
            assert_eq!(
                (answer.status.as_u16(), answer.code().as_str()),
                (502, "UNKNOWN")
            );
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(
                text.contains("docker-credential-darter-test can't be started"),
                "{text}"
            );
        } else {
            answer.is_whole(&blob());
        }
        bench.stop().await;
    }
}

/// A refresh token, as `docker login` leaves it behind where a registry gives such.
fn identity(dir: &Path, token: &str) -> OwnOptions {
    let path = dir.join("identity.json");
    let text = format!(r#"{{"auths": {{"registry.test": {{"identitytoken": "{token}"}}}}}}"#);
    std::fs::write(&path, text).expect("a file");
    OwnOptions {
        docker_config: Some(path),
        ..OwnOptions::default()
    }
}

#[tokio::test]
async fn a_refresh_token_is_shown_to_the_token_server_alone() {
    for (token, is_right) in [("s3cret+refresh&token", true), ("another", false)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let tasks = Tasks::new();
        let shelf = Shelf::new()
            .blob("app", &blob())
            .access("app", Access::Bearer("Bearer of-the-proxy".to_owned()));
        let registry = Registry::twisted(shelf, &tasks, |seen: &Seen, good| {
            if seen.path != "/token" {
                return good;
            }
            let wanted = "refresh_token=s3cret%2Brefresh%26token";
            match seen.method == "POST" && seen.body.split('&').any(|pair| pair == wanted) {
                true => Reply::new(200).body(r#"{"access_token":"of-the-proxy","expires_in":120}"#),
                false => Reply::new(401),
            }
        })
        .await;
        let bench = bench(tasks, &registry, identity(dir.path(), token), None).await;
        let answer = bench.get(blob_path("app", &blob())).await;
        match is_right {
            true => answer.is_whole(&blob()),
            false => assert_eq!(
                (answer.status.as_u16(), answer.code().as_str()),
                (403, "DENIED")
            ),
        }
        let asked = registry.asked("POST", "/token");
        let asked = asked.first().expect("the token server is asked");
        assert_eq!(
            asked.header("content-type"),
            Some("application/x-www-form-urlencoded")
        );
        for pair in [
            "grant_type=refresh_token",
            "client_id=darter",
            "scope=repository%3Aapp%3Apull",
        ] {
            assert!(asked.body.split('&').any(|one| one == pair), "{pair}");
        }
        let elsewhere = |seen: &Seen| seen.path != "/token" && seen.body.contains("refresh");
        assert!(!registry.seen().iter().any(elsewhere));
        assert!(
            registry
                .seen()
                .iter()
                .all(|seen| !seen.query.contains("s3cret"))
        );
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_403_renews_a_token_that_the_proxys_own_name_got_before() {
    let tasks = Tasks::new();
    let shelf = Shelf::new().blob("app", &blob());
    let registry = Registry::twisted(shelf, &tasks, |seen: &Seen, good| {
        if seen.path == "/token" {
            let token = if seen.before == 0 { "small" } else { "large" };
            return Reply::new(200).body(format!(r#"{{"token":"{token}","expires_in":120}}"#));
        }
        match seen.header("authorization") {
            Some("Bearer small") if seen.path.contains("/blobs/") => Reply::new(403),
            Some("Bearer small" | "Bearer large") => good,
            _ => {
                let host = seen.header("host").unwrap_or_default();
                let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"x\"");
                Reply::new(401).header("WWW-Authenticate", challenge)
            }
        }
    })
    .await;
    let bench = bench(tasks, &registry, said("proxy", "right"), None).await;
    bench.get("/v2/app/manifests/none").await;
    assert_eq!(registry.asked("GET", "/token").len(), 1);
    // A younger one is what the registry means to give.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    bench.get(blob_path("app", &blob())).await.is_whole(&blob());
    assert_eq!(registry.asked("GET", "/token").len(), 2);
    bench.stop().await;
}

#[tokio::test]
async fn what_a_proxy_in_front_passes_on_is_from_nobody_on_this_host() {
    let tasks = Tasks::new();
    let password = Arc::new(Mutex::new("right".to_owned()));
    let registry = guarded(&tasks, true, password).await;
    let bench = bench(tasks, &registry, said("proxy", "right"), None).await;
    let path = blob_path("app", &blob());
    bench.get(&*path).await.is_whole(&blob());
    for (name, value) in [
        ("Forwarded", "for=192.0.2.7"),
        ("Forwarded", "for=127.0.0.1"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Real-IP", "127.0.0.1"),
        ("Via", "1.1 front"),
    ] {
        for path in [path.as_str(), "/v2/app/manifests/latest"] {
            let answer = bench.ask(path).header(name, value).send().await;
            assert_eq!(
                (answer.status.as_u16(), answer.code().as_str()),
                (403, "DENIED"),
                "{path} {name}: {value}"
            );
        }
    }
    bench.get(&*path).await.is_whole(&blob());
    bench.stop().await;
}

/// A file of users, with hashes that are cheap.
fn users(dir: &Path, users: &[(&str, &str)]) -> std::path::PathBuf {
    let path = dir.join("htpasswd");
    let line = |(name, password): &(&str, &str)| {
        format!("{name}:{}\n", bcrypt::hash(password, 4).expect("a hash"))
    };
    let lines: String = users.iter().map(line).collect();
    std::fs::write(&path, lines).expect("a file");
    path
}

#[tokio::test]
async fn clients_with_names_are_let_in_and_no_others_and_the_registry_sees_none_of_theirs() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let users = users(dir.path(), &[("alice", "hers")]);
    let tasks = Tasks::new();
    let password = Arc::new(Mutex::new("right".to_owned()));
    let registry = guarded(&tasks, true, password).await;
    let bench = bench(tasks, &registry, said("proxy", "right"), Some(&users)).await;
    let path = blob_path("app", &blob());
    let alice = basic("alice:hers");
    let ask = |who: Option<String>| {
        let path = path.clone();
        let bench = &bench;
        async move { bench.ask(path).authorized(who.as_deref()).send().await }
    };
    let before = registry.connections();
    for other in [
        None,
        Some(basic("alice:guess")),
        Some(basic("proxy:right")),
        Some("Bearer x".to_owned()),
    ] {
        let refused = ask(other.clone()).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code().as_str()),
            (401, "UNAUTHORIZED"),
            "{other:?}"
        );
        let challenge = "Bearer realm=\"http://localhost:4001/token\",service=\"registry.test\",scope=\"repository:app:pull\"";
        assert_eq!(refused.header("www-authenticate"), challenge);
    }
    assert_eq!(registry.connections(), before, "nobody was asked for them");
    ask(Some(alice.clone())).await.is_whole(&blob());

    // As dockerd, podman and skopeo do it: the challenge, a token, then the content.
    let ping = bench.get("/v2/").await;
    assert_eq!(ping.status.as_u16(), 401);
    let challenge = "Bearer realm=\"http://localhost:4001/token\",service=\"darter\"";
    assert_eq!(ping.header("www-authenticate"), challenge);
    let query = "/token?service=darter&scope=repository:registry.test/app:pull";
    let token = token_of(&bench.ask(query).authorized(Some(&alice)).send().await);
    let refused = bench
        .ask(query)
        .authorized(Some(&basic("alice:guess")))
        .send()
        .await;
    assert_eq!(refused.status.as_u16(), 401);
    let by_path = blob_path("registry.test/app", &blob());
    let bearer = format!("Bearer {token}");
    let got = bench.ask(&*by_path).authorized(Some(&bearer)).send().await;
    got.is_whole(&blob());
    let nobody = token_of(&bench.get(query).await);
    let bearer = format!("Bearer {nobody}");
    let refused = bench.ask(&*by_path).authorized(Some(&bearer)).send().await;
    assert_eq!(refused.status.as_u16(), 401);

    for seen in registry.seen() {
        let shown = seen.header("authorization");
        let own = [
            None,
            Some("Bearer of-the-proxy".to_owned()),
            Some(basic("proxy:right")),
        ];
        assert!(own.iter().any(|own| own.as_deref() == shown), "{shown:?}");
    }
    bench.stop().await;
}

fn token_of(answer: &Answer) -> String {
    assert_eq!(answer.status.as_u16(), 200);
    let reply: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    reply["token"].as_str().expect("a token").to_owned()
}

#[tokio::test]
async fn a_name_for_the_registry_gets_its_own_token_for_its_own_name_of_the_repository() {
    let tasks = Tasks::new();
    let alice = basic("alice:hers");
    let shelf = || {
        let access = Access::Bearer("Bearer of-alice".to_owned());
        Shelf::new()
            .blob("team/app", &blob())
            .access("team/app", access)
    };
    let right = alice.clone();
    let by_tokens = Registry::twisted(shelf(), &tasks, move |seen, good| {
        match (seen.path.as_str(), seen.header("authorization")) {
            ("/v2/", _) => {
                let realm = format!("http://{}/token", seen.header("host").unwrap_or_default());
                let challenge = format!("Bearer realm=\"{realm}\",service=\"scripted\"");
                Reply::new(401).header("WWW-Authenticate", challenge)
            }
            ("/token", Some(shown)) if shown == right => {
                Reply::new(200).body(r#"{"token":"of-alice","expires_in":120}"#)
            }
            ("/token", Some(_)) => Reply::new(401),
            _ => good,
        }
    })
    .await;
    let basic_only = Shelf::new()
        .blob("app", &blob())
        .access("app", Access::Basic(alice.clone()));
    let by_name = Registry::good(basic_only, &tasks).await;
    let list = vec![
        upstream("one.test", by_tokens.url()),
        upstream("two.test", by_name.url()),
    ];
    let bench = Bench::with(tasks, |options| {
        options.upstreams = list;
        options.mirror.login = true;
    })
    .await;
    assert_eq!(bench.get("/v2/").await.status.as_u16(), 401);
    for (path, repository) in [("one.test/team/app", "team/app"), ("two.test/app", "app")] {
        let query = format!("/token?service=darter&scope=repository:{path}:pull");
        let token = token_of(&bench.ask(&*query).authorized(Some(&alice)).send().await);
        let bearer = format!("Bearer {token}");
        let content = blob_path(path, &blob());
        let got = bench.ask(&*content).authorized(Some(&bearer)).send().await;
        got.is_whole(&blob());
        let nobody = format!("Bearer {}", token_of(&bench.get(&*query).await));
        let refused = bench.ask(&*content).authorized(Some(&nobody)).send().await;
        assert_eq!(refused.status.as_u16(), 401, "{repository}");
    }
    let guess = basic("alice:guess");
    let query = "/token?scope=repository:one.test/team/app:pull";
    let refused = bench.ask(query).authorized(Some(&guess)).send().await;
    assert_eq!(refused.status.as_u16(), 401);
    // A repository that is called like another registry is not that registry's.
    let query = "/token?service=one.test&scope=repository:two.test/app:pull";
    let (before, login) = (by_name.seen().len(), "/token?service=darter");
    token_of(&bench.ask(query).authorized(Some(&alice)).send().await);
    assert_eq!(by_name.seen().len(), before);
    // `docker login`: a wrong password is said to be wrong.
    token_of(&bench.ask(login).authorized(Some(&alice)).send().await);
    let refused = bench.ask(login).authorized(Some(&guess)).send().await;
    assert_eq!(refused.status.as_u16(), 401);
    let query = "/token?service=two.test";
    let refused = bench.ask(query).authorized(Some(&guess)).send().await;
    assert_eq!(refused.status.as_u16(), 200, "it asks nobody at /v2/");
    let asked = by_tokens.asked("GET", "/token");
    assert!(
        asked
            .iter()
            .any(|seen| seen.query.contains("scope=repository%3Ateam%2Fapp%3Apull"))
    );
    bench.stop().await;
}

#[tokio::test]
async fn a_name_for_the_proxy_is_not_shown_to_registries_that_clients_show_theirs_to() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let users = users(dir.path(), &[("alice", "hers")]);
    let tasks = Tasks::new();
    let bob = basic("bob:his");
    let shelf = Shelf::new()
        .blob("public", &blob())
        .blob("app", &content(1000, 2))
        .access("app", Access::Basic(bob.clone()));
    let registry = Registry::good(shelf, &tasks).await;
    let list = vec![upstream("open.test", registry.url())];
    let bench = Bench::with(tasks, |options| {
        options.upstreams = list;
        options.clients.htpasswd = Some(users);
    })
    .await;
    let query = "/token?scope=repository:open.test/public:pull";
    let alice = basic("alice:hers");
    let token = token_of(&bench.ask(query).authorized(Some(&alice)).send().await);
    assert!(token.starts_with("darter."), "{token}");
    let guess = basic("alice:guess");
    let nothing = token_of(&bench.ask(query).authorized(Some(&guess)).send().await);
    assert_eq!(nothing, "anonymous");
    let login = bench.ask("/token?service=darter").authorized(Some(&guess));
    assert_eq!(login.send().await.status.as_u16(), 401);
    let ours = [
        alice.clone(),
        guess,
        format!("Bearer {token}"),
        "Bearer darter.stale".to_owned(),
        alice.replacen("Basic ", "Bearer basic.", 1),
    ];
    let (public, private) = (
        blob_path("public", &blob()),
        blob_path("app", &content(1000, 2)),
    );
    let absolute = format!("{}/v2/public/tags/list", registry.url());
    for shown in &ours {
        let got = bench.ask(&*public).authorized(Some(shown)).send().await;
        got.is_whole(&blob());
        let refused = bench.ask(&*private).authorized(Some(shown)).send().await;
        assert_eq!(refused.status.as_u16(), 401);
        bench.ask(&*absolute).authorized(Some(shown)).send().await;
    }
    let passed = registry.asked("GET", "/v2/public/tags/list").len();
    assert_eq!(passed, ours.len(), "the relay passes the requests on");
    let got = bench.ask(&*private).authorized(Some(&bob)).send().await;
    got.is_whole(&content(1000, 2));
    for seen in registry.seen() {
        let shown = seen.header("authorization");
        assert!(shown.is_none() || shown == Some(&bob), "{shown:?}");
    }
    bench.stop().await;
}
