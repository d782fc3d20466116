//! Clusters: listed, shown, made, changed, forgotten.

use axum::{
    Json,
    extract::{
        Path, State,
        rejection::{JsonRejection, PathRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use darter_api::ClusterName;
use serde::Serialize;
use time::OffsetDateTime;

use super::{
    Api,
    problem::Problem,
    tags::{known, tag},
};
use crate::clusters::{ClusterError, Entry, Put, Scopes, UnknownCluster};

impl From<ClusterError> for Problem {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Scopes(cause) => Self::bad(cause),
            ClusterError::Full => Self::new(StatusCode::TOO_MANY_REQUESTS, error.to_string()),
            ClusterError::Changed => Self::new(StatusCode::PRECONDITION_FAILED, error.to_string()),
            ClusterError::Default | ClusterError::Alive => {
                Self::new(StatusCode::CONFLICT, error.to_string())
            }
            ClusterError::Database(cause) => cause.into(),
        }
    }
}

impl From<UnknownCluster> for Problem {
    fn from(error: UnknownCluster) -> Self {
        Self::new(StatusCode::NOT_FOUND, error.to_string())
    }
}

/// A cluster as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct View {
    name: ClusterName,
    version: i64,
    #[serde(flatten)]
    scopes: Scopes,
}

impl View {
    fn new(name: &ClusterName, entry: &Entry) -> Self {
        Self {
            name: name.clone(),
            version: entry.version,
            scopes: entry.scopes.clone(),
        }
    }
}

/// The cluster that a request names, if it is there.
pub(super) fn found(api: &Api, name: &ClusterName) -> Result<Entry, Problem> {
    let directory = api.clusters.directory();
    let entry = directory.get(name).cloned();
    Ok(entry.ok_or_else(|| UnknownCluster(name.clone()))?)
}

type Name = Result<Path<ClusterName>, PathRejection>;

pub(super) async fn list(State(api): State<Api>) -> Json<Vec<View>> {
    let directory = api.clusters.directory();
    let all = directory.all();
    Json(all.map(|(name, entry)| View::new(name, entry)).collect())
}

pub(super) async fn show(State(api): State<Api>, name: Name) -> Result<Response, Problem> {
    let Path(name) = name?;
    shown(&api, &name, StatusCode::OK)
}

fn shown(api: &Api, name: &ClusterName, status: StatusCode) -> Result<Response, Problem> {
    let entry = found(api, name)?;
    let tag = [(header::ETAG, tag(entry.version))];
    Ok((status, tag, Json(View::new(name, &entry))).into_response())
}

/// Makes or changes one.
pub(super) async fn put(
    State(api): State<Api>,
    name: Name,
    headers: HeaderMap,
    body: Result<Json<Scopes>, JsonRejection>,
) -> Result<Response, Problem> {
    let (Path(name), Json(scopes)) = (name?, body?);
    let put = api.clusters.put(&name, &scopes, known(&headers)?).await?;
    let status = match put {
        Put::Made => StatusCode::CREATED,
        Put::Changed => StatusCode::OK,
    };
    shown(&api, &name, status)
}

pub(super) async fn remove(State(api): State<Api>, name: Name) -> Result<StatusCode, Problem> {
    let Path(name) = name?;
    let since = api.members.since(OffsetDateTime::now_utc());
    if api.clusters.remove(&name, since).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(UnknownCluster(name).into())
    }
}
