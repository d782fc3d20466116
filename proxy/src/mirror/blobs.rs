//! Blobs: whole or in part, as they come.

use std::{future::Future, sync::Arc, time::Duration};

use axum::{BoxError, body::Body};
use darter_api::{Digest, Origin, OriginKind, Repository, TaskId, session::Purpose};
use darter_runtime::server::span::{Span, Spans, set_spans};
use futures::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use http::{HeaderValue, Method, Response, StatusCode, header};
use tokio::{sync::Notify, time::Instant};

use super::{
    Call, Failure,
    multipart::{Multipart, content_range},
    range::{self, Wanted},
};
use crate::{
    content::{Content, OpenError, ReadError, Sizing, Want},
    rights::Allowed,
    source::SourceError,
};

/// Once a blob's first bytes are here, so long is waited for another member's word that anybody
/// may read it: who read them from the source says so with the first of them.
const WORD: Duration = Duration::from_millis(100);
/// So often a client with a right is let begin anew where the one it joined had none.
const MOST_OTHERS: usize = 2;
/// For a size that nobody tells, so that a client gets the part that it asks for, not all.
const SIZE_PATIENCE: Duration = Duration::from_secs(1);

impl Call<'_> {
    pub(super) async fn blob(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Result<Response<Body>, Failure> {
        let origin = Origin {
            upstream: self.upstream.name().clone(),
            repository: repository.clone(),
            kind: OriginKind::Blob,
            private: self.is_private(),
        };
        if self.not_modified(&digest) {
            self.right(&origin, &digest).await?;
            return Ok(not_modified(&digest));
        }
        if self.method == Method::HEAD {
            let allowed = self.right(&origin, &digest).await?;
            let stored = self
                .mirror
                .contents
                .stored(&TaskId::from(digest))
                .map(|(size, _)| size);
            let size = stored
                .or(allowed.stat.size)
                .ok_or_else(|| Failure::Unavailable("the size is not known".to_owned()))?;
            return Ok(head(&digest, Some(size)));
        }
        self.served(&origin, digest).await
    }

    async fn right(&self, origin: &Origin, digest: &Digest) -> Result<Allowed, Failure> {
        let manifest = origin.kind == OriginKind::Manifest;
        let checked = self
            .mirror
            .rights
            .check(origin, digest, self.credential.as_ref());
        let checked = self.of_upstream(checked).await?;
        checked.map_err(|error| Failure::from_source(&error, manifest))
    }

    /// The right as another member's word gives it, until `enough`; then as it is asked for.
    async fn right_in_time(
        &self,
        origin: &Origin,
        digest: &Digest,
        enough: impl Future<Output = ()>,
    ) -> Result<Allowed, Failure> {
        let rights = &self.mirror.rights;
        if let Some(allowed) = rights.word(origin, digest, enough).await {
            return Ok(allowed);
        }
        let checked = rights.check(origin, digest, self.credential.as_ref());
        let checked = self.of_upstream_from(Instant::now(), checked).await?;
        checked.map_err(|error| Failure::from_source(&error, false))
    }

    /// The blob's first bytes, got while the right to it is; both must be had.
    async fn served(&self, origin: &Origin, digest: Digest) -> Result<Response<Body>, Failure> {
        let want = |size| Want {
            task: digest.into(),
            origin: origin.clone(),
            size,
            credential: self.credential.clone(),
            purpose: Purpose::Pull,
            excerpt: range::excerpt(self.headers),
            // A part has to say of how much it is one (RFC 9110, section 14.4). Where nobody knows
            // that yet, all of it is as good an answer (section 14.2), and one that begins at once.
            sizing: match range::is_part(self.headers) {
                true => Sizing::Within(SIZE_PATIENCE),
                false => Sizing::Unneeded,
            },
        };
        let task = TaskId::from(digest);
        let came = Notify::new();
        let get = async {
            let got = self.first_bytes(want(None), &digest).await;
            came.notify_one();
            got
        };
        // Nobody will say more of what is here already.
        let is_here = self.mirror.contents.stored(&task).is_some();
        let enough = async {
            if !is_here {
                came.notified().await;
                tokio::time::sleep(WORD).await;
            }
        };
        let right = self.right_in_time(origin, &digest, enough);
        let mut get = std::pin::pin!(get);
        let mut right = std::pin::pin!(right);
        // A refusal ends it at once; bytes that have come already wait for their right.
        let (got, allowed) = tokio::select! {
            allowed = &mut right => {
                let allowed = allowed?;
                (get.await?, allowed)
            }
            got = &mut get => (got?, right.await?),
        };
        let mut got = got;
        for _ in 0..MOST_OTHERS {
            if !matches!(&got, Err(OpenError::Source(error)) if is_of_its_asker(error)) {
                break;
            }
            // Another client of the same download was told so: this one may read it.
            got = self.first_bytes(want(allowed.stat.size), &digest).await?;
        }
        match got {
            Ok(response) => {
                // Who reads in parts knows which ones; who asks for all of a layer will for the next.
                if !range::is_part(self.headers) {
                    let credential = self.credential.as_ref();
                    self.mirror.contents.ahead(&task, origin, credential);
                }
                Ok(response)
            }
            // The source is gone, but others have it: their word for its size is enough. Or a
            // manifest lied about the size, which is known now.
            Err(OpenError::Source(error))
                if (may_be_elsewhere(&error) && allowed.stat.size.is_some())
                    || matches!(*error, SourceError::WrongSize) =>
            {
                let again = self.first_bytes(want(allowed.stat.size), &digest).await?;
                again.map_err(|error| Failure::from_open(&error, false))
            }
            Err(error) => Err(Failure::from_open(&error, false)),
        }
    }

    /// Opens a blob and waits for its first bytes.
    async fn first_bytes(
        &self,
        want: Want,
        digest: &Digest,
    ) -> Result<Result<Response<Body>, OpenError>, Failure> {
        let task = want.task;
        let open = self.mirror.contents.open(want);
        match self.of_content(&task, open).await? {
            Ok(content) => self.body(content, digest).await,
            Err(error) => Ok(Err(error)),
        }
    }

    async fn body(
        &self,
        content: Content,
        digest: &Digest,
    ) -> Result<Result<Response<Body>, OpenError>, Failure> {
        let one = |range| vec![range];
        let size = content.size.unwrap_or(u64::MAX);
        let wanted = match content.size {
            Some(size) => range::wanted(self.headers, size),
            None => Wanted::Whole,
        };
        let (status, ranges) = match wanted {
            Wanted::Whole => (StatusCode::OK, one(0..size)),
            Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, one(range)),
            Wanted::Parts(ranges) => (StatusCode::PARTIAL_CONTENT, ranges),
            Wanted::Unsatisfiable => return Ok(Ok(unsatisfiable(size))),
        };
        let mut stream = content.reader.spans(ranges[0].clone());
        let first = if ranges[0].is_empty() {
            None
        } else {
            let first = self
                .of_content(&TaskId::from(*digest), stream.next())
                .await?;
            match first.unwrap_or(Err(ReadError::ShuttingDown)) {
                Ok(first) => Some(first),
                Err(ReadError::Download(error))
                    if is_of_its_asker(&error) || matches!(*error, SourceError::WrongSize) =>
                {
                    return Ok(Err(OpenError::Source(error)));
                }
                Err(error) => return Err(Failure::from_read(&error, false)),
            }
        };
        self.mirror
            .metrics
            .first_byte(self.began.elapsed().as_secs_f64());
        let begun = stream::iter(first.map(Ok)).chain(stream).boxed();
        if let [range] = &ranges[..] {
            let length = content.size.map(|_| range.end - range.start);
            let mut response = head(digest, length);
            if status == StatusCode::PARTIAL_CONTENT {
                let value = content_range(range, size);
                let value = HeaderValue::try_from(value).map_err(|_| Failure::NotFound)?;
                response.headers_mut().insert(header::CONTENT_RANGE, value);
            }
            *response.status_mut() = status;
            set_spans(&mut response, self.stream(content, begun));
            return Ok(Ok(response));
        }
        let parts = Multipart::new(ranges, size);
        let mut response = head(digest, Some(parts.length()));
        let kind = HeaderValue::try_from(parts.media_type()).map_err(|_| Failure::NotFound)?;
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        *response.status_mut() = status;
        let reader = Arc::clone(&content.reader);
        let body = parts.body(begun, move |range| reader.spans(range));
        set_spans(&mut response, self.stream(content, body));
        Ok(Ok(response))
    }

    /// The body: its first bytes, then the rest, then nothing.
    fn stream(&self, content: Content, body: BoxStream<'static, Result<Span, ReadError>>) -> Spans {
        let bytes = self.mirror.metrics.bytes(content.provenance);
        let counted = body.inspect(move |chunk| {
            // The content is held as long as its body is.
            let _ = &content;
            match chunk {
                Ok(span) => {
                    bytes.inc_by(span.len());
                }
                Err(error) => {
                    tracing::warn!(error = super::errors::chain(error), "a body ends short")
                }
            }
        });
        counted.map_err(BoxError::from).boxed()
    }

    pub(super) fn not_modified(&self, digest: &Digest) -> bool {
        let header = self
            .headers
            .get(header::IF_NONE_MATCH)
            .and_then(|value| value.to_str().ok());
        let text = digest.to_string();
        header.is_some_and(|header| {
            header
                .split(',')
                .any(|tag| tag.trim().trim_start_matches("W/").trim_matches('"') == text)
        })
    }
}

/// Whether a source's answer is about who asked.
fn is_of_its_asker(error: &SourceError) -> bool {
    matches!(error, SourceError::Refused(_) | SourceError::Missing)
}

/// Whether a source's failure leaves hope in peers.
pub(super) fn may_be_elsewhere(error: &SourceError) -> bool {
    matches!(
        error,
        SourceError::Broken { .. }
            | SourceError::Throttled { .. }
            | SourceError::Status(_)
            | SourceError::Redirected(_)
    )
}

fn common(digest: &Digest) -> http::response::Builder {
    Response::builder()
        .header("docker-content-digest", digest.to_string())
        .header(header::ETAG, format!("\"{digest}\""))
}

pub(super) fn not_modified(digest: &Digest) -> Response<Body> {
    let response = common(digest)
        .status(StatusCode::NOT_MODIFIED)
        .body(Body::empty());
    response.expect("a digest makes valid headers")
}

/// Without a length, where nobody knows it: the body then ends as the source's does.
fn head(digest: &Digest, length: Option<u64>) -> Response<Body> {
    let mut response = common(digest).header(header::CONTENT_TYPE, "application/octet-stream");
    if let Some(length) = length {
        response = response
            .header(header::CONTENT_LENGTH, length)
            .header(header::ACCEPT_RANGES, "bytes");
    }
    let response = response.body(Body::empty());
    response.expect("a digest and a length make valid headers")
}

fn unsatisfiable(size: u64) -> Response<Body> {
    let response = Response::builder()
        .status(StatusCode::RANGE_NOT_SATISFIABLE)
        .header(header::CONTENT_RANGE, format!("bytes */{size}"))
        .body(Body::empty());
    response.expect("a length makes a valid header")
}
