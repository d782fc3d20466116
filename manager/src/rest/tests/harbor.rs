//! Harbor's Dragonfly driver, word for word.

use super::*;
use crate::jobs::{Content, Failure, Host};

const HEADERS: [(&str, &str); 2] = [
    ("accept", "application/json"),
    ("content-type", "application/json"),
];
const POST: &str = r#"{"type":"preheat","args":{"type":"image","url":"https://harbor.x/v2/library/nginx/manifests/1.27","tag":"","filtered_query_params":"","headers":{"Authorization":"Bearer eyJ..."},"scope":"all_peers","concurrent_count":0,"timeout":0},"scheduler_cluster_ids":[1]}"#;
/// What Harbor sends where nothing is set.
const UNSET: &str = r#"{"type":"preheat","args":{"type":"image","url":"https://harbor.x/v2/library/nginx/manifests/1.27","tag":"","filtered_query_params":"","headers":null,"scope":"","concurrent_count":0,"timeout":0},"scheduler_cluster_ids":null}"#;

/// The instance's four kinds of auth, and what an administrator of Darter says for it.
async fn kinds(rest: &Rest) -> Vec<Vec<(&'static str, String)>> {
    let token = rest.token(Role::Operator, 60).await;
    vec![
        Vec::new(),
        vec![("authorization", basic("root", PASSWORD))],
        vec![("authorization", basic("harbor", &token))],
        vec![("authorization", format!("Bearer {token}"))],
        vec![("x-darter-token", token)],
    ]
}

#[tokio::test]
async fn all_kinds_of_auth_go_through_the_whole_flow() {
    let everybody = Access {
        local: Role::None,
        anonymous: Role::Operator,
    };
    let rest = Rest::open(everybody, Vec::new()).await;
    for (at, kind) in kinds(&rest).await.into_iter().enumerate() {
        let mut headers = HEADERS.to_vec();
        headers.extend(kind.iter().map(|(name, value)| (*name, value.as_str())));
        assert_eq!(
            rest.ask(Method::GET, "/healthy", &headers, "").await.status,
            200
        );
        let posted = rest
            .ask(Method::POST, "/oapi/v1/jobs", &headers, POST)
            .await;
        assert_eq!(posted.status, 200, "{}", posted.text);
        let id = at as i64 + 1;
        let created = posted.json()["created_at"].as_str().unwrap().to_owned();
        let wanted = format!(
            r#"{{"id":{id},"created_at":"{created}","updated_at":"{created}","state":"PENDING","result":{{"job_states":[]}}}}"#
        );
        assert_eq!(posted.text, wanted);
        let path = format!("/oapi/v1/jobs/{id}");
        let polled = rest.ask(Method::GET, &path, &headers, "").await;
        assert_eq!((polled.status, polled.text), (200, wanted));
        let job = rest.api.jobs.get(id).await.unwrap().unwrap();
        assert_eq!(job.wish.subject.to_string(), "harbor.x/library/nginx:1.27");
        assert_eq!(serde_json::to_value(job.wish.scope).unwrap(), "all_peers");
    }
    // Where nobody said that anybody may, nobody does.
    let rest = Rest::open(Access::default(), Vec::new()).await;
    let refused = rest
        .ask(Method::POST, "/oapi/v1/jobs", &HEADERS, POST)
        .await;
    assert_eq!(refused.status, 401);
    let guest = format!("Bearer {}", rest.token(Role::Guest, 60).await);
    let as_guest = [HEADERS[1], ("authorization", guest.as_str())];
    assert_eq!(
        rest.ask(Method::POST, "/oapi/v1/jobs", &as_guest, POST)
            .await
            .status,
        403
    );
}

fn progress() -> Progress {
    let digest = format!("sha256:{}", "0".repeat(64));
    let host = |name: &str, ip: &str, held: &str, failures| Host {
        id: String::new(),
        name: name.to_owned(),
        ip: ip.to_owned(),
        held: held.to_owned().try_into().unwrap(),
        failures,
        further: 0,
    };
    let failure = Failure {
        digest: Some(digest.clone()),
        why: "timeout".to_owned(),
    };
    let content = Content {
        digest,
        size: 1,
        manifest: false,
        url: None,
    };
    Progress {
        contents: vec![content],
        hosts: vec![
            host("n1", "10.0.0.1", "01", Vec::new()),
            host("n2", "10.0.0.2", "", vec![failure]),
        ],
        ..Progress::default()
    }
}

#[tokio::test]
async fn states_are_the_three_that_harbor_knows() {
    let rest = Rest::open(Access::default(), Vec::new()).await.asked_here();
    let posted = rest
        .ask(Method::POST, "/oapi/v1/jobs", &HEADERS, UNSET)
        .await;
    assert_eq!(posted.status, 200, "{}", posted.text);
    let show = async || {
        rest.ask(Method::GET, "/oapi/v1/jobs/1", &HEADERS, "")
            .await
            .json()
    };
    let job = rest.api.jobs.get(1).await.unwrap().unwrap();
    assert_eq!(
        serde_json::to_value(job.wish.scope).unwrap(),
        "single_seed_peer"
    );
    for (state, shown) in [
        (JobState::Running, "PENDING"),
        (JobState::Success, "SUCCESS"),
        (JobState::Failure, "FAILURE"),
        (JobState::Cancelled, "FAILURE"),
    ] {
        rest.end(1, state, &progress()).await;
        assert_eq!(show().await["state"], shown);
    }
    let url = format!(
        "https://harbor.x/v2/library/nginx/blobs/sha256:{}",
        "0".repeat(64)
    );
    let wanted = serde_json::json!([{
        "error": format!("n2: sha256:{}: timeout", "0".repeat(64)),
        "results": [{
            "success_tasks": [{"url": url, "hostname": "n1", "ip": "10.0.0.1"}],
            "failure_tasks": [
                {"url": url, "hostname": "n2", "ip": "10.0.0.2", "description": "timeout"}],
            "scheduler_cluster_id": 1,
        }],
    }]);
    assert_eq!(show().await["result"]["job_states"], wanted);
}

#[tokio::test]
async fn what_operators_clients_send_is_understood_or_refused() {
    let rest = Rest::open(Access::default(), Vec::new()).await.asked_here();
    let url = "https://h.x/v2/a/manifests/1";
    let args = |more: &str| {
        format!(r#"{{"type":"preheat","args":{{"type":"image","url":"{url}"{more}}}}}"#)
    };
    let good = args(
        r#","piece_length":4194304,"tag":"d7y","application":"x","username":"u","password":"p",
        "platform":"linux/amd64, linux/arm64","timeout":60000000000,"scope":"all_seed_peers",
        "ips":null,"count":3,"percentage":50,"concurrent_task_count":2,"concurrent_peer_count":5"#,
    );
    let posted = rest
        .ask(Method::POST, "/oapi/v1/jobs", &HEADERS, &good)
        .await;
    assert_eq!(posted.status, 200, "{}", posted.text);
    let wish = rest.api.jobs.get(1).await.unwrap().unwrap().wish;
    assert_eq!(wish.platforms, ["linux/amd64", "linux/arm64"]);
    assert_eq!(
        (wish.timeout_seconds, wish.count, wish.percentage),
        (60, 3, 50)
    );
    assert_eq!((wish.concurrent_contents, wish.concurrent_hosts), (2, 5));
    for (bad, status) in [
        (args(r#","scope":"everybody""#), 400),
        (args(r#","ips":["x"]"#), 400),
        (args(r#","platform":"<b>""#), 400),
        (args("").replace(url, "http://x/y"), 400),
        (args("").replace("image", "tree"), 422),
        (
            args(r#","headers":{"cookie":"a=b"}"#).replace("image", "file"),
            400,
        ),
        (args(r#","username":"u""#).replace("image", "file"), 400),
        (
            args(r#","urls":["http://other/a"]"#).replace("image", "file"),
            400,
        ),
        (args("").replace("preheat", "sync"), 400),
        ("[]".to_owned(), 400),
    ] {
        let reply = rest
            .ask(Method::POST, "/oapi/v1/jobs", &HEADERS, &bad)
            .await;
        assert_eq!(reply.status, status, "{bad}: {}", reply.text);
    }
    let two = r#","urls":["https://h.x/b"],"url":"https://h.x/a""#;
    let files = args(two)
        .replace(&format!(r#""url":"{url}","#), "")
        .replace("image", "file");
    let posted = rest.ask(Method::POST, "/oapi/v1/jobs", &HEADERS, &files);
    let posted = posted.await;
    assert_eq!(posted.status, 200, "{files}: {}", posted.text);
    let wish = rest.api.jobs.get(2).await.unwrap().unwrap().wish;
    assert_eq!(
        wish.subject.files_shown(),
        ["https://h.x/b", "https://h.x/a"]
    );
    assert_eq!(
        rest.ask(Method::GET, "/oapi/v1/jobs/77", &HEADERS, "")
            .await
            .status,
        404
    );
}
