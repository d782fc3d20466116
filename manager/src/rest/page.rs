//! Pages of lists. A page that is full has the address of the next one in its `Link` header
//! (RFC 8288).

use axum::{
    Json,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::problem::Problem;

/// A page.
#[derive(Debug)]
pub(super) struct Paged<T> {
    items: Vec<T>,
    next: Option<String>,
}

impl<T> Paged<T> {
    /// Of at most `limit` items; `next` makes the address of those after the last.
    pub(super) fn new(items: Vec<T>, limit: i64, next: impl FnOnce(&T) -> String) -> Self {
        let is_full = i64::try_from(items.len()).is_ok_and(|length| length >= limit);
        let next = items.last().filter(|_| is_full).map(next);
        Self { items, next }
    }
}

impl<T: Serialize> IntoResponse for Paged<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.items).into_response();
        let next = self.next.map(|next| format!("<{next}>; rel=\"next\""));
        if let Some(link) = next.and_then(|link| HeaderValue::from_str(&link).ok()) {
            response.headers_mut().insert(header::LINK, link);
        }
        response
    }
}

/// How many items a caller wants, or what is usual.
pub(super) fn limit(asked: Option<i64>, usual: i64, most: i64) -> Result<i64, Problem> {
    let limit = asked.unwrap_or(usual);
    if (1..=most).contains(&limit) {
        Ok(limit)
    } else {
        Err(Problem::bad(format!("`limit` is from 1 to {most}")))
    }
}
