//! Lazy pullers: random and multi-range reads of a cold blob cost what they touch, and little
//! more, at the registry.

use std::{io::Write as _, ops::Range, path::Path, time::Duration};

use ::http::{Method, Response};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use darter_api::{Algorithm, Digest, Hasher};
use darter_integration::{
    darter::{Cluster, Part, start_proxy},
    http::{self, send},
    image::{Blob, push_blob},
    process::{eventually, run},
    registry::{Registry, plant_blob},
    repetitions,
    report::can_use,
    throttle::Throttle,
};
use futures::{StreamExt as _, TryStreamExt as _};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(120);

/// The bytes of a blob that is nowhere in memory as a whole.
fn pattern(range: Range<u64>) -> Vec<u8> {
    let words = range.start / 8..range.end.div_ceil(8);
    let mut bytes = vec![0; (words.end - words.start) as usize * 8];
    for (word, place) in words.zip(bytes.chunks_exact_mut(8)) {
        place.copy_from_slice(&(word + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    let skipped = (range.start % 8) as usize;
    bytes[skipped..skipped + (range.end - range.start) as usize].to_vec()
}

/// How much is read at random of how large a blob, and by how many reads of 64 KiB.
#[derive(Clone, Copy)]
struct Load {
    size: u64,
    reads: usize,
}

impl Load {
    /// A quarter of both but for the long tests: they have 160 reads of 1 GiB.
    fn new() -> Self {
        let quarters = repetitions(1, 4);
        Self {
            size: quarters as u64 * 256 * MIB,
            reads: quarters * 40,
        }
    }

    /// Three per cent of the blob.
    fn most(self) -> u64 {
        self.size * 3 / 100
    }

    fn percent(self, bytes: u64) -> f64 {
        bytes as f64 * 100.0 / self.size as f64
    }
}

/// A blob of so many bytes in the registry's storage.
fn plant(dir: &Path, size: u64) -> Result<Digest> {
    let path = dir.join("blob");
    let (mut file, mut hasher) = (
        std::fs::File::create(&path)?,
        Hasher::new(Algorithm::Sha256),
    );
    for start in (0..size).step_by(MIB as usize) {
        let block = pattern(start..start + MIB);
        hasher.update(&block);
        file.write_all(&block)?;
    }
    let digest = hasher.finish();
    plant_blob(dir, "library/app", &path, &digest)?;
    Ok(digest)
}

fn url(part: &Part, digest: &Digest) -> String {
    let mirror = part.mirror();
    format!("{mirror}/v2/library/app/blobs/{digest}?ns=docker.io")
}

async fn ranged(part: &Part, digest: &Digest, range: &str) -> Result<Response<Bytes>> {
    let (url, headers) = (url(part, digest), [("range", range)]);
    let reply = send(Method::GET, &url, &headers, Bytes::new());
    tokio::time::timeout(LIMIT, reply).await?
}

/// Random reads of 64 KiB, eight at a time; all are right.
async fn random_reads(part: &Part, digest: &Digest, load: Load, seed: u64) -> Result<()> {
    let Load { size, reads } = load;
    let mut random = SmallRng::seed_from_u64(seed);
    let places: Vec<u64> = (0..reads)
        .map(|_| random.random_range(0..size - 64 * KIB))
        .collect();
    let reads = places.into_iter().map(|start| async move {
        let range = start..start + 64 * KIB;
        let text = format!("bytes={}-{}", range.start, range.end - 1);
        let reply = ranged(part, digest, &text).await?;
        ensure!(reply.status() == 206, "{}", reply.status());
        let place = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        ensure!(reply.headers()["content-range"] == place.as_str());
        ensure!(reply.body() == &pattern(range), "other bytes at {start}");
        anyhow::Ok(())
    });
    futures::stream::iter(reads)
        .buffer_unordered(8)
        .try_collect()
        .await
}

/// Content bytes that came to a node from the source, or from a peer.
async fn came(part: &Part, from: &str) -> Result<f64> {
    let name = "darter_proxy_swarm_content_bytes_total";
    part.metric(name, &format!("from=\"{from}\"")).await
}

/// Waits until a node has its scheduler.
async fn session(part: &Part) -> Result<()> {
    eventually("a session", LIMIT, || async {
        let sessions = part.metric("darter_proxy_peer_sessions", "").await;
        sessions.is_ok_and(|count| count == 1.0).then_some(())
    })
    .await
}

/// What left the registry, once its log says as much as the nodes do.
async fn left(registry: &Registry, digest: &Digest, nodes: f64) -> Result<u64> {
    eventually("the registry's log", LIMIT, || async {
        let sent = registry.sent_of(&digest.to_string());
        (sent as f64 >= nodes).then_some(sent)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn random_reads_of_a_cold_blob_cost_less_than_three_per_cent() -> Result<()> {
    let test = "random_reads_of_a_cold_blob_cost_less_than_three_per_cent";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let registry = Registry::start(dir).await?;
    let load = Load::new();
    let digest = plant(dir, load.size)?;

    let upstream = format!("docker.io={}", registry.url());
    let alone = start_proxy(dir, "alone", &upstream, None, &[]).await?;
    random_reads(&alone, &digest, load, 1).await?;
    let read = came(&alone, "Source").await?;
    let first = left(&registry, &digest, read).await?;
    println!(
        "alone: {first} bytes left the registry, {:.2} %",
        load.percent(first)
    );
    ensure!(first < load.most(), "{first} bytes");

    // Two nodes that read the same cost what one does: the seed's reading.
    let cluster = Cluster::start(dir, &registry.url(), 2).await?;
    for part in cluster.peers.iter().chain([&cluster.seed]) {
        session(part).await?;
    }
    for peer in &cluster.peers {
        random_reads(peer, &digest, load, 2).await?;
    }
    let mut read = came(&cluster.seed, "Source").await?;
    for peer in &cluster.peers {
        read += came(peer, "Source").await?;
        ensure!(came(peer, "Peer").await? >= (load.reads as u64 * 64 * KIB) as f64);
    }
    let both = left(&registry, &digest, first as f64 + read).await? - first;
    println!(
        "two nodes and a seed: {both} bytes, {:.2} %",
        load.percent(both)
    );
    ensure!(both < load.most(), "{both} bytes");
    Ok(())
}

/// The parts of a `multipart/byteranges` body: where each begins, and its bytes.
fn parts(reply: &Response<Bytes>) -> Result<Vec<(String, Vec<u8>)>> {
    let kind = reply.headers()["content-type"].to_str()?;
    let boundary = kind
        .strip_prefix("multipart/byteranges; boundary=")
        .context("the media type")?;
    let (mut parts, mut rest) = (Vec::new(), &reply.body()[..]);
    loop {
        let line = format!("--{boundary}\r\n");
        if rest == format!("--{boundary}--\r\n").as_bytes() {
            return Ok(parts);
        }
        rest = rest.strip_prefix(line.as_bytes()).context("a boundary")?;
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n");
        let (head, body) = rest.split_at(end.context("a head")? + 4);
        let head = std::str::from_utf8(head)?;
        let place = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Range: bytes "))
            .context("a place")?;
        let (range, _) = place.split_once('/').context("a size")?;
        let (first, last) = range.split_once('-').context("a range")?;
        let length = last.parse::<usize>()? - first.parse::<usize>()? + 1;
        parts.push((range.to_owned(), body[..length].to_vec()));
        rest = body[length..]
            .strip_prefix(b"\r\n")
            .context("a line's end")?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_ranges_are_one_reply_of_parts() -> Result<()> {
    let test = "several_ranges_are_one_reply_of_parts";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let registry = Registry::start(dir.path()).await?;
    let blob = Blob::new(pattern(0..20_000_000));
    push_blob(&registry, "library/app", &blob).await?;
    let upstream = format!("docker.io={}", registry.url());
    let proxy = start_proxy(dir.path(), "alone", &upstream, None, &[]).await?;
    let ask = |range: &'static str| ranged(&proxy, &blob.digest, range);

    let reply = ask("bytes=5000000-5000009,0-99,-3").await?;
    ensure!(reply.status() == 206);
    let part = |from: usize, end: usize| {
        let place = format!("{from}-{}", end - 1);
        (place, blob.bytes[from..end].to_vec())
    };
    let wanted = [
        part(5_000_000, 5_000_010),
        part(0, 100),
        part(19_999_997, 20_000_000),
    ];
    ensure!(parts(&reply)? == wanted);
    // Three groups, of which the last is shorter.
    let groups = 2 * 64 * KIB + 20_000_000 % (64 * KIB);
    let read = came(&proxy, "Source").await?;
    ensure!(read == groups as f64, "{read}");
    // More than the content has makes no huge reply, and nonsense none of its own.
    for whole in ["bytes=0-,0-", "bytes=0-9,x"] {
        let reply = ask(whole).await?;
        ensure!(reply.status() == 200 && reply.body() == &blob.bytes);
    }
    ensure!(parts(&ask("bytes=7-8,1-1").await?)? == [part(7, 9), part(1, 2)]);
    Ok(())
}

/// Reads the beginning of a reply to an open range, and hangs up.
async fn hang_up(part: &Part, digest: &Digest) -> Result<()> {
    let mut socket = TcpStream::connect(part.address("mirror")).await?;
    let request = format!(
        "GET /v2/library/app/blobs/{digest}?ns=docker.io HTTP/1.1\r\nhost: x\r\nrange: bytes=0-\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let mut bytes = vec![0; 64 * KIB as usize];
    tokio::time::timeout(LIMIT, socket.read_exact(&mut bytes)).await??;
    ensure!(bytes.starts_with(b"HTTP/1.1 206 "));
    Ok(())
}

/// A registry behind a slow link, and a blob of 64 MB in it.
struct Slow {
    dir: tempfile::TempDir,
    _registry: Registry,
    link: Throttle,
    blob: Blob,
}

impl Slow {
    async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let registry = Registry::start(dir.path()).await?;
        let blob = Blob::layer(1, 64_000_000);
        push_blob(&registry, "library/app", &blob).await?;
        let link = Throttle::start(&registry.url(), 5_000_000).await?;
        Ok(Self {
            dir,
            _registry: registry,
            link,
            blob,
        })
    }

    /// A client of `node` hangs up early: none of `nodes` has a download any more before half of
    /// the blob has left the registry.
    async fn abort(&self, node: &Part, nodes: &[&Part]) -> Result<()> {
        hang_up(node, &self.blob.digest).await?;
        // One that has just begun is counted within a second.
        for (what, count) in [("a download", 1.0), ("the download's end", 0.0)] {
            for node in nodes {
                eventually(what, LIMIT, || async {
                    let under_way = node.metric("darter_proxy_swarm_downloads", "").await;
                    (under_way.ok()? == count).then_some(())
                })
                .await?;
            }
        }
        let sent = self.link.sent_of(&self.blob.digest.to_string());
        let size = self.blob.bytes.len();
        println!("{sent} of {size} bytes left the registry");
        // It goes on for two seconds, since clients that fetch in chunks hang up after each.
        ensure!(sent < 32_000_000, "{sent} bytes");
        Ok(())
    }

    /// What there is of it is gone on with.
    async fn go_on(&self, node: &Part, nodes: &[&Part]) -> Result<()> {
        self.link.set_rate(100_000_000);
        let reply = http::get(&url(node, &self.blob.digest)).await?;
        ensure!(reply.body() == &self.blob.bytes);
        let mut read = 0.0;
        for node in nodes {
            read += came(node, "Source").await?;
        }
        // Each who reads leaves some pieces unfinished; of several nodes one does not.
        let readers = (nodes.len() - 1).max(1) as f64;
        ensure!(
            read <= self.blob.bytes.len() as f64 + readers * 1e6,
            "{read}"
        );
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_read_of_a_cold_blob_stops_its_download() -> Result<()> {
    let test = "an_aborted_read_of_a_cold_blob_stops_its_download";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let slow = Slow::start().await?;
    let upstream = format!("docker.io={}", slow.link.url());
    let node = start_proxy(slow.dir.path(), "alone", &upstream, None, &[]).await?;
    slow.abort(&node, &[&node]).await?;
    slow.go_on(&node, &[&node]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_read_stops_the_seed_that_reads_for_it() -> Result<()> {
    let test = "an_aborted_read_stops_the_seed_that_reads_for_it";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let slow = Slow::start().await?;
    let cluster = Cluster::start(slow.dir.path(), &slow.link.url(), 1).await?;
    let node = &cluster.peers[0];
    for part in [node, &cluster.seed] {
        session(part).await?;
    }
    slow.abort(node, &[node, &cluster.seed]).await?;
    ensure!(came(&cluster.seed, "Source").await? > 0.0, "the seed read");
    slow.go_on(node, &[node, &cluster.seed]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_read_stops_two_seeds_that_read_for_it() -> Result<()> {
    let test = "an_aborted_read_stops_two_seeds_that_read_for_it";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let slow = Slow::start().await?;
    let two_read = [
        "--set",
        "scheduler.source_holders_from=2",
        "--set",
        "scheduler.source_waiters=0",
    ];
    let (dir, url) = (slow.dir.path(), slow.link.url());
    let cluster = Cluster::start_with(dir, &url, 1, &two_read).await?;
    let other = cluster.another_seed().await?;
    let (node, seeds) = (&cluster.peers[0], [&cluster.seed, &other]);
    for part in [node, seeds[0], seeds[1]] {
        session(part).await?;
    }
    slow.abort(node, &[node, seeds[0], seeds[1]]).await?;
    for seed in seeds {
        ensure!(came(seed, "Source").await? > 0.0, "each of them read");
    }
    slow.go_on(node, &[node, seeds[0], seeds[1]]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_first_range_a_prefetch_completes_the_blob() -> Result<()> {
    let test = "after_the_first_range_a_prefetch_completes_the_blob";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut registry = Registry::start(dir.path()).await?;
    let blob = Blob::new(pattern(0..20_000_000));
    push_blob(&registry, "library/app", &blob).await?;
    let upstream = format!("docker.io={}", registry.url());
    let more = ["--set", "proxy.prefetch=\"after-first-range\""];
    let proxy = start_proxy(dir.path(), "alone", &upstream, None, &more).await?;
    let reply = ranged(&proxy, &blob.digest, "bytes=7000000-7000999").await?;
    ensure!(reply.body() == &blob.bytes[7_000_000..7_001_000]);
    eventually("all of it", LIMIT, || async {
        let done = proxy.metric("darter_proxy_swarm_downloads_completed_total", "");
        (done.await.ok()? == 1.0).then_some(())
    })
    .await?;
    registry.stop().await?;
    let reply = http::get(&url(&proxy, &blob.digest)).await?;
    ensure!(reply.body() == &blob.bytes);
    Ok(())
}

/// podman with a store of its own under `dir`, whose partial pulls are on; its mounts end with it.
async fn podman(dir: &Path, store: &str, arguments: &[&str]) -> Result<String> {
    let (root, policy) = (dir.join(store), dir.join("policy.json"));
    let (storage, shown) = (dir.join(format!("{store}.conf")), root.display());
    std::fs::write(
        &storage,
        format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"{shown}/root\"\nrunroot = \"{shown}/run\"\n\
             [storage.options]\npull_options = {{enable_partial_images = \"true\"}}\n"
        ),
    )?;
    std::fs::write(
        &policy,
        r#"{"default": [{"type": "insecureAcceptAnything"}]}"#,
    )?;
    let mut command = Command::new("unshare");
    command
        .env("CONTAINERS_STORAGE_CONF", storage)
        .env("HOME", dir)
        .env("TMPDIR", dir)
        .args(["--mount", "podman", "--cgroup-manager", "cgroupfs"])
        .args(["--events-backend", "file", arguments[0]])
        .arg("--signature-policy")
        .arg(policy)
        .args(&arguments[1..])
        .current_dir(dir);
    run(&mut command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_gets_the_chunks_that_it_lacks() -> Result<()> {
    let test = "podman_gets_the_chunks_that_it_lacks";
    if !can_use(test, &["docker-registry", "podman", "unshare"], true) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let registry = Registry::start(dir).await?;
    let upstream = format!("docker.io={}", registry.url());
    let proxy = start_proxy(dir, "alone", &upstream, None, &[]).await?;
    let files = dir.join("files");
    std::fs::create_dir(&files)?;
    let write = |number: u64, seed: u64| {
        let start = (number * 97 + seed) << 20;
        std::fs::write(
            files.join(number.to_string()),
            pattern(start..start + 500_000),
        )
    };
    for number in 0..20 {
        write(number, 0)?;
    }
    std::fs::write(dir.join("Containerfile"), "FROM scratch\nCOPY files /\n")?;
    let mirror = proxy.address("mirror").to_owned();
    let mut layers = Vec::new();
    for tag in ["1", "2"] {
        let build = ["build", "--isolation", "chroot", "-t", "app", "."];
        podman(dir, "builder", &build).await?;
        let to = format!("docker://{}/library/app:{tag}", registry.address());
        let kind = ["--tls-verify=false", "--compression-format", "zstd:chunked"];
        let push = [&["push"][..], &kind[..], &["app", to.as_str()][..]].concat();
        podman(dir, "builder", &push).await?;
        let manifest = format!("{}/v2/library/app/manifests/{tag}", registry.url());
        let accept = [("accept", "application/vnd.oci.image.manifest.v1+json")];
        let manifest = send(Method::GET, &manifest, &accept, Bytes::new()).await?;
        let manifest: serde_json::Value = serde_json::from_slice(manifest.body())?;
        let layer = &manifest["layers"][0];
        ensure!(
            !layer["annotations"].is_null(),
            "no zstd:chunked: {manifest}"
        );
        let digest = layer["digest"].as_str().context("a digest")?.to_owned();
        layers.push((digest, layer["size"].as_u64().context("a size")?));
        write(7, 1)?;
    }
    for (tag, (digest, size)) in ["1", "2"].into_iter().zip(&layers) {
        let image = format!("{mirror}/docker.io/library/app:{tag}");
        podman(
            dir,
            "cold",
            &["pull", "--tls-verify=false", "--quiet", &image],
        )
        .await?;
        let sent = registry.sent_of(digest);
        println!("image {tag}: {sent} of {size} bytes left the registry");
        // The one file, and the table of contents.
        let most = if tag == "1" {
            size + size / 10
        } else {
            size / 5
        };
        ensure!(
            sent > 0 && sent <= most,
            "{sent} of {size} bytes for image {tag}"
        );
    }
    Ok(())
}
