//! Tasks, images and hosts, as all active schedulers know them, and what is done everywhere;
//! or in one cluster (`?cluster=`).

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::header,
    response::{IntoResponse, Response},
};
use darter_api::{ClusterName, HostId, TaskId, wire::v1};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Api, clusters, page::limit, problem::Problem};
use crate::{
    jobs::Image as ImageName,
    tasks::{DoneView, DroppedView, GraphView, Operations, Outcome, PeerView, Silent, TaskView},
};

/// Tasks or hosts on a page unless asked otherwise; and at most.
const PAGE: (i64, i64) = (100, 1000);

/// A page of what schedulers know.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    /// Those that follow this one.
    after: Option<String>,
    limit: Option<i64>,
    cluster: Option<ClusterName>,
}

type Asked = Result<Query<Page>, QueryRejection>;

/// Where a task is looked at or dropped; everywhere unless it is said.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Within {
    cluster: Option<ClusterName>,
}

type AskedWithin = Result<Query<Within>, QueryRejection>;

/// An image, by its name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Image {
    image: String,
    cluster: Option<ClusterName>,
}

type AskedImage = Result<Query<Image>, QueryRejection>;

#[derive(Debug, Serialize)]
pub(super) struct Tasks {
    tasks: Vec<TaskView>,
    /// Schedulers that could not be asked.
    silent: Vec<Silent>,
}

#[derive(Debug, Serialize)]
struct Peers {
    peers: Vec<PeerView>,
    silent: Vec<Silent>,
}

/// What the next page's address has to repeat.
fn same(cluster: Option<&ClusterName>) -> String {
    cluster.map_or_else(String::new, |cluster| format!("&cluster={cluster}"))
}

/// A body, with the address of the next page where this one is full.
fn paged(body: impl Serialize, items: usize, limit: i64, next: Option<String>) -> Response {
    let next = next.filter(|_| i64::try_from(items).is_ok_and(|items| items >= limit));
    match next {
        Some(next) => (
            [(header::LINK, format!("<{next}>; rel=\"next\""))],
            Json(body),
        )
            .into_response(),
        None => Json(body).into_response(),
    }
}

/// The schedulers that are asked.
fn schedulers(api: &Api, cluster: Option<ClusterName>) -> Result<Operations, Problem> {
    if let Some(cluster) = &cluster {
        clusters::found(api, cluster)?;
    }
    Ok(api.operations.within(cluster))
}

fn task_of(text: &str) -> Result<TaskId, Problem> {
    let nonsense = |_| Problem::bad("no task is called so: tasks are sha256:.. or file:..");
    text.parse().map_err(nonsense)
}

fn image(text: &str) -> Result<v1::PreheatImage, Problem> {
    let name = ImageName::parse(text).map_err(Problem::bad)?;
    Ok(name.on_the_wire(Vec::new()))
}

pub(super) async fn list(State(api): State<Api>, page: Asked) -> Result<Response, Problem> {
    let Query(page) = page?;
    let most = limit(page.limit, PAGE.0, PAGE.1)?;
    let after = page.after.as_deref().map(task_of).transpose()?;
    let same = same(page.cluster.as_ref());
    let schedulers = schedulers(&api, page.cluster)?;
    let said = schedulers.tasks(after.as_ref(), most as u32, &[]).await?;
    let next = said.answers.last();
    let next = next.map(|last| format!("/api/v1/tasks?after={}&limit={most}{same}", last.task));
    let items = said.answers.len();
    let body = Tasks {
        tasks: said.answers,
        silent: said.silent,
    };
    Ok(paged(body, items, most, next))
}

/// What a task's swarm looks like now.
pub(super) async fn show(
    State(api): State<Api>,
    id: Result<Path<String>, PathRejection>,
    within: AskedWithin,
) -> Result<Json<GraphView>, Problem> {
    let (Path(id), Query(within)) = (id?, within?);
    let schedulers = schedulers(&api, within.cluster)?;
    let said = schedulers.task(&task_of(&id)?).await?;
    let graph = said.answers.into_iter().next();
    graph.map(Json).ok_or_else(|| Problem::unknown("task"))
}

pub(super) async fn remove(
    State(api): State<Api>,
    id: Result<Path<String>, PathRejection>,
    within: AskedWithin,
) -> Result<Json<Outcome<DroppedView>>, Problem> {
    let (Path(id), Query(within)) = (id?, within?);
    let schedulers = schedulers(&api, within.cluster)?;
    let dropped = schedulers.drop_all(&[task_of(&id)?], false).await?;
    Ok(Json(dropped))
}

/// What an image is made of, and who has it.
pub(super) async fn show_image(
    State(api): State<Api>,
    asked: AskedImage,
) -> Result<Json<Tasks>, Problem> {
    let Query(asked) = asked?;
    let schedulers = schedulers(&api, asked.cluster)?;
    let (contents, mut silent) = schedulers.contents(image(&asked.image)?).await?;
    if contents.is_empty() {
        return Err(Problem::unknown("image on any host"));
    }
    let said = schedulers.tasks(None, 1, &contents).await?;
    let mut tasks = said.answers;
    let place = |task: &TaskView| contents.iter().position(|one| one.to_string() == task.task);
    tasks.sort_by_cached_key(place);
    silent.extend(said.silent);
    silent.sort_by(|a, b| a.scheduler.cmp(&b.scheduler));
    silent.dedup_by(|a, b| a.scheduler == b.scheduler);
    Ok(Json(Tasks { tasks, silent }))
}

/// Drops an image everywhere, but what other images need that are pinned.
pub(super) async fn remove_image(
    State(api): State<Api>,
    asked: AskedImage,
) -> Result<Json<Outcome<DroppedView>>, Problem> {
    let Query(asked) = asked?;
    let schedulers = schedulers(&api, asked.cluster)?;
    let (contents, silent) = schedulers.contents(image(&asked.image)?).await?;
    if contents.is_empty() {
        return Err(Problem::unknown("image on any host"));
    }
    let mut dropped = schedulers.drop_all(&contents, true).await?;
    let is_new = |one: &Silent| {
        !dropped
            .silent
            .iter()
            .any(|known| known.scheduler == one.scheduler)
    };
    let more: Vec<Silent> = silent.into_iter().filter(is_new).collect();
    dropped.silent.extend(more);
    Ok(Json(dropped))
}

/// Has all hosts ask the registry what a tag stands for, the next time.
pub(super) async fn invalidate(
    State(api): State<Api>,
    asked: AskedImage,
) -> Result<Json<Outcome<DoneView>>, Problem> {
    let Query(asked) = asked?;
    let image = image(&asked.image)?;
    if matches!(
        image.reference,
        Some(v1::preheat_image::Reference::Digest(_))
    ) {
        return Err(Problem::bad("a digest stands for itself: name a tag"));
    }
    let schedulers = schedulers(&api, asked.cluster)?;
    Ok(Json(schedulers.forget_tag(image).await?))
}

pub(super) async fn peers(State(api): State<Api>, page: Asked) -> Result<Response, Problem> {
    let Query(page) = page?;
    let most = limit(page.limit, PAGE.0, PAGE.1)?;
    let after = page.after.as_deref().map(str::parse::<HostId>).transpose();
    let after = after.map_err(|_| Problem::bad("`after` is a host's key"))?;
    let same = same(page.cluster.as_ref());
    let schedulers = schedulers(&api, page.cluster)?;
    let said = schedulers.peers(after.as_ref(), most as u32).await?;
    let next = said.answers.last();
    let next = next.map(|last| format!("/api/v1/peers?after={}&limit={most}{same}", last.host));
    let items = said.answers.len();
    let body = json!(Peers {
        peers: said.answers,
        silent: said.silent,
    });
    Ok(paged(body, items, most, next))
}
