//! The raw relay, for all that this proxy has no opinion of: pushes, uploads, tokens.

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};

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
    /// the proxy's own is shown: anybody may ask so. An `Upgrade` is sent on as well: of a reply
    /// that is a 101 the caller takes the connection (`hyper::upgrade`).
    ///
    /// # Errors
    /// When the upstream can't be reached.
    pub async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, SourceError> {
        let (mut parts, body) = request.into_parts();
        parts.uri = self.url_of(&parts.uri)?;
        parts.version = http::Version::HTTP_11;
        let protocols = parts.headers.get(header::UPGRADE).cloned();
        strip_hop_by_hop(&mut parts.headers);
        if let Some(protocols) = protocols {
            upgrade_to(&mut parts.headers, protocols);
        }
        parts.headers.remove(header::HOST);
        let mut request = Request::from_parts(parts, body);
        let leave = expect::wait_for_leave(&mut request);
        let reply = self.client.relay(request).await;
        leave.answered();
        let reply = reply.map_err(|cause| SourceError::broken("the request", cause))?;
        let (mut parts, body) = reply.into_parts();
        let protocol = parts.headers.get(header::UPGRADE).cloned();
        strip_hop_by_hop(&mut parts.headers);
        if let (StatusCode::SWITCHING_PROTOCOLS, Some(protocol)) = (parts.status, protocol) {
            upgrade_to(&mut parts.headers, protocol);
        }
        Ok(Response::from_parts(parts, Body::new(body)))
    }
}

impl Upstream {
    /// Where a request's path is below the base; `*` (of OPTIONS) is nowhere there, and would end
    /// up in the port.
    fn url_of(&self, asked: &Uri) -> Result<Uri, SourceError> {
        let path = asked.path_and_query().map_or("/", |path| path.as_str());
        let base = self.base.to_string();
        let url = path
            .starts_with('/')
            .then(|| format!("{}{path}", base.trim_end_matches('/')).parse().ok());
        let none = SourceError::Protocol("the request makes no URL");
        url.flatten().ok_or(none)
    }
}

/// Says anew what the connection is, or may be, turned into.
fn upgrade_to(headers: &mut HeaderMap, protocols: HeaderValue) {
    headers.insert(header::UPGRADE, protocols);
    headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
}

/// Takes off what is for one connection only; that the sender takes trailers is said anew.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let takes_trailers = headers.get_all(header::TE).iter().any(|te| {
        let te = te.to_str().unwrap_or_default();
        te.split(',').any(|one| one.trim() == "trailers")
    });
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

#[cfg(test)]
mod tests {
    use crate::upstream::{UpstreamOptions, Upstreams};

    #[test]
    fn what_is_no_path_is_nowhere() {
        let options = [UpstreamOptions::parse("r=http://h.test:5000")];
        let upstreams = Upstreams::new(&options, &darter_runtime::Tasks::new()).unwrap();
        let url = |path: &str| {
            let upstream = upstreams.resolve("r").unwrap();
            upstream.url_of(&path.parse().unwrap()).ok()
        };
        let tags = url("/v2/a/tags/list?n=1").unwrap();
        assert_eq!(tags, "http://h.test:5000/v2/a/tags/list?n=1");
        assert_eq!(url("/").unwrap(), "http://h.test:5000/");
        assert_eq!(url("*"), None);
    }
}
