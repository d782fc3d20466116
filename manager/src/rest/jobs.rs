//! Preheats: posted, looked at, followed, called off, wanted again.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use darter_api::ClusterName;
use futures::{Stream, stream};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Api, clusters,
    page::{Paged, limit},
    problem::Problem,
    tags::{known, tag},
};
use crate::accounts::Caller;
use crate::{
    credentials::Shown,
    jobs::{
        Change, CreateError, Failure, Forgotten, Job, Request, Scope, State as JobState, Summary,
    },
};

/// Jobs on a page unless asked otherwise; and at most.
const PAGE: (i64, i64) = (50, 100);
/// Between looks whether a job has changed.
const LOOK: Duration = Duration::from_millis(250);

/// A job among others.
#[derive(Debug, Serialize)]
pub(crate) struct Listed {
    id: i64,
    state: JobState,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    /// Where the first file is, and how many there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files_count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
    platforms: Vec<String>,
    scope: Scope,
    cluster: ClusterName,
    created_by: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
    summary: Summary,
}

/// A job as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct View {
    #[serde(flatten)]
    job: Listed,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<String>,
    failures: Vec<FailureView>,
}

/// A job with all that hosts have said.
#[derive(Debug, Serialize)]
struct WholeView {
    #[serde(flatten)]
    job: View,
    contents: Vec<ContentView>,
    hosts: Vec<HostView>,
}

#[derive(Debug, Serialize)]
struct ContentView {
    digest: String,
    size: u64,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// Hosts that hold it.
    held_by: usize,
}

#[derive(Debug, Serialize)]
struct HostView {
    id: String,
    name: String,
    ip: String,
    held: usize,
    /// What it has not said to hold.
    missing: Vec<String>,
}

#[derive(Debug, Serialize)]
struct FailureView {
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
    #[serde(flatten)]
    failure: Failure,
}

impl From<&Job> for Listed {
    fn from(job: &Job) -> Self {
        let subject = &job.wish.subject;
        let files = subject.files_shown();
        Self {
            id: job.id,
            state: job.state,
            image: subject.image(),
            file: files.first().map(ToString::to_string),
            files_count: Some(files.len()).filter(|count| *count > 0),
            credential: job.wish.credential.clone(),
            platforms: job.wish.platforms.clone(),
            scope: job.wish.scope,
            cluster: job.wish.cluster.clone(),
            created_by: job.created_by.clone(),
            created_at: job.created_at,
            updated_at: job.updated_at,
            summary: job.progress.summary(),
        }
    }
}

impl From<&Job> for View {
    fn from(job: &Job) -> Self {
        let nobody = job.progress.failures.iter().map(|failure| FailureView {
            host: None,
            ip: None,
            failure: failure.clone(),
        });
        let hosts = job.progress.hosts.iter().flat_map(|host| {
            host.failures.iter().map(|failure| FailureView {
                host: Some(host.name.clone()),
                ip: Some(host.ip.clone()),
                failure: failure.clone(),
            })
        });
        let files = job.wish.subject.files_shown();
        Self {
            job: job.into(),
            files: files.into_iter().map(str::to_owned).collect(),
            failures: nobody.chain(hosts).collect(),
        }
    }
}

impl From<&Job> for WholeView {
    fn from(job: &Job) -> Self {
        let (contents, hosts) = (&job.progress.contents, &job.progress.hosts);
        let content = |(at, content): (usize, &crate::jobs::Content)| ContentView {
            digest: content.digest.clone(),
            size: content.size,
            kind: match (&content.url, content.manifest) {
                (Some(_), _) => "file",
                (None, true) => "manifest",
                (None, false) => "blob",
            },
            url: content.url.clone(),
            held_by: hosts.iter().filter(|host| host.held.contains(at)).count(),
        };
        let host = |host: &crate::jobs::Host| {
            let all = contents.iter().enumerate();
            let missing = all.filter(|(at, _)| !host.held.contains(*at));
            HostView {
                id: host.id.clone(),
                name: host.name.clone(),
                ip: host.ip.clone(),
                held: host.held.len(),
                missing: missing.map(|(_, content)| content.digest.clone()).collect(),
            }
        };
        Self {
            job: job.into(),
            contents: contents.iter().enumerate().map(content).collect(),
            hosts: hosts.iter().map(host).collect(),
        }
    }
}

type Id = Result<Path<i64>, PathRejection>;

pub(super) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<Request>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(request) = body?;
    let secret = request.secret().map_err(Problem::bad)?;
    let wish = request.wish().map_err(Problem::bad)?;
    clusters::found(&api, &wish.cluster)?;
    if let (Some(name), Some(registry)) = (&wish.credential, wish.subject.registry()) {
        let found = api.credentials.find(name, registry);
        found.map_err(Problem::bad)?;
    }
    let now = OffsetDateTime::now_utc();
    let created = api.jobs.create(&wish, &secret, &caller.name, now).await;
    let id = created.map_err(refused)?;
    api.wake.notify_one();
    let job = found(&api, id).await?;
    let place = [(header::LOCATION, format!("/api/v1/jobs/{id}"))];
    Ok((StatusCode::CREATED, place, Json(View::from(&job))).into_response())
}

/// What jobs may call by a name; nothing that signs in.
pub(super) async fn credentials(State(api): State<Api>) -> Json<Vec<Shown>> {
    Json(api.credentials.shown())
}

pub(super) fn refused(error: CreateError) -> Problem {
    match error {
        CreateError::Full => Problem::new(StatusCode::TOO_MANY_REQUESTS, error.to_string()),
        CreateError::Database(cause) => cause.into(),
    }
}

/// Which jobs.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    state: Option<JobState>,
    /// Older than this one.
    before: Option<i64>,
    limit: Option<i64>,
}

pub(super) async fn list(
    State(api): State<Api>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Paged<Listed>, Problem> {
    let Query(page) = page?;
    let before = page.before.unwrap_or(i64::MAX);
    let limit = limit(page.limit, PAGE.0, PAGE.1)?;
    let jobs = api.jobs.list(page.state, before, limit).await?;
    let state = page.state.map(|state| format!("&state={}", state.as_str()));
    let views = jobs.iter().map(Listed::from).collect();
    Ok(Paged::new(views, limit, |last: &Listed| {
        let state = state.unwrap_or_default();
        format!("/api/v1/jobs?before={}&limit={limit}{state}", last.id)
    }))
}

pub(super) async fn show(
    State(api): State<Api>,
    id: Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path(id) = id?;
    let job = found(&api, id).await?;
    let tag = tag(job.version);
    if headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|known| *known == *tag)
    {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    Ok(([(header::ETAG, tag)], Json(WholeView::from(&job))).into_response())
}

async fn found(api: &Api, id: i64) -> Result<Job, Problem> {
    let job = api.jobs.get(id).await?;
    job.ok_or_else(|| Problem::unknown("job"))
}

/// The job whenever it changes, as server-sent events; ends with its end.
pub(super) async fn events(
    State(api): State<Api>,
    id: Id,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let Path(id) = id?;
    let first = found(&api, id).await?;
    let turn = Arc::clone(&api.streams).try_acquire_owned();
    let full = |_| {
        Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too many follow jobs already",
        )
    };
    let follow = Follow {
        _turn: turn.map_err(full)?,
        api,
        id,
        next: Some(first),
        shown: 0,
    };
    let events = stream::unfold(follow, |mut follow| async move {
        let job = follow.next().await?;
        let event = Event::default().event("job").id(job.version.to_string());
        let event = event.json_data(View::from(&job)).ok()?;
        Some((Ok(event), follow))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

/// A job that is followed, at whichever manager it runs.
struct Follow {
    _turn: OwnedSemaphorePermit,
    api: Api,
    id: i64,
    next: Option<Job>,
    /// The version that was shown last, or a number that says that it was the end.
    shown: i64,
}

impl Follow {
    async fn next(&mut self) -> Option<Job> {
        if self.shown == i64::MAX {
            return None;
        }
        let job = match self.next.take() {
            Some(job) => job,
            None => self.changed().await?,
        };
        self.shown = if job.state.is_final() {
            i64::MAX
        } else {
            job.version
        };
        Some(job)
    }

    async fn changed(&self) -> Option<Job> {
        loop {
            tokio::time::sleep(LOOK).await;
            match self.api.jobs.version(self.id).await {
                Ok(Some(version)) if version == self.shown => {}
                Ok(None) => return None,
                Ok(Some(_)) => {
                    if let Ok(job) = self.api.jobs.get(self.id).await {
                        return job;
                    }
                }
                // It may answer again.
                Err(_) => {}
            }
        }
    }
}

pub(super) async fn cancel(
    State(api): State<Api>,
    id: Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path(id) = id?;
    let now = OffsetDateTime::now_utc();
    let changed = api.jobs.cancel(id, known(&headers)?, now).await?;
    answer(&api, id, changed, "the job has ended already").await
}

/// What was forgotten with the job's end is said again: what signs in at the registry, and files
/// that have queries.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Again {
    authorization: Option<String>,
    username: Option<String>,
    password: Option<String>,
    files: Option<Vec<String>>,
}

pub(super) async fn retry(
    State(api): State<Api>,
    id: Id,
    headers: HeaderMap,
    body: Result<Option<Json<Again>>, JsonRejection>,
) -> Result<Response, Problem> {
    let Path(id) = id?;
    let again = body?.map(|Json(again)| again).unwrap_or_default();
    let request = Request {
        authorization: again.authorization,
        username: again.username,
        password: again.password,
        ..Request::default()
    };
    let secret = request.secret().map_err(Problem::bad)?;
    let known = known(&headers)?;
    let wish = found(&api, id).await?.wish;
    let wish = wish.again(again.files).map_err(Problem::bad)?;
    let forgotten = Forgotten::of(&wish, &secret);
    let now = OffsetDateTime::now_utc();
    let changed = api.jobs.retry(id, &forgotten, known, now).await?;
    api.wake.notify_one();
    answer(
        &api,
        id,
        changed,
        "only a job that failed or was cancelled is tried again",
    )
    .await
}

async fn answer(api: &Api, id: i64, changed: Change, late: &str) -> Result<Response, Problem> {
    match changed {
        Change::Done => {
            let job = found(api, id).await?;
            Ok((StatusCode::ACCEPTED, Json(View::from(&job))).into_response())
        }
        Change::Unknown => Err(Problem::unknown("job")),
        Change::Newer => {
            let what = "the job has changed meanwhile";
            Err(Problem::new(StatusCode::PRECONDITION_FAILED, what))
        }
        Change::Late => Err(Problem::new(StatusCode::CONFLICT, late)),
    }
}
