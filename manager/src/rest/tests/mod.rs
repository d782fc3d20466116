//! The router as callers see it, without a socket.

mod harbor;
mod hooks;
mod lists;
mod table;

use std::net::{IpAddr, SocketAddr};

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request},
};
use darter_runtime::server::ClientAddress;
use serde_json::Value;
use time::OffsetDateTime;
use tower::ServiceExt as _;

use super::*;
use crate::{
    StoredCredential,
    accounts::NewToken,
    database::{
        Database,
        tests::{ON_POSTGRES, Place},
    },
    jobs::{Progress, State as JobState},
};

pub(super) const PASSWORD: &str = "the root's own";
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A manager's REST on a database of its own.
pub(super) struct Rest {
    pub(super) api: Api,
    database: Database,
    from: IpAddr,
    _place: Place,
}

/// What the manager keeps to sign in with.
fn stored() -> StoredCredential {
    StoredCredential {
        name: "harbor".to_owned(),
        registry: "harbor.example.com".to_owned(),
        username: "puller".to_owned(),
        password_file: "/nowhere/password".into(),
    }
}

/// What came back.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Reply {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

impl Rest {
    /// Called from another host.
    pub(super) async fn open(access: Access, pushes: Vec<PushRule>) -> Self {
        let place = Place::for_rest().await;
        let database = place.open().await;
        let accounts = Accounts::new(database.clone());
        let now = OffsetDateTime::now_utc();
        let given = Some(PASSWORD.to_owned());
        accounts.ensure_root(given, now).await.unwrap();
        let grace = std::time::Duration::from_secs(6);
        let clusters = Clusters::open(database.clone()).await.unwrap();
        let members = Arc::new(Members::open(database.clone(), grace).await.unwrap());
        let plain = darter_runtime::tls::Connector::plain();
        let api = Api {
            operations: Operations::new(Arc::clone(&members), plain),
            members,
            jobs: Jobs::new(database.clone()),
            settings: Settings::new(database.clone(), clusters.clone()),
            clusters,
            accounts,
            access,
            pushes: pushes.into(),
            credentials: Credentials::new(vec![stored()]),
            streams: Arc::new(Semaphore::new(2)),
            writes: Arc::new(Semaphore::new(2)),
            tasks: Tasks::new(),
            wake: Arc::default(),
            metrics: Metrics::default(),
        };
        Self {
            api,
            database,
            from: [192, 0, 2, 7].into(),
            _place: place,
        }
    }

    pub(super) fn asked_here(mut self) -> Self {
        self.from = HERE;
        self
    }

    pub(super) async fn token(&self, role: Role, life: u32) -> String {
        let wish = NewToken {
            name: role.to_string(),
            role,
            expires_in_seconds: Some(life),
        };
        let now = OffsetDateTime::now_utc();
        let made = self
            .api
            .accounts
            .new_token(&wish, "root", now)
            .await
            .unwrap();
        made.unwrap().1
    }

    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .extension(ClientAddress(SocketAddr::new(self.from, 9)));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let reply = router(self.api.clone()).oneshot(request).await.unwrap();
        let (parts, body) = reply.into_parts();
        let limit = 1024 * 1024;
        let bytes = axum::body::to_bytes(body, limit).await.unwrap();
        Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    /// As if a job had been run.
    pub(super) async fn end(&self, id: i64, state: JobState, progress: &Progress) {
        let progress = serde_json::to_string(progress).unwrap();
        sqlx::query("UPDATE jobs SET state = $2, progress = $3 WHERE id = $1")
            .bind(id)
            .bind(state.as_str())
            .bind(progress)
            .execute(self.database.pool())
            .await
            .unwrap();
    }
}

pub(super) fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let text = base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {text}")
}

/// The tests of this module once more, in another process, on PostgreSQL.
#[test]
fn all_of_it_on_postgres() {
    if std::env::var_os(ON_POSTGRES).is_some() {
        return;
    }
    let again = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["rest::tests::", "--test-threads=2"])
        .env(ON_POSTGRES, "1")
        .output();
    let again = again.unwrap();
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success(), "{said}");
}
