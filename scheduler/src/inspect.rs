//! Tasks and their graphs, as JSON for people and tools: `GET /tasks`, `GET /tasks/{id}`.
//!
//! Nothing here owns state: the scheduler's actor is asked, and answers between two events
//! of its own. One that is too busy to be asked within [`PATIENCE`] answers 503.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use darter_api::{HostId, PieceSet, TaskId};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::{
    core::{Graph, GraphNode, HostSummary, Preheat, Preheated, Summary},
    service::Inbound,
};

/// For the actor to take a question and answer it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Tasks in one list: those that most hosts have to do with.
pub(crate) const MAX_LISTED: usize = 1000;

/// What the actor is asked.
pub(crate) enum Question {
    /// The tasks, and how many there are in all.
    Tasks(oneshot::Sender<(usize, Vec<Summary>)>),
    /// One task.
    Graph(TaskId, oneshot::Sender<Option<Graph>>),
    /// A page of tasks, by name.
    TasksAfter(Option<TaskId>, usize, oneshot::Sender<Vec<Summary>>),
    /// Those of these that are known.
    TasksOf(Vec<TaskId>, oneshot::Sender<Vec<Summary>>),
    /// A page of hosts, by key.
    Hosts(Option<HostId>, usize, oneshot::Sender<Vec<HostSummary>>),
    /// Hosts are to have a content; `None` where it has another geometry.
    Preheat(Preheat, oneshot::Sender<Option<Preheated>>),
}

pub(crate) fn router(inbox: mpsc::Sender<Inbound>) -> Router {
    Router::new()
        .route("/tasks", get(tasks))
        .route("/tasks/{id}", get(task))
        .with_state(inbox)
}

async fn tasks(State(inbox): State<mpsc::Sender<Inbound>>) -> Response {
    let Some((total, tasks)) = ask(&inbox, Question::Tasks).await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let tasks: Vec<Value> = tasks.iter().map(summary).collect();
    Json(json!({ "total": total, "tasks": tasks })).into_response()
}

async fn task(State(inbox): State<mpsc::Sender<Inbound>>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse::<TaskId>() else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match ask(&inbox, |answer| Question::Graph(id, answer)).await {
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Some(None) => StatusCode::NOT_FOUND.into_response(),
        Some(Some(graph)) => Json(shown(&id, &graph)).into_response(),
    }
}

pub(crate) async fn ask<T>(
    inbox: &mpsc::Sender<Inbound>,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> Option<T> {
    let (sender, answer) = oneshot::channel();
    let asked = async {
        inbox.send(Inbound::Asked(question(sender))).await.ok()?;
        answer.await.ok()
    };
    tokio::time::timeout(PATIENCE, asked).await.ok()?
}

fn summary(task: &Summary) -> Value {
    json!({
        "task": task.id.to_string(),
        "size": task.lengths.known_size(),
        "hosts": task.hosts,
        "waiting": task.waiting,
        "whole": task.whole,
        "readers": task.readers,
    })
}

fn shown(id: &TaskId, graph: &Graph) -> Value {
    json!({
        "task": id.to_string(),
        "size": graph.lengths.known_size(),
        "pieces": graph.pieces(),
        "hosts": graph.nodes.iter().map(|one| node(graph, one)).collect::<Vec<Value>>(),
    })
}

fn node(graph: &Graph, node: &GraphNode) -> Value {
    let neighbours = node.neighbours.iter().map(ToString::to_string);
    json!({
        "host": node.host.to_string(),
        "name": node.name,
        "held": graph.held(node),
        "wants": node.wants,
        "reads": runs(&node.leased),
        "gateway": node.gateway,
        "bad": node.bad,
        "neighbours": neighbours.collect::<Vec<String>>(),
    })
}

fn runs(pieces: &PieceSet) -> Vec<[u32; 2]> {
    let runs = pieces.runs().iter();
    runs.map(|run| [run.start, run.end]).collect()
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use darter_runtime::{Tasks, tls::Security};
    use prometheus_client::registry::Registry;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{Options, Scheduler};

    #[tokio::test]
    async fn tasks_are_asked_of_the_actor() {
        let data = tempfile::tempdir().unwrap();
        let options = Options {
            listen: ([127, 0, 0, 1], 0).into(),
            data: data.path().to_owned(),
            ..Options::default()
        };
        let tasks = Tasks::new();
        let mut registry = Registry::default();
        let scheduler = Scheduler::start(options, &Security::Plain, &tasks, &mut registry)
            .await
            .unwrap();
        let ask = |path: &str| {
            let request = Request::get(path).body(Body::empty()).unwrap();
            scheduler.router().oneshot(request)
        };
        let list = ask("/tasks").await.unwrap().into_body();
        let list = axum::body::to_bytes(list, 4096).await.unwrap();
        let list: Value = serde_json::from_slice(&list).unwrap();
        assert_eq!(list, json!({ "total": 0, "tasks": [] }));
        let unknown = format!("/tasks/sha256:{}", "0".repeat(64));
        assert_eq!(ask(&unknown).await.unwrap().status(), 404);
        assert_eq!(ask("/tasks/nonsense").await.unwrap().status(), 400);
        tasks.stop(Duration::from_secs(5)).await;
        assert_eq!(ask("/tasks").await.unwrap().status(), 503);
    }
}
