//! Dragonfly's open API for preheats, as Harbor's Dragonfly driver speaks it.
//!
//! Unknown fields, nulls and zeros mean nothing. Harbor knows three states and takes anything
//! else for a failure, so that there are three: a job that runs is pending, one that was
//! cancelled has failed.

use std::{collections::BTreeMap, net::IpAddr};

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{
        Path, State,
        rejection::{BytesRejection, PathRejection},
    },
    http::StatusCode,
};
use serde::{Deserialize, Deserializer, Serialize};
use time::{OffsetDateTime, format_description::FormatItem, macros::format_description};

use super::{Api, jobs::refused, problem::Problem};
use crate::{
    accounts::Caller,
    jobs::{Host, Job, Request, Scope, State as JobState},
};

/// As Harbor's and Dragonfly's examples have them: RFC 3339, whole seconds.
const TIME: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
/// Go's durations are in nanoseconds; what is less than this was meant in seconds.
const NANOSECONDS: u64 = 1_000_000_000;
/// Contents of hosts that one answer lists, of each kind.
const MOST_LISTED: usize = 10_000;
/// Reasons in an error that people read.
const MOST_REASONS: usize = 20;

/// What Harbor's Dragonfly driver posts.
#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(rename = "type", default)]
    kind: String,
    args: Args,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Args {
    #[serde(rename = "type", deserialize_with = "lenient")]
    kind: String,
    #[serde(deserialize_with = "lenient")]
    url: String,
    /// Of files, instead of `url` or beside it.
    #[serde(deserialize_with = "lenient")]
    urls: Vec<String>,
    #[serde(deserialize_with = "lenient")]
    headers: BTreeMap<String, String>,
    #[serde(deserialize_with = "lenient")]
    username: String,
    #[serde(deserialize_with = "lenient")]
    password: String,
    #[serde(deserialize_with = "lenient")]
    platform: String,
    #[serde(deserialize_with = "lenient")]
    scope: String,
    #[serde(deserialize_with = "lenient")]
    ips: Vec<IpAddr>,
    #[serde(deserialize_with = "lenient")]
    count: u32,
    #[serde(deserialize_with = "lenient")]
    percentage: u32,
    #[serde(deserialize_with = "lenient")]
    timeout: u64,
    #[serde(deserialize_with = "lenient")]
    concurrent_task_count: u32,
    #[serde(deserialize_with = "lenient")]
    concurrent_peer_count: u32,
}

/// `null` is what a Go client sends for what it did not set.
fn lenient<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Asked {
    /// The same as it is posted to this manager's own API.
    pub(super) fn request(self) -> Result<Request, Problem> {
        if self.kind != "preheat" {
            return Err(Problem::bad("`type` is preheat"));
        }
        match self.args.kind.as_str() {
            "" | "image" => self.args.request(false),
            "file" => self.args.request(true),
            _ => {
                let what = "images and files are preheated";
                Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what))
            }
        }
    }
}

impl Args {
    /// Of headers only what signs in counts: what is shared of a file is what everybody gets who
    /// asks without any.
    fn request(mut self, is_file: bool) -> Result<Request, Problem> {
        let is_cookie = |name: &String| name.eq_ignore_ascii_case("cookie");
        if is_file && self.headers.keys().any(is_cookie) {
            return Err(Problem::bad(
                "files are for everybody: no cookie goes with them",
            ));
        }
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let scope = match self.scope.as_str() {
            "" | "single_seed_peer" => Scope::SingleSeedPeer,
            "all_seed_peers" => Scope::AllSeedPeers,
            "all_peers" => Scope::AllPeers,
            _ => {
                return Err(Problem::bad(
                    "`scope` is single_seed_peer, all_seed_peers or all_peers",
                ));
            }
        };
        let is_authorization = |name: &String| name.eq_ignore_ascii_case("authorization");
        let mut headers = self.headers.into_iter();
        let authorization = headers.find(|(name, _)| is_authorization(name));
        let seconds = match self.timeout {
            0 => None,
            seconds if seconds < NANOSECONDS => Some(seconds),
            nanoseconds => Some((nanoseconds / NANOSECONDS).max(1)),
        };
        let platforms = self.platform.split(',').map(str::trim);
        let (url, files) = match is_file {
            true => {
                self.urls.extend(some(self.url));
                (None, Some(self.urls))
            }
            false => (Some(self.url), None),
        };
        Ok(Request {
            url,
            files,
            platforms: platforms
                .filter(|one| !one.is_empty())
                .map(str::to_owned)
                .collect(),
            scope,
            ips: self.ips,
            count: self.count,
            percentage: self.percentage,
            authorization: authorization.and_then(|(_, value)| some(value)),
            username: some(self.username),
            password: some(self.password),
            concurrent_hosts: self.concurrent_peer_count,
            concurrent_contents: self.concurrent_task_count,
            timeout_seconds: seconds,
            ..Request::default()
        })
    }
}

/// A job as Harbor reads it.
#[derive(Serialize)]
pub(super) struct Answer {
    id: i64,
    created_at: String,
    updated_at: String,
    state: &'static str,
    result: Outcome,
}

#[derive(Serialize)]
struct Outcome {
    job_states: Vec<JobOutcome>,
}

#[derive(Serialize)]
struct JobOutcome {
    error: String,
    results: Vec<ClusterOutcome>,
}

#[derive(Serialize)]
struct ClusterOutcome {
    success_tasks: Vec<Task>,
    failure_tasks: Vec<Task>,
    scheduler_cluster_id: u32,
}

#[derive(Serialize)]
struct Task {
    url: String,
    hostname: String,
    ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
}

pub(super) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Answer>, Problem> {
    let asked: Asked = serde_json::from_slice(&body?).map_err(Problem::bad)?;
    let request = asked.request()?;
    let secret = request.secret().map_err(Problem::bad)?;
    let wish = request.wish().map_err(Problem::bad)?;
    let now = OffsetDateTime::now_utc();
    let created = api.jobs.create(&wish, &secret, &caller.name, now).await;
    let id = created.map_err(refused)?;
    api.wake.notify_one();
    show(State(api), Ok(Path(id))).await
}

pub(super) async fn show(
    State(api): State<Api>,
    id: Result<Path<i64>, PathRejection>,
) -> Result<Json<Answer>, Problem> {
    let Path(id) = id?;
    let job = api.jobs.get(id).await?;
    let job = job.ok_or_else(|| Problem::unknown("job"))?;
    Ok(Json(answer(&job)))
}

fn answer(job: &Job) -> Answer {
    let at = |time: OffsetDateTime| time.format(TIME).unwrap_or_default();
    let state = match job.state {
        JobState::Pending | JobState::Running => "PENDING",
        JobState::Success => "SUCCESS",
        JobState::Failure | JobState::Cancelled => "FAILURE",
    };
    let job_states = if job.state.is_final() {
        vec![outcome(job)]
    } else {
        Vec::new()
    };
    Answer {
        id: job.id,
        created_at: at(job.created_at),
        updated_at: at(job.updated_at),
        state,
        result: Outcome { job_states },
    }
}

fn outcome(job: &Job) -> JobOutcome {
    let contents = &job.progress.contents;
    let subject = &job.wish.subject;
    let url = |at: usize| subject.url_of(&contents[at]);
    let task = |host: &Host, url: String, description: Option<String>| Task {
        url,
        hostname: host.name.clone(),
        ip: host.ip.clone(),
        description,
    };
    let (mut success_tasks, mut failure_tasks) = (Vec::new(), Vec::new());
    for host in &job.progress.hosts {
        for at in (0..contents.len()).filter(|at| host.held.contains(*at)) {
            success_tasks.push(task(host, url(at), None));
        }
        for failure in &host.failures {
            let digest = failure.digest.as_deref();
            let at = digest.and_then(|digest| contents.iter().position(|one| one.digest == digest));
            let url = at.map_or_else(|| subject.to_string(), url);
            failure_tasks.push(task(host, url, Some(failure.why.clone())));
        }
        success_tasks.truncate(MOST_LISTED);
        failure_tasks.truncate(MOST_LISTED);
    }
    let results = ClusterOutcome {
        success_tasks,
        failure_tasks,
        scheduler_cluster_id: 1,
    };
    JobOutcome {
        error: error(job),
        results: vec![results],
    }
}

/// All that went wrong, for people: who lacks what, and why.
fn error(job: &Job) -> String {
    let nobody = job.progress.failures.iter().map(|failure| (None, failure));
    let hosts = job.progress.hosts.iter();
    let hosts = hosts.flat_map(|host| host.failures.iter().map(|one| (Some(&host.name), one)));
    let said = nobody
        .chain(hosts)
        .take(MOST_REASONS)
        .map(|(host, failure)| {
            let parts = [
                host.cloned(),
                failure.digest.clone(),
                Some(failure.why.clone()),
            ];
            parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
        });
    said.collect::<Vec<_>>().join("; ")
}
