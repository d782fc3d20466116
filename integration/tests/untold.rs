//! Blobs of a registry that tells no size, neither before a body nor with it: real peers swarm them
//! all the same, and curl gets them.

use std::{
    path::Path,
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use darter_integration::{
    darter::{Cluster, Part},
    image::Blob,
    process::{eventually, output},
    report::can_use,
};
use darter_runtime::Tasks;
use futures::future::try_join_all;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::watch,
};

const SIZE: usize = 12_000_001;
/// The registry sends no more of a body until the gate is open.
const GATE: usize = 8_000_000;
/// What a client has of it by then, at least.
const BEGUN: u64 = 4_000_000;
const CHUNK: usize = 64 * 1024;
const LIMIT: Duration = Duration::from_secs(120);
/// curl's exit code where a body ends before its last chunk, but not by a reset connection.
const PARTIAL: i32 = 18;

/// A registry of one blob, by whatever digest it is asked for, in chunks.
struct Untold {
    url: String,
    /// Bytes that left it in bodies, but for those whose length was asked for by a range: of these
    /// a head was read, and whatever the socket took of the body was not.
    sent: Arc<AtomicU64>,
}

impl Untold {
    async fn start(bytes: Bytes, gate: watch::Receiver<bool>, tasks: &Tasks) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (group, sent) = (tasks.clone(), Arc::<AtomicU64>::default());
        let count = Arc::clone(&sent);
        tasks.spawn("registry", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (bytes, count, gate) = (bytes.clone(), Arc::clone(&count), gate.clone());
                group.spawn("answer", async move {
                    // Whoever hangs up in mid-body has had enough.
                    let _ = answer(stream, &bytes, &count, gate).await;
                });
            }
        });
        Ok(Self { url, sent })
    }

    fn copies(&self, blob: &Blob) -> f64 {
        self.sent.load(Ordering::Relaxed) as f64 / blob.bytes.len() as f64
    }
}

async fn answer(
    stream: TcpStream,
    bytes: &[u8],
    sent: &AtomicU64,
    mut gate: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let reply = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    stream.write_all(reply.as_bytes()).await?;
    if !head.starts_with("HEAD") {
        let asks_length = head
            .to_ascii_lowercase()
            .contains("\r\nrange: bytes=0-0\r\n");
        let body = if head.contains("/blobs/") { bytes } else { &[] };
        for (at, chunk) in body.chunks(CHUNK).enumerate() {
            if at * CHUNK >= GATE {
                let open = gate.wait_for(|open| *open).await;
                open.map_err(std::io::Error::other)?;
            }
            let size = format!("{:x}\r\n", chunk.len());
            stream.write_all(size.as_bytes()).await?;
            stream.write_all(chunk).await?;
            stream.write_all(b"\r\n").await?;
            if !asks_length {
                sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
        }
        stream.write_all(b"0\r\n\r\n").await?;
    }
    stream.shutdown().await
}

/// How it ended, of a client with these headers beside the usual ones.
async fn curl(peer: &Part, digest: &str, into: &Path, headers: &[&str]) -> Result<ExitStatus> {
    let url = format!(
        "{}/v2/library/app/blobs/{digest}?ns=docker.io",
        peer.mirror()
    );
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--fail", "--no-buffer", "--output"]);
    curl.arg(into).arg(&url);
    for header in headers {
        curl.args(["--header", header]);
    }
    Ok(output(&mut curl).await?.status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_of_unknown_size_is_read_once_for_all_and_a_wrong_one_ends_short() -> Result<()> {
    let test = "a_blob_of_unknown_size_is_read_once_for_all_and_a_wrong_one_ends_short";
    if !can_use(test, &["curl"], false) {
        return Ok(());
    }
    let (dir, tasks) = (tempfile::tempdir()?, Tasks::new());
    let (open, gate) = watch::channel(false);
    let blob = Blob::layer(1, SIZE);
    let registry = Untold::start(blob.bytes.clone(), gate, &tasks).await?;
    let cluster = Cluster::start(dir.path(), &registry.url, 4).await?;
    let digest = blob.digest.to_string();
    let peers = cluster.peers.iter().enumerate();
    let pulls: Vec<_> = peers
        .map(|(at, peer)| (peer, dir.path().join(format!("pulled-{at}"))))
        .collect();
    // A server that does not know of how much they would be a part sends all of it instead.
    let asks: [&[&str]; 4] = [&[], &["Range: bytes=0-"], &["Range: bytes=1000-"], &[]];
    let pulls_with = pulls.iter().zip(asks);
    let pulled = pulls_with.map(|((peer, into), ask)| curl(peer, &digest, into, ask));
    let pulled = try_join_all(pulled);
    let begun = eventually("all have begun before its end is known", LIMIT, || async {
        let length = |into: &Path| into.metadata().map_or(0, |file| file.len());
        let all = pulls.iter().all(|(_, into)| length(into) >= BEGUN);
        all.then(|| open.send_replace(true))
    });
    let (pulled, _) = tokio::try_join!(pulled, begun)?;
    for (status, (_, into)) in pulled.iter().zip(&pulls) {
        ensure!(status.success(), "{status}");
        ensure!(std::fs::read(into)? == blob.bytes, "other bytes");
    }
    let copies = registry.copies(&blob);
    println!("{copies:.3} copies for five hosts");
    ensure!(copies == 1.0, "{copies} copies");

    // The bytes of another digest.
    let wrong = Blob::layer(2, 1_000).digest.to_string();
    let into = dir.path().join("wrong");
    let status = curl(&cluster.peers[0], &wrong, &into, &[]).await?;
    ensure!(status.code() == Some(PARTIAL), "{status}");
    let length = into.metadata()?.len();
    ensure!(length < blob.bytes.len() as u64, "all of what is wrong");
    drop(cluster);
    ensure!(tasks.stop(Duration::from_secs(60)).await, "it stops");
    Ok(())
}
