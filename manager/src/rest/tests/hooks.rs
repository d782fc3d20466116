//! What registries send when something was pushed, word for word.

use super::*;
use crate::jobs::Scope;

const KRAKEN: &str = r#"{"Events":[{"Id":"0123456789abcdef0123456789abcdef","TimeStamp":"2026-08-20T07:00:00.123456789Z","Action":"push","Target":{"MediaType":"application/vnd.docker.distribution.manifest.v2+json","Digest":"DIGEST","Repository":"library/nginx","Url":"https://harbor.x/v2/library/nginx/manifests/1.27","Tag":"1.27"},"Request":null,"Actor":null}]}"#;
const DISTRIBUTION: &str = r#"{"events":[{"id":"a","timestamp":"2026-08-20T07:00:00Z","action":"push","target":{"mediaType":"application/octet-stream","digest":"DIGEST","repository":"library/nginx","url":"http://r.x:5000/v2/library/nginx/blobs/DIGEST"}},{"id":"b","timestamp":"2026-08-20T07:00:00Z","action":"push","target":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"DIGEST","size":7,"length":7,"repository":"library/nginx","url":"http://r.x:5000/v2/library/nginx/manifests/DIGEST","tag":"1.27"},"request":{"id":"x"},"actor":{},"source":{}},{"id":"c","action":"pull","target":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"DIGEST","repository":"library/nginx","url":"http://r.x:5000/v2/library/nginx/manifests/DIGEST","tag":"1.27"}}]}"#;
const HARBOR: &str = r#"{"type":"PUSH_ARTIFACT","occur_at":1678082303,"operator":"admin","event_data":{"resources":[{"digest":"DIGEST","tag":"1.27","resource_url":"harbor.x/library/nginx:1.27"},{"digest":"DIGEST","tag":"DIGEST","resource_url":"harbor.x/library/nginx@DIGEST"}],"repository":{"date_created":1677053165,"name":"nginx","namespace":"library","repo_full_name":"library/nginx","repo_type":"public"}}}"#;

fn sent(text: &str) -> String {
    text.replace("DIGEST", &format!("sha256:{}", "1".repeat(64)))
}

fn rules() -> Vec<PushRule> {
    vec![PushRule {
        repositories: vec!["library/*".to_owned()],
        scope: Scope::AllPeers,
        ..PushRule::default()
    }]
}

/// Posts with an operator's token alone in `Authorization`, as Harbor's webhooks do.
async fn images(rest: &Rest, path: &str, kind: &str, body: &str) -> Vec<(String, Scope)> {
    let token = rest.token(Role::Operator, 60).await;
    let headers = [("content-type", kind), ("authorization", token.as_str())];
    let reply = rest.ask(Method::POST, path, &headers, &sent(body)).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let mut images = Vec::new();
    for id in reply.json()["jobs"].as_array().unwrap() {
        let job = rest
            .api
            .jobs
            .get(id.as_i64().unwrap())
            .await
            .unwrap()
            .unwrap();
        images.push((job.wish.subject.to_string(), job.wish.scope));
    }
    images
}

#[tokio::test]
async fn harbors_kraken_driver_is_obeyed_with_or_without_a_rule() {
    let path = "/registry/notifications";
    let image = "harbor.x/library/nginx:1.27".to_owned();
    for (rules, scope) in [
        (Vec::new(), Scope::SingleSeedPeer),
        (rules(), Scope::AllPeers),
    ] {
        let rest = Rest::open(Access::default(), rules).await;
        assert_eq!(rest.ask(Method::GET, "/health", &[], "").await.status, 200);
        let made = images(&rest, path, "application/json", KRAKEN).await;
        assert_eq!(made, [(image.clone(), scope)]);
    }
}

#[tokio::test]
async fn distributions_pushes_of_manifests_are_preheated_by_rule() {
    let path = "/registry/notifications";
    let kind = "application/vnd.docker.distribution.events.v1+json";
    let rest = Rest::open(Access::default(), rules()).await;
    let made = images(&rest, path, kind, DISTRIBUTION).await;
    assert_eq!(
        made,
        [("r.x:5000/library/nginx:1.27".to_owned(), Scope::AllPeers)]
    );
    let rest = Rest::open(Access::default(), Vec::new()).await;
    assert_eq!(images(&rest, path, kind, DISTRIBUTION).await, []);
}

#[tokio::test]
async fn harbors_webhooks_in_both_forms() {
    let path = "/api/v1/hooks/harbor";
    let rest = Rest::open(Access::default(), rules()).await;
    let digest = format!("harbor.x/library/nginx@sha256:{}", "1".repeat(64));
    let wanted = [
        ("harbor.x/library/nginx:1.27".to_owned(), Scope::AllPeers),
        (digest, Scope::AllPeers),
    ];
    assert_eq!(
        images(&rest, path, "application/json", HARBOR).await,
        wanted
    );
    let hook: Value = serde_json::from_str(HARBOR).unwrap();
    let event = serde_json::json!({
        "specversion": "1.0", "id": "f2a6c2a5-1c1c-4c8c-9c39-6a1c3f0a8d5e",
        "source": "/projects/1/webhook/policies/3", "type": "harbor.artifact.pushed",
        "datacontenttype": "application/json", "time": "2023-03-06T06:08:43Z",
        "requestid": "x", "operator": "admin", "data": hook["event_data"],
    });
    let kind = "application/cloudevents+json";
    assert_eq!(images(&rest, path, kind, &event.to_string()).await, wanted);
    let other = HARBOR.replace("PUSH_ARTIFACT", "DELETE_ARTIFACT");
    assert_eq!(images(&rest, path, "application/json", &other).await, []);
    let scanned = r#"{"type":"SCANNING_COMPLETED","occur_at":1,"event_data":null}"#;
    assert_eq!(images(&rest, path, "application/json", scanned).await, []);
}

#[tokio::test]
async fn what_makes_no_sense_spoils_nothing_and_a_retry_doubles_nothing() {
    let path = "/registry/notifications";
    let kind = "application/vnd.docker.distribution.events.v1+json";
    let rest = Rest::open(Access::default(), rules()).await;
    let mut body: Value = serde_json::from_str(DISTRIBUTION).unwrap();
    let mut bad = body["events"][1].clone();
    bad["target"]["tag"] = "-x".into();
    body["events"].as_array_mut().unwrap().push(bad);
    let body = body.to_string();
    let image = "r.x:5000/library/nginx:1.27".to_owned();
    for _ in 0..2 {
        let made = images(&rest, path, kind, &body).await;
        assert_eq!(made, [(image.clone(), Scope::AllPeers)]);
    }
    let all = async || rest.api.jobs.list(None, i64::MAX, 10).await.unwrap();
    assert_eq!(all().await.len(), 1);
    // The same tag with another image behind it.
    let other = format!("sha256:{}", "2".repeat(64));
    images(&rest, path, kind, &body.replace("DIGEST", &other)).await;
    assert_eq!(all().await.len(), 2);
}
