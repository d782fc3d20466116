//! The raw relay, for all that this proxy has no opinion of: pushes, uploads, tokens.

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header};

use super::{Upstream, expect};
use crate::source::SourceError;

/// Headers that belong to one connection (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

impl Upstream {
    /// Sends a client's request on as it is, and its reply back; both bodies stream. Nothing of
    /// the proxy's own is shown: anybody may ask so.
    ///
    /// # Errors
    /// When the upstream can't be reached.
    pub async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, SourceError> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let base = self.base.to_string();
        let uri: Uri = format!("{}{path}", base.trim_end_matches('/'))
            .parse()
            .map_err(|_| SourceError::Protocol("the request makes no URL"))?;
        parts.uri = uri;
        parts.version = http::Version::HTTP_11;
        strip_hop_by_hop(&mut parts.headers);
        parts.headers.remove(header::HOST);
        let mut request = Request::from_parts(parts, body);
        let leave = expect::wait_for_leave(&mut request);
        let reply = self.client.relay(request).await;
        leave.answered();
        let reply = reply.map_err(|cause| SourceError::broken("the request", cause))?;
        let (mut parts, body) = reply.into_parts();
        strip_hop_by_hop(&mut parts.headers);
        Ok(Response::from_parts(parts, Body::new(body)))
    }
}

/// Takes off what is for one connection only; that the sender takes trailers is said anew.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let takes_trailers = headers.get(header::TE).is_some_and(|te| te == "trailers");
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}
