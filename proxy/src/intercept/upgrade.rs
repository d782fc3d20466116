//! Requests that ask for another protocol (`Upgrade`; RFC 9110, section 7.8).
//!
//! They are passed on like all that is no content, and if the upstream switches, bytes pass
//! both ways unread, under the bounds of a blind tunnel. Without a place for it, or where it
//! would be HTTP again, which nobody here would read then, the request goes on without asking.
//!
//! Owner of state: an upgraded connection has a task and a place of its own. Failure: what the
//! client did not ask for is answered 502.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use darter_api::UpstreamName;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::upgrade::OnUpgrade;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{Inner, idle, metrics::TunnelKind, refusal::Refusal, target::Target, upgraded};

/// For a client to take the 101.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Under these names HTTP would go on.
const HTTP_AGAIN: [&str; 4] = ["h2", "h2c", "http", "tls"];

/// Passes a request on to its upstream, and what follows if that switches protocols.
pub(super) async fn relay(
    inner: &Inner,
    upstream: UpstreamName,
    target: Target,
    mut request: Request<Body>,
) -> Response<Body> {
    let asked = Asked::of(inner, &mut request);
    let mut response = inner.front.relay(upstream, target, request).await;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return response;
    }
    match asked.filter(|asked| asked.includes(response.headers())) {
        Some(asked) => {
            asked.join(inner, hyper::upgrade::on(&mut response));
            response
        }
        None => {
            inner.metrics.refused(Refusal::Switched);
            Refusal::Switched.response()
        }
    }
}

/// A client's wish for another protocol.
struct Asked {
    /// Their names, in lower case.
    protocols: Vec<String>,
    client: OnUpgrade,
    place: OwnedSemaphorePermit,
}

impl Asked {
    /// Takes a wish that can't be met off the request.
    fn of(inner: &Inner, request: &mut Request<Body>) -> Option<Self> {
        let wished = wished(request);
        request.headers_mut().remove(header::UPGRADE);
        let protocols = wished?;
        let place = Arc::clone(&inner.places).try_acquire_owned().ok()?;
        let value = HeaderValue::try_from(protocols.join(", ")).ok()?;
        request.headers_mut().insert(header::UPGRADE, value);
        Some(Self {
            protocols: protocols.iter().map(|one| one.to_lowercase()).collect(),
            client: hyper::upgrade::on(request),
            place,
        })
    }

    /// Whether what the upstream switches to was asked for.
    fn includes(&self, reply: &HeaderMap) -> bool {
        let mut switched = list(reply, &header::UPGRADE).peekable();
        switched.peek().is_some()
            && switched.all(|one| self.protocols.contains(&one.to_lowercase()))
    }

    /// Passes bytes both ways from now on.
    fn join(self, inner: &Inner, upstream: OnUpgrade) {
        let tunnel = inner.metrics.tunnel(TunnelKind::Upgraded, self.place);
        let (idle, stopping) = (inner.idle, inner.tasks.token().clone());
        let work = async move {
            let both = async { tokio::join!(upgraded(self.client), upgraded(upstream)) };
            if let Ok((Some(client), Some(upstream))) = timeout(SWITCH_TIMEOUT, both).await {
                let end = idle::join(client, upstream, idle, &stopping).await;
                tracing::debug!(?end, "an upgraded connection ends");
            }
            drop(tunnel);
        };
        inner.tasks.spawn_draining("upgraded connection", work);
    }
}

/// The protocols that a request asks for and that can be passed on, in its order.
fn wished(request: &Request<Body>) -> Option<Vec<String>> {
    let headers = request.headers();
    let mut connection = list(headers, &header::CONNECTION);
    let asks = request.version() == Version::HTTP_11
        && connection.any(|option| option.eq_ignore_ascii_case("upgrade"));
    asks.then_some(())?;
    let is_other = |protocol: &&str| {
        let name = protocol.split('/').next().unwrap_or_default();
        !HTTP_AGAIN
            .iter()
            .any(|http| http.eq_ignore_ascii_case(name))
    };
    let wished: Vec<String> = list(headers, &header::UPGRADE)
        .filter(is_other)
        .map(str::to_owned)
        .collect();
    (!wished.is_empty()).then_some(wished)
}

/// The elements of a header's list.
fn list<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(version: Version, connection: &str, upgrade: &[&str]) -> Option<String> {
        let mut request = Request::builder()
            .version(version)
            .header("connection", connection);
        for value in upgrade {
            request = request.header("upgrade", *value);
        }
        wished(&request.body(Body::empty()).unwrap()).map(|wished| wished.join(", "))
    }

    #[test]
    fn what_is_asked_for_and_may_be() {
        let of = |upgrade: &[&str]| wishes(Version::HTTP_11, "keep-alive, Upgrade", upgrade);
        assert_eq!(of(&["echo/1"]).as_deref(), Some("echo/1"));
        assert_eq!(of(&["h2c, echo", "b"]).as_deref(), Some("echo, b"));
        for http in ["h2c", "H2C", "HTTP/3.0", "TLS/1.0", "", ","] {
            assert_eq!(of(&[http]), None, "{http}");
        }
        assert_eq!(of(&[]), None);
        assert_eq!(wishes(Version::HTTP_11, "close", &["echo"]), None);
        assert_eq!(wishes(Version::HTTP_10, "upgrade", &["echo"]), None);
        assert_eq!(wishes(Version::HTTP_2, "upgrade", &["echo"]), None);
    }
}
