//! Whether the manager can do its work. Harbor asks this before each preheat.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde_json::json;

use super::Api;

pub(super) async fn healthy(State(api): State<Api>) -> Response {
    match api.members.check().await {
        Ok(()) => Json(json!({"status": "ok"})).into_response(),
        Err(_) => {
            let status = Json(json!({"status": "the database fails"}));
            (StatusCode::SERVICE_UNAVAILABLE, status).into_response()
        }
    }
}
