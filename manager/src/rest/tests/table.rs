//! What each may do, route by route; the routes are those of the router.

use std::time::Duration;

use super::*;

const JSON: (&str, &str) = ("content-type", "application/json");

/// Who asks, with what he shows.
async fn callers(rest: &Rest) -> Vec<(&'static str, Role, Option<String>)> {
    let bearer = |token: String| Some(format!("Bearer {token}"));
    vec![
        ("no token", Role::None, None),
        (
            "expired",
            Role::None,
            bearer(rest.token(Role::Root, 0).await),
        ),
        ("nonsense", Role::None, Some("Digest x".to_owned())),
        (
            "guest",
            Role::Guest,
            bearer(rest.token(Role::Guest, 60).await),
        ),
        (
            "operator",
            Role::Operator,
            bearer(rest.token(Role::Operator, 60).await),
        ),
        (
            "root's token",
            Role::Root,
            bearer(rest.token(Role::Root, 60).await),
        ),
        ("root", Role::Root, Some(basic("root", PASSWORD))),
    ]
}

#[tokio::test]
async fn each_may_what_the_table_says() {
    let nobody = Access {
        local: Role::None,
        anonymous: Role::None,
    };
    let rest = Rest::open(nobody, Vec::new()).await;
    for (who, role, shown) in callers(&rest).await {
        for route in routes() {
            let path = route
                .path
                .replace("{id}", "999")
                .replace("{name}", "nobody")
                .replace("{task}", "nothing");
            let mut headers = vec![JSON];
            headers.extend(
                shown
                    .as_ref()
                    .map(|shown| ("authorization", shown.as_str())),
            );
            let reply = rest.ask(route.method.clone(), &path, &headers, "{}").await;
            let what = format!(
                "{who}: {} {path}: {} {}",
                route.method, reply.status, reply.text
            );
            if role >= route.needs {
                assert!(!matches!(reply.status, 401 | 403 | 405 | 429), "{what}");
            } else if role == Role::None {
                assert!(reply.status == 401, "{what}");
            } else {
                assert_eq!(reply.status, 403, "{what}");
            }
        }
    }
    let wrong = rest
        .ask(
            Method::GET,
            "/api/v1/jobs",
            &[("authorization", "Bearer x")],
            "",
        )
        .await;
    assert!(wrong.headers.contains_key("www-authenticate"));
}

#[tokio::test]
async fn writes_are_in_the_audit_refused_ones_too() {
    let rest = Rest::open(Access::default(), Vec::new()).await;
    let operator = format!("Bearer {}", rest.token(Role::Operator, 60).await);
    let root = basic("root", PASSWORD);
    let as_operator = [JSON, ("authorization", operator.as_str())];
    let as_root = [JSON, ("authorization", root.as_str())];
    rest.ask(Method::POST, "/api/v1/jobs", &[JSON], "{}").await;
    let job = r#"{"image":"app:1"}"#;
    rest.ask(Method::POST, "/api/v1/jobs", &as_operator, job)
        .await;
    rest.ask(Method::POST, "/api/v1/tokens", &as_operator, "{}")
        .await;
    let audit = rest
        .ask(Method::GET, "/api/v1/audit", &as_root, "")
        .await
        .json();
    let shown = |entry: &Value| {
        let text = |key: &str| entry[key].as_str().unwrap().to_owned();
        (
            text("who"),
            text("client"),
            text("path"),
            entry["status"].as_u64().unwrap(),
        )
    };
    let entries: Vec<_> = audit.as_array().unwrap().iter().map(shown).collect();
    let entry = |who: &str, path: &str, status| {
        (
            who.to_owned(),
            "192.0.2.7".to_owned(),
            path.to_owned(),
            status,
        )
    };
    assert_eq!(
        entries,
        [
            entry("token operator", "/api/v1/tokens", 403),
            entry("token operator", "/api/v1/jobs", 201),
            entry("", "/api/v1/jobs", 401),
        ]
    );
    assert!(!audit.to_string().contains("darter_"));
}

#[tokio::test]
async fn a_write_is_in_the_audit_though_its_caller_hangs_up() {
    let rest = Rest::open(Access::default(), Vec::new()).await;
    let token = format!("Bearer {}", rest.token(Role::Operator, 60).await);
    let request = Request::post("/api/v1/jobs")
        .extension(ClientAddress(SocketAddr::new(rest.from, 9)))
        .header("content-type", "application/json")
        .header("authorization", token)
        .body(Body::from(r#"{"image":"app:1"}"#));
    let mut asked = Box::pin(router(rest.api.clone()).oneshot(request.unwrap()));
    while rest.api.jobs.get(1).await.unwrap().is_none() {
        assert!(futures::poll!(&mut asked).is_pending(), "it waits for more");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(asked);
    let noted = async {
        loop {
            let noted = rest.api.accounts.audit(i64::MAX, 10).await.unwrap();
            if let Some(entry) = noted.first() {
                return (entry.path.clone(), entry.status);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let noted = tokio::time::timeout(Duration::from_secs(60), noted).await;
    assert_eq!(noted.unwrap(), ("/api/v1/jobs".to_owned(), 201));
}

#[tokio::test]
async fn the_own_host_has_things_done_and_says_not_who_may_what() {
    let rest = Rest::open(Access::default(), Vec::new()).await.asked_here();
    let job = r#"{"image":"app:1"}"#;
    let posted = rest.ask(Method::POST, "/api/v1/jobs", &[JSON], job).await;
    assert_eq!(posted.status, 201, "{}", posted.text);
    assert_eq!(posted.json()["created_by"], "local");
    assert_eq!(
        rest.ask(Method::GET, "/api/v1/tokens", &[], "")
            .await
            .status,
        401
    );
    for (header, status) in [
        (("x-forwarded-for", "192.0.2.7"), 403),
        (("forwarded", "for=192.0.2.7"), 403),
        (("origin", "https://evil.example"), 403),
        (("sec-fetch-site", "cross-site"), 403),
        (("host", "evil.example:8080"), 403),
        (("host", "localhost:8080"), 201),
        (("host", "[::1]:8080"), 201),
        (("host", ""), 201),
    ] {
        let headers = [JSON, header];
        let reply = rest.ask(Method::POST, "/api/v1/jobs", &headers, job).await;
        assert_eq!(reply.status, status, "{header:?}: {}", reply.text);
    }
    let token = format!("Bearer {}", rest.token(Role::Operator, 60).await);
    let shown = [
        ("origin", "https://console.example"),
        ("authorization", &token),
    ];
    let jobs = rest.ask(Method::GET, "/api/v1/jobs", &shown, "").await;
    assert_eq!(
        jobs.status, 200,
        "who shows something is asked nothing else"
    );
    // Even where somebody says so: who may what is root's.
    let all = Access {
        local: Role::Root,
        anonymous: Role::Root,
    };
    let rest = Rest::open(all, Vec::new()).await;
    assert_eq!(
        rest.ask(Method::GET, "/api/v1/tokens", &[], "")
            .await
            .status,
        401
    );
}

#[tokio::test]
async fn a_token_is_made_shown_once_used_and_revoked() {
    let rest = Rest::open(Access::default(), Vec::new()).await;
    let root = basic("root", PASSWORD);
    let as_root = [JSON, ("authorization", root.as_str())];
    let hostile = "<script>'; DROP TABLE tokens; --";
    let wish = serde_json::json!({"name": hostile, "role": "guest", "expires_in_seconds": 60});
    let made = rest
        .ask(Method::POST, "/api/v1/tokens", &as_root, &wish.to_string())
        .await;
    assert_eq!(made.status, 201, "{}", made.text);
    let token = made.json()["token"].as_str().unwrap().to_owned();
    let list = rest.ask(Method::GET, "/api/v1/tokens", &as_root, "").await;
    assert!(!list.text.contains(&token));
    assert_eq!(list.json()[0]["name"], hostile);
    assert_eq!(list.headers["content-type"], "application/json");
    let custom = [("x-darter-token", token.as_str())];
    assert_eq!(
        rest.ask(Method::GET, "/api/v1/jobs", &custom, "")
            .await
            .status,
        200
    );
    let path = format!("/api/v1/tokens/{}", made.json()["id"]);
    assert_eq!(
        rest.ask(Method::DELETE, &path, &as_root, "").await.status,
        204
    );
    assert_eq!(
        rest.ask(Method::GET, "/api/v1/jobs", &custom, "")
            .await
            .status,
        401
    );
    for nonsense in [
        r#"{"name":"","role":"guest"}"#,
        r#"{"name":"x","role":"none"}"#,
        r#"{"name":"x","role":"king"}"#,
        r#"{"name":"x"}"#,
    ] {
        let status = rest
            .ask(Method::POST, "/api/v1/tokens", &as_root, nonsense)
            .await
            .status;
        assert!((400..500).contains(&status), "{nonsense}: {status}");
    }
}

#[tokio::test]
async fn nonsense_in_any_field_is_a_problem_of_one_shape() {
    let rest = Rest::open(Access::default(), Vec::new()).await.asked_here();
    let hostile = [
        "'; DROP TABLE jobs; --",
        "<img src=x onerror=alert(1)>",
        "\u{0}",
        "../../etc",
    ];
    let fields = [
        "image",
        "url",
        "scope",
        "platforms",
        "ips",
        "count",
        "authorization",
        "unknown",
    ];
    for text in hostile {
        for field in fields {
            let mut wish = serde_json::json!({"image": "app:1"});
            wish[field] = match field {
                "platforms" | "ips" => serde_json::json!([text]),
                "authorization" => serde_json::json!(format!("{text}\r\n")),
                _ => serde_json::json!(text),
            };
            let reply = rest
                .ask(Method::POST, "/api/v1/jobs", &[JSON], &wish.to_string())
                .await;
            assert!((400..500).contains(&reply.status), "{wish}: {}", reply.text);
            assert_eq!(reply.headers["content-type"], "application/problem+json");
            assert_eq!(reply.json()["status"], reply.status);
        }
    }
    for path in [
        "/api/v1/jobs/x",
        "/api/v1/jobs?state=%27",
        "/api/v1/jobs?limit=x",
        "/api/v1/clusters/A%20b",
        "/api/v1/clusters/nobody",
        "/api/v1/settings?cluster=%27",
        "/api/v1/settings?cluster=nobody",
        "/api/v1/seed-peers?cluster=%27",
        "/nothing",
    ] {
        let reply = rest.ask(Method::GET, path, &[], "").await;
        assert!((400..500).contains(&reply.status), "{path}");
        assert_eq!(reply.headers["content-type"], "application/problem+json");
    }
    let jobs = rest.ask(Method::GET, "/api/v1/jobs", &[], "").await;
    assert_eq!(jobs.json(), serde_json::json!([]));
}

#[tokio::test]
async fn a_job_has_an_etag() {
    let rest = Rest::open(Access::default(), Vec::new()).await.asked_here();
    let job = r#"{"image":"app:1"}"#;
    let posted = rest.ask(Method::POST, "/api/v1/jobs", &[JSON], job).await;
    let path = posted.headers["location"].to_str().unwrap().to_owned();
    let shown = rest.ask(Method::GET, &path, &[], "").await;
    let tag = shown.headers["etag"].to_str().unwrap().to_owned();
    let known = [("if-none-match", tag.as_str())];
    assert_eq!(rest.ask(Method::GET, &path, &known, "").await.status, 304);
    let cancelled = rest
        .ask(Method::POST, &format!("{path}/cancel"), &[], "")
        .await;
    assert_eq!(cancelled.status, 202, "{}", cancelled.text);
    assert_eq!(rest.ask(Method::GET, &path, &known, "").await.status, 200);
    let late = rest
        .ask(Method::POST, &format!("{path}/cancel"), &[], "")
        .await;
    assert_eq!(late.status, 409);
    let again = rest
        .ask(Method::POST, &format!("{path}/retry"), &[], "")
        .await;
    assert_eq!(
        (again.status, again.json()["state"].as_str()),
        (202, Some("PENDING"))
    );
}

#[tokio::test]
async fn a_cluster_is_made_changed_set_and_forgotten() {
    let rest = Rest::open(Access::default(), Vec::new()).await.asked_here();
    let ask = async |method: Method, path: &str, headers: &[(&str, &str)], body: &str| {
        let headers = [&[JSON], headers].concat();
        rest.ask(method, path, &headers, body).await
    };
    let (east, body) = ("/api/v1/clusters/east", r#"{"cidrs":["10.1.0.0/16"]}"#);
    let made = ask(Method::PUT, east, &[], body).await;
    assert_eq!(
        (made.status, &made.headers["etag"]),
        (201, &"\"1\"".parse().unwrap())
    );
    assert_eq!(made.json()["cidrs"], serde_json::json!(["10.1.0.0/16"]));
    let changed = ask(Method::PUT, east, &[("if-match", "\"1\"")], "{}").await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    let late = ask(Method::PUT, east, &[("if-match", "\"1\"")], body).await;
    assert_eq!(late.status, 412, "{}", late.text);
    for wrong in [
        r#"{"cidrs":["10.1.0.0/99"]}"#,
        r#"{"cidr":[]}"#,
        r#"{"idcs":[""]}"#,
        "1",
    ] {
        let reply = ask(Method::PUT, east, &[], wrong).await;
        assert!(
            (400..500).contains(&reply.status),
            "{wrong}: {}",
            reply.text
        );
    }
    let list = ask(Method::GET, "/api/v1/clusters", &[], "").await.json();
    let names: Vec<&Value> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["default", "east"]);

    let settings = "/api/v1/settings?cluster=east";
    for (wrong, word) in [
        (r#"{"peers":{"uplaod":0}}"#, "peers.uplaod"),
        (r#"{"nodes":{}}"#, "nodes"),
        (r#"{"peers":{"upload":1}}"#, "peers: `upload`"),
        (r#"{"schedulers":{"degree":0}}"#, "schedulers: `degree`"),
        (r#"{"schedulers":{"rules":[{"prio":"forbid"}]}}"#, "prio"),
        (r#"{"schedulers":{"weights":{"luck":1}}}"#, "luck"),
        ("1", "struct"),
    ] {
        let reply = ask(Method::PUT, settings, &[], wrong).await;
        assert_eq!(reply.status, 400, "{wrong}: {}", reply.text);
        assert!(reply.text.contains(word), "{wrong}: {}", reply.text);
    }
    let set = ask(Method::PUT, settings, &[], r#"{"peers":{"upload":0}}"#).await;
    assert_eq!(set.status, 200, "{}", set.text);
    let shown = ask(Method::GET, settings, &[], "").await.json();
    assert_eq!(shown["peers"]["upload"], 0);
    let here = ask(Method::GET, "/api/v1/settings", &[], "").await.json();
    assert_eq!(here["peers"]["upload"], Value::Null);
    let restore = "/api/v1/settings/versions/1/restore";
    assert_eq!(ask(Method::POST, restore, &[], "").await.status, 404);
    let restore = format!("{restore}?cluster=east");
    assert_eq!(ask(Method::POST, &restore, &[], "").await.status, 200);

    assert_eq!(ask(Method::DELETE, east, &[], "").await.status, 204);
    assert_eq!(ask(Method::DELETE, east, &[], "").await.status, 404);
    let default = "/api/v1/clusters/default";
    assert_eq!(ask(Method::DELETE, default, &[], "").await.status, 409);
}
