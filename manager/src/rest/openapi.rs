//! The document of all routes (OpenAPI 3.1), for people and tools. It is written by hand; a
//! test holds it against the router's list and what each route needs.

use axum::{http::header, response::IntoResponse};

/// The document.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");

/// Nothing in it is a secret: tools read it before they sign in.
pub(super) async fn show() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}
