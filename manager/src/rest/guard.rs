//! Who may call a route.

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use darter_runtime::server::ClientAddress;

use super::problem::Problem;

/// What a caller needs to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Needs {
    /// Anybody.
    Nothing,
    /// May look.
    Guest,
    /// May have things done.
    Operator,
}

/// Lets nobody past who may not; until there are users, only this host has things done.
pub(super) async fn guard(State(needs): State<Needs>, request: Request, next: Next) -> Response {
    let client = request.extensions().get::<ClientAddress>();
    let is_local = client.is_some_and(|client| client.0.ip().to_canonical().is_loopback());
    if needs >= Needs::Operator && !is_local {
        let what = "only the manager's own host may have things done";
        return Problem::new(StatusCode::FORBIDDEN, what).into_response();
    }
    next.run(request).await
}
