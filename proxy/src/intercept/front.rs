//! What stands behind the interception: the mirror for contents, the upstream itself
//! for all else.

use std::sync::Arc;

use axum::body::Body;
use darter_api::{Digest, Repository, UpstreamName};
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, Uri, header, uri::PathAndQuery};

use super::{Inner, target::Target, upgrade};
use crate::{
    content::Contents,
    files::{self, Files},
    mirror::{Failure, Mirror},
    upstream::{Upstream, Upstreams},
};

/// Who answers intercepted requests.
pub(super) trait Front: Send + Sync + 'static {
    /// The upstream that a host and port belong to.
    fn find(&self, target: &Target) -> Option<UpstreamName>;

    /// The host of files that a target is, by the rules.
    fn files(&self, _target: &Target) -> Option<files::Host> {
        None
    }

    /// Answers a request that names no other host: the mirror's own.
    fn own(&self, request: Request<Body>) -> BoxFuture<'static, Response<Body>>;

    /// Answers for a blob or manifest of an upstream.
    fn content(
        &self,
        upstream: UpstreamName,
        request: Request<Body>,
    ) -> BoxFuture<'static, Response<Body>>;

    /// Passes a request on to an upstream, which the client knows as `target`.
    fn relay(
        &self,
        upstream: UpstreamName,
        target: Target,
        request: Request<Body>,
    ) -> BoxFuture<'static, Response<Body>>;
}

/// Answers one intercepted request for an upstream, whatever host it names itself: the
/// connection, or the request's target, has said which upstream is meant.
pub(super) async fn answer(
    inner: &Inner,
    upstream: UpstreamName,
    target: Target,
    mut request: Request<Body>,
) -> Response<Body> {
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    for name in ["proxy-authorization", "proxy-connection"] {
        request.headers_mut().remove(name);
    }
    if is_content(request.method(), request.uri().path()) {
        inner.metrics.answered_by("mirror");
        inner.front.content(upstream, request).await
    } else {
        inner.metrics.answered_by("upstream");
        upgrade::relay(inner, upstream, target, request).await
    }
}

/// Whether it is a blob or manifest that is read.
fn is_content(method: &Method, path: &str) -> bool {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return false;
    }
    let parts = path.strip_prefix("/v2/").and_then(|path| {
        let (head, last) = path.rsplit_once('/')?;
        let (name, endpoint) = head.rsplit_once('/')?;
        Some((name, endpoint, last))
    });
    let Some((name, endpoint, last)) = parts else {
        return false;
    };
    let known = match endpoint {
        "blobs" => last.parse::<Digest>().is_ok(),
        "manifests" => !last.contains(':') || last.parse::<Digest>().is_ok(),
        _ => false,
    };
    known && name.parse::<Repository>().is_ok()
}

/// The real one.
pub(super) struct Registry {
    pub(super) mirror: Mirror,
    pub(super) upstreams: Upstreams,
    pub(super) files: Files,
    pub(super) contents: Arc<dyn Contents>,
}

impl Front for Registry {
    fn find(&self, target: &Target) -> Option<UpstreamName> {
        find(&self.upstreams, target)
    }

    fn files(&self, target: &Target) -> Option<files::Host> {
        self.files.host(&self.contents, &target.origin())
    }

    fn own(&self, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let mirror = self.mirror.clone();
        Box::pin(async move { mirror.handle(None, request).await })
    }

    fn content(
        &self,
        upstream: UpstreamName,
        request: Request<Body>,
    ) -> BoxFuture<'static, Response<Body>> {
        let mirror = self.mirror.clone();
        Box::pin(async move { mirror.handle(Some(upstream), request).await })
    }

    fn relay(
        &self,
        upstream: UpstreamName,
        target: Target,
        mut request: Request<Body>,
    ) -> BoxFuture<'static, Response<Body>> {
        self.mirror.keep_own(request.headers_mut());
        let upstream = self.upstreams.resolve(upstream.as_str()).cloned();
        let (mirror, written) = (self.mirror.clone(), written_tag(&request));
        Box::pin(async move {
            let method = request.method().clone();
            let Some(upstream) = upstream else {
                return Failure::NameUnknown.response(&method);
            };
            match upstream.forward(request).await {
                Ok(mut response) => {
                    if let Some((repository, tag)) = &written
                        && response.status().is_success()
                    {
                        mirror.forget_tag(upstream.name(), repository, tag);
                    }
                    own_location(&mut response, &upstream, &target);
                    response
                }
                Err(error) => Failure::from_source(&error, false).response(&method),
            }
        })
    }
}

/// The tag that a request writes or takes away: what was known of it counts no more.
fn written_tag(request: &Request<Body>) -> Option<(Repository, String)> {
    if !matches!(*request.method(), Method::PUT | Method::DELETE) {
        return None;
    }
    let path = request.uri().path().strip_prefix("/v2/")?;
    let (name, reference) = path.rsplit_once("/manifests/")?;
    let is_tag = !reference.contains([':', '/']);
    is_tag.then_some(())?;
    Some((name.parse().ok()?, reference.to_owned()))
}

/// By `host:port`, by host where the port is the scheme's own, or by where it really is.
fn find(upstreams: &Upstreams, target: &Target) -> Option<UpstreamName> {
    let host = target.url_host();
    let bare = target.on_default_port().then_some(host.as_str());
    let listed = upstreams
        .resolve(&format!("{host}:{}", target.port))
        .or_else(|| upstreams.resolve(bare?))
        .or_else(|| upstreams.by_address(&host, target.port))?;
    Some(listed.name().clone())
}

/// An upload goes on where the upstream says, by the name that the client knows.
fn own_location(response: &mut Response<Body>, upstream: &Upstream, target: &Target) {
    let base = upstream.base().to_string();
    let location = response.headers().get(header::LOCATION);
    let rest = location.and_then(|location| {
        let rest = location.to_str().ok()?;
        let rest = rest.strip_prefix(base.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    });
    let Some(rest) = rest else {
        return;
    };
    if let Ok(own) = HeaderValue::try_from(format!("{}{rest}", target.origin())) {
        response.headers_mut().insert(header::LOCATION, own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::UpstreamOptions;

    #[test]
    fn contents_and_all_else() {
        let digest = Digest::sha256(b"x");
        let get = |path: &str| is_content(&Method::GET, path);
        assert!(get(&format!("/v2/library/a/blobs/{digest}")));
        assert!(get(&format!("/v2/a/manifests/{digest}")));
        assert!(get("/v2/a/b/manifests/latest"));
        let blob = format!("/v2/a/blobs/{digest}");
        assert!(is_content(&Method::HEAD, &blob));
        assert!(!is_content(&Method::PUT, &blob));
        assert!(!is_content(&Method::DELETE, &blob));
        for path in [
            "/v2/",
            "/v2/a/blobs/uploads/",
            "/v2/a/blobs/uploads/7a-b",
            "/v2/a/blobs/sha256:short",
            "/v2/A/manifests/latest",
            "/v2/a/tags/list",
            "/v2/token",
            "/token",
        ] {
            assert!(!get(path), "{path}");
        }
    }

    #[test]
    fn only_tags_that_are_written_are_forgotten() {
        let written = |method: Method, path: &str| {
            let request = Request::builder().method(method).uri(path);
            written_tag(&request.body(Body::empty()).unwrap())
        };
        let one = Some(("a/b".parse().unwrap(), "1".to_owned()));
        assert_eq!(written(Method::PUT, "/v2/a/b/manifests/1?x=y"), one);
        assert_eq!(written(Method::DELETE, "/v2/a/b/manifests/1"), one);
        for (method, path) in [
            (Method::GET, "/v2/a/b/manifests/1"),
            (Method::PUT, "/v2/a/b/manifests/sha256:12"),
            (Method::PUT, "/v2/a/b/blobs/uploads/1"),
            (Method::PUT, "/v2/A/manifests/1"),
        ] {
            assert_eq!(written(method, path), None, "{path}");
        }
    }

    #[test]
    fn names_aliases_and_addresses_of_the_list() {
        let mut corp = UpstreamOptions::parse("corp=https://r.example:8443");
        corp.aliases = vec!["old.example".to_owned()];
        let list = [
            UpstreamOptions::parse("docker.io=http://127.0.0.1:5000"),
            UpstreamOptions::parse("r:5000"),
            corp,
        ];
        let upstreams = Upstreams::new(&list, &darter_runtime::Tasks::new()).unwrap();
        let find = |uri: &str| {
            let uri: Uri = uri.parse().unwrap();
            let target = Target::of_connect(&uri).or_else(|| Target::of_absolute(&uri));
            find(&upstreams, &target.unwrap())
        };
        for (uri, name) in [
            ("docker.io:443", "docker.io"),
            ("registry-1.docker.io:443", "docker.io"),
            ("127.0.0.1:5000", "docker.io"),
            ("http://127.0.0.1:5000/v2/", "docker.io"),
            ("http://docker.io/v2/", "docker.io"),
            ("r:5000", "r:5000"),
            ("corp:443", "corp"),
            ("old.example:443", "corp"),
            ("R.example:8443", "corp"),
        ] {
            let found = find(uri).map(|name| name.to_string());
            assert_eq!(found.as_deref(), Some(name), "{uri}");
        }
        for uri in [
            "docker.io:80",
            "docker.io:22",
            "127.0.0.1:443",
            "127.0.0.1:22",
            "r:443",
            "auth.docker.io:443",
            "docker.io.evil.org:443",
            "http://old.example:443/",
        ] {
            assert_eq!(find(uri), None, "{uri}");
        }
    }
}
