//! kill -9 at random moments of everything that can be killed: the pulls succeed, and
//! nothing is fetched again that was there.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use darter_integration::{
    darter::{Cluster, Part, start_proxy},
    http,
    image::{Blob, Flavour, Image},
    process::eventually,
    registry::Registry,
    repetitions,
    report::can_use,
    throttle::Throttle,
};
use rand::RngExt as _;

const MIB: u64 = 1 << 20;
/// Whoever waits in vain fails after this.
const LIMIT: Duration = Duration::from_secs(120);

struct Bench {
    dir: tempfile::TempDir,
    registry: Registry,
    throttle: Throttle,
}

impl Bench {
    async fn start(rate: u64) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let registry = Registry::start(dir.path()).await?;
        let throttle = Throttle::start(&registry.url(), rate).await?;
        Ok(Self {
            dir,
            registry,
            throttle,
        })
    }

    async fn layer(&self, seed: u64, size: usize) -> Result<Blob> {
        let layer = Blob::layer(seed, size);
        let tag = format!("v{seed}");
        Image::push(
            &self.registry,
            "library/app",
            &tag,
            Flavour::Oci,
            vec![layer.clone()],
        )
        .await?;
        Ok(layer)
    }
}

fn url(part: &Part, blob: &Blob) -> String {
    format!(
        "{}/v2/library/app/blobs/{}?ns=docker.io",
        part.mirror(),
        blob.digest
    )
}

async fn pull(part: &Part, blob: &Blob) -> Result<Bytes> {
    let reply = tokio::time::timeout(LIMIT, http::get(&url(part, blob))).await??;
    ensure!(
        reply.status() == 200,
        "{}: {:?}",
        reply.status(),
        reply.body()
    );
    ensure!(
        reply.body() == &blob.bytes,
        "{} of {} bytes",
        reply.body().len(),
        blob.bytes.len()
    );
    Ok(reply.into_body())
}

/// Pieces of 256 KiB that are read, hashed and sealed at the same time.
const IN_FLIGHT: u64 = 3 * 256 * 1024;

/// A moment while `blob`'s first copy is under way.
async fn some_moment(bench: &Bench, blob: &Blob) -> Result<()> {
    let digest = blob.digest.to_string();
    let share = rand::rng().random_range(5..80);
    let threshold = blob.bytes.len() as u64 * share / 100;
    eventually("the moment to kill", LIMIT, || async {
        (bench.throttle.sent_of(&digest) >= threshold).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parent_is_killed() -> Result<()> {
    if !can_use("the_parent_is_killed", &["docker-registry"], false) {
        return Ok(());
    }
    let bench = Bench::start(12 * MIB).await?;
    let mut cluster = Cluster::start(bench.dir.path(), &bench.throttle.url(), 2).await?;
    for round in 0..repetitions(3, 20) {
        let blob = bench.layer(100 + round as u64, 10_000_000).await?;
        let (one, two) = (&cluster.peers[0], &cluster.peers[1]);
        let seed = &mut cluster.seed.process;
        let kill = async {
            some_moment(&bench, &blob).await?;
            seed.kill().await
        };
        let (first, second, killed) = tokio::join!(pull(one, &blob), pull(two, &blob), kill);
        killed?;
        first.with_context(|| format!("round {round}"))?;
        second.with_context(|| format!("round {round}"))?;
        cluster.seed.start_again().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheduler_is_killed_and_comes_back() -> Result<()> {
    if !can_use(
        "the_scheduler_is_killed_and_comes_back",
        &["docker-registry"],
        false,
    ) {
        return Ok(());
    }
    let bench = Bench::start(12 * MIB).await?;
    let mut cluster = Cluster::start(bench.dir.path(), &bench.throttle.url(), 2).await?;
    for round in 0..repetitions(3, 20) {
        let blob = bench.layer(200 + round as u64, 10_000_000).await?;
        let digest = blob.digest.to_string();
        let (one, two) = (&cluster.peers[0], &cluster.peers[1]);
        let scheduler = &mut cluster.scheduler;
        let kill = async {
            some_moment(&bench, &blob).await?;
            scheduler.process.kill().await
        };
        let (first, killed) = tokio::join!(pull(one, &blob), kill);
        killed?;
        first.with_context(|| format!("round {round}, without a scheduler"))?;
        let before = bench.throttle.sent_of(&digest);
        scheduler.start_again().await?;
        eventually("the sessions to come back", LIMIT, || async {
            let sessions = scheduler
                .metric("darter_scheduler_sessions", "")
                .await
                .ok()?;
            (sessions >= 3.0).then_some(())
        })
        .await?;
        pull(two, &blob)
            .await
            .with_context(|| format!("round {round}, after the restart"))?;
        assert_eq!(
            bench.throttle.sent_of(&digest),
            before,
            "nothing is fetched again"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_killed_in_mid_blob() -> Result<()> {
    if !can_use("a_proxy_is_killed_in_mid_blob", &["docker-registry"], false) {
        return Ok(());
    }
    let bench = Bench::start(12 * MIB).await?;
    let upstream = format!("docker.io={}", bench.throttle.url());
    let mut proxy = start_proxy(bench.dir.path(), "alone", &upstream, None, &[]).await?;
    for round in 0..repetitions(3, 20) {
        let blob = bench.layer(300 + round as u64, 10_000_000).await?;
        let digest = blob.digest.to_string();
        let address = url(&proxy, &blob);
        let kill = async {
            some_moment(&bench, &blob).await?;
            proxy.process.kill().await
        };
        let (cut, killed) = tokio::join!(http::arrived(&address), kill);
        killed?;
        let (had, whole) = cut?;
        ensure!(!whole, "round {round}: killed in mid-blob");
        let before_kill = bench.throttle.blob_gets(&digest);
        proxy.start_again().await?;
        pull(&proxy, &blob)
            .await
            .with_context(|| format!("round {round}, after the restart"))?;
        let after = bench
            .throttle
            .blob_gets(&digest)
            .split_off(before_kill.len());
        let asked: u64 = after
            .iter()
            .map(|get| asked_bytes(get.range.as_deref(), &blob))
            .sum();
        // What the client had got was on disk but for the pieces that were not through.
        // What lay in sockets' buffers never arrived: the ranges asked for tell what was kept.
        let missing = blob.bytes.len() as u64 - had;
        assert!(
            asked <= missing + IN_FLIGHT,
            "round {round}: the client had {had} bytes, and {asked} were asked for again: {after:?}"
        );
    }
    Ok(())
}

/// Bytes that a `Range` header asks for.
fn asked_bytes(range: Option<&str>, blob: &Blob) -> u64 {
    let whole = blob.bytes.len() as u64;
    let Some((start, end)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'))
    else {
        return whole;
    };
    let start: u64 = start.parse().unwrap_or(0);
    let end = end.parse().map_or(whole, |last: u64| (last + 1).min(whole));
    end.saturating_sub(start)
}
