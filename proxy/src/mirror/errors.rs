//! Failures, as the specification writes them.
//!
//! <https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#error-codes>

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use http::{HeaderValue, Method, Response, StatusCode, header};
use serde_json::json;

use crate::{
    content::{OpenError, ReadError},
    source::{Refusal, SourceError},
};

/// Why a request is not answered with what it asked for.
#[derive(Debug, Clone)]
pub enum Failure {
    /// No such endpoint.
    NotFound,
    /// The upstream is not on the list.
    NameUnknown,
    /// No repository can have this name.
    NameInvalid,
    /// No tag can have this name.
    TagInvalid,
    /// Not a digest.
    DigestInvalid,
    /// A write, or another method than GET and HEAD.
    Unsupported,
    /// The upstream has no such manifest.
    ManifestUnknown,
    /// The upstream has no such blob.
    BlobUnknown,
    /// The upstream's own refusal.
    Refused(Box<Refusal>),
    /// The cluster's rules keep it from this host.
    Forbidden,
    /// A client on another host, where the proxy's own credentials are for this host's.
    NotHere,
    /// The upstream asks for patience.
    Throttled(Option<Duration>),
    /// This node can't now; it can a while later.
    Later {
        /// Why not, for people.
        why: &'static str,
        /// What the client is told to wait.
        after: Duration,
    },
    /// The upstream can't be reached, or nonsense comes from it.
    BadGateway(String),
    /// Nothing came in time, or the node can't.
    Unavailable(String),
}

impl Failure {
    /// What a source's error means for a content of this kind.
    pub(crate) fn from_source(error: &SourceError, manifest: bool) -> Self {
        match error {
            SourceError::Refused(refusal) => Self::Refused(refusal.clone()),
            SourceError::Forbidden => Self::Forbidden,
            error if error.is_missing() && manifest => Self::ManifestUnknown,
            error if error.is_missing() => Self::BlobUnknown,
            SourceError::Throttled { retry_after, .. } => Self::Throttled(*retry_after),
            SourceError::Missing
            | SourceError::Redirected(_)
            | SourceError::WrongSize
            | SourceError::Status(_)
            | SourceError::Broken { .. }
            | SourceError::Protocol(_) => Self::BadGateway(chain(error)),
        }
    }

    pub(super) fn from_open(error: &OpenError, manifest: bool) -> Self {
        match error {
            OpenError::Source(source) => Self::from_source(source, manifest),
            OpenError::Store(_) | OpenError::ShuttingDown => Self::Unavailable(chain(error)),
        }
    }

    pub(super) fn from_read(error: &ReadError, manifest: bool) -> Self {
        match error {
            ReadError::Download(source) => Self::from_source(source, manifest),
            ReadError::Corrupt => Self::BadGateway(chain(error)),
            ReadError::Store(_) | ReadError::ShuttingDown => Self::Unavailable(chain(error)),
        }
    }

    fn parts(&self) -> (StatusCode, &'static str, String) {
        let plain = |status, code, message: &str| (status, code, message.to_owned());
        match self {
            Self::NotFound => plain(StatusCode::NOT_FOUND, "UNSUPPORTED", "no such endpoint"),
            Self::NameUnknown => plain(
                StatusCode::NOT_FOUND,
                "NAME_UNKNOWN",
                "this mirror does not know the registry",
            ),
            Self::NameInvalid => plain(
                StatusCode::BAD_REQUEST,
                "NAME_INVALID",
                "invalid repository name",
            ),
            Self::TagInvalid => plain(StatusCode::BAD_REQUEST, "TAG_INVALID", "invalid tag"),
            Self::DigestInvalid => {
                plain(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "invalid digest")
            }
            Self::Unsupported => plain(
                StatusCode::METHOD_NOT_ALLOWED,
                "UNSUPPORTED",
                "a mirror is read-only",
            ),
            Self::ManifestUnknown => plain(
                StatusCode::NOT_FOUND,
                "MANIFEST_UNKNOWN",
                "the registry has no such manifest",
            ),
            Self::BlobUnknown => plain(
                StatusCode::NOT_FOUND,
                "BLOB_UNKNOWN",
                "the registry has no such blob",
            ),
            Self::Refused(refusal) => {
                let code = if refusal.status == StatusCode::FORBIDDEN {
                    "DENIED"
                } else {
                    "UNAUTHORIZED"
                };
                (refusal.status, code, "the registry refuses".to_owned())
            }
            Self::Forbidden => plain(
                StatusCode::FORBIDDEN,
                "DENIED",
                "the cluster's rules forbid it to this host",
            ),
            Self::NotHere => plain(
                StatusCode::FORBIDDEN,
                "DENIED",
                "this mirror's own credentials are for clients on its host",
            ),
            // containerd resends a 429 at once, again and again; a 503 sends it on.
            Self::Throttled(_) => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "TOOMANYREQUESTS",
                "the registry asks for patience",
            ),
            Self::Later { why, .. } => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "TOOMANYREQUESTS", why)
            }
            Self::BadGateway(what) => (StatusCode::BAD_GATEWAY, "UNKNOWN", what.clone()),
            Self::Unavailable(what) => (StatusCode::SERVICE_UNAVAILABLE, "UNKNOWN", what.clone()),
        }
    }

    /// The reply; a HEAD's has no body.
    pub(crate) fn response(&self, method: &Method) -> Response<Body> {
        let (status, code, message) = self.parts();
        if status.is_server_error() {
            tracing::warn!(status = status.as_u16(), %message, "failed");
        }
        let body =
            json!({"errors": [{"code": code, "message": message, "detail": null}]}).to_string();
        let body = match self {
            Self::Refused(refusal) if !refusal.body.is_empty() => Body::from(refusal.body.clone()),
            _ => Body::from(body),
        };
        let body = if *method == Method::HEAD {
            Body::empty()
        } else {
            body
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        match self {
            Self::Refused(refusal) => {
                let kind = refusal.headers.get(header::CONTENT_TYPE);
                if let Some(kind) = kind.filter(|_| !refusal.body.is_empty()) {
                    headers.insert(header::CONTENT_TYPE, kind.clone());
                }
                for value in refusal.headers.get_all(header::WWW_AUTHENTICATE) {
                    headers.append(header::WWW_AUTHENTICATE, value.clone());
                }
            }
            Self::Throttled(retry_after) => {
                let seconds = retry_after.map_or(1, |time| time.as_secs());
                headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            Self::Later { after, .. } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
            }
            Self::Unsupported => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            _ => {}
        }
        response
    }
}

impl From<Arc<SourceError>> for Failure {
    fn from(error: Arc<SourceError>) -> Self {
        Self::from_source(&error, false)
    }
}

/// An error with its causes, for people.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn a_registrys_own_words_come_with_their_kind() {
        let kind_of = |body: &'static str| {
            let kind = HeaderValue::from_static("text/html");
            let refusal = Refusal {
                status: StatusCode::FORBIDDEN,
                headers: HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]),
                body: body.into(),
            };
            let response = Failure::Refused(Box::new(refusal)).response(&Method::GET);
            response.headers()[header::CONTENT_TYPE].clone()
        };
        assert_eq!(kind_of("<p>No.</p>"), "text/html");
        assert_eq!(kind_of(""), "application/json");
    }
}
