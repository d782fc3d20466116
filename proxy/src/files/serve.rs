//! Answering for the hosts of the rules: from the swarm, or as their source does.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{BoxError, body::Body};
use darter_api::{Lengths, TaskId, session::Purpose};
use darter_runtime::server::span::set_spans;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
    request::Parts,
    uri::{self, Authority, PathAndQuery, Scheme},
};
use tokio::time::timeout;

use super::{Files, Place, rule::Rule, version::Version};
use crate::{
    content::{Content, Contents, Progress, Sizing, Want},
    mirror::range::{self, Wanted},
    source::SourceError,
    upstream::strip_hop_by_hop,
};

/// For a source to say which version it has; then it is asked for the file itself.
const WHICH: Duration = Duration::from_secs(2);
/// For a file's first bytes to come out of the swarm; then its source is asked, which would
/// have given them.
const FIRST_BYTE: Duration = Duration::from_secs(5);
/// The same while bytes of the file arrive, before which the wanted ones may have to come.
const FIRST_BYTE_ARRIVING: Duration = Duration::from_secs(10);
/// What a client asks of a version that the source itself can best say.
const CONDITIONS: [http::HeaderName; 4] = [
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// A host that a rule names. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Host {
    scheme: Scheme,
    authority: Authority,
    files: Files,
    contents: Arc<dyn Contents>,
    rule: Arc<Rule>,
}

impl Files {
    /// The host of an origin, `https://<host>[:<port>]`, if a rule names it.
    pub(crate) fn host(&self, contents: &Arc<dyn Contents>, origin: &str) -> Option<Host> {
        let parts = origin.parse::<Uri>().ok()?.into_parts();
        let (scheme, authority) = (parts.scheme?, parts.authority?);
        Some(Host {
            rule: self.rule(&scheme, authority.as_str())?,
            scheme,
            authority,
            files: self.clone(),
            contents: Arc::clone(contents),
        })
    }
}

impl Host {
    /// Answers a request for a path of this host, whatever host it names itself.
    pub(crate) async fn answer(self, request: Request<Body>) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        parts.uri = self.url(parts.uri);
        if let Some(place) = self.shared(&parts).await
            && let Some(response) = self.swarmed(&place, &parts.headers).await
        {
            return response;
        }
        self.relay(Request::from_parts(parts, body)).await
    }

    fn url(&self, asked: Uri) -> Uri {
        let path = asked.into_parts().path_and_query;
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let mut url = uri::Parts::default();
        url.scheme = Some(self.scheme.clone());
        url.authority = Some(self.authority.clone());
        url.path_and_query = Some(path);
        Uri::from_parts(url).expect("it has all three parts")
    }

    /// Where the version is that a request asks for, if it is for everybody.
    async fn shared(&self, request: &Parts) -> Option<Arc<Place>> {
        let headers = &request.headers;
        let is_private =
            headers.contains_key(header::AUTHORIZATION) || headers.contains_key(header::COOKIE);
        let is_plain = request.method == Method::GET
            && !is_private
            && !CONDITIONS.iter().any(|name| headers.contains_key(name));
        let url = &request.uri;
        if !is_plain || !self.rule.has_path(url.path()) {
            return None;
        }
        let asked = self.rule.client.ask(Method::HEAD, url, HeaderMap::new());
        let reply = timeout(WHICH, asked).await.ok()?.ok()?;
        let version = Version::of(reply.status(), reply.headers())?;
        let pieces = Lengths::of(version.length).ok()?.pieces();
        (pieces > 0).then_some(())?;
        Some(self.files.remember(Place::new(&self.rule, url, version)?))
    }

    /// None where the source itself has to answer.
    async fn swarmed(&self, place: &Place, headers: &HeaderMap) -> Option<Response<Body>> {
        let want = Want {
            task: place.task,
            origin: place.origin(),
            size: Some(place.version.length),
            credential: None,
            purpose: Purpose::Pull,
            excerpt: None,
            sizing: Sizing::Needed,
        };
        let begun = async {
            let opened = self.contents.open(want).await;
            let content = match opened {
                Ok(content) => content,
                Err(error) => {
                    tracing::info!(%error, task = %place.task, "a file is not shared");
                    return None;
                }
            };
            body(content, place, headers).await
        };
        self.in_time(&place.task, begun).await
    }

    /// What comes of a task by the time at which the source had better be asked.
    async fn in_time<T>(&self, task: &TaskId, work: impl Future<Output = Option<T>>) -> Option<T> {
        let mut work = pin!(work);
        if let Ok(output) = timeout(FIRST_BYTE, &mut work).await {
            return output;
        }
        if self.contents.progress(task) == Progress::Arriving
            && let Ok(output) = timeout(FIRST_BYTE_ARRIVING - FIRST_BYTE, work).await
        {
            return output;
        }
        tracing::info!(%task, "a file's first bytes are late; its source is asked");
        None
    }

    /// Sends the request to the source, and its reply back.
    async fn relay(&self, mut request: Request<Body>) -> Response<Body> {
        strip_hop_by_hop(request.headers_mut());
        request.headers_mut().remove(header::HOST);
        *request.version_mut() = http::Version::HTTP_11;
        match self.rule.client.relay(request).await {
            Ok(mut reply) => {
                strip_hop_by_hop(reply.headers_mut());
                reply.map(Body::new)
            }
            Err(error) => unreachable(&error),
        }
    }
}

fn unreachable(error: &SourceError) -> Response<Body> {
    tracing::info!(%error, "a file's source can't be reached");
    let mut response = Response::new(Body::from("the host can't be reached\n"));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}

/// The response, once its first bytes are there.
async fn body(content: Content, place: &Place, asked: &HeaderMap) -> Option<Response<Body>> {
    let size = content.size?;
    let version = &place.version;
    let wanted = match version.goes_on_from(asked.get(header::IF_RANGE)) {
        true => range::wanted(asked, size),
        false => Wanted::Whole,
    };
    let mut response = Response::new(Body::empty());
    *response.headers_mut() = version.headers.clone();
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let number = |text: String| HeaderValue::try_from(text).ok();
    let (status, range) = match wanted {
        // Several ranges may be answered by the whole (RFC 9110, section 14.2).
        Wanted::Whole | Wanted::Parts(_) => (StatusCode::OK, 0..size),
        Wanted::Part(range) => {
            let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            headers.insert(header::CONTENT_RANGE, number(text)?);
            (StatusCode::PARTIAL_CONTENT, range)
        }
        Wanted::Unsatisfiable => {
            headers.insert(header::CONTENT_RANGE, number(format!("bytes */{size}"))?);
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            return Some(response);
        }
    };
    headers.insert(
        header::CONTENT_LENGTH,
        HeaderValue::from(range.end - range.start),
    );
    *response.status_mut() = status;
    let mut spans = content.reader.spans(range);
    let first = spans.next().await?.ok()?;
    let task = place.task;
    let rest = futures::stream::iter([Ok(first)])
        .chain(spans)
        .inspect(move |span| {
            // The content is held as long as its body is.
            let _ = &content;
            if let Err(error) = span {
                let error = error as &dyn std::error::Error;
                tracing::warn!(error, %task, "a file ends short");
            }
        });
    set_spans(&mut response, rest.map_err(BoxError::from).boxed());
    Some(response)
}
