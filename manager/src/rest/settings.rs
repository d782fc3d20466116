//! What is set for the nodes of a cluster (`?cluster=`; the default one unless it is named): shown,
//! changed, rolled back.

use axum::{
    Extension, Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use darter_api::ClusterName;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use time::OffsetDateTime;

use super::{
    Api, clusters,
    problem::Problem,
    tags::{known, tag},
};
use crate::{
    accounts::Caller,
    settings::{Set, SetError, Version},
};

/// Versions in a list.
const LISTED: i64 = 100;

impl From<SetError> for Problem {
    fn from(error: SetError) -> Self {
        match error {
            SetError::Settings { .. } => Self::bad(error),
            SetError::Changed => Self::new(StatusCode::PRECONDITION_FAILED, error.to_string()),
            SetError::Database(cause) => cause.into(),
        }
    }
}

/// Whose settings.
#[derive(Debug, Deserialize)]
pub(super) struct Of {
    #[serde(default)]
    cluster: ClusterName,
}

type Asked = Result<Query<Of>, QueryRejection>;

fn cluster(api: &Api, asked: Asked) -> Result<ClusterName, Problem> {
    let Query(Of { cluster }) = asked?;
    clusters::found(api, &cluster)?;
    Ok(cluster)
}

pub(super) async fn show(State(api): State<Api>, asked: Asked) -> Result<Response, Problem> {
    let cluster = cluster(&api, asked)?;
    let newest = api.settings.versions(&cluster, 1).await?.into_iter().next();
    Ok(match newest {
        Some(newest) => tagged(&newest),
        None => ([(header::ETAG, tag(0))], Json(Set::default())).into_response(),
    })
}

fn tagged(version: &Version) -> Response {
    (
        [(header::ETAG, tag(version.version))],
        Json(&version.settings),
    )
        .into_response()
}

pub(super) async fn change(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    asked: Asked,
    headers: HeaderMap,
    body: Result<Json<Value>, JsonRejection>,
) -> Result<Response, Problem> {
    let cluster = cluster(&api, asked)?;
    let Json(set) = body?;
    let set: Set = strict(set)?;
    write(&api, &cluster, &set, known(&headers)?, &caller).await
}

/// What is asked for, with nothing in it that is not known: a knob that nobody turns is a
/// mistake.
fn strict<T: DeserializeOwned + Serialize>(asked: Value) -> Result<T, Problem> {
    let parsed = T::deserialize(&asked).map_err(Problem::bad)?;
    let known = serde_json::to_value(&parsed).map_err(Problem::bad)?;
    match unknown(&asked, &known) {
        Some(path) => Err(Problem::bad(format!("there is no setting `{path}`"))),
        None => Ok(parsed),
    }
}

/// The first key that is not known, with where it stands.
fn unknown(asked: &Value, known: &Value) -> Option<String> {
    let (Value::Object(asked), Value::Object(known)) = (asked, known) else {
        return None;
    };
    asked.iter().find_map(|(key, asked)| match known.get(key) {
        Some(known) => unknown(asked, known).map(|path| format!("{key}.{path}")),
        None => Some(key.clone()),
    })
}

async fn write(
    api: &Api,
    cluster: &ClusterName,
    set: &Set,
    known: Option<i64>,
    caller: &Caller,
) -> Result<Response, Problem> {
    let now = OffsetDateTime::now_utc();
    let settings = &api.settings;
    let version = settings.set(cluster, set, known, &caller.name, now).await?;
    let version = settings.version(cluster, version).await?;
    version.map_or_else(
        || Err(Problem::unknown("version")),
        |version| Ok(tagged(&version)),
    )
}

pub(super) async fn versions(
    State(api): State<Api>,
    asked: Asked,
) -> Result<Json<Vec<Version>>, Problem> {
    let cluster = cluster(&api, asked)?;
    Ok(Json(api.settings.versions(&cluster, LISTED).await?))
}

/// An older version's settings become the newest.
pub(super) async fn restore(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    asked: Asked,
    headers: HeaderMap,
    version: Result<Path<i64>, PathRejection>,
) -> Result<Response, Problem> {
    let cluster = cluster(&api, asked)?;
    let Path(version) = version?;
    let old = api.settings.version(&cluster, version).await?;
    let old = old.ok_or_else(|| Problem::unknown("version"))?;
    write(&api, &cluster, &old.settings, known(&headers)?, &caller).await
}
