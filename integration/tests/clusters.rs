//! Two clusters of one manager never exchange a byte.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use ::http::Method;
use anyhow::{Context as _, Result, ensure};
use darter_integration::{
    darter::{Part, start_manager, start_proxy, start_scheduler},
    http,
    image::{Blob, Flavour, Image},
    process::eventually,
    registry::Registry,
    report::can_use,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(120);

/// A scheduler, a seed and a peer.
struct Side {
    scheduler: Part,
    seed: Part,
    peer: Part,
}

impl Side {
    /// Starts them; `scheduler` and `proxy` say to which cluster they belong.
    async fn start(
        dir: &Path,
        name: &str,
        manager: &str,
        upstream: &str,
        scheduler: &[&str],
        proxy: &[&str],
    ) -> Result<Self> {
        let named = |what: &str| format!("{name}-{what}");
        let more = [&["--manager", manager], proxy].concat();
        let seed = [more.as_slice(), &["--seed"]].concat();
        Ok(Self {
            scheduler: start_scheduler(dir, &named("scheduler"), manager, scheduler).await?,
            seed: start_proxy(dir, &named("seed"), upstream, None, &seed).await?,
            peer: start_proxy(dir, &named("peer"), upstream, None, &more).await?,
        })
    }

    /// Bytes that its nodes gave to other nodes, and links that they have.
    async fn given(&self) -> Result<(f64, f64)> {
        let mut sums = (0.0, 0.0);
        for part in [&self.seed, &self.peer] {
            sums.0 += part
                .metric("darter_proxy_peer_upload_bytes_total", "")
                .await?;
            sums.1 += part.metric("darter_proxy_peer_links", "").await?;
        }
        Ok(sums)
    }
}

async fn ask(manager: &Part, method: Method, path: &str, body: Value) -> Result<Value> {
    let url = format!("http://{}{path}", manager.address("manager"));
    let headers = [("content-type", "application/json")];
    let reply = http::send(method, &url, &headers, body.to_string().into()).await?;
    ensure!(reply.status().is_success(), "{path}: {reply:?}");
    Ok(serde_json::from_slice(reply.body())?)
}

async fn has_sessions(scheduler: &Part, wanted: f64) -> Result<()> {
    eventually(&format!("{wanted} sessions"), LIMIT, || async {
        let sessions = scheduler.metric("darter_scheduler_sessions", "").await;
        sessions.is_ok_and(|count| count == wanted).then_some(())
    })
    .await
}

async fn pull(part: &Part, blob: &Blob) -> Result<()> {
    let mirror = part.mirror();
    let url = format!("{mirror}/v2/library/app/blobs/{}?ns=docker.io", blob.digest);
    let reply = tokio::time::timeout(LIMIT, http::get(&url)).await??;
    ensure!(reply.status() == 200, "{reply:?}");
    ensure!(reply.body() == &blob.bytes, "other bytes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_never_exchange_a_byte() -> Result<()> {
    let test = "two_clusters_never_exchange_a_byte";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let registry = Registry::start(dir).await?;
    let layers = vec![Blob::layer(1, 3_000_000), Blob::layer(2, 3_000_000)];
    Image::push(&registry, "library/app", "1", Flavour::Oci, layers.clone()).await?;
    let upstream = format!("docker.io={}", registry.url());
    let manager = start_manager(dir).await?;
    let url = format!("http://{}", manager.address("grpc"));
    for (name, scopes) in [("east", json!({})), ("west", json!({"idcs": ["fra1"]}))] {
        let path = format!("/api/v1/clusters/{name}");
        ask(&manager, Method::PUT, &path, scopes).await?;
    }
    // One cluster by its name, the other found by its data centre.
    let start = |name, scheduler, proxy| Side::start(dir, name, &url, &upstream, scheduler, proxy);
    let by_name: (&[&str], &[&str]) = (
        &["--set", "scheduler.cluster=east"],
        &["--set", "proxy.cluster=east"],
    );
    let east = start("east", by_name.0, by_name.1).await?;
    let by_place: (&[&str], &[&str]) = (
        &["--set", "scheduler.cluster=west"],
        &["--set", "proxy.locality.idc=fra1"],
    );
    let west = start("west", by_place.0, by_place.1).await?;
    for side in [&east, &west] {
        has_sessions(&side.scheduler, 2.0).await?;
    }
    let seeds = ask(
        &manager,
        Method::GET,
        "/api/v1/seed-peers?cluster=west",
        json!({}),
    )
    .await?;
    let seeds = seeds.as_array().context("a list")?;
    ensure!(
        seeds.len() == 1 && seeds[0]["address"] == west.seed.address("peer"),
        "{seeds:?}"
    );

    // What one cluster has, the other reads from the registry for itself.
    let size = layers[0].bytes.len() as f64;
    let copies = || registry.sent_of(&layers[0].digest.to_string()) as f64 / size;
    pull(&east.peer, &layers[0]).await?;
    let (given, _) = east.given().await?;
    ensure!(given >= size, "the seed gave it: {given}");
    ensure!(west.given().await? == (0.0, 0.0), "nobody met anybody");
    pull(&west.peer, &layers[0]).await?;
    ensure!(east.given().await?.0 == given, "east gave nothing more");
    ensure!(west.given().await?.0 == given, "west's seed gave it");
    ensure!(copies() == 2.0, "{}", copies());

    // A peer that another cluster claims goes there within seconds.
    let begin = Instant::now();
    ask(&manager, Method::PUT, "/api/v1/clusters/west", json!({})).await?;
    let path = "/api/v1/clusters/east";
    ask(&manager, Method::PUT, path, json!({"idcs": ["fra1"]})).await?;
    has_sessions(&east.scheduler, 4.0).await?;
    println!("moved within {:?}", begin.elapsed());
    pull(&west.peer, &layers[1]).await?;
    let copies = registry.sent_of(&layers[1].digest.to_string());
    ensure!(copies == layers[1].bytes.len() as u64, "{copies}");
    Ok(())
}
