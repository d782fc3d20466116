//! Tokens, passwords and the audit, for the administrator.

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

use super::{
    Api,
    page::{Paged, limit},
    problem::Problem,
};
use crate::accounts::{
    Caller, Entry, MOST_NAME, MOST_SECRET, NewToken, PASSWORD, Role, Shown, is_name,
};

/// Tokens and entries on a page unless asked otherwise.
const PAGE: i64 = 100;
/// At most.
const MOST: (i64, i64) = (100, 500);

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
    if !is_name(&wish.name) {
        let what = format!("`name` has 1 to {MOST_NAME} bytes, none of them a control character");
        return Err(Problem::bad(what));
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

pub(super) async fn tokens(State(api): State<Api>, page: Asked) -> Result<Paged<Shown>, Problem> {
    let Query(page) = page?;
    let limit = limit(page.limit, PAGE, MOST.0)?;
    let before = page.before.unwrap_or(i64::MAX);
    let tokens = api.accounts.tokens(before, limit).await?;
    Ok(Paged::new(tokens, limit, |last| {
        format!("/api/v1/tokens?before={}&limit={limit}", last.id)
    }))
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

/// Another password.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPassword {
    password: String,
}

/// Tokens stay as they are, and so does whoever has signed in already: nobody has, since each
/// request signs in for itself.
pub(super) async fn set_password(
    State(api): State<Api>,
    user: Result<Path<String>, PathRejection>,
    body: Result<Json<NewPassword>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    let (Path(user), Json(wish)) = (user?, body?);
    if !is_name(&user) {
        return Err(Problem::unknown("user"));
    }
    if !PASSWORD.contains(&wish.password.len()) {
        let (least, most) = (PASSWORD.start(), MOST_SECRET);
        let what = format!("`password` has {least} to {most} bytes");
        return Err(Problem::bad(what));
    }
    if api.accounts.set_password(&user, wish.password).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::unknown("user"))
    }
}

/// Which entries.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    /// Older than this one.
    before: Option<i64>,
    limit: Option<i64>,
}

type Asked = Result<Query<Page>, QueryRejection>;

pub(super) async fn audit(State(api): State<Api>, page: Asked) -> Result<Paged<Entry>, Problem> {
    let Query(page) = page?;
    let limit = limit(page.limit, PAGE, MOST.1)?;
    let before = page.before.unwrap_or(i64::MAX);
    let entries = api.accounts.audit(before, limit).await?;
    Ok(Paged::new(entries, limit, |last| {
        format!("/api/v1/audit?before={}&limit={limit}", last.id)
    }))
}
