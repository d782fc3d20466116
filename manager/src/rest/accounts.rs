//! Tokens and the audit, for the administrator.

use axum::{
    Extension, Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Api, problem::Problem};
use crate::accounts::{Caller, Entry, MOST_NAME, NewToken, Role, Shown};

/// Entries on a page unless asked otherwise.
const PAGE: i64 = 100;

/// The only time that a token is shown.
#[derive(Serialize)]
pub(super) struct Made {
    id: i64,
    token: String,
}

pub(super) async fn create_token(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<NewToken>, JsonRejection>,
) -> Result<(StatusCode, Json<Made>), Problem> {
    let Json(wish) = body?;
    if wish.name.is_empty() || wish.name.len() > MOST_NAME {
        return Err(Problem::bad(format!("`name` has 1 to {MOST_NAME} bytes")));
    }
    if wish.role == Role::None {
        return Err(Problem::bad("`role` is guest, operator or root"));
    }
    let now = OffsetDateTime::now_utc();
    let made = api.accounts.new_token(&wish, &caller.name, now).await?;
    let full = || Problem::new(StatusCode::TOO_MANY_REQUESTS, "there are too many tokens");
    let (id, token) = made.ok_or_else(full)?;
    Ok((StatusCode::CREATED, Json(Made { id, token })))
}

pub(super) async fn tokens(State(api): State<Api>) -> Result<Json<Vec<Shown>>, Problem> {
    Ok(Json(api.accounts.tokens().await?))
}

pub(super) async fn revoke_token(
    State(api): State<Api>,
    id: Result<Path<i64>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let Path(id) = id?;
    if api.accounts.revoke(id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::unknown("token"))
    }
}

/// Which entries.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    /// Older than this one.
    before: Option<i64>,
    limit: Option<i64>,
}

pub(super) async fn audit(
    State(api): State<Api>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Vec<Entry>>, Problem> {
    let Query(page) = page?;
    let before = page.before.unwrap_or(i64::MAX);
    let entries = api.accounts.audit(before, page.limit.unwrap_or(PAGE));
    Ok(Json(entries.await?))
}
