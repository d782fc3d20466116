//! An object store that gives only what a signed URL names, and only until it expires.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html>

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use aws_lc_rs::{digest, hmac};
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{StreamBody, combinators::BoxBody};
use time::{
    OffsetDateTime, PrimitiveDateTime, format_description::BorrowedFormatItem,
    macros::format_description,
};

use super::{Authority, Body, Server, full};
use crate::secrets;

const KEY_ID: &str = "AKIDARTERTEST";
const KEY: &str = "s3cret-object-store-key";
const REGION: &str = "test-1";
const DATE: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");

/// The first GET of each object breaks off after so many bytes, and so much later.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Bytes that are sent.
    pub after: usize,
    /// Until the connection ends.
    pub pause: Duration,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    cut: Option<Cut>,
    /// Signature of each GET, and what it was answered.
    seen: Vec<(String, u16)>,
    authorizations: usize,
}

/// The running store. Cheap to clone.
#[derive(Clone)]
pub struct Objects(Arc<Inner>);

struct Inner {
    state: Arc<Mutex<State>>,
    server: Server,
}

impl Objects {
    /// An empty one behind a certificate of `authority`.
    ///
    /// # Errors
    /// When it can't listen.
    pub async fn start(authority: &Authority) -> Result<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let tls = authority.server(&authority.issue("objects")?, false)?;
        let server = Server::start(Some(tls), move |request| {
            answer(&mut lock(&shared), &request)
        });
        Ok(Self(Arc::new(Inner {
            state,
            server: server.await?,
        })))
    }

    /// `localhost:<port>`
    pub fn authority(&self) -> String {
        self.0.server.authority()
    }

    /// Keeps an object under `/bucket/<name>`.
    pub fn put(&self, name: &str, bytes: &Bytes) {
        let path = format!("/bucket/{name}");
        lock(&self.0.state).objects.insert(path, bytes.clone());
    }

    /// Breaks first readings off.
    pub fn cut(&self, cut: Cut) {
        lock(&self.0.state).cut = Some(cut);
    }

    /// A URL that works for `life`, in whole seconds.
    ///
    /// # Errors
    /// When the clock can't be read.
    pub fn presign(&self, name: &str, life: Duration) -> Result<String> {
        let date = OffsetDateTime::now_utc().format(DATE)?;
        let day = date.get(..8).context("a date")?;
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={KEY_ID}%2F{day}%2F{REGION}%2Fs3%2Faws4_request\
             &X-Amz-Date={date}&X-Amz-Expires={}&X-Amz-SignedHeaders=host",
            life.as_secs()
        );
        let path = format!("/bucket/{name}");
        let host = self.0.server.authority();
        let signature = signature("GET", &path, &query, &host, &date);
        secrets::keep(&signature);
        let url = self.0.server.url();
        Ok(format!("{url}{path}?{query}&X-Amz-Signature={signature}"))
    }

    /// The signature of each GET and its answer, in order.
    pub fn seen(&self) -> Vec<(String, u16)> {
        lock(&self.0.state).seen.clone()
    }

    /// Requests that showed an Authorization, which is nobody's business here.
    pub fn authorizations(&self) -> usize {
        lock(&self.0.state).authorizations
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(state: &mut State, request: &Request<Bytes>) -> Response<Body> {
    if request.headers().contains_key(header::AUTHORIZATION) {
        state.authorizations += 1;
    }
    let query = request.uri().query().unwrap_or_default();
    let shown = parameter(query, "X-Amz-Signature")
        .unwrap_or_default()
        .to_owned();
    let before = state
        .seen
        .iter()
        .filter(|(_, status)| *status < 300)
        .count();
    let response = match refusal(request, query, &shown) {
        Some(why) => {
            let body = format!("<Error><Code>AccessDenied</Code><Message>{why}</Message></Error>");
            let mut response = Response::new(full(body));
            *response.status_mut() = StatusCode::FORBIDDEN;
            response
        }
        None => match state.objects.get(request.uri().path()) {
            Some(bytes) => found(request, bytes, state.cut.filter(|_| before == 0)),
            None => {
                let mut response = Response::new(full("<Error><Code>NoSuchKey</Code></Error>"));
                *response.status_mut() = StatusCode::NOT_FOUND;
                response
            }
        },
    };
    state.seen.push((shown, response.status().as_u16()));
    response
}

/// Why a request gets nothing.
fn refusal(request: &Request<Bytes>, query: &str, shown: &str) -> Option<&'static str> {
    let signed: Vec<&str> = query
        .split('&')
        .filter(|pair| !pair.starts_with("X-Amz-Signature="))
        .collect();
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let date = parameter(query, "X-Amz-Date").unwrap_or_default();
    let method: &Method = request.method();
    let path = request.uri().path();
    let wanted = signature(method.as_str(), path, &signed.join("&"), host, date);
    if wanted != shown {
        return Some("SignatureDoesNotMatch");
    }
    let life = parameter(query, "X-Amz-Expires").and_then(|text| text.parse::<i64>().ok());
    let began = PrimitiveDateTime::parse(date, DATE).ok()?.assume_utc();
    let until = began + time::Duration::seconds(life.unwrap_or(0));
    (OffsetDateTime::now_utc() > until).then_some("Request has expired")
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn signature(method: &str, path: &str, query: &str, host: &str, date: &str) -> String {
    let canonical = format!("{method}\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
    let hash = digest::digest(&digest::SHA256, canonical.as_bytes());
    let day = date.get(..8).unwrap_or_default();
    let text = format!(
        "AWS4-HMAC-SHA256\n{date}\n{day}/{REGION}/s3/aws4_request\n{}",
        hex(hash.as_ref())
    );
    let mut key = format!("AWS4{KEY}").into_bytes();
    for part in [day, REGION, "s3", "aws4_request", &text] {
        let signing = hmac::Key::new(hmac::HMAC_SHA256, &key);
        key = hmac::sign(&signing, part.as_bytes()).as_ref().to_vec();
    }
    hex(&key)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn found(request: &Request<Bytes>, bytes: &Bytes, cut: Option<Cut>) -> Response<Body> {
    let range = request.headers().get(header::RANGE);
    let start: Option<usize> = range.and_then(|value| {
        let range = value.to_str().ok()?.strip_prefix("bytes=")?;
        range.split('-').next()?.parse().ok()
    });
    let size = bytes.len();
    let start = start.filter(|start| *start < size);
    let body = bytes.slice(start.unwrap_or(0)..);
    let response = Response::builder().header(header::CONTENT_LENGTH, body.len());
    let response = match start {
        None => response,
        Some(start) => response.status(StatusCode::PARTIAL_CONTENT).header(
            header::CONTENT_RANGE,
            format!("bytes {start}-{}/{size}", size - 1),
        ),
    };
    let body = match cut {
        None => full(body),
        Some(cut) => broken(body.slice(..cut.after.min(body.len())), cut.pause),
    };
    response.body(body).expect("lengths make valid headers")
}

/// A body that never ends as announced.
fn broken(bytes: Bytes, pause: Duration) -> Body {
    let first = futures::stream::iter([Ok(Frame::data(bytes))]);
    let end = futures::stream::once(async move {
        tokio::time::sleep(pause).await;
        Err(io::Error::other("cut"))
    });
    BoxBody::new(StreamBody::new(first.chain(end)))
}
