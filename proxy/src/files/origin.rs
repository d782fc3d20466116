//! Reading one version of a file, and no other, from its source.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use darter_api::{Algorithm, Digest, Origin, UpstreamName};
use futures::{
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt as _},
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::{Files, Place};
use crate::{
    credential::Credential,
    source::{Body, Read, Refusal, Source, SourceError, Stat},
};

/// All that this host can read from: registries, and files that its clients asked for.
pub(crate) struct Sources {
    pub(crate) registries: Arc<dyn Source>,
    pub(crate) files: Files,
}

impl Source for Sources {
    fn stat(
        &self,
        origin: &Origin,
        digest: &Digest,
        credential: Option<&Credential>,
    ) -> BoxFuture<'static, Result<Stat, SourceError>> {
        if digest.algorithm() != Algorithm::File {
            return self.registries.stat(origin, digest, credential);
        }
        let stat = self.files.place(digest).map(|place| place.stat());
        Box::pin(async move { stat.ok_or_else(not_here) })
    }

    fn is_anonymous(&self, upstream: &UpstreamName) -> bool {
        self.registries.is_anonymous(upstream)
    }

    fn read(&self, read: Read) -> BoxFuture<'static, Result<Body, SourceError>> {
        if read.digest.algorithm() != Algorithm::File {
            return self.registries.read(read);
        }
        let place = self.files.place(&read.digest);
        Box::pin(async move {
            let place = place.ok_or_else(not_here)?;
            place.read(read.range).await
        })
    }
}

/// Nobody here asked for it, so that this host does not know where it is: others may.
fn not_here() -> SourceError {
    refused(StatusCode::FORBIDDEN)
}

fn refused(status: StatusCode) -> SourceError {
    SourceError::Refused(Box::new(Refusal {
        status,
        headers: HeaderMap::new(),
        body: Bytes::new(),
    }))
}

impl Place {
    fn stat(&self) -> Stat {
        Stat {
            size: Some(self.version.length),
            media_type: None,
        }
    }

    async fn read(self: Arc<Self>, range: Option<Range<u64>>) -> Result<Body, SourceError> {
        let length = self.version.length;
        let (name, value) = self.version.condition();
        let mut headers = HeaderMap::from_iter([(name, value)]);
        if let Some(range) = &range {
            let text = format!(
                "bytes={}-{}",
                range.start,
                range.end.min(length).saturating_sub(1)
            );
            let wrong = |_| SourceError::Protocol("the range can't be written");
            headers.insert(header::RANGE, HeaderValue::try_from(text).map_err(wrong)?);
        }
        let reply = self.client.ask(Method::GET, &self.url, headers).await?;
        let (offset, end) = self.part(&reply)?;
        let bytes = reply.headers().get(header::ACCEPT_RANGES);
        let ranges = reply.status() == StatusCode::PARTIAL_CONTENT
            || bytes.is_some_and(|bytes| bytes == "bytes");
        Ok(Body {
            stat: self.stat(),
            offset,
            ranges,
            anonymous: false,
            stream: checked(self, reply.into_body(), end - offset),
        })
    }

    /// Which bytes a reply has, if they are this version's.
    fn part(&self, reply: &Response<Incoming>) -> Result<(u64, u64), SourceError> {
        let (status, headers) = (reply.status(), reply.headers());
        let length = self.version.length;
        match status.as_u16() {
            200 | 206 => {}
            404 | 410 | 412 | 416 => return Err(SourceError::Missing),
            401 | 403 => return Err(refused(status)),
            429 | 503 => {
                return Err(SourceError::Throttled {
                    status,
                    retry_after: None,
                });
            }
            _ => return Err(SourceError::Status(status)),
        }
        if !self.version.is(headers) || headers.contains_key(header::CONTENT_ENCODING) {
            // It has changed since: this version can be had nowhere any more.
            return Err(SourceError::Missing);
        }
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if status == StatusCode::OK {
            let all = text(header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
            return match all {
                Some(all) if all == length => Ok((0, length)),
                _ => Err(SourceError::Missing),
            };
        }
        let wrong = SourceError::Protocol("its Content-Range is not understood");
        let part = text(header::CONTENT_RANGE)
            .and_then(content_range)
            .ok_or(wrong)?;
        match part {
            (start, end, all) if all == length && start < end && end <= length => Ok((start, end)),
            _ => Err(SourceError::Missing),
        }
    }

    /// Asks whether the source still has this version.
    async fn confirm(&self) -> Result<(), SourceError> {
        let asked = self.client.ask(Method::HEAD, &self.url, HeaderMap::new());
        let reply = asked.await?;
        let same = reply.status() == StatusCode::OK && self.version.is(reply.headers());
        if same {
            Ok(())
        } else {
            Err(SourceError::Missing)
        }
    }
}

/// `bytes <first>-<last>/<all>`, the end exclusive.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (part, all) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let end = last.trim().parse::<u64>().ok()?.checked_add(1)?;
    Some((first.trim().parse().ok()?, end, all.trim().parse().ok()?))
}

/// A body of so many bytes, the last of which come only if the source says that it still has
/// the version: a file that is written over while it is read would be made of two.
fn checked(
    place: Arc<Place>,
    body: Incoming,
    length: u64,
) -> BoxStream<'static, Result<Bytes, SourceError>> {
    let state = (body.into_data_stream(), length, place);
    stream::try_unfold(state, |(mut body, left, place)| async move {
        let Some(next) = body.next().await else {
            return Ok(None);
        };
        let bytes = next.map_err(|cause| SourceError::broken("the body", cause))?;
        let left = left.saturating_sub(bytes.len() as u64);
        if left == 0 && !bytes.is_empty() {
            place.confirm().await?;
        }
        Ok(Some((bytes, (body, left, place))))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 0-9/10"), Some((0, 10, 10)));
        for odd in [
            "bytes */10",
            "bytes 1-/3",
            "0-9/10",
            "bytes 0-18446744073709551615/1",
        ] {
            assert_eq!(content_range(odd), None, "{odd}");
        }
    }
}
