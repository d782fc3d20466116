//! Origins: where a task's bytes come from in the first place.
//!
//! The swarm knows only this seam; [`crate::upstream`] implements it for registries.

use std::{error::Error, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use darter_api::{Digest, Origin, UpstreamName};
use futures::{future::BoxFuture, stream::BoxStream};
use http::{HeaderMap, StatusCode};

use crate::credential::Credential;

/// What is to be read.
#[derive(Debug, Clone)]
pub struct Read {
    /// Where.
    pub origin: Origin,
    /// Which content.
    pub digest: Digest,
    /// Which bytes of it; the end may lie past the content's. `None` is all of it.
    pub range: Option<Range<u64>>,
    /// The caller's own credential; without it the source's anonymous or configured
    /// one is used.
    pub credential: Option<Credential>,
}

/// What a source knows of a content without sending it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Size in bytes; `None` where the source does not say.
    pub size: Option<u64>,
    /// The media type of a manifest, without parameters.
    pub media_type: Option<String>,
}

/// A body that has begun.
pub struct Body {
    /// Size and media type of the whole content.
    pub stat: Stat,
    /// The place in the content of the stream's first byte. It may lie before the
    /// range that was asked for, where the source ignores ranges.
    pub offset: u64,
    /// Whether the source serves ranges of it.
    pub ranges: bool,
    /// Whether it gave the content to nobody in particular: no credential was shown, the
    /// source's own neither.
    pub anonymous: bool,
    /// The bytes. An error ends it; a stream that ends before the content does has
    /// been cut and is resumed by the caller.
    pub stream: BoxStream<'static, Result<Bytes, SourceError>>,
}

/// A refusal by the source, to be relayed to the client as it came.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// 401 or 403.
    pub status: StatusCode,
    /// `WWW-Authenticate` and `Content-Type`.
    pub headers: HeaderMap,
    /// The error body, bounded.
    pub body: Bytes,
}

/// Why a source gives nothing. Several who ask the same question share one answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// The source asks for other credentials.
    #[error("the source refused with {}", .0.status)]
    Refused(Box<Refusal>),
    /// The source was not asked: the rules of the cluster's operators say so.
    #[error("the cluster's rules forbid it to this host")]
    Forbidden,
    /// The source does not have it.
    #[error("the source has no such content")]
    Missing,
    /// The source asks for patience (429, 503).
    #[error("the source is overloaded ({status})")]
    Throttled {
        /// 429 or 503.
        status: StatusCode,
        /// Its `Retry-After`, if it sent one.
        retry_after: Option<Duration>,
    },
    /// Any other status.
    #[error("the source answered {0}")]
    Status(StatusCode),
    /// A client error of whom the source leads to, a store most often: it is not for this one to
    /// say who may read, nor what the source has.
    #[error("where the source leads to answered {0}")]
    Redirected(StatusCode),
    /// It can't be reached, or the body broke.
    #[error("the source can't be read: {what}")]
    Broken {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        cause: Arc<dyn Error + Send + Sync>,
    },
    /// It says another size than the content is believed to have, by a manifest or a scheduler.
    #[error("the source says another size")]
    WrongSize,
    /// What it sends is not what the protocol allows.
    #[error("the source's reply is wrong: {0}")]
    Protocol(&'static str),
}

impl SourceError {
    /// It can't be reached, or the body broke.
    pub fn broken(what: &'static str, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Broken {
            what,
            cause: Arc::from(cause.into()),
        }
    }

    /// How long the source wants not to be asked again, if it says so.
    pub fn asks_for(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the same read may succeed a moment later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Broken { .. } => true,
            Self::Status(status) => status.is_server_error(),
            Self::Refused(_)
            | Self::Forbidden
            | Self::Missing
            | Self::Redirected(_)
            | Self::WrongSize
            | Self::Protocol(_) => false,
        }
    }

    /// Whether the content ends before the range that was asked for, whoever says so.
    pub fn is_past_the_end(&self) -> bool {
        let (Self::Status(status) | Self::Redirected(status)) = self else {
            return false;
        };
        *status == StatusCode::RANGE_NOT_SATISFIABLE
    }

    /// Whether the content is not there, whoever says so.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Missing => true,
            Self::Redirected(status) => matches!(status.as_u16(), 404 | 410),
            _ => false,
        }
    }

    /// Whether another way of asking may get an answer: the method is not known there, or a URL
    /// that was signed for one method is refused for another.
    pub(crate) fn is_of_the_method(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status.as_u16(), 400 | 405 | 501),
            Self::Redirected(status) => matches!(status.as_u16(), 400 | 401 | 403 | 405),
            _ => false,
        }
    }
}

/// An origin of contents. Both calls are cancel-safe: dropping the future or the body
/// closes what it opened.
pub trait Source: Send + Sync + 'static {
    /// Size and media type (a HEAD). Answers may be remembered for a short time.
    fn stat(
        &self,
        origin: &Origin,
        digest: &Digest,
        credential: Option<&Credential>,
    ) -> BoxFuture<'static, Result<Stat, SourceError>>;

    /// Whether what this upstream gives without a credential is given to anybody, and not to
    /// credentials of the source's own.
    fn is_anonymous(&self, _upstream: &UpstreamName) -> bool {
        true
    }

    /// Begins to read.
    fn read(&self, read: Read) -> BoxFuture<'static, Result<Body, SourceError>>;
}
