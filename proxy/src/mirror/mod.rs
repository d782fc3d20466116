//! The OCI front: what clients see of a registry.
//!
//! <https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md>
//!
//! [`route`] names the upstream and what is asked of it; [`manifests`] and [`blobs`]
//! answer from [`Contents`] after [`Rights`]; [`relay`] passes lists on; [`held`] bounds what
//! that takes of the memory; [`errors`] is the one place that turns failures into statuses and JSON; [`login`] is about clients that
//! have to say who they are. No status line leaves before
//! the right and the first bytes are known.

mod blobs;
mod errors;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod held;
mod login;
mod manifests;
mod metrics;
mod multipart;
mod operations;
mod patience;
pub(crate) mod range;
mod relay;
mod route;
mod tags;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderValue, Method, Request, Response, StatusCode, header},
    response::IntoResponse as _,
};
use darter_api::{Digest, Repository, UpstreamName};
use darter_runtime::server::CallerAddress;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;

use crate::{
    clients::{Clients, Denied, Whence},
    content::Contents,
    credential::Credential,
    rights::Rights,
    source::SourceError,
    upstream::{Ask, MANIFEST_TYPES, Upstream, Upstreams},
};
pub use errors::Failure;
pub(crate) use errors::chain;
use held::Held;
use metrics::Metrics;
use route::{Kind, Target};
use tags::Tags;

/// How tags and slow beginnings are treated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// What a tag stands for is believed so long before it is asked again. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub tag_ttl: Duration,
    /// What a tag stood for is believed so long while the upstream can't be reached.
    /// Default 24 h.
    #[serde(with = "humantime_serde")]
    pub tag_grace: Duration,
    /// That a registry has no such tag is believed so long. Default 3 s.
    #[serde(with = "humantime_serde")]
    pub tag_missing: Duration,
    /// A registry that has given nothing by then is answered 503, so that the client tries
    /// elsewhere; all questions, tokens and redirects of one request share it. Default
    /// 4 s. Costs clients of slower registries a pull past this mirror.
    #[serde(with = "humantime_serde")]
    pub upstream_timeout: Duration,
    /// A content whose first bytes have not come from peers by then is answered 503.
    /// Default 30 s.
    #[serde(with = "humantime_serde")]
    pub first_byte_timeout: Duration,
    /// Whether `/v2/` asks clients for a name, so that dockerd, podman and skopeo show the
    /// registry theirs. Default false: they pull as nobody. Costs each of their pulls one
    /// request to this mirror.
    pub login: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tag_ttl: Duration::from_secs(30),
            tag_grace: Duration::from_secs(24 * 3600),
            tag_missing: Duration::from_secs(3),
            upstream_timeout: Duration::from_secs(4),
            first_byte_timeout: Duration::from_secs(30),
            login: false,
        }
    }
}

/// The mirror. Cheap to clone.
#[derive(Clone)]
pub struct Mirror(Arc<Inner>);

struct Inner {
    options: Options,
    upstreams: Upstreams,
    contents: Arc<dyn Contents>,
    rights: Rights,
    clients: Clients,
    tags: Tags,
    held: Held,
    metrics: Metrics,
    requests: AtomicU64,
}

/// An extension of a request: what a tag stands for is asked anew.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Anew;

/// What every answer needs to know of its request.
struct Call<'a> {
    mirror: &'a Inner,
    upstream: Arc<Upstream>,
    target: &'a Target,
    method: Method,
    headers: &'a http::HeaderMap,
    /// What the upstream is shown; `None` is the proxy's own, or nothing.
    credential: Option<Credential>,
    anew: bool,
    is_intercepted: bool,
    began: Instant,
}

impl Mirror {
    /// A mirror of these upstreams.
    pub fn new(
        options: Options,
        upstreams: Upstreams,
        contents: Arc<dyn Contents>,
        rights: Rights,
        clients: Clients,
        registry: &mut Registry,
    ) -> Self {
        let held = Held::new(held::MOST_BYTES);
        Self::holding(
            held,
            options,
            upstreams,
            (contents, rights, clients),
            registry,
        )
    }

    fn holding(
        held: Held,
        options: Options,
        upstreams: Upstreams,
        (contents, rights, clients): (Arc<dyn Contents>, Rights, Clients),
        registry: &mut Registry,
    ) -> Self {
        let metrics = Metrics::default();
        metrics.register(registry);
        Self(Arc::new(Inner {
            tags: Tags::new(&options),
            options,
            upstreams,
            contents,
            rights,
            clients,
            held,
            metrics,
            requests: AtomicU64::new(0),
        }))
    }

    /// The mirror as a service of its own.
    pub fn router(&self) -> Router {
        Router::new().fallback(serve).with_state(self.clone())
    }

    /// Answers one request. `upstream` is set where the connection itself says which
    /// registry is meant; else `ns`, the path, or the default do.
    pub async fn handle(
        &self,
        upstream: Option<UpstreamName>,
        request: Request<Body>,
    ) -> Response<Body> {
        let id = self.0.requests.fetch_add(1, Ordering::Relaxed);
        let span = tracing::info_span!("request", id, method = %request.method(), path = request.uri().path());
        Box::pin(self.answer(upstream, request))
            .instrument(span)
            .await
    }

    /// What a tag is remembered to stand for, whoever asked for it how.
    pub(crate) fn remembered_tag(
        &self,
        upstream: &UpstreamName,
        repository: &Repository,
        tag: &str,
    ) -> Vec<Digest> {
        self.0.tags.remembered(upstream, repository, tag)
    }

    /// Nothing is remembered of a tag any more.
    pub(crate) fn forget_tag(&self, upstream: &UpstreamName, repository: &Repository, tag: &str) {
        self.0.tags.forget(upstream, repository, tag);
        tracing::info!(%upstream, %repository, tag, "a tag is forgotten");
    }

    /// Takes an Authorization that is meant for this proxy off a request that is passed on as
    /// it is.
    pub fn keep_own(&self, headers: &mut http::HeaderMap) {
        self.0.keep_own(headers);
    }

    async fn answer(
        &self,
        upstream: Option<UpstreamName>,
        request: Request<Body>,
    ) -> Response<Body> {
        let began = Instant::now();
        let (parts, _body) = request.into_parts();
        let method = parts.method.clone();
        if upstream.is_none() && parts.uri.path() == login::PATH {
            let response = self.0.token(&parts).await;
            self.0.metrics.answered(&method, "token", response.status());
            return response;
        }
        // An intercepted request names the registry.
        let address = match &upstream {
            Some(_) => CallerAddress::of(&parts.headers, &parts.extensions),
            None => CallerAddress::of_own(&parts.uri, &parts.headers, &parts.extensions),
        };
        let whence = Whence::new(address, &parts.extensions);
        let routed = route::route(&self.0.upstreams, upstream.as_ref(), &parts.uri);
        let (kind, mut response) = match routed {
            Ok((found, target)) => {
                let kind = target.kind.name();
                let headers = &parts.headers;
                let anew = parts.extensions.get::<Anew>().is_some();
                let shown = if anew {
                    // The host's own question, with what it was given for it.
                    Ok(headers
                        .get(header::AUTHORIZATION)
                        .cloned()
                        .map(Credential::new))
                } else {
                    let kind = &target.kind;
                    self.0.credential(&found, kind, headers, whence).await
                };
                let response = match shown {
                    Ok(credential) => {
                        let call = Call {
                            mirror: &self.0,
                            upstream: found,
                            target: &target,
                            method: method.clone(),
                            headers,
                            credential,
                            anew,
                            is_intercepted: upstream.is_some(),
                            began,
                        };
                        call.response().await
                    }
                    Err(denied) => {
                        tracing::debug!(upstream = %found.name(), ?denied, ?address, "not let in");
                        let failure = match denied {
                            Denied::Remote => Failure::NotHere,
                            Denied::Busy => login::busy(),
                            Denied::Spent => login::spent(),
                            Denied::Unknown => {
                                let (kind, prefix) = (&target.kind, target.prefix.as_str());
                                let is_intercepted = upstream.is_some();
                                self.0
                                    .ask_for_name(&found, headers, kind, prefix, is_intercepted)
                            }
                        };
                        failure.response(&method)
                    }
                };
                (kind, response)
            }
            Err(failure) => ("none", failure.response(&method)),
        };
        let version = HeaderValue::from_static("registry/2.0");
        response
            .headers_mut()
            .insert("docker-distribution-api-version", version);
        let (status, elapsed) = (response.status(), began.elapsed());
        tracing::info!(status = status.as_u16(), kind, ?elapsed, "answered");
        self.0.metrics.answered(&method, kind, status);
        response
    }
}

async fn serve(State(mirror): State<Mirror>, request: Request<Body>) -> Response<Body> {
    mirror.handle(None, request).await
}

impl Call<'_> {
    async fn response(&self) -> Response<Body> {
        match self.answer().await {
            Ok(response) => response,
            Err(failure) => self.in_its_own_words(failure).await.response(&self.method),
        }
    }

    /// Whether what is read is for some callers only.
    fn is_private(&self) -> bool {
        self.credential.is_some() || self.upstream.has_own_credentials()
    }

    async fn answer(&self) -> Result<Response<Body>, Failure> {
        if matches!(self.target.kind, Kind::Moved) {
            return Ok(
                (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, "/v2/")]).into_response(),
            );
        }
        if !matches!(self.method, Method::GET | Method::HEAD) {
            return Err(Failure::Unsupported);
        }
        let mut response = match &self.target.kind {
            Kind::Moved => Err(Failure::Unsupported),
            Kind::Base => self.base(),
            Kind::Manifest(repository, reference) => self.manifest(repository, reference).await,
            Kind::Blob(repository, digest) => self.blob(repository, *digest).await,
            Kind::Tags(repository) | Kind::Referrers(repository, _) => {
                self.relay(Some(repository)).await
            }
            Kind::Catalog => self.relay(None).await,
        }?;
        if let Ok(name) = HeaderValue::from_str(self.upstream.name().as_str()) {
            response.headers_mut().insert("oci-namespace", name);
        }
        Ok(response)
    }

    /// A refusal to a HEAD has no body; a client that asked by GET is told all that the
    /// registry has to say to it.
    async fn in_its_own_words(&self, failure: Failure) -> Failure {
        let Failure::Refused(refusal) = failure else {
            return failure;
        };
        if matches!(self.target.kind, Kind::Base) {
            return Failure::Refused(refusal);
        }
        if self.method != Method::GET || !refusal.body.is_empty() {
            return Failure::Refused(refusal);
        }
        let mut headers = http::HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
        // One byte, should it change its mind.
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        let ask = Ask {
            method: Method::GET,
            path: format!("/v2/{}", self.target.path),
            headers,
            repository: self.target.kind.repository(),
            credential: self.credential.as_ref(),
            insists: false,
        };
        match self.of_upstream(self.upstream.ask(ask)).await {
            Ok(Err(SourceError::Refused(said))) if said.status == refusal.status => {
                Failure::Refused(said)
            }
            _ => Failure::Refused(refusal),
        }
    }

    fn base(&self) -> Result<Response<Body>, Failure> {
        let says_nothing = !self.headers.contains_key(header::AUTHORIZATION);
        if self.mirror.asks_for_names() && says_nothing && !self.is_intercepted {
            let (kind, upstream) = (&self.target.kind, &self.upstream);
            return Err(self
                .mirror
                .ask_for_name(upstream, self.headers, kind, "", false));
        }
        Ok(([(header::CONTENT_TYPE, "application/json")], "{}").into_response())
    }
}

#[cfg(test)]
mod tests;
