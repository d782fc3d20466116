//! A slow, watchful link to the registry: forwards each request as it is, at a bounded
//! rate, and writes down what was asked and how much went back.
//!
//! One budget for all bodies, like one uplink.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use darter_runtime::Tasks;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep_until},
};

type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// One request that came through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `GET`, `HEAD`, ..
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The `Range` header as it came.
    pub range: Option<String>,
    /// Bytes of the reply's body that were handed to the socket so far.
    pub sent: u64,
}

struct Shared {
    upstream: String,
    bytes_per_second: AtomicU64,
    free_at: Mutex<Instant>,
    seen: Mutex<Vec<Seen>>,
    down: AtomicBool,
}

/// The link. Ends when dropped.
pub struct Throttle {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Tasks,
}

impl Throttle {
    /// A link to `upstream` (`http://127.0.0.1:5000`) of so many bytes a second.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(upstream: &str, bytes_per_second: u64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            bytes_per_second: AtomicU64::new(bytes_per_second),
            free_at: Mutex::new(Instant::now()),
            seen: Mutex::new(Vec::new()),
            down: AtomicBool::new(false),
        });
        let tasks = Tasks::new();
        tasks.spawn(
            "throttle",
            accept(listener, Arc::clone(&shared), tasks.clone()),
        );
        Ok(Self {
            address,
            shared,
            tasks,
        })
    }

    /// `http://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes the rate, for bodies under way as well.
    pub fn set_rate(&self, bytes_per_second: u64) {
        self.shared
            .bytes_per_second
            .store(bytes_per_second, Ordering::Relaxed);
    }

    /// From now on every request is answered 503.
    pub fn go_down(&self) {
        self.shared.down.store(true, Ordering::Relaxed);
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared
            .seen
            .lock()
            .expect("no test panics with it")
            .clone()
    }

    /// GETs of one blob.
    pub fn blob_gets(&self, digest: &str) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|seen| {
            seen.method == "GET" && seen.path.ends_with(&format!("/blobs/{digest}"))
        });
        seen
    }

    /// Bytes of one blob that went back.
    pub fn sent_of(&self, digest: &str) -> u64 {
        self.blob_gets(digest).iter().map(|seen| seen.sent).sum()
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.tasks.token().cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: Tasks) {
    let client: Client<HttpConnector, Incoming> =
        Client::builder(TokioExecutor::new()).build_http();
    while let Ok((socket, _)) = listener.accept().await {
        let (shared, client) = (Arc::clone(&shared), client.clone());
        let service = hyper::service::service_fn(move |request| {
            forward(request, Arc::clone(&shared), client.clone())
        });
        tasks.spawn("throttled connection", async move {
            let connection = hyper::server::conn::http1::Builder::new();
            // A client that goes away is nobody's fault here.
            let _ = connection
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

async fn forward(
    mut request: Request<Incoming>,
    shared: Arc<Shared>,
    client: Client<HttpConnector, Incoming>,
) -> Result<Response<Body>> {
    let range = request.headers().get(header::RANGE);
    let seen = Seen {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        range: range
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned),
        sent: 0,
    };
    let index = {
        let mut all = shared.seen.lock().expect("no test panics with it");
        all.push(seen);
        all.len() - 1
    };
    if shared.down.load(Ordering::Relaxed) {
        let empty = Full::default().map_err(|never| match never {}).boxed();
        return Ok(Response::builder()
            .status(StatusCode::SERVICE_UNAVAILABLE)
            .body(empty)?);
    }
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    *request.uri_mut() = format!("{}{target}", shared.upstream).parse()?;
    let (parts, body) = client.request(request).await?.into_parts();
    let stream = futures::stream::try_unfold((body, shared, index), next_chunk);
    Ok(Response::from_parts(
        parts,
        BodyExt::boxed(StreamBody::new(Box::pin(stream))),
    ))
}

type Place = (Incoming, Arc<Shared>, usize);

async fn next_chunk(
    (mut body, shared, index): Place,
) -> Result<Option<(Frame<Bytes>, Place)>, Box<dyn std::error::Error + Send + Sync>> {
    let Some(frame) = body.frame().await else {
        return Ok(None);
    };
    let frame = frame?;
    let length = frame.data_ref().map_or(0, |data| data.len() as u64);
    let due = {
        let rate = shared.bytes_per_second.load(Ordering::Relaxed).max(1);
        let mut free_at = shared.free_at.lock().expect("no test panics with it");
        let begin = (*free_at).max(Instant::now());
        *free_at = begin + Duration::from_secs_f64(length as f64 / rate as f64);
        begin
    };
    sleep_until(due).await;
    shared.seen.lock().expect("no test panics with it")[index].sent += length;
    Ok(Some((frame, (body, shared, index))))
}
