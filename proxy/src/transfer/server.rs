//! The peer port: pieces for other peers.
//!
//! A reply is the length of a proof (4 bytes, the highest first) and the proof, the digests of the
//! piece's groups, and its bytes. Of a content whose size was not known when it began, there are
//! behind the proof the length of a second one and that, of where the content ends, and the size (8
//! bytes); the length and the size are 0 while that is not known. The first proof's length is 0, and
//! there are no digests, where the content's own digest proves the piece, and past the end.

use std::{ops::Range, sync::Arc};

use axum::{
    BoxError, Extension, Router,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::{BufMut as _, Bytes, BytesMut};
use darter_api::{PieceIndex, Proof, TaskId, wire::v1};
use darter_runtime::server::{
    PeerIdentity,
    span::{Span, set_spans},
};
use futures::StreamExt as _;
use prost::Message as _;
use serde::Deserialize;

use super::{
    HOST_HEADER, MEDIA_TYPE_HEADER, Metrics, PREHEAT, PURPOSE_HEADER,
    fair::{Slot, Slots},
};
use crate::{
    limits::{Class, Direction, Limits},
    store::{Store, StoredPiece},
};

/// Bytes given to the connection at once.
const STEP: u64 = 1 << 20;

/// Serves the pieces of one store.
#[derive(Clone)]
pub struct PieceServer {
    store: Store,
    slots: Slots,
    limits: Limits,
    metrics: Metrics,
}

#[derive(Deserialize)]
struct Geometry {
    size: u64,
}

impl PieceServer {
    /// Of this store, to whoever has a slot.
    pub fn new(store: Store, slots: Slots, limits: Limits, metrics: Metrics) -> Self {
        Self {
            store,
            slots,
            limits,
            metrics,
        }
    }

    /// `GET /v1/tasks/<task>/pieces/<index>?size=<bytes>`
    pub fn router(self) -> Router {
        Router::new()
            .route("/v1/tasks/{task}/pieces/{index}", get(piece))
            .with_state(Arc::new(self))
    }

    fn find(&self, task: &str, index: &str, size: u64) -> Result<StoredPiece, StatusCode> {
        let task: TaskId = task.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
        let index = index.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
        let lengths = self.store.lengths(&task).ok_or(StatusCode::NOT_FOUND)?;
        if lengths.size() != size {
            return Err(StatusCode::CONFLICT);
        }
        let found = self
            .store
            .piece(&task, PieceIndex(index))
            .map_err(|cause| {
                tracing::warn!(%task, %cause, "a stored piece can't be read");
                StatusCode::NOT_FOUND
            })?;
        // A piece without a proof can't be believed by anybody, but some need none.
        let found = match task.proves_itself(&lengths) {
            true => found.map(StoredPiece::without_proof),
            // Past the end there is nothing to be proved but the end.
            false => found.filter(|piece| piece.proof().is_some() || piece.range().is_empty()),
        };
        found.ok_or(StatusCode::NOT_FOUND)
    }
}

async fn piece(
    State(server): State<Arc<PieceServer>>,
    Path((task, index)): Path<(String, String)>,
    Query(geometry): Query<Geometry>,
    identity: Option<Extension<PeerIdentity>>,
    headers: HeaderMap,
) -> Response {
    let piece = match server.find(&task, &index, geometry.size) {
        Ok(piece) => piece,
        Err(status) => {
            server.metrics.upload(if status == StatusCode::NOT_FOUND {
                "not_held"
            } else {
                "bad_request"
            });
            return status.into_response();
        }
    };
    // A certificate knows better than the requester itself.
    let child = match &identity {
        Some(Extension(PeerIdentity(host))) => &host.as_bytes()[..],
        None => headers
            .get(HOST_HEADER)
            .map_or(&b""[..], |name| name.as_bytes()),
    };
    let class = class(&headers);
    let range = piece.range();
    let bytes = range.end - range.start;
    let Ok(slot) = server.slots.acquire(child.into(), class, bytes).await else {
        server.metrics.upload("busy");
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    server.metrics.upload("sent");
    let is_open = task.parse().is_ok_and(|task: TaskId| task.is_open());
    send(&server, piece, is_open, slot, class)
}

/// Whether somebody waits for it where it goes.
fn class(headers: &HeaderMap) -> Class {
    match headers.get(PURPOSE_HEADER) {
        Some(purpose) if purpose == PREHEAT => Class::Background,
        _ => Class::Foreground,
    }
}

fn send(
    server: &PieceServer,
    piece: StoredPiece,
    is_open: bool,
    slot: Slot,
    class: Class,
) -> Response {
    let metrics = server.metrics.clone();
    let head = head(&piece, is_open);
    let range = piece.range();
    let length = head.len() as u64 + (range.end - range.start);
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, length);
    if let Some(media_type) = piece.media_type() {
        response = response.header(MEDIA_TYPE_HEADER, media_type);
    }
    let Ok(mut response) = response.body(Body::empty()) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    metrics.uploading.inc();
    let place = Place {
        metrics: metrics.clone(),
        slot,
    };
    let sending = Sending {
        rest: range,
        piece,
        class,
        limits: server.limits.clone(),
        metrics,
        place: Some(place),
    };
    let bytes = futures::stream::unfold(sending, Sending::next);
    let head = futures::stream::iter([Ok(Span::Bytes(head))]);
    set_spans(&mut response, head.chain(bytes).boxed());
    response
}

/// Proof and group digests, before the bytes; between them, of a content whose size was not known
/// when it began, where it ends, if that is known.
fn head(piece: &StoredPiece, is_open: bool) -> Bytes {
    let proof = encoded(piece.proof());
    let groups = if proof.is_empty() {
        &[]
    } else {
        piece.groups()
    };
    let mut head = BytesMut::with_capacity(4 + proof.len() + groups.len() * 32);
    head.put_u32(proof.len() as u32);
    head.put_slice(&proof);
    if is_open {
        let end = encoded(piece.end().map(|end| &end.proof));
        head.put_u32(end.len() as u32);
        head.put_slice(&end);
        head.put_u64(piece.end().map_or(0, |end| end.size));
    }
    for group in groups {
        head.put_slice(&group.0);
    }
    head.freeze()
}

/// Nothing, where there is none.
fn encoded(proof: Option<&Proof>) -> Vec<u8> {
    proof.map_or_else(Vec::new, |proof| v1::Proof::from(proof).encode_to_vec())
}

/// A piece under way.
struct Sending {
    rest: Range<u64>,
    piece: StoredPiece,
    class: Class,
    limits: Limits,
    metrics: Metrics,
    place: Option<Place>,
}

/// A slot that is taken until the kernel has the last byte.
struct Place {
    metrics: Metrics,
    slot: Slot,
}

impl Sending {
    async fn next(mut self) -> Option<(Result<Span, BoxError>, Self)> {
        if self.rest.is_empty() {
            return None;
        }
        let step = self.limits.portion(Direction::Upload).unwrap_or(STEP);
        let end = (self.rest.start + step).min(self.rest.end);
        let length = end - self.rest.start;
        self.limits
            .pass(Direction::Upload, self.class, length)
            .await;
        let mut span = self.piece.span(self.rest.start..end);
        self.rest.start = end;
        self.metrics.upload_bytes.inc_by(length);
        if self.rest.is_empty() {
            let mut place = self.place.take();
            if let Some(place) = &mut place {
                place.slot.ends();
            }
            span = span.keeping((self.piece.clone(), place));
        }
        Some((Ok(Span::File(span)), self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.uploading.dec();
    }
}
