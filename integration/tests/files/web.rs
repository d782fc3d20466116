//! A web server with a file that changes, and with faults.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use anyhow::Result;
use bytes::Bytes;
use darter_integration::{
    guarded::{Authority, Body, Server, full},
    image::Blob,
};
use futures::stream;
use http::{Method, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::watch;

const CHUNK: u64 = 64 * 1024;

/// A web server with one file, of which there are two versions.
pub(crate) struct Web {
    pub(crate) state: Arc<State>,
    server: Server,
    /// What vouches for it, in a rule.
    tls: String,
}

pub(crate) struct State {
    pub(crate) versions: [Bytes; 2],
    /// Which one is there.
    pub(crate) at: AtomicUsize,
    /// Bytes that left it.
    sent: AtomicU64,
    gets: AtomicUsize,
    /// Bodies stop in their middle while it is set.
    pub(crate) held: watch::Sender<bool>,
    /// The next body gives nothing.
    pub(crate) stuck: AtomicBool,
    /// Bodies end in their middle, once.
    pub(crate) cut: AtomicBool,
    pub(crate) secrets: AtomicUsize,
}

impl Web {
    pub(crate) async fn start(size: usize) -> Result<Self> {
        Self::start_behind(None, size).await
    }

    /// With TLS, if there is somebody who vouches for it.
    pub(crate) async fn start_behind(authority: Option<&Authority>, size: usize) -> Result<Self> {
        let state = Arc::new(State {
            versions: [1, 2].map(|seed| Blob::layer(seed, size).bytes),
            at: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            gets: AtomicUsize::new(0),
            held: watch::Sender::new(false),
            stuck: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            secrets: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&state);
        let tls = authority.map(|one| one.server(&one.issue("web")?, false));
        let server = Server::start(tls.transpose()?, move |request| answer(&shared, &request));
        let ca = authority.map(|one| one.file().display().to_string());
        Ok(Self {
            state,
            server: server.await?,
            tls: ca.map_or_else(String::new, |ca| format!(", https = true, ca = \"{ca}\"")),
        })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server.url())
    }

    pub(crate) fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::SeqCst)
    }

    pub(crate) fn size(&self) -> u64 {
        self.state.versions[0].len() as u64
    }

    /// The flag that has a node share what is below `/dist/`.
    pub(crate) fn rule(&self) -> String {
        let (host, tls) = (self.server.authority(), &self.tls);
        format!(
            "proxy.intercept.rules=[{{host = \"{host}\", path = \"/dist/.*\", private = [\"127.0.0.0/8\", \"::1/128\"]{tls}}}]"
        )
    }
}

fn answer(state: &Arc<State>, request: &Request<Bytes>) -> Response<Body> {
    let at = state.at.load(Ordering::SeqCst);
    let tag = format!("\"version-{at}\"");
    let headers = request.headers();
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &http::HeaderValue| value.to_str().ok())
    };
    if headers.contains_key(header::AUTHORIZATION) {
        state.secrets.fetch_add(1, Ordering::SeqCst);
    }
    let reply = Response::builder()
        .header(header::ETAG, &tag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, "application/x-file");
    if text(header::IF_MATCH).is_some_and(|wanted| wanted != tag) {
        return reply.status(412).body(full("")).expect("a reply");
    }
    let size = state.versions[at].len() as u64;
    let range = text(header::RANGE).and_then(|text| {
        let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
        let end = last
            .parse::<u64>()
            .map_or(size, |last| (last + 1).min(size));
        Some(first.parse::<u64>().ok()?..end)
    });
    let reply = match &range {
        Some(part) => reply.status(206).header(
            header::CONTENT_RANGE,
            format!("bytes {}-{}/{size}", part.start, part.end - 1),
        ),
        None => reply,
    };
    let range = range.unwrap_or(0..size);
    let reply = reply.header(header::CONTENT_LENGTH, range.end - range.start);
    if *request.method() == Method::HEAD {
        return reply.body(full("")).expect("a reply");
    }
    state.gets.fetch_add(1, Ordering::SeqCst);
    reply.body(body(Arc::clone(state), range)).expect("a reply")
}

/// The bytes of whichever version is there when each of them leaves.
fn body(state: Arc<State>, range: Range<u64>) -> Body {
    let stuck = state.stuck.swap(false, Ordering::SeqCst);
    let chunks = stream::unfold((state, range), move |(state, range)| async move {
        if stuck {
            std::future::pending::<()>().await;
        }
        if range.is_empty() {
            return None;
        }
        let middle = state.versions[0].len() as u64 / 2;
        if (middle..middle + CHUNK).contains(&range.start) {
            // The sender is part of the state.
            let _ = state.held.subscribe().wait_for(|held| !held).await;
            if state.cut.swap(false, Ordering::SeqCst) {
                let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
                return Some((Err(broken), (state, range.end..range.end)));
            }
        }
        let end = (range.start + CHUNK).min(range.end);
        let version = &state.versions[state.at.load(Ordering::SeqCst)];
        let bytes = version.slice(range.start as usize..end as usize);
        state.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        Some((Ok(Frame::data(bytes)), (state, end..range.end)))
    });
    StreamBody::new(Box::pin(chunks)).boxed()
}
