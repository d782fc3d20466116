//! A whole proxy in this process, and a client that sees how bodies end.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use darter_api::Digest;
use darter_proxy::{
    app::{Options, Proxy},
    upstream::UpstreamOptions,
};
use darter_runtime::{Tasks, tls::Security};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry as Metrics;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{
    clock::Clock,
    registry::{Registry, Reply, Seen, Shelf},
};

/// A client must know that there is nothing to be had within this, by the bench's clock.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// No test waits longer for anything: enough for the slowest machine.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(120);
/// Members of a swarm answer each other by then, on the slowest machine; who does not is gone.
pub(crate) const ANSWERED: Duration = Duration::from_secs(10);

pub(crate) struct Bench {
    pub(crate) address: SocketAddr,
    pub(crate) tasks: Tasks,
    clock: Clock,
    metrics: Metrics,
    operations: axum::Router,
    _dir: TempDir,
}

pub(crate) fn upstream(name: &str, url: String) -> UpstreamOptions {
    UpstreamOptions {
        name: name.to_owned(),
        url: Some(url),
        ..UpstreamOptions::default()
    }
}

/// Waits for whoever is only slow: for tests whose subject is something else.
fn patient(options: &mut Options) {
    options.mirror.upstream_timeout = GIVE_UP;
    options.mirror.first_byte_timeout = GIVE_UP;
    options.swarm.join_timeout = ANSWERED;
    options.swarm.session_grace = ANSWERED;
}

/// Waits for as long as a proxy does by default: where somebody never says anything.
pub(crate) fn impatient(options: &mut Options) {
    let default = Options::default();
    options.mirror = default.mirror;
    options.swarm = default.swarm;
}

impl Bench {
    /// A proxy in front of a good registry with these contents.
    pub(crate) async fn good(shelf: Shelf) -> (Self, Registry) {
        Self::twisted(shelf, |_, reply| reply).await
    }

    /// A proxy in front of a registry whose replies are changed.
    pub(crate) async fn twisted(
        shelf: Shelf,
        twist: impl Fn(&Seen, Reply) -> Reply + Send + Sync + 'static,
    ) -> (Self, Registry) {
        let tasks = Tasks::new();
        let registry = Registry::twisted(shelf, &tasks, twist).await;
        let bench = Self::of(vec![upstream("registry.test", registry.url())], tasks).await;
        (bench, registry)
    }

    /// The same, for registries that say nothing: its patience with them is the default one.
    pub(crate) async fn impatient(
        shelf: Shelf,
        twist: impl Fn(&Seen, Reply) -> Reply + Send + Sync + 'static,
    ) -> (Self, Registry) {
        let tasks = Tasks::new();
        let registry = Registry::twisted(shelf, &tasks, twist).await;
        let list = vec![upstream("registry.test", registry.url())];
        let bench = Self::with(tasks, |options| {
            options.upstreams = list;
            impatient(options);
        });
        (bench.await, registry)
    }

    pub(crate) async fn of(upstreams: Vec<UpstreamOptions>, tasks: Tasks) -> Self {
        Self::with(tasks, |options| options.upstreams = upstreams).await
    }

    /// A proxy of a swarm.
    pub(crate) async fn member(
        upstreams: Vec<UpstreamOptions>,
        tasks: Tasks,
        scheduler: SocketAddr,
        seed: bool,
        change: fn(&mut Options),
    ) -> Self {
        Self::with(tasks, |options| {
            change(options);
            options.upstreams = upstreams;
            options.schedulers = vec![format!("http://{scheduler}")];
            options.seed = seed;
        })
        .await
    }

    /// With all the patience that a slow machine needs, but where it is changed.
    pub(crate) async fn with(tasks: Tasks, change: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut options = Options {
            listen: free,
            peer: free,
            data: dir.path().to_owned(),
            ..Options::default()
        };
        patient(&mut options);
        change(&mut options);
        let mut metrics = Metrics::default();
        let proxy = Proxy::start(
            options,
            &Security::Plain,
            axum::Router::new(),
            &tasks,
            &mut metrics,
        )
        .await;
        let proxy = proxy.expect("a proxy starts");
        Self {
            address: proxy.listen(),
            clock: Clock::start(&tasks),
            metrics,
            tasks,
            operations: proxy.operations(),
            _dir: dir,
        }
    }

    /// What the operations port serves of it.
    pub(crate) fn operations(&self) -> axum::Router {
        self.operations.clone()
    }

    /// Waits until its session with a scheduler stands.
    pub(crate) async fn has_a_session(&self) {
        until("it has a session", || {
            metric(&self.metrics, "peer_sessions") == Some(1.0)
        })
        .await;
    }

    pub(crate) fn ask(&self, path: impl Into<String>) -> Ask<'_> {
        Ask {
            bench: self,
            request: Request::get(path.into()).header("host", "localhost:4001"),
        }
    }

    pub(crate) async fn get(&self, path: impl Into<String>) -> Answer {
        self.ask(path).send().await
    }

    pub(crate) async fn head(&self, path: impl Into<String>) -> Answer {
        self.ask(path).method("HEAD").send().await
    }

    /// Ends the proxy and the registries, and sees that nothing is left.
    pub(crate) async fn stop(self) {
        assert!(
            self.tasks.stop(Duration::from_secs(60)).await,
            "all tasks end"
        );
    }
}

/// A request to be.
pub(crate) struct Ask<'a> {
    bench: &'a Bench,
    request: http::request::Builder,
}

impl Ask<'_> {
    pub(crate) fn method(mut self, method: &str) -> Self {
        self.request = self.request.method(method);
        self
    }

    pub(crate) fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.request = self.request.header(name, value.as_ref());
        self
    }

    pub(crate) fn authorized(self, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.header("authorization", value),
            None => self,
        }
    }

    /// Sends it on a connection of its own, and reads no more than the head.
    pub(crate) async fn open(self) -> Open {
        let began = self.bench.clock.now();
        let socket = TcpStream::connect(self.bench.address).await;
        let socket = socket.expect("the proxy listens");
        let handshake = http1::handshake(TokioIo::new(socket)).await;
        let (mut sender, connection) = handshake.expect("a connection");
        self.bench.tasks.spawn("client", connection);
        let request = self.request.body(Empty::<Bytes>::new()).expect("a request");
        let response = tokio::time::timeout(GIVE_UP, sender.send_request(request));
        let response = response.await.expect("an answer in time");
        Open {
            response: response.expect("an answer"),
            took: self.bench.clock.now() - began,
            _sender: sender,
        }
    }

    pub(crate) async fn send(self) -> Answer {
        self.open().await.finish().await
    }
}

/// An answer whose body is still to be read.
pub(crate) struct Open {
    pub(crate) response: Response<Incoming>,
    pub(crate) took: Duration,
    _sender: http1::SendRequest<Empty<Bytes>>,
}

impl Open {
    /// At least so many bytes of the body.
    pub(crate) async fn read(&mut self, least: usize) -> Bytes {
        let mut body = BytesMut::new();
        while body.len() < least {
            let frame = tokio::time::timeout(GIVE_UP, self.response.frame());
            let frame = frame.await.expect("bytes in time");
            let frame = frame.unwrap_or_else(|| panic!("more than {body:?}"));
            if let Ok(data) = frame.expect("no error yet").into_data() {
                body.extend_from_slice(&data);
            }
        }
        body.freeze()
    }

    pub(crate) async fn finish(mut self) -> Answer {
        let mut body = BytesMut::new();
        let end = loop {
            let frame = tokio::time::timeout(GIVE_UP, self.response.frame());
            match frame.await.expect("bytes in time") {
                None => break BodyEnd::Whole,
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        body.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => break BodyEnd::of(&error),
            }
        };
        Answer {
            status: self.response.status(),
            headers: self.response.headers().clone(),
            body: body.freeze(),
            end,
            took: self.took,
        }
    }
}

/// How a body ended, as the client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BodyEnd {
    Whole,
    /// A FIN before the announced length.
    Short,
    /// Anything else: clients give up on it.
    Reset(String),
}

impl BodyEnd {
    fn of(error: &hyper::Error) -> Self {
        let source = std::error::Error::source(error);
        let io = source.and_then(|source| source.downcast_ref::<std::io::Error>());
        let early = io.is_some_and(|io| io.kind() == std::io::ErrorKind::UnexpectedEof);
        if early || error.is_incomplete_message() {
            Self::Short
        } else {
            Self::Reset(format!("{error:?}"))
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) end: BodyEnd,
    /// Until the head, by the bench's clock.
    pub(crate) took: Duration,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().expect("printable headers"))
    }

    /// The code in the error body of the specification.
    pub(crate) fn code(&self) -> String {
        let value: serde_json::Value =
            serde_json::from_slice(&self.body).unwrap_or(serde_json::Value::Null);
        let code = value.pointer("/errors/0/code");
        let code = code.and_then(serde_json::Value::as_str);
        code.unwrap_or("(no error body)").to_owned()
    }

    #[track_caller]
    pub(crate) fn is_whole(&self, wanted: &Bytes) {
        assert_eq!((self.status, &self.end), (StatusCode::OK, &BodyEnd::Whole));
        assert!(self.body == wanted, "the bytes are the registry's");
    }
}

pub(crate) fn blob_path(repository: &str, bytes: &Bytes) -> String {
    format!("/v2/{repository}/blobs/{}", Digest::sha256(bytes))
}

/// A sample of these metrics.
pub(crate) fn metric(metrics: &Metrics, name: &str) -> Option<f64> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, metrics).expect("a string takes all");
    let samples = text.lines().filter_map(|line| line.rsplit_once(' '));
    let sample = samples.into_iter().find(|(key, _)| *key == name);
    sample.and_then(|(_, value)| value.parse().ok())
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < GIVE_UP, "{what}: not so");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
