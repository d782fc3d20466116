//! The peer port: groups for hosts that read small parts of a content.
//!
//! Who asks shows the grant by which the scheduler made this host the content's reader, and says
//! where it can be read; the upstream is looked up in this host's own closed list and read with
//! its own credentials or none. Every group goes with this host's signature for it. At most
//! [`MOST_SERVED`] requests are answered at a time; one that waits for longer than [`PATIENCE`]
//! is told that the host is busy, and helps itself.

use std::{ops::Range, sync::Arc, time::Duration};

use axum::{
    BoxError, Router,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use darter_api::{
    NodeKey, OriginKind, TaskId,
    link::Excerpt,
    proof::{ExcerptStatement, GroupDigest},
    session::Purpose,
    wire::v1,
};
use futures::{StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{fetch::cut, reader::ExcerptReader};
use crate::{
    content::{ReadError, Reader as _, Sizing, Want},
    limits::{Class, Direction},
    source::SourceError,
    swarm::driver::{Shared, Swarm},
    transfer::EXCERPT_HEADER,
};

/// Requests that are answered at the same time; each has two groups in memory.
const MOST_SERVED: usize = 64;
/// For one's turn.
const PATIENCE: Duration = Duration::from_secs(1);
/// Groups of one request: 4 MiB.
const MOST_GROUPS: u32 = 64;
/// Bytes of [`EXCERPT_HEADER`]; a grant and an origin are a few hundred.
const MOST_HEADER: usize = 4096;

struct Server {
    shared: Arc<Shared>,
    turns: Arc<Semaphore>,
}

#[derive(Deserialize)]
struct Run {
    count: u32,
}

/// `GET /v1/tasks/<task>/groups/<first>?count=<groups>`
pub fn router(swarm: &Swarm) -> Router {
    let server = Server {
        shared: Arc::clone(&swarm.0),
        turns: Arc::new(Semaphore::new(MOST_SERVED)),
    };
    Router::new()
        .route("/v1/tasks/{task}/groups/{first}", get(groups))
        .with_state(Arc::new(server))
}

async fn groups(
    State(server): State<Arc<Server>>,
    Path((task, first)): Path<(String, u32)>,
    Query(run): Query<Run>,
    headers: HeaderMap,
) -> Response {
    let Some(excerpt) = excerpt(&headers) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let Some(groups) = run_of(&task, first, run.count, &excerpt) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    if !server.is_reader(&excerpt) {
        return StatusCode::FORBIDDEN.into_response();
    }
    match server.send(excerpt, groups).await {
        Ok(response) => response,
        Err(status) => status.into_response(),
    }
}

fn excerpt(headers: &HeaderMap) -> Option<Excerpt> {
    let text = headers.get(EXCERPT_HEADER)?.as_bytes();
    if text.len() > MOST_HEADER {
        return None;
    }
    let bytes = STANDARD.decode(text).ok()?;
    v1::Excerpt::decode(&bytes[..]).ok()?.try_into().ok()
}

/// The groups that are asked for, if the content has them and they are few enough.
fn run_of(task: &str, first: u32, count: u32, excerpt: &Excerpt) -> Option<Range<u32>> {
    let (grant, end) = (&excerpt.grant, first.checked_add(count)?);
    let all = grant.lengths.groups_of(0..grant.lengths.size());
    let same = task.parse::<TaskId>() == Ok(grant.task);
    let fits = (1..=MOST_GROUPS).contains(&count) && end <= all.end;
    (same && fits).then_some(first..end)
}

impl Server {
    /// Whether the scheduler made this host the one that reads the content for all.
    fn is_reader(&self, excerpt: &Excerpt) -> bool {
        let (shared, grant) = (&self.shared, &excerpt.grant);
        excerpt.origin.kind == OriginKind::Blob
            && grant.holder == shared.key.id()
            && grant.pieces == (0..grant.lengths.pieces())
            && shared.trust.obeys(grant)
            && grant.is_authentic()
    }

    async fn send(&self, excerpt: Excerpt, groups: Range<u32>) -> Result<Response, StatusCode> {
        let busy = StatusCode::SERVICE_UNAVAILABLE;
        let turn = Arc::clone(&self.turns).acquire_owned();
        let turn = tokio::time::timeout(PATIENCE, turn).await;
        let turn = turn.map_err(|_| busy)?.map_err(|_| busy)?;
        let (shared, Excerpt { origin, grant }) = (Arc::clone(&self.shared), excerpt);
        let (task, lengths) = (grant.task, grant.lengths);
        let opening = Arc::clone(&shared);
        let opened = tokio::task::spawn_blocking(move || opening.excerpts.open(task, lengths));
        let file = opened.await.map_err(|_| busy)?.map_err(|_| busy)?;
        let want = Want {
            task,
            origin,
            size: Some(lengths.size()),
            credential: None,
            purpose: Purpose::Seed,
            excerpt: None,
            sizing: Sizing::Unneeded,
        };
        let bytes = lengths.bytes_of_groups(groups.clone());
        let reader = ExcerptReader::for_others(&shared, file, want);
        let mut read = cut(reader.read(bytes.clone()), bytes.clone());
        // No status line leaves before the first bytes are here.
        let begun = read.next().await.unwrap_or(Err(ReadError::ShuttingDown));
        let begun = begun.map_err(|error| status_of(&error))?;
        let read = futures::stream::iter([Ok(begun)]).chain(read);
        let first = groups.start;
        let signed = read.enumerate().then(move |(at, group)| {
            let shared = Arc::clone(&shared);
            let number = first + at as u32;
            async move {
                let group = group.map_err(BoxError::from)?;
                let length = group.len() as u64;
                let (limits, class) = (&shared.limits, Class::Foreground);
                limits.pass(Direction::Upload, class, length).await;
                shared.transfers.upload_bytes.inc_by(length);
                let signature = sign(&shared.key, &task, &lengths, number, &group);
                Ok::<_, BoxError>([Bytes::copy_from_slice(&signature), group])
            }
        });
        let flat = signed.map_ok(|both| futures::stream::iter(both.map(Ok::<_, BoxError>)));
        let body = flat.try_flatten().inspect(move |_| {
            // It is this request's until its last byte.
            let _ = &turn;
        });
        let length = groups.len() as u64 * 64 + (bytes.end - bytes.start);
        Response::builder()
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, length)
            .body(Body::from_stream(body))
            .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
    }
}

fn sign(
    key: &NodeKey,
    task: &TaskId,
    lengths: &darter_api::Lengths,
    group: u32,
    bytes: &[u8],
) -> [u8; 64] {
    ExcerptStatement::sign(key, task, lengths, group, GroupDigest::of(bytes)).signature
}

fn status_of(error: &ReadError) -> StatusCode {
    match error {
        ReadError::Download(cause) => match &**cause {
            SourceError::Refused(_) | SourceError::Forbidden => StatusCode::FORBIDDEN,
            error if error.is_missing() => StatusCode::NOT_FOUND,
            _ => StatusCode::BAD_GATEWAY,
        },
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use darter_api::{Digest, Grant, Lengths, Origin};

    use super::*;

    #[test]
    fn only_a_few_groups_that_the_content_has_are_given() {
        let task = TaskId::from(Digest::sha256(b"x"));
        let lengths = Lengths::of(100 << 16).unwrap();
        let key = NodeKey::from_seed([1; 32]);
        let pieces = 0..lengths.pieces();
        let excerpt = Excerpt {
            origin: Origin {
                upstream: "docker.io".parse().unwrap(),
                repository: "library/app".parse().unwrap(),
                kind: OriginKind::Blob,
                private: false,
            },
            grant: Grant::sign(&key, key.id(), task, lengths, pieces, 0),
        };
        let ask = |first, count| run_of(&task.to_string(), first, count, &excerpt);
        assert_eq!(ask(0, 64), Some(0..64));
        assert_eq!(ask(99, 1), Some(99..100));
        for (first, count) in [(0, 65), (0, 0), (99, 2), (u32::MAX, 1), (100, 1)] {
            assert_eq!(ask(first, count), None, "{first} {count}");
        }
        let other = Digest::sha256(b"y").to_string();
        assert_eq!(run_of(&other, 0, 1, &excerpt), None);
        let mut headers = HeaderMap::new();
        let wire = v1::Excerpt::from(&excerpt).encode_to_vec();
        let text = STANDARD.encode(wire);
        assert!(text.len() < MOST_HEADER);
        headers.insert(EXCERPT_HEADER, text.parse().unwrap());
        assert_eq!(super::excerpt(&headers), Some(excerpt));
        for wrong in ["", "!", "AAAA"] {
            headers.insert(EXCERPT_HEADER, wrong.parse().unwrap());
            assert_eq!(super::excerpt(&headers), None);
        }
        assert_eq!(super::excerpt(&HeaderMap::new()), None);
    }
}
