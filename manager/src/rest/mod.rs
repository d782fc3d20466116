//! The REST side, for people and tools. Answers are JSON, errors of one shape ([`problem`]).
//!
//! [`routes`] is the one list of what there is and who may call it; the router is made from it,
//! and so are the tests that leave no route out.

mod accounts;
mod clusters;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod guard;
mod health;
mod hooks;
mod jobs;
mod members;
mod oapi;
mod openapi;
mod page;
mod problem;
mod settings;
mod tags;
mod tasks;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{Method, StatusCode},
    middleware::{self, Next},
    response::Response,
    routing::{MethodRouter, delete, get, post, put},
};
use darter_runtime::Tasks;
use tokio::sync::{Notify, Semaphore};

use crate::{
    accounts::{Accounts, Role},
    clusters::Clusters,
    credentials::Credentials,
    jobs::Jobs,
    members::Members,
    metrics::Metrics,
    options::Access,
    pushes::PushRule,
    settings::Settings,
    tasks::Operations,
};
use problem::Problem;

/// Of a request.
const MAX_BODY: usize = 256 * 1024;
/// Jobs that are followed at the same time, each with a look at the database every quarter second.
pub(crate) const MOST_STREAMS: usize = 128;
/// Writes at the same time; others wait for their turn.
pub(crate) const MOST_WRITES: usize = 128;

/// What handlers need. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) members: Arc<Members>,
    pub(crate) jobs: Jobs,
    pub(crate) accounts: Accounts,
    pub(crate) clusters: Clusters,
    pub(crate) settings: Settings,
    /// What schedulers know, and have hosts do.
    pub(crate) operations: Operations,
    /// What those are who show nothing.
    pub(crate) access: Access,
    /// What jobs may call by a name.
    pub(crate) credentials: Credentials,
    /// Which pushes are preheated.
    pub(crate) pushes: Arc<[PushRule]>,
    /// Turns of those who follow a job.
    pub(crate) streams: Arc<Semaphore>,
    /// Turns of writes, which go on when their callers hang up.
    pub(crate) writes: Arc<Semaphore>,
    pub(crate) tasks: Tasks,
    /// Tells the runner of a new job.
    pub(crate) wake: Arc<Notify>,
    pub(crate) metrics: Metrics,
}

/// One method of one path.
pub(crate) struct Route {
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the router knows it by the handler; tests ask")
    )]
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    /// What a caller has to be at least.
    pub(crate) needs: Role,
    handler: MethodRouter<Api>,
}

/// All there is.
pub(crate) fn routes() -> Vec<Route> {
    use Role::{Guest, None, Operator, Root};
    let route = |method, path, needs, handler| Route {
        method,
        path,
        needs,
        handler,
    };
    let read = |path, needs, handler| route(Method::GET, path, needs, handler);
    let write = |path, needs, handler| route(Method::POST, path, needs, handler);
    vec![
        read("/healthy", None, get(health::healthy)),
        read("/health", None, get(health::healthy)),
        read("/api/v1/openapi.json", None, get(openapi::show)),
        read("/api/v1/schedulers", Guest, get(members::schedulers)),
        read("/api/v1/seed-peers", Guest, get(members::seed_peers)),
        read("/api/v1/jobs", Guest, get(jobs::list)),
        write("/api/v1/jobs", Operator, post(jobs::create)),
        read("/api/v1/jobs/{id}", Guest, get(jobs::show)),
        read("/api/v1/jobs/{id}/events", Guest, get(jobs::events)),
        write("/api/v1/jobs/{id}/cancel", Operator, post(jobs::cancel)),
        write("/api/v1/jobs/{id}/retry", Operator, post(jobs::retry)),
        write("/api/v1/hooks/harbor", Operator, post(hooks::harbor)),
        read("/api/v1/tokens", Root, get(accounts::tokens)),
        write("/api/v1/tokens", Root, post(accounts::create_token)),
        route(
            Method::DELETE,
            "/api/v1/tokens/{id}",
            Root,
            delete(accounts::revoke_token),
        ),
        route(
            Method::PUT,
            "/api/v1/users/{name}/password",
            Root,
            put(accounts::set_password),
        ),
        read("/api/v1/audit", Root, get(accounts::audit)),
        read("/api/v1/clusters", Guest, get(clusters::list)),
        read("/api/v1/clusters/{name}", Guest, get(clusters::show)),
        route(
            Method::PUT,
            "/api/v1/clusters/{name}",
            Operator,
            put(clusters::put),
        ),
        route(
            Method::DELETE,
            "/api/v1/clusters/{name}",
            Operator,
            delete(clusters::remove),
        ),
        read("/api/v1/credentials", Operator, get(jobs::credentials)),
        read("/api/v1/peers", Guest, get(tasks::peers)),
        read("/api/v1/tasks", Guest, get(tasks::list)),
        read("/api/v1/tasks/{task}", Guest, get(tasks::show)),
        route(
            Method::DELETE,
            "/api/v1/tasks/{task}",
            Operator,
            delete(tasks::remove),
        ),
        read("/api/v1/images", Guest, get(tasks::show_image)),
        route(
            Method::DELETE,
            "/api/v1/images",
            Operator,
            delete(tasks::remove_image),
        ),
        write("/api/v1/tags/invalidate", Operator, post(tasks::invalidate)),
        read("/api/v1/settings", Guest, get(settings::show)),
        route(
            Method::PUT,
            "/api/v1/settings",
            Operator,
            put(settings::change),
        ),
        read("/api/v1/settings/versions", Guest, get(settings::versions)),
        write(
            "/api/v1/settings/versions/{id}/restore",
            Operator,
            post(settings::restore),
        ),
        write("/oapi/v1/jobs", Operator, post(oapi::create)),
        read("/oapi/v1/jobs/{id}", Guest, get(oapi::show)),
        write(
            "/registry/notifications",
            Operator,
            post(hooks::notifications),
        ),
    ]
}

/// All routes, each behind its guard.
pub(crate) fn router(api: Api) -> Router {
    let mut router = Router::new();
    for route in routes() {
        let state = (api.clone(), route.needs);
        let guard = middleware::from_fn_with_state(state, guard::guard);
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

#[cfg(test)]
mod tests;
