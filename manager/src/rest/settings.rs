//! What is set for peers and seeds: shown, changed, rolled back.

use axum::{
    Extension, Json,
    extract::{
        Path, State,
        rejection::{JsonRejection, PathRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use time::OffsetDateTime;

use super::{Api, problem::Problem};
use crate::{
    accounts::Caller,
    settings::{Set, SetError, Version},
};

/// Versions in a list.
const LISTED: i64 = 100;

impl From<SetError> for Problem {
    fn from(error: SetError) -> Self {
        match error {
            SetError::Rate => Self::bad(error),
            SetError::Changed => Self::new(StatusCode::PRECONDITION_FAILED, error.to_string()),
            SetError::Database(cause) => cause.into(),
        }
    }
}

pub(super) async fn show(State(api): State<Api>) -> Result<Response, Problem> {
    let newest = api.settings.versions(1).await?.into_iter().next();
    Ok(match newest {
        Some(newest) => tagged(&newest),
        None => ([(header::ETAG, tag(0))], Json(Set::default())).into_response(),
    })
}

fn tag(version: i64) -> String {
    format!("\"{version}\"")
}

fn tagged(version: &Version) -> Response {
    (
        [(header::ETAG, tag(version.version))],
        Json(version.settings),
    )
        .into_response()
}

/// The version that a writer has seen (`If-Match`), if he says so.
fn known(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let version = text.trim_matches('"').parse::<i64>();
    let version = version.ok().filter(|version| *version >= 0);
    version
        .map(Some)
        .ok_or_else(|| Problem::bad("`If-Match` is an ETag of these settings"))
}

pub(super) async fn change(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Json<Set>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(set) = body?;
    write(&api, &set, known(&headers)?, &caller).await
}

async fn write(
    api: &Api,
    set: &Set,
    known: Option<i64>,
    caller: &Caller,
) -> Result<Response, Problem> {
    let now = OffsetDateTime::now_utc();
    let version = api.settings.set(set, known, &caller.name, now).await?;
    let version = api.settings.version(version).await?;
    version.map_or_else(
        || Err(Problem::unknown("version")),
        |version| Ok(tagged(&version)),
    )
}

pub(super) async fn versions(State(api): State<Api>) -> Result<Json<Vec<Version>>, Problem> {
    Ok(Json(api.settings.versions(LISTED).await?))
}

/// An older version's settings become the newest.
pub(super) async fn restore(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    version: Result<Path<i64>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(version) = version?;
    let old = api.settings.version(version).await?;
    let old = old.ok_or_else(|| Problem::unknown("version"))?;
    write(&api, &old.settings, known(&headers)?, &caller).await
}
