//! ETags of what has versions.

use axum::http::{HeaderMap, header};

use super::problem::Problem;

pub(super) fn tag(version: i64) -> String {
    format!("\"{version}\"")
}

/// The version that a writer has seen (`If-Match`), if he says so.
pub(super) fn known(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let version = text.trim_matches('"').parse::<i64>();
    let version = version.ok().filter(|version| *version >= 0);
    version
        .map(Some)
        .ok_or_else(|| Problem::bad("`If-Match` is an ETag of what is changed"))
}
