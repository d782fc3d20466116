//! The document, pages, and what writers have seen.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn the_document_has_every_route_and_no_other() {
    let rest = Rest::open(Access::default(), Vec::new()).await;
    let document = rest
        .ask(Method::GET, "/api/v1/openapi.json", &[], "")
        .await
        .json();
    let is_open = |operation: &Value| operation["security"] == json!([]);
    let mut told = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let role = operation["x-darter-role"].as_str().unwrap();
            let what = format!("{} {path} {role}", method.to_uppercase());
            assert_eq!(is_open(operation), role == "none", "{what}");
            assert!(!operation["summary"].as_str().unwrap().is_empty(), "{what}");
            for (part, name) in [
                ("{id}", "Number"),
                ("{name}", "PathName"),
                ("{task}", "PathTask"),
            ] {
                let parameter = json!({"$ref": format!("#/components/parameters/{name}")});
                let named = operation["parameters"].as_array();
                let named = named.is_some_and(|all| all.contains(&parameter));
                assert_eq!(named, path.contains(part), "{what}");
            }
            told.insert(what);
        }
    }
    let there = routes().into_iter();
    let there = there.map(|route| format!("{} {} {}", route.method, route.path, route.needs));
    assert_eq!(told, there.collect());
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(references.len() > 50);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(text) if key == "$ref" => found.push(text.to_owned()),
                    _ => collect_references(value, found),
                }
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect_references(item, found)),
        _ => {}
    }
}

/// All items of a list, by the links of its pages.
async fn all(rest: &Rest, first: &str, headers: &[(&str, &str)]) -> (usize, Vec<Value>) {
    let (mut pages, mut items, mut next) = (0, Vec::new(), Some(first.to_owned()));
    while let Some(path) = next {
        let reply = rest.ask(Method::GET, &path, headers, "").await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text);
        items.extend(reply.json().as_array().unwrap().iter().cloned());
        pages += 1;
        let link = reply.headers.get("link").map(|link| link.to_str().unwrap());
        next = link.map(|link| {
            let (address, rest) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
            assert_eq!(rest, "; rel=\"next\"");
            address.to_owned()
        });
    }
    (pages, items)
}

#[tokio::test]
async fn lists_have_pages() {
    let rest = Rest::open(Access::default(), Vec::new()).await.asked_here();
    for number in 0..5 {
        let job = json!({"image": format!("app:{number}")}).to_string();
        rest.ask(Method::POST, "/api/v1/jobs", &[JSON], &job).await;
        rest.token(Role::Guest, 60).await;
    }
    let numbers = |items: &[Value]| -> Vec<i64> {
        let number = |item: &Value| item["id"].as_i64().unwrap();
        items.iter().map(number).collect()
    };
    let (pages, jobs) = all(&rest, "/api/v1/jobs?limit=2&state=PENDING", &[]).await;
    assert_eq!((pages, numbers(&jobs)), (3, vec![5, 4, 3, 2, 1]));
    let root = basic("root", PASSWORD);
    let as_root = [("authorization", root.as_str())];
    let (_, tokens) = all(&rest, "/api/v1/tokens?limit=2", &as_root).await;
    assert_eq!(tokens.len(), 5);
    let (pages, audit) = all(&rest, "/api/v1/audit?limit=3", &as_root).await;
    assert_eq!((pages, audit.len()), (2, 5));

    let now = OffsetDateTime::now_utc();
    for number in 0..5_u8 {
        let member = darter_api::Member {
            kind: darter_api::MemberKind::Scheduler,
            host: darter_api::NodeKey::from_seed([number; 32]).id(),
            address: "http://10.0.0.1:8002".to_owned(),
            version: "1".to_owned(),
            place: darter_api::Place {
                name: format!("s{number}"),
                ..Default::default()
            },
        };
        let members = &rest.api.members;
        let (stream, cluster) = (members.new_stream(now), Default::default());
        members.beat(&member, &cluster, stream, now).await.unwrap();
    }
    let of_default = "/api/v1/schedulers?limit=2&active=true&cluster=default";
    let (pages, members) = all(&rest, of_default, &[]).await;
    let names: Vec<_> = members
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!((pages, names), (3, vec!["s0", "s1", "s2", "s3", "s4"]));
    for nonsense in [
        "jobs?limit=0",
        "schedulers?cluster=%27",
        "jobs?limit=101",
        "schedulers?after=x",
        "schedulers?active=2",
    ] {
        let reply = rest
            .ask(Method::GET, &format!("/api/v1/{nonsense}"), &[], "")
            .await;
        assert!((400..500).contains(&reply.status), "{nonsense}");
    }
}

#[tokio::test]
async fn a_list_has_no_files_and_nothing_has_their_queries() {
    let rest = Rest::open(Access::default(), Vec::new()).await.asked_here();
    let job = r#"{"files":["http://h/a?sig=secret","http://h:80/b?sig=secret"]}"#;
    let posted = rest.ask(Method::POST, "/api/v1/jobs", &[JSON], job).await;
    assert_eq!(posted.status, 201, "{}", posted.text);
    let list = rest.ask(Method::GET, "/api/v1/jobs", &[], "").await;
    let listed = &list.json()[0];
    assert_eq!(listed["file"], "http://h/a");
    assert_eq!(listed["files_count"], 2);
    assert_eq!((listed.get("files"), listed.get("failures")), (None, None));
    let own = rest.ask(Method::GET, "/api/v1/jobs/1", &[], "").await;
    let files = json!(["http://h/a", "http://h:80/b"]);
    assert_eq!(
        (&own.json()["files"], &own.json()["files_count"]),
        (&files, &json!(2))
    );
    assert!(!(posted.text + &list.text + &own.text).contains("secret"));

    let change = async |what: &str, body: &str| {
        let path = format!("/api/v1/jobs/1/{what}");
        let headers = &[JSON][..usize::from(!body.is_empty())];
        rest.ask(Method::POST, &path, headers, body).await.status
    };
    assert_eq!(change("cancel", "").await, 202);
    assert_eq!(change("retry", "").await, 400, "the queries are forgotten");
    let others = r#"{"files":["http://h/a?sig=secret","http://h/c?sig=secret"]}"#;
    assert_eq!(change("retry", others).await, 400);
    assert_eq!(change("retry", job).await, 202);
}

#[tokio::test]
async fn who_has_seen_an_older_job_changes_nothing() {
    let rest = Rest::open(Access::default(), Vec::new()).await.asked_here();
    let job = r#"{"image":"app:1"}"#;
    rest.ask(Method::POST, "/api/v1/jobs", &[JSON], job).await;
    let change = async |what: &str, seen: &str| {
        let path = format!("/api/v1/jobs/1/{what}");
        rest.ask(Method::POST, &path, &[("if-match", seen)], "")
            .await
            .status
    };
    assert_eq!(change("cancel", "\"2\"").await, 412);
    assert_eq!(change("cancel", "x").await, 400);
    assert_eq!(change("cancel", "\"1\"").await, 202);
    assert_eq!(change("retry", "\"1\"").await, 412);
    assert_eq!(change("retry", "*").await, 202);
}

#[tokio::test]
async fn a_job_is_followed_by_so_many_and_no_more() {
    let rest = Rest::open(Access::default(), Vec::new()).await.asked_here();
    let job = r#"{"image":"app:1"}"#;
    rest.ask(Method::POST, "/api/v1/jobs", &[JSON], job).await;
    let follow = async || {
        let request = Request::get("/api/v1/jobs/1/events")
            .extension(ClientAddress(SocketAddr::new(HERE, 9)))
            .body(Body::empty());
        router(rest.api.clone())
            .oneshot(request.unwrap())
            .await
            .unwrap()
    };
    let (first, second) = (follow().await, follow().await);
    assert_eq!(
        (first.status().as_u16(), second.status().as_u16()),
        (200, 200)
    );
    assert_eq!(follow().await.status(), 429);
    drop(first);
    assert_eq!(follow().await.status(), 200);
}

#[tokio::test]
async fn a_password_is_set_by_root() {
    let rest = Rest::open(Access::default(), Vec::new()).await;
    let root = basic("root", PASSWORD);
    let as_root = [JSON, ("authorization", root.as_str())];
    let set = async |user: &str, body: &str| {
        let path = format!("/api/v1/users/{user}/password");
        rest.ask(Method::PUT, &path, &as_root, body).await.status
    };
    let good = r#"{"password":"correct horse battery"}"#;
    assert_eq!(set("nobody", good).await, 404);
    assert_eq!(set("%00", good).await, 404);
    assert_eq!(set("root", r#"{"password":"short"}"#).await, 400);
    assert_eq!(set("root", good).await, 204);
    let tokens = rest.ask(Method::GET, "/api/v1/tokens", &as_root, "").await;
    assert_eq!(tokens.status, 401, "the old one is void");
    let another = basic("root", "correct horse battery");
    let headers = [("authorization", another.as_str())];
    let audit = rest.ask(Method::GET, "/api/v1/audit", &headers, "").await;
    assert_eq!(audit.status, 200);
    assert!(!audit.text.contains("battery"));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_a_problem_too() {
    let rest = Rest::open(Access::default(), Vec::new()).await.asked_here();
    let large = format!("\"{}\"", "x".repeat(MAX_BODY));
    for path in [
        "/api/v1/jobs",
        "/oapi/v1/jobs",
        "/registry/notifications",
        "/api/v1/hooks/harbor",
    ] {
        let reply = rest.ask(Method::POST, path, &[JSON], &large).await;
        assert_eq!(reply.status, 413, "{path}");
        assert_eq!(reply.headers["content-type"], "application/problem+json");
    }
}

#[tokio::test]
async fn a_credential_is_called_by_its_name_and_never_shown() {
    let rest = Rest::open(Access::default(), Vec::new()).await.asked_here();
    let post = async |body: Value| {
        let body = body.to_string();
        rest.ask(Method::POST, "/api/v1/jobs", &[JSON], &body).await
    };
    let image = "harbor.example.com/team/app:1";
    let taken = post(json!({"image": image, "credential": "harbor"})).await;
    assert_eq!(taken.status, 201, "{}", taken.text);
    assert_eq!(taken.json()["credential"], "harbor");
    for wrong in [
        json!({"image": image, "credential": "other"}),
        json!({"image": "evil.example.com/team/app:1", "credential": "harbor"}),
        json!({"image": image, "credential": "harbor", "username": "u", "password": "p"}),
    ] {
        let refused = post(wrong.clone()).await;
        assert_eq!(refused.status, 400, "{wrong}: {}", refused.text);
    }
    let path = "/api/v1/credentials";
    let shown = rest.ask(Method::GET, path, &[], "").await.json();
    let stored =
        json!([{"name": "harbor", "registry": "harbor.example.com", "username": "puller"}]);
    assert_eq!(shown, stored);
}

#[tokio::test]
async fn without_a_scheduler_nothing_is_known_and_nothing_is_made_up() {
    let rest = Rest::open(Access::default(), Vec::new()).await.asked_here();
    let tasks = rest.ask(Method::GET, "/api/v1/tasks", &[], "").await;
    assert_eq!(tasks.json(), json!({"tasks": [], "silent": []}));
    let peers = rest.ask(Method::GET, "/api/v1/peers", &[], "").await;
    assert_eq!(peers.json(), json!({"peers": [], "silent": []}));
    let task = format!("/api/v1/tasks/sha256:{}", "0".repeat(64));
    assert_eq!(rest.ask(Method::GET, &task, &[], "").await.status, 404);
    let dropped = rest.ask(Method::DELETE, &task, &[], "").await;
    assert_eq!(
        (dropped.status, &dropped.json()["schedulers"]),
        (200, &json!(0))
    );
    let image = "/api/v1/images?image=library/app:1";
    assert_eq!(rest.ask(Method::DELETE, image, &[], "").await.status, 404);
    for (path, body) in [
        ("/api/v1/tasks/sha256:0", ""),
        ("/api/v1/tasks?after=x", ""),
        ("/api/v1/tasks?limit=1001", ""),
        ("/api/v1/peers?after=x", ""),
        ("/api/v1/images?image=..", ""),
        ("/api/v1/images", ""),
        ("/api/v1/peers?cluster=..%2F", ""),
    ] {
        let reply = rest.ask(Method::GET, path, &[], body).await;
        assert_eq!(reply.status, 400, "{path}: {}", reply.text);
    }
    let digest = format!("?image=app@sha256:{}", "0".repeat(64));
    for wish in [digest.as_str(), "?image=..", "", "?images=app:1"] {
        let path = format!("/api/v1/tags/invalidate{wish}");
        let reply = rest.ask(Method::POST, &path, &[], "").await;
        assert_eq!(reply.status, 400, "{wish}: {}", reply.text);
    }
    let root = basic("root", PASSWORD);
    let as_root = [("authorization", root.as_str())];
    let audit = rest.ask(Method::GET, "/api/v1/audit", &as_root, "").await;
    let noted = audit.json()[2]["path"].clone();
    assert_eq!(noted, "/api/v1/tags/invalidate?image=..", "it says which");

    // One that beat and is not there is named, and not taken for one that knows nothing.
    let now = OffsetDateTime::now_utc();
    let member = darter_api::Member {
        kind: darter_api::MemberKind::Scheduler,
        host: darter_api::NodeKey::from_seed([1; 32]).id(),
        place: darter_api::Place {
            name: "s1".to_owned(),
            ..Default::default()
        },
        address: "http://127.0.0.1:9".to_owned(),
        version: "1".to_owned(),
    };
    let stream = rest.api.members.new_stream(now);
    let (members, cluster) = (&rest.api.members, Default::default());
    members.beat(&member, &cluster, stream, now).await.unwrap();
    let dropped = rest.ask(Method::DELETE, &task, &[], "").await.json();
    assert_eq!(dropped["schedulers"], 0);
    assert_eq!(dropped["silent"][0]["scheduler"], "http://127.0.0.1:9");

    // Another cluster's schedulers are not asked.
    let path = "/api/v1/tasks?cluster=edge";
    assert_eq!(rest.ask(Method::GET, path, &[], "").await.status, 404);
    let edge = ("/api/v1/clusters/edge", "{}");
    let made = rest.ask(Method::PUT, edge.0, &[JSON], edge.1).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let tasks = rest.ask(Method::GET, path, &[], "").await;
    assert_eq!(tasks.json(), json!({"tasks": [], "silent": []}));
    let path = "/api/v1/tasks?cluster=default";
    let tasks = rest.ask(Method::GET, path, &[], "").await.json();
    assert_eq!(tasks["silent"][0]["scheduler"], "http://127.0.0.1:9");
}
