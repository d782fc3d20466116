//! Health and metrics: what operators and orchestrators ask a process.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::registry::Registry;

use crate::Tasks;

/// `/healthz`, `/readyz` and `/metrics` (OpenMetrics text). The process is ready until one of the
/// `tasks` that it lives by has ended.
pub fn router(registry: Arc<Registry>, tasks: Tasks) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(tasks)
        .route("/metrics", get(move || metrics(Arc::clone(&registry))))
}

async fn ready(State(tasks): State<Tasks>) -> Response {
    let lost = tasks.lost();
    if lost.is_empty() {
        return "ok\n".into_response();
    }
    let text = format!("not ready: {} ended\n", lost.join(", "));
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn metrics(registry: Arc<Registry>) -> Response {
    let mut text = String::new();
    if prometheus_client::encoding::text::encode(&mut text, &registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn ready_until_what_it_lives_by_has_ended() {
        let tasks = Tasks::new();
        let router = router(Arc::new(Registry::default()), tasks.clone());
        let ask = |path: &str| {
            let request = Request::get(path).body(Body::empty()).unwrap();
            router.clone().oneshot(request)
        };
        assert_eq!(ask("/readyz").await.unwrap().status(), 200);
        tasks.spawn_vital("actor", async {}).await.unwrap();
        assert_eq!(ask("/readyz").await.unwrap().status(), 503);
        assert_eq!(ask("/metrics").await.unwrap().status(), 200);
    }
}
