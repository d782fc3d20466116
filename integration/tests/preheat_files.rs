//! Files are with everybody before anybody asks for them; and what is not, is said.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use darter_integration::{
    guarded::{Body, Server, full},
    image::Blob,
    report::can_use,
    stand::{LIMIT, Stand, text},
};
use http::{Method, Request, Response, header};
use serde_json::{Value, json};
use tokio::process::Command;

/// A web server with files, of which each is there in one version.
struct Web {
    file: Bytes,
    sent: Arc<AtomicU64>,
    /// Bodies that were asked for.
    gets: Arc<AtomicUsize>,
    server: Server,
}

impl Web {
    async fn start(size: usize) -> Result<Self> {
        let file = Blob::layer(1, size).bytes;
        let (sent, gets) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (Arc::clone(&sent), Arc::clone(&gets));
        let shared = file.clone();
        let server = Server::start(None, move |request| answer(&shared, &counts, &request));
        Ok(Self {
            file,
            sent,
            gets,
            server: server.await?,
        })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server.url())
    }

    /// The setting that has a host share what is below `/dist/`.
    fn rule(&self) -> String {
        let host = self.server.authority();
        format!(
            "proxy.intercept.rules=[{{host = \"{host}\", path = \"/dist/.*\", private = [\"127.0.0.0/8\", \"::1/128\"]}}]"
        )
    }
}

fn answer(
    file: &Bytes,
    (sent, gets): &(Arc<AtomicU64>, Arc<AtomicUsize>),
    request: &Request<Bytes>,
) -> Response<Body> {
    let reply = Response::builder();
    let path = request.uri().path();
    if path.ends_with("missing") {
        return reply.status(404).body(full("")).expect("a reply");
    }
    let file = match path.ends_with("empty") {
        true => Bytes::new(),
        false => file.clone(),
    };
    let reply = match path.ends_with("private") {
        true => reply.header(header::CACHE_CONTROL, "private"),
        false => reply,
    };
    let reply = reply
        .header(header::ETAG, "\"1\"")
        .header(header::ACCEPT_RANGES, "bytes");
    let range = request.headers().get(header::RANGE);
    let range = range.and_then(|value| {
        let (first, last) = value
            .to_str()
            .ok()?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some(first.parse::<usize>().ok()?..last.parse::<usize>().ok()? + 1)
    });
    let (reply, body) = match range {
        Some(range) => {
            let (first, last, all) = (range.start, range.end - 1, file.len());
            let part = format!("bytes {first}-{last}/{all}");
            let reply = reply.status(206).header(header::CONTENT_RANGE, part);
            (reply, file.slice(range))
        }
        None => (reply, file),
    };
    let reply = reply.header(header::CONTENT_LENGTH, body.len());
    if *request.method() == Method::HEAD {
        return reply.body(full("")).expect("a reply");
    }
    gets.fetch_add(1, Ordering::SeqCst);
    sent.fetch_add(body.len() as u64, Ordering::SeqCst);
    reply.body(full(body)).expect("a reply")
}

/// Peers that share the web server's files.
async fn start(web: &Web, peers: usize) -> Result<Stand> {
    Stand::start_with(peers, &[&web.rule()]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_copy_of_a_file_is_everywhere_before_anybody_asks() -> Result<()> {
    let test = "one_copy_of_a_file_is_everywhere_before_anybody_asks";
    if !can_use(test, &["docker-registry", "curl"], false) {
        return Ok(());
    }
    let web = Web::start(3_000_000).await?;
    let stand = start(&web, 3).await?;
    let url = web.url("/dist/a.iso?sig=secret");
    let output = stand.preheat(&[&url, "--scope", "all_peers"]).await?;
    let said = text(&output);
    ensure!(output.status.success(), "{said}");
    ensure!(said.contains("SUCCESS: 3 of 3 hosts"), "{said}");
    ensure!(!said.contains("secret"), "{said}");
    let (sent, gets) = (
        web.sent.load(Ordering::SeqCst),
        web.gets.load(Ordering::SeqCst),
    );
    println!("{sent} bytes of {} left the source", web.file.len());
    ensure!(sent == web.file.len() as u64, "{sent}: one copy for all");
    for (at, peer) in stand.peers.iter().enumerate() {
        let to = stand.dir.path().join(format!("got-{at}"));
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--proxy", &peer.mirror()]);
        curl.arg("--output").arg(&to).arg(&url).kill_on_drop(true);
        curl.env_remove("NO_PROXY").env_remove("no_proxy");
        let status = tokio::time::timeout(LIMIT, curl.status()).await??;
        ensure!(status.success() && std::fs::read(&to)? == web.file, "n{at}");
    }
    ensure!(
        web.gets.load(Ordering::SeqCst) == gets,
        "all came from the stores"
    );

    let job = stand.job(&json!(1)).await?;
    assert_eq!(job["files"], json!([web.url("/dist/a.iso")]), "{job}");
    assert_eq!(job["contents"][0]["kind"], "file", "{job}");
    assert_eq!(job["contents"][0]["held_by"], 3, "{job}");
    // As Dragonfly's clients ask for files.
    let wish = json!({"type": "preheat", "args": {"type": "file", "scope": "all_peers",
        "urls": [url, web.url("/dist/b.iso")], "headers": {"X-Nothing": "1"}}});
    let posted = stand.post("/oapi/v1/jobs", wish).await?;
    let job = stand.ended(&posted["id"]).await?;
    assert_eq!(job["state"], "SUCCESS", "{job}");
    let oapi = format!("{}/oapi/v1/jobs/{}", stand.rest(), posted["id"]);
    let shown = darter_integration::http::get(&oapi).await?;
    let shown: Value = serde_json::from_slice(shown.body())?;
    let results = &shown["result"]["job_states"][0]["results"][0];
    let tasks = results["success_tasks"].as_array().context("a list")?;
    assert_eq!(tasks.len(), 2 * 3, "{shown}");
    let is_second = |task: &&Value| task["url"] == web.url("/dist/b.iso");
    assert_eq!(tasks.iter().filter(is_second).count(), 3, "{shown}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_share_a_file_is_named() -> Result<()> {
    let test = "a_host_that_does_not_share_a_file_is_named";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let web = Web::start(1_000_000).await?;
    let mut stand = start(&web, 2).await?;
    stand
        .add_peer(&["--set", "proxy.intercept.rules=[]"])
        .await?;
    let wish = json!({"files": [web.url("/dist/a.iso")], "scope": "all_peers"});
    let posted = stand.post("/api/v1/jobs", wish).await?;
    let job = stand.ended(&posted["id"]).await?;
    assert_eq!(job["state"], "FAILURE", "{job}");
    assert_eq!(job["summary"]["hosts_done"], 2, "{job}");
    let failures = job["failures"].as_array().context("a list")?;
    assert_eq!(failures.len(), 1, "{job}");
    assert_eq!(failures[0]["host"], "n2", "{job}");
    assert_eq!(failures[0]["why"], "no rule of the host shares it", "{job}");

    for (path, why) in [
        ("/dist/missing", "its source has none (404 Not Found)"),
        ("/dist/private", "its source does not let everybody keep it"),
        ("/dist/empty", "it is empty"),
        ("/other/a.iso", "no rule of the host shares it"),
    ] {
        let output = stand.preheat(&[&web.url(path)]).await?;
        let said = text(&output);
        ensure!(output.status.code() == Some(1), "{path}: {said}");
        ensure!(said.contains(why) && said.contains(path), "{path}: {said}");
    }
    let secret = ["--username", "u", "--password-file", "/dev/null"];
    let url = web.url("/dist/a.iso");
    let output = stand
        .preheat(&[&[url.as_str()][..], &secret].concat())
        .await?;
    ensure!(
        text(&output).contains("files are for everybody"),
        "{output:?}"
    );
    Ok(())
}
