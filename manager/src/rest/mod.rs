//! The REST side: who is there, for people and tools. Every answer is JSON.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{MatchedPath, Query, Request, State, rejection::QueryRejection},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use darter_api::MemberKind;
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;

use crate::{members::Members, metrics::Metrics};

/// `/healthy`, `/api/v1/schedulers`, `/api/v1/seed-peers`.
pub(crate) fn router(members: Arc<Members>, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthy", get(healthy))
        .route("/api/v1/schedulers", get(schedulers))
        .route("/api/v1/seed-peers", get(seed_peers))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "there is nothing here") })
        .method_not_allowed_fallback(|| async {
            error(StatusCode::METHOD_NOT_ALLOWED, "only GET is known here")
        })
        .layer(middleware::from_fn_with_state(metrics, count))
        .with_state(members)
}

/// What a list is narrowed to.
#[derive(Debug, Deserialize)]
struct Filter {
    active: Option<bool>,
}

type Asked = Result<Query<Filter>, QueryRejection>;

async fn healthy(State(members): State<Arc<Members>>) -> Response {
    match members.check().await {
        Ok(()) => Json(json!({"status": "ok"})).into_response(),
        Err(_) => {
            let status = Json(json!({"status": "the database fails"}));
            (StatusCode::SERVICE_UNAVAILABLE, status).into_response()
        }
    }
}

async fn schedulers(State(members): State<Arc<Members>>, asked: Asked) -> Response {
    list(&members, MemberKind::Scheduler, asked).await
}

async fn seed_peers(State(members): State<Arc<Members>>, asked: Asked) -> Response {
    list(&members, MemberKind::SeedPeer, asked).await
}

async fn list(members: &Members, kind: MemberKind, asked: Asked) -> Response {
    let Ok(Query(filter)) = asked else {
        return error(StatusCode::BAD_REQUEST, "`active` is `true` or `false`");
    };
    match members.list(kind, OffsetDateTime::now_utc()).await {
        Ok(mut list) => {
            list.retain(|known| filter.active.is_none_or(|wanted| wanted == known.active));
            Json(list).into_response()
        }
        Err(_) => error(StatusCode::SERVICE_UNAVAILABLE, "the database fails"),
    }
}

fn error(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"error": message}))).into_response()
}

async fn count(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    metrics.answered(route, response.status().as_u16());
    response
}
