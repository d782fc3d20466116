//! Registries as a source of contents.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use darter_api::{Digest, Origin, OriginKind, Repository, UpstreamName, session::MOST_MEDIA_TYPE};
use futures::{StreamExt as _, future::BoxFuture, stream::BoxStream};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::{Ask, Upstream, Upstreams, http_client::HEADER_TIMEOUT, stats::Question};
use crate::{
    credential::Credential,
    source::{Body, Read, Source, SourceError, Stat},
};

/// A body that has not begun so long after its head is cut: clients still wait for
/// theirs.
const BODY_BEGIN: Duration = HEADER_TIMEOUT;
/// A body that sends nothing for so long is cut, and resumed by whoever reads it.
const BODY_IDLE: Duration = Duration::from_secs(5);

/// All manifest types that this proxy passes on.
pub(crate) const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.oci.artifact.manifest.v1+json, */*";

impl Source for Upstreams {
    fn stat(
        &self,
        origin: &Origin,
        digest: &Digest,
        credential: Option<&Credential>,
    ) -> BoxFuture<'static, Result<Stat, SourceError>> {
        let upstream = self.resolve(origin.upstream.as_str()).cloned();
        let (origin, digest, credential) = (origin.clone(), *digest, credential.cloned());
        Box::pin(async move {
            let upstream = upstream.ok_or(SourceError::Missing)?;
            let key = Question::new(&origin, &digest, credential.as_ref());
            let ask = Box::pin(upstream.ask_stat(&origin, &digest, credential.as_ref()));
            upstream.stats.once(key, ask).await
        })
    }

    fn is_anonymous(&self, upstream: &UpstreamName) -> bool {
        let upstream = self.resolve(upstream.as_str());
        upstream.is_some_and(|upstream| !upstream.has_own_credentials())
    }

    fn read(&self, read: Read) -> BoxFuture<'static, Result<Body, SourceError>> {
        let upstream = self.resolve(read.origin.upstream.as_str()).cloned();
        Box::pin(async move {
            let upstream = upstream.ok_or(SourceError::Missing)?;
            upstream.read(read).await
        })
    }
}

fn path(origin: &Origin, digest: &Digest) -> String {
    let kind = match origin.kind {
        OriginKind::Blob => "blobs",
        OriginKind::Manifest => "manifests",
    };
    format!("/v2/{}/{kind}/{digest}", origin.repository)
}

fn headers(kind: OriginKind) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if kind == OriginKind::Manifest {
        headers.insert(header::ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
    }
    // Any other coding would have another digest.
    headers.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    headers
}

impl Upstream {
    async fn ask_stat(
        &self,
        origin: &Origin,
        digest: &Digest,
        credential: Option<&Credential>,
    ) -> Result<Stat, SourceError> {
        let ask = |method: Method, range: Option<&'static str>| {
            let mut headers = headers(origin.kind);
            if let Some(range) = range {
                headers.insert(header::RANGE, HeaderValue::from_static(range));
            }
            Ask {
                method,
                path: path(origin, digest),
                headers,
                repository: Some(&origin.repository),
                credential,
                insists: false,
            }
        };
        let one_byte = ask(Method::GET, Some("bytes=0-0"));
        let stat = match self.ask(ask(Method::HEAD, None)).await {
            Err(error) if error.is_of_the_method() => {
                return Ok(stat_of(&self.ask(one_byte).await?));
            }
            reply => stat_of(&reply?),
        };
        if stat.size.is_some() || origin.kind == OriginKind::Manifest {
            return Ok(stat);
        }
        // Only with a size can several read a blob, and clients be told its length at once: a range
        // may tell what the HEAD did not.
        let size = self
            .ask(one_byte)
            .await
            .ok()
            .and_then(|reply| stat_of(&reply).size);
        Ok(Stat { size, ..stat })
    }

    /// What the reply to a tag says of the manifest that it names.
    pub(crate) async fn told_by_tag(
        &self,
        repository: &Repository,
        digest: &Digest,
        credential: Option<&Credential>,
        reply: &Response<Incoming>,
    ) {
        let origin = Origin {
            upstream: self.name.clone(),
            repository: repository.clone(),
            kind: OriginKind::Manifest,
            private: false,
        };
        let question = Question::new(&origin, digest, credential);
        self.stats.told(question, stat_of(reply)).await;
    }

    async fn read(self: Arc<Self>, read: Read) -> Result<Body, SourceError> {
        let mut headers = headers(read.origin.kind);
        if let Some(Range { start, end }) = read.range {
            if end <= start {
                return Err(SourceError::Protocol("an empty range was asked for"));
            }
            let range = format!("bytes={start}-{}", end - 1);
            let range = HeaderValue::try_from(range)
                .map_err(|_| SourceError::Protocol("the range makes no header"))?;
            headers.insert(header::RANGE, range);
        }
        let ask = Ask {
            method: Method::GET,
            path: path(&read.origin, &read.digest),
            headers,
            repository: Some(&read.origin.repository),
            credential: read.credential.as_ref(),
            // Whoever reads resumes with growing pauses.
            insists: true,
        };
        let reply = self.ask(ask).await?;
        if reply.headers().contains_key(header::CONTENT_ENCODING) {
            return Err(SourceError::Protocol(
                "it encodes contents although it was asked not to",
            ));
        }
        let offset = match (reply.status(), content_range(&reply)) {
            (StatusCode::PARTIAL_CONTENT, Some((start, _))) => start,
            (StatusCode::PARTIAL_CONTENT, None) => {
                return Err(SourceError::Protocol("a 206 without Content-Range"));
            }
            (StatusCode::OK, _) => 0,
            (status, _) => return Err(SourceError::Status(status)),
        };
        Ok(Body {
            stat: stat_of(&reply),
            offset,
            ranges: serves_ranges(&reply),
            anonymous: read.credential.is_none() && !self.has_own_credentials(),
            stream: body_of(reply),
        })
    }
}

/// RFC 9110, sections 14.3 and 15.3.7.
fn serves_ranges(reply: &Response<Incoming>) -> bool {
    let told = reply.headers().get(header::ACCEPT_RANGES);
    reply.status() == StatusCode::PARTIAL_CONTENT || told.is_some_and(|unit| unit == "bytes")
}

/// `bytes a-b/size`: the start and the whole size, which lies behind it.
pub(super) fn content_range<B>(reply: &Response<B>) -> Option<(u64, Option<u64>)> {
    let text = reply.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    let (start, size) = (start.parse().ok()?, size.parse().ok());
    size.is_none_or(|size| start < size)
        .then_some((start, size))
}

pub(super) fn stat_of<B>(reply: &Response<B>) -> Stat {
    let length = reply.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
    let size = if reply.status() == StatusCode::PARTIAL_CONTENT {
        content_range(reply).and_then(|(_, size)| size)
    } else {
        length
    };
    let media_type = reply
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media_type = media_type.map(|text| text.split(';').next().unwrap_or(text).trim());
    let media_type = media_type.filter(|text| text.len() <= MOST_MEDIA_TYPE);
    let media_type = media_type.map(str::to_owned);
    Stat { size, media_type }
}

/// A reply's body, which is cut when it does not begin, or stalls.
pub(crate) fn body_of(reply: Response<Incoming>) -> BoxStream<'static, Result<Bytes, SourceError>> {
    let begin = (reply.into_body(), BODY_BEGIN);
    futures::stream::unfold(Some(begin), |body| async move {
        let (mut body, idle) = body?;
        loop {
            match tokio::time::timeout(idle, body.frame()).await {
                Ok(None) => return None,
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Some((Ok(data), Some((body, BODY_IDLE))));
                    }
                }
                Ok(Some(Err(cause))) => {
                    return Some((Err(SourceError::broken("the body", cause)), None));
                }
                Err(cause) => return Some((Err(SourceError::broken("the body", cause)), None)),
            }
        }
    })
    .boxed()
}
