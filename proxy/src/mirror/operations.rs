//! What people do to a running mirror: have a tag looked up anew.

use axum::{
    Router,
    extract::{Query, State},
    http::StatusCode,
    routing::delete,
};
use darter_api::UpstreamName;
use darter_runtime::server::CallerAddress;
use serde::Deserialize;

use super::Mirror;

/// Which tag; an upstream's alias will do.
#[derive(Debug, Deserialize)]
struct Tag {
    upstream: String,
    repository: String,
    tag: String,
}

impl Mirror {
    /// `DELETE /tags?upstream=..&repository=..&tag=..`, from the host itself: what is
    /// remembered of the tag is forgotten.
    pub fn operations(&self) -> Router {
        Router::new()
            .route("/tags", delete(forget))
            .with_state(self.clone())
    }
}

async fn forget(
    State(mirror): State<Mirror>,
    client: CallerAddress,
    Query(tag): Query<Tag>,
) -> Result<StatusCode, (StatusCode, &'static str)> {
    if !client.is_here() {
        let what = "tags are forgotten from the host itself\n";
        return Err((StatusCode::FORBIDDEN, what));
    }
    let upstream = mirror.0.upstreams.resolve(&tag.upstream);
    let unknown = (
        StatusCode::NOT_FOUND,
        "this mirror does not know the registry\n",
    );
    let name: UpstreamName = upstream.ok_or(unknown)?.name().clone();
    let repository = tag.repository.parse();
    let repository = repository.map_err(|_| (StatusCode::BAD_REQUEST, "no repository's name\n"))?;
    mirror.forget_tag(&name, &repository, &tag.tag);
    Ok(StatusCode::NO_CONTENT)
}
