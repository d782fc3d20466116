//! The REST side, for people and tools. Answers are JSON, errors of one shape ([`problem`]).
//!
//! [`routes`] is the one list of what there is and who may call it; the router is made from it,
//! and so are the tests that leave no route out.

mod guard;
mod health;
mod jobs;
mod members;
mod problem;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::Response,
    routing::{MethodRouter, get, post},
};
use tokio::sync::Notify;

use crate::{jobs::Jobs, members::Members, metrics::Metrics};
use guard::Needs;
use problem::Problem;

/// Of a request.
const MAX_BODY: usize = 256 * 1024;

/// What handlers need. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) members: Arc<Members>,
    pub(crate) jobs: Jobs,
    /// Tells the runner of a new job.
    pub(crate) wake: Arc<Notify>,
    pub(crate) metrics: Metrics,
}

/// One method of one path.
pub(crate) struct Route {
    pub(crate) path: &'static str,
    pub(crate) needs: Needs,
    handler: MethodRouter<Api>,
}

/// All there is.
pub(crate) fn routes() -> Vec<Route> {
    let read = |path, needs, handler| Route {
        path,
        needs,
        handler,
    };
    let write = |path, handler| Route {
        path,
        needs: Needs::Operator,
        handler,
    };
    vec![
        read("/healthy", Needs::Nothing, get(health::healthy)),
        read("/api/v1/schedulers", Needs::Guest, get(members::schedulers)),
        read("/api/v1/seed-peers", Needs::Guest, get(members::seed_peers)),
        read("/api/v1/jobs", Needs::Guest, get(jobs::list)),
        write("/api/v1/jobs", post(jobs::create)),
        read("/api/v1/jobs/{id}", Needs::Guest, get(jobs::show)),
        read("/api/v1/jobs/{id}/events", Needs::Guest, get(jobs::events)),
        write("/api/v1/jobs/{id}/cancel", post(jobs::cancel)),
        write("/api/v1/jobs/{id}/retry", post(jobs::retry)),
    ]
}

/// All routes, each behind its guard.
pub(crate) fn router(api: Api) -> Router {
    let mut router = Router::new();
    for route in routes() {
        let guard = middleware::from_fn_with_state(route.needs, guard::guard);
        router = router.route(route.path, route.handler.layer(guard));
    }
    router
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "there is nothing here") })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "another method is known here",
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(api.metrics.clone(), count))
        .with_state(api)
}

async fn count(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    metrics.answered(route, response.status().as_u16());
    response
}
