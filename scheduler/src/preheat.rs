//! `POST /preheat` on the operations port: hosts are to have a content before anybody pulls it.
//!
//! ```json
//! {"upstream": "docker.io", "repository": "library/app", "digest": "sha256:..", "size": 1234,
//!  "kind": "blob", "hosts": ["node1"]}
//! ```
//!
//! `kind` is `blob` or `manifest` (default `blob`); without `hosts` all that are no seeds are
//! asked. Only a client on the host itself may ask, wherever the port listens. Nothing here owns state.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    routing::post,
};
use darter_api::{Digest, Lengths, Origin, OriginKind};
use darter_runtime::server::CallerAddress;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    core::Preheat,
    inspect::{Question, ask},
    service::Inbound,
};

/// Of a wish, with some thousand hosts.
const MAX_BODY: usize = 256 * 1024;
/// Hosts in one wish; all of them are asked for without names.
const MAX_HOSTS: usize = 4096;

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Blob,
    Manifest,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    upstream: String,
    repository: String,
    digest: String,
    size: u64,
    #[serde(default)]
    kind: Kind,
    #[serde(default)]
    hosts: Vec<String>,
}

pub(crate) fn router(inbox: mpsc::Sender<Inbound>) -> Router {
    Router::new()
        .route("/preheat", post(preheat))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(inbox)
}

type Refusal = (StatusCode, String);

async fn preheat(
    State(inbox): State<mpsc::Sender<Inbound>>,
    client: CallerAddress,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    if !client.is_here() {
        let what = "contents are preheated from the host itself\n";
        return Err((StatusCode::FORBIDDEN, what.to_owned()));
    }
    let wish: Wish = serde_json::from_slice(&body).map_err(bad)?;
    let wish = understood(wish)?;
    let busy = (StatusCode::SERVICE_UNAVAILABLE, String::new());
    let answer = ask(&inbox, |answer| Question::Preheat(wish, answer)).await;
    match answer.ok_or(busy)? {
        Some(done) => Ok(Json(json!({
            "asked": done.asked,
            "held": done.held,
            "forbidden": done.forbidden,
            "unknown": done.unknown,
        }))),
        None => {
            let what = "hosts know this content with another size\n";
            Err((StatusCode::CONFLICT, what.to_owned()))
        }
    }
}

fn understood(wish: Wish) -> Result<Preheat, Refusal> {
    let digest: Digest = wish.digest.parse().map_err(bad)?;
    let lengths = Lengths::of(wish.size).map_err(bad)?;
    if lengths.pieces() == 0 {
        return Err(bad("an empty content needs no preheating"));
    }
    if wish.hosts.len() > MAX_HOSTS {
        return Err(bad(format!("at most {MAX_HOSTS} hosts are named at once")));
    }
    Ok(Preheat {
        task: digest.into(),
        lengths,
        origin: Origin {
            upstream: wish.upstream.parse().map_err(bad)?,
            repository: wish.repository.parse().map_err(bad)?,
            kind: match wish.kind {
                Kind::Blob => OriginKind::Blob,
                Kind::Manifest => OriginKind::Manifest,
            },
            private: false,
        },
        hosts: wish.hosts,
    })
}

fn bad(cause: impl std::fmt::Display) -> Refusal {
    (StatusCode::BAD_REQUEST, format!("{cause}\n"))
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use axum::{body::Body, http::Request};
    use darter_runtime::{Tasks, tls::Security};
    use prometheus_client::registry::Registry;
    use tower::ServiceExt as _;

    use darter_runtime::server::ClientAddress;

    use super::*;
    use crate::{Options, Scheduler};

    #[tokio::test]
    async fn only_sense_from_the_host_itself_is_taken() {
        let data = tempfile::tempdir().unwrap();
        let options = Options {
            listen: ([127, 0, 0, 1], 0).into(),
            data: data.path().to_owned(),
            ..Options::default()
        };
        let tasks = Tasks::new();
        let mut registry = Registry::default();
        let scheduler = Scheduler::start(options, &Security::Plain, &tasks, &mut registry).await;
        let scheduler = scheduler.unwrap();
        let ask = async |from: SocketAddr, body: String| {
            let request = Request::post("/preheat").extension(ClientAddress(from));
            let request = request.body(Body::from(body)).unwrap();
            let reply = scheduler.router().oneshot(request).await.unwrap();
            let status = reply.status().as_u16();
            let body = axum::body::to_bytes(reply.into_body(), 4096).await.unwrap();
            (status, String::from_utf8(body.to_vec()).unwrap())
        };
        let here = SocketAddr::from(([127, 0, 0, 1], 9));
        let digest = format!("sha256:{}", "0".repeat(64));
        let wish = |digest: &str, size: &str, more: &str| {
            format!(
                r#"{{"upstream":"docker.io","repository":"library/app","digest":"{digest}","size":{size}{more}}}"#
            )
        };
        let good = wish(&digest, "7", r#","hosts":["nobody"]"#);
        let there = SocketAddr::from(([192, 0, 2, 1], 9));
        assert_eq!(ask(there, good.clone()).await.0, 403);
        let (status, answer) = ask(here, good).await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!((status, &answer["unknown"]), (200, &json!(["nobody"])));
        for nonsense in [
            wish("md5:00", "7", ""),
            wish(&digest, "0", ""),
            wish(&digest, "-1", ""),
            wish(&digest, "99999999999999999", ""),
            wish(&digest, "7", r#","kind":"tag""#),
            wish(&digest, "7", r#","to":"all""#),
            wish(&digest, "7", "").replace("docker.io", "http://evil/"),
            wish(&digest, "7", "").replace("library/app", "../app"),
            "[]".to_owned(),
        ] {
            assert_eq!(ask(here, nonsense.clone()).await.0, 400, "{nonsense}");
        }
        tasks.stop(Duration::from_secs(5)).await;
    }
}
