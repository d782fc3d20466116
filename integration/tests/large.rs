//! A blob that is larger than the store goes through a real proxy, whose memory stays flat.
//!
//! 40 MiB through a store of 16 MiB; with `DARTER_TEST_LONG` set, 40 GiB through one of
//! 16 GiB. The blob is made as it is sent, so that it is nowhere on disk.

use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use darter_api::{Algorithm, Digest, Hasher};
use darter_integration::darter::start_proxy;
use darter_runtime::Tasks;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

const MIB: u64 = 1 << 20;
/// What a pull may add to the process, whatever the blob's size.
const MOST_GROWTH: u64 = 64 * MIB;

/// A blob of whole blocks that differ in their number.
struct Generated {
    block: Vec<u8>,
    next: u64,
    blocks: u64,
}

impl Generated {
    fn new(size: u64) -> Self {
        let noise = (0..MIB).map(|at| (at * 31 % 251) as u8);
        Self {
            block: noise.collect(),
            next: 0,
            blocks: size / MIB,
        }
    }

    fn block(&mut self) -> Option<&[u8]> {
        if self.next == self.blocks {
            return None;
        }
        self.block[..8].copy_from_slice(&self.next.to_be_bytes());
        self.next += 1;
        Some(&self.block)
    }

    fn digest(size: u64) -> Digest {
        let (mut blob, mut hasher) = (Self::new(size), Hasher::new(Algorithm::Sha256));
        while let Some(block) = blob.block() {
            hasher.update(block);
        }
        hasher.finish()
    }
}

/// A registry of that one blob, on one connection a request.
async fn registry(size: u64, tasks: &Tasks) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let group = tasks.clone();
    tasks.spawn("registry", async move {
        while let Ok((stream, _)) = listener.accept().await {
            group.spawn("answer", async move {
                // Whoever hangs up in mid-body has had enough.
                let _ = answer(stream, size).await;
            });
        }
    });
    Ok(url)
}

async fn answer(stream: TcpStream, size: u64) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let length = if head.contains("/blobs/") { size } else { 0 };
    let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(reply.as_bytes()).await?;
    if length > 0 && head.starts_with("GET") {
        let mut blob = Generated::new(size);
        while let Some(block) = blob.block() {
            stream.write_all(block).await?;
        }
    }
    stream.shutdown().await
}

/// The digest of what arrives, and how much did.
async fn pull(url: &str) -> Result<(Digest, u64)> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let mut body = client.get(url.parse()?).await?.into_body();
    let (mut hasher, mut length) = (Hasher::new(Algorithm::Sha256), 0);
    while let Some(frame) = body.frame().await {
        if let Some(bytes) = frame?.data_ref() {
            hasher.update(bytes);
            length += bytes.len() as u64;
        }
    }
    Ok((hasher.finish(), length))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_larger_than_the_store_goes_through_with_flat_memory() -> Result<()> {
    let unit = if std::env::var_os("DARTER_TEST_LONG").is_some() {
        1024 * MIB
    } else {
        MIB
    };
    let (size, capacity) = (40 * unit, 16 * unit);
    let (dir, tasks) = (tempfile::tempdir()?, Tasks::new());
    let upstream = format!("docker.io={}", registry(size, &tasks).await?);
    let bound = format!("proxy.store.capacity={capacity}");
    let proxy = start_proxy(dir.path(), "proxy", &upstream, None, &["--set", &bound]).await?;
    let digest = Generated::digest(size);
    let before = proxy.peak_memory()?;
    let began = Instant::now();
    let url = format!("{}/v2/library/large/blobs/{digest}", proxy.mirror());
    assert_eq!(pull(&url).await?, (digest, size));
    let (took, after) = (began.elapsed(), proxy.peak_memory()?);
    println!(
        "{} MiB in {took:.1?}: {} MiB at most, {} before",
        size / MIB,
        after / MIB,
        before / MIB
    );
    assert!(after < before + MOST_GROWTH, "{before} grew to {after}");
    assert!(proxy.metric("darter_proxy_store_refused_total", "").await? >= 1.0);
    assert!(proxy.metric("darter_proxy_store_blob_bytes", "").await? == 0.0);
    assert!(tasks.stop(std::time::Duration::from_secs(60)).await);
    Ok(())
}
