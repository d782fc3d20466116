//! Who may call a route, and what is noted of it.
//!
//! A caller shows a token (`Authorization: Bearer`, alone, or as a password; `X-Darter-Token`)
//! or a user and password (`Authorization: Basic`). Who shows nothing is what the options say
//! of callers on the manager's own host, or of others. A page in a browser on that host, or a
//! proxy there, is neither: it has to show something. Every write is noted, also one that is
//! refused, and one whose caller hangs up: what was let in goes on to its end.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use darter_runtime::server::{ClientAddress, sent_by_others};
use time::OffsetDateTime;

use super::{Api, problem::Problem};
use crate::accounts::{Caller, Credential, Role, SignInError};

/// Where tools that can't set `Authorization` show a token: Harbor's CUSTOM kind.
const TOKEN_HEADER: &str = "x-darter-token";

/// Lets nobody past who may not.
pub(super) async fn guard(
    State((api, needs)): State<(Api, Role)>,
    mut request: Request,
    next: Next,
) -> Response {
    if needs == Role::None {
        return next.run(request).await;
    }
    let client = request.extensions().get::<ClientAddress>().copied();
    let from = client.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |client| {
        client.0.ip().to_canonical()
    });
    let is_write = !matches!(*request.method(), Method::GET | Method::HEAD);
    let note = Note::of(&request, from);
    let caller = allowed(&api, needs, request.uri(), request.headers(), from).await;
    let (who, response) = match caller {
        Ok(caller) if is_write => return write(api, caller, request, next, note).await,
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            return next.run(request).await;
        }
        Err(refused) => refused,
    };
    if is_write {
        note.write(&api, &who, response.status()).await;
    }
    response
}

/// Has a write done and noted, whether or not its caller waits for that.
async fn write(api: Api, caller: Caller, mut request: Request, next: Next, note: Note) -> Response {
    let failed = || {
        let what = "the manager is shutting down, or failed";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, what).into_response()
    };
    let Ok(turn) = Arc::clone(&api.writes).acquire_owned().await else {
        return failed();
    };
    let tasks = api.tasks.clone();
    let work = tasks.spawn_draining("write", async move {
        let _turn = turn;
        let who = caller.name.clone();
        request.extensions_mut().insert(caller);
        let response = next.run(request).await;
        note.write(&api, &who, response.status()).await;
        response
    });
    work.await.unwrap_or_else(|_| failed())
}

/// What is noted of a request.
struct Note {
    client: String,
    method: Method,
    /// What is meant may stand in the query, a secret never does.
    path: String,
}

impl Note {
    fn of(request: &Request, from: IpAddr) -> Self {
        let path = request.uri().path_and_query();
        Self {
            client: from.to_string(),
            method: request.method().clone(),
            path: path.map_or_else(String::new, ToString::to_string),
        }
    }

    async fn write(self, api: &Api, who: &str, status: StatusCode) {
        let (status, now) = (status.as_u16(), OffsetDateTime::now_utc());
        let (method, accounts) = (self.method.as_str(), &api.accounts);
        let note = accounts.note(who, self.client, method, &self.path, status, now);
        note.await;
    }
}

type Refused = (String, Response);

async fn allowed(
    api: &Api,
    needs: Role,
    uri: &Uri,
    headers: &HeaderMap,
    from: IpAddr,
) -> Result<Caller, Refused> {
    let caller = match shown(headers) {
        Shown::Nothing => nobody(api, from),
        Shown::Nonsense => return Err(unauthorized("what is shown is no credential")),
        Shown::Credential(credential) => {
            let signed = api
                .accounts
                .sign_in(credential, from, OffsetDateTime::now_utc());
            match signed.await {
                Ok(caller) => caller,
                Err(error @ SignInError::Wrong) => return Err(unauthorized(&error.to_string())),
                Err(error @ (SignInError::TooMany | SignInError::Busy)) => {
                    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, error.to_string());
                    let mut response = problem.into_response();
                    let is_busy = matches!(error, SignInError::Busy);
                    let wait = HeaderValue::from_static(if is_busy { "2" } else { "60" });
                    response.headers_mut().insert(header::RETRY_AFTER, wait);
                    return Err((String::new(), response));
                }
                Err(SignInError::Database(cause)) => {
                    return Err((String::new(), Problem::from(cause).into_response()));
                }
            }
        }
    };
    let shows_nothing = matches!(shown(headers), Shown::Nothing);
    if caller.role >= needs {
        if shows_nothing
            && from.is_loopback()
            && let Some(why) = sent_by_others(uri, headers)
        {
            let why = format!("{why}: a token, or a user and password, is needed then");
            let problem = Problem::new(StatusCode::FORBIDDEN, why);
            return Err((caller.name, problem.into_response()));
        }
        return Ok(caller);
    }
    if shows_nothing {
        return Err(unauthorized(
            "a token, or a user and password, is needed here",
        ));
    }
    let what = format!(
        "this takes the role {needs}, and {} has {}",
        caller.name, caller.role
    );
    let problem = Problem::new(StatusCode::FORBIDDEN, what);
    Err((caller.name, problem.into_response()))
}

enum Shown {
    Nothing,
    Nonsense,
    Credential(Credential),
}

fn shown(headers: &HeaderMap) -> Shown {
    if let Some(token) = headers.get(TOKEN_HEADER) {
        let token = token.to_str().map(str::to_owned);
        return token.map_or(Shown::Nonsense, |token| {
            Shown::Credential(Credential::Token(token))
        });
    }
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Shown::Nothing;
    };
    let credential = value.to_str().ok().and_then(Credential::of_header);
    credential.map_or(Shown::Nonsense, Shown::Credential)
}

/// Somebody who shows nothing.
fn nobody(api: &Api, from: IpAddr) -> Caller {
    let (name, role) = if from.is_loopback() {
        ("local", api.access.local)
    } else {
        ("anonymous", api.access.anonymous)
    };
    // Who may what is for those to say who have shown who they are.
    let (name, role) = (name.to_owned(), role.min(Role::Operator));
    Caller { name, role }
}

fn unauthorized(what: &str) -> Refused {
    let mut response = Problem::new(StatusCode::UNAUTHORIZED, what).into_response();
    let challenge = HeaderValue::from_static("Basic realm=\"darter\", charset=\"UTF-8\"");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, challenge);
    (String::new(), response)
}
