//! Downloads that are no images, by rules: one copy leaves their source for all nodes, none is
//! made of two versions, and what is private is shared with nobody.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use darter_integration::{
    darter::{Part, start_proxy},
    guarded::{Body, Server, full},
    image::Blob,
    process::eventually,
    repetitions,
    report::can_use,
};
use futures::{future::try_join_all, stream};
use http::{Method, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::{process::Command, sync::watch};

const CHUNK: u64 = 64 * 1024;

/// A web server with one file, of which there are two versions.
struct Web {
    state: Arc<State>,
    server: Server,
}

struct State {
    versions: [Bytes; 2],
    /// Which one is there.
    at: AtomicUsize,
    /// Bytes that left it.
    sent: AtomicU64,
    gets: AtomicUsize,
    /// Bodies stop in their middle while it is set.
    held: watch::Sender<bool>,
    /// The next body gives nothing.
    stuck: AtomicBool,
    /// Bodies end in their middle, once.
    cut: AtomicBool,
    secrets: AtomicUsize,
}

impl Web {
    async fn start(size: usize) -> Result<Self> {
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
        let server = Server::start(None, move |request| answer(&shared, &request)).await?;
        Ok(Self { state, server })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server.url())
    }

    fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::SeqCst)
    }

    fn size(&self) -> u64 {
        self.state.versions[0].len() as u64
    }

    /// The flag that has a node share what is below `/dist/`.
    fn rule(&self) -> String {
        let host = self.server.authority();
        format!(
            "proxy.intercept.rules=[{{host = \"{host}\", path = \"/dist/.*\", private = [\"127.0.0.0/8\", \"::1/128\"]}}]"
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

/// A scheduler, a seed that knows no rules, and nodes that do.
struct Cluster {
    _scheduler: Part,
    _seed: Part,
    nodes: Vec<Part>,
}

impl Cluster {
    async fn start(dir: &Path, web: &Web, nodes: usize) -> Result<Self> {
        let (any, data) = ("127.0.0.1:0", dir.join("scheduler").display().to_string());
        let scheduler = [
            "scheduler",
            "--listen",
            any,
            "--operations-listen",
            any,
            "--data",
            &data,
        ];
        let scheduler = Part::start("scheduler", dir, &scheduler).await?;
        let url = format!("http://{}", scheduler.address("scheduler"));
        let upstream = "docker.io=http://127.0.0.1:1";
        let seed = start_proxy(dir, "seed", upstream, Some(&url), &["--seed"]).await?;
        let rule = web.rule();
        let more = ["--set", &rule];
        let mut all = Vec::new();
        for node in 0..nodes {
            let name = format!("node-{node}");
            all.push(start_proxy(dir, &name, upstream, Some(&url), &more).await?);
        }
        Ok(Self {
            _scheduler: scheduler,
            _seed: seed,
            nodes: all,
        })
    }
}

/// `curl -x`: its exit code and what it wrote.
async fn curl(node: &Part, url: &str, to: PathBuf, more: &[&str]) -> Result<(i32, Vec<u8>)> {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "170",
        "--proxy",
    ]);
    curl.arg(node.mirror()).arg("--output").arg(&to).args(more);
    curl.env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .kill_on_drop(true);
    let status = curl.arg(url).status().await?;
    let wrote = std::fs::read(&to).unwrap_or_default();
    Ok((status.code().unwrap_or(-1), wrote))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_copy_of_a_file_leaves_its_source_for_four_nodes() -> Result<()> {
    if !can_use(
        "one_copy_of_a_file_leaves_its_source_for_four_nodes",
        &["curl"],
        false,
    ) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let web = Web::start(repetitions(24_000_000, (1 << 30) - 2048)).await?;
    let cluster = Cluster::start(dir.path(), &web, 4).await?;
    let url = web.url("/dist/file.bin");
    let pulls = cluster.nodes.iter().enumerate().map(|(at, node)| {
        let to = dir.path().join(format!("got-{at}"));
        curl(node, &url, to, &[])
    });
    for (code, got) in try_join_all(pulls).await? {
        ensure!(
            code == 0 && got == web.state.versions[0],
            "{code}: {} bytes",
            got.len()
        );
    }
    let copies = web.sent() as f64 / web.size() as f64;
    println!(
        "{} bytes, four nodes: {copies:.4} copies left the source",
        web.size()
    );
    ensure!(web.sent() == web.size(), "{copies} copies");

    // Once more, and a part of it: from the store.
    let node = &cluster.nodes[0];
    let to = dir.path().join("part");
    let (code, got) = curl(node, &url, to, &["--range", "1000000-1999999"]).await?;
    let part = &web.state.versions[0][1_000_000..2_000_000];
    ensure!(code == 0 && got == part, "{code}: {} bytes", got.len());
    ensure!(
        web.sent() == web.size(),
        "the part was read from the source"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_gives_nothing_holds_nobody_up() -> Result<()> {
    let test = "a_reading_that_gives_nothing_holds_nobody_up";
    if !can_use(test, &["curl"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let web = Web::start(4_000_000).await?;
    let (rule, upstream) = (web.rule(), "docker.io=http://127.0.0.1:1");
    let node = start_proxy(dir.path(), "node", upstream, None, &["--set", &rule]).await?;
    web.state.stuck.store(true, Ordering::SeqCst);
    let (to, began) = (dir.path().join("got"), Instant::now());
    let (code, got) = curl(&node, &web.url("/dist/file.bin"), to, &[]).await?;
    let took = began.elapsed();
    ensure!(code == 0 && got == web.state.versions[0], "{code}");
    ensure!(
        !web.state.stuck.load(Ordering::SeqCst),
        "a reading was stuck"
    );
    println!("{took:?} with a source whose first body gives nothing");
    ensure!(took < Duration::from_secs(15), "{took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_is_made_of_two_versions() -> Result<()> {
    if !can_use("no_file_is_made_of_two_versions", &["curl"], false) {
        return Ok(());
    }
    for cut in [false, true] {
        let dir = tempfile::tempdir()?;
        let web = Web::start(8_000_000).await?;
        let cluster = Cluster::start(dir.path(), &web, 2).await?;
        let (state, url) = (&web.state, web.url("/dist/file.bin"));
        state.held.send_replace(true);
        state.cut.store(cut, Ordering::SeqCst);
        let pulls = cluster.nodes.iter().enumerate().map(|(at, node)| {
            let to = dir.path().join(format!("got-{at}"));
            curl(node, &url, to, &[])
        });
        let change = async {
            eventually("half of the file", Duration::from_secs(60), || async {
                (web.sent() * 2 >= web.size()).then_some(())
            })
            .await?;
            state.at.store(1, Ordering::SeqCst);
            state.held.send_replace(false);
            Ok(())
        };
        let (pulls, changed) = tokio::join!(try_join_all(pulls), change);
        changed.and_then(|()| {
            for (code, got) in pulls? {
                let whole = got.len() as u64 == web.size();
                let new = got == state.versions[1];
                // Who came late may have got the new one, and nobody anything else.
                ensure!(
                    code == 0 && new || code != 0 && !whole,
                    "cut {cut}, {code}: {}",
                    got.len()
                );
            }
            Ok(())
        })?;
        for (at, node) in cluster.nodes.iter().enumerate() {
            let to = dir.path().join(format!("again-{at}"));
            let (code, got) = curl(node, &url, to, &[]).await?;
            ensure!(
                code == 0 && got == state.versions[1],
                "cut {cut}, again: {code}"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_private_or_no_rules_is_passed_on() -> Result<()> {
    if !can_use("what_is_private_or_no_rules_is_passed_on", &["curl"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let (web, other) = (Web::start(4_000_000).await?, Web::start(4_000_000).await?);
    let rule = web.rule();
    let upstream = "docker.io=http://127.0.0.1:1";
    let node = start_proxy(dir.path(), "node", upstream, None, &["--set", &rule]).await?;
    let to = || dir.path().join("got");
    let secret = ["--header", "Authorization: Basic YTpzM2NyZXQ="];
    for (path, more) in [
        ("/dist/a", &secret[..]),
        ("/dist/a", &secret),
        ("/else/a", &[]),
    ] {
        let (code, got) = curl(&node, &web.url(path), to(), more).await?;
        ensure!(code == 0 && got == web.state.versions[0], "{path}: {code}");
    }
    ensure!(
        web.sent() == 3 * web.size(),
        "each was read for itself: {}",
        web.sent()
    );
    ensure!(
        web.state.secrets.load(Ordering::SeqCst) == 2,
        "credentials arrive"
    );
    // Shared, and asked for anew with credentials: not from the store.
    let (code, _) = curl(&node, &web.url("/dist/a"), to(), &[]).await?;
    ensure!(
        code == 0 && web.sent() == 4 * web.size(),
        "{code}: {}",
        web.sent()
    );
    let (code, _) = curl(&node, &web.url("/dist/a"), to(), &secret).await?;
    ensure!(
        code == 0 && web.sent() == 5 * web.size(),
        "{code}: {}",
        web.sent()
    );
    // curl's code for what --fail makes of a 403.
    let (code, _) = curl(&node, &other.url("/dist/a"), to(), &[]).await?;
    ensure!(code == 22 && other.sent() == 0, "{code}");
    Ok(())
}
