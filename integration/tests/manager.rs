//! A manager shows who lives, peers find their scheduler through it, and nothing waits
//! for it.

use std::time::Duration;

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
use darter_runtime::Tasks;
use serde_json::{Value, json};

#[path = "../../proxy/tests/front/clock.rs"]
mod clock;

use clock::Clock;

const LIMIT: Duration = Duration::from_secs(120);
const ANY: &str = "127.0.0.1:0";
/// Nobody listens there.
const NOWHERE: &str = "docker.io=http://127.0.0.1:9";

/// Addresses of the active members of a list.
async fn active(manager: &Part, list: &str) -> Result<Vec<String>> {
    let url = format!(
        "http://{}/api/v1/{list}?active=true",
        manager.address("manager")
    );
    let members: Value = serde_json::from_slice(http::get(&url).await?.body())?;
    let members = members.as_array().context("a list")?.iter();
    Ok(members
        .filter_map(|member| Some(member["address"].as_str()?.to_owned()))
        .collect())
}

async fn shown(manager: &Part, list: &str, wanted: &[&str]) -> Result<()> {
    eventually(&format!("{list} {wanted:?}"), LIMIT, || async {
        active(manager, list)
            .await
            .is_ok_and(|got| got == wanted)
            .then_some(())
    })
    .await
}

async fn has_session(part: &Part) -> Result<()> {
    eventually("a session", LIMIT, || async {
        let sessions = part.metric("darter_proxy_peer_sessions", "").await;
        sessions.is_ok_and(|count| count == 1.0).then_some(())
    })
    .await
}

async fn pull(part: &Part, blob: &Blob) -> Result<()> {
    let mirror = part.mirror();
    let url = format!("{mirror}/v2/library/app/blobs/{}?ns=docker.io", blob.digest);
    let reply = tokio::time::timeout(LIMIT, http::get(&url)).await??;
    ensure!(
        reply.status() == 200,
        "{}: {:?}",
        reply.status(),
        reply.body()
    );
    ensure!(reply.body() == &blob.bytes, "other bytes");
    Ok(())
}

async fn from_peers(part: &Part) -> Result<f64> {
    let name = "darter_proxy_swarm_content_bytes_total";
    part.metric(name, "from=\"Peer\"").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swarm_comes_together_through_the_manager_and_outlives_it() -> Result<()> {
    let test = "a_swarm_comes_together_through_the_manager_and_outlives_it";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let registry = Registry::start(dir).await?;
    let layers = vec![Blob::layer(1, 3_000_000), Blob::layer(2, 3_000_000)];
    Image::push(&registry, "library/app", "1", Flavour::Oci, layers.clone()).await?;
    let upstream = format!("docker.io={}", registry.url());

    let mut manager = start_manager(dir).await?;
    let url = format!("http://{}", manager.address("grpc"));
    // The peer is there before any scheduler.
    let peer = start_proxy(dir, "peer", &upstream, None, &["--manager", &url]).await?;
    let scheduler = start_scheduler(dir, "scheduler", &url, &[]).await?;
    let seed = start_proxy(dir, "seed", &upstream, None, &["--seed", "--manager", &url]).await?;
    let scheduler_url = format!("http://{}", scheduler.address("scheduler"));
    shown(&manager, "schedulers", &[&scheduler_url]).await?;
    shown(&manager, "seed-peers", &[seed.address("peer")]).await?;
    has_session(&peer).await?;
    has_session(&seed).await?;

    let size = layers[0].bytes.len() as u64;
    pull(&peer, &layers[0]).await?;
    assert_eq!(from_peers(&peer).await?, size as f64, "the seed read it");
    assert_eq!(registry.sent_of(&layers[0].digest.to_string()), size);

    manager.process.kill().await?;
    pull(&peer, &layers[1]).await?;
    assert_eq!(
        from_peers(&peer).await?,
        2.0 * size as f64,
        "the swarm stands"
    );
    let late = start_proxy(dir, "late", &upstream, None, &["--manager", &url]).await?;
    pull(&late, &layers[0]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_seed_is_inactive_and_comes_back() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let manager = start_manager(dir.path()).await?;
    let url = format!("http://{}", manager.address("grpc"));
    let more = ["--seed", "--manager", &url];
    let mut seed = start_proxy(dir.path(), "seed", NOWHERE, None, &more).await?;
    shown(&manager, "seed-peers", &[seed.address("peer")]).await?;
    seed.process.kill().await?;
    shown(&manager, "seed-peers", &[]).await?;
    seed.start_again().await?;
    shown(&manager, "seed-peers", &[seed.address("peer")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_shows_its_own_parts() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data").display().to_string();
    let mut arguments = vec!["standalone", "--listen", ANY, "--operations-listen", ANY];
    arguments.extend(["--data", &data, "--upstream", NOWHERE]);
    for setting in [
        "proxy.peer=127.0.0.1:0",
        "scheduler.listen=127.0.0.1:0",
        "manager.listen=127.0.0.1:0",
        "manager.grpc=127.0.0.1:0",
    ] {
        arguments.extend(["--set", setting]);
    }
    let all = Part::start("standalone", dir.path(), &arguments).await?;
    let scheduler = format!("https://{}", all.address("scheduler"));
    shown(&all, "schedulers", &[&scheduler]).await?;
    shown(&all, "seed-peers", &[all.address("peer")]).await?;
    let url = format!("http://{}/healthy", all.address("manager"));
    assert_eq!(http::get(&url).await?.status(), 200);
    let beats = all.metric("darter_manager_beats_total", "accepted").await?;
    assert!(beats >= 2.0, "{beats}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peers_rate_follows_the_manager_and_rolls_back() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let manager = start_manager(dir.path()).await?;
    let url = format!("http://{}", manager.address("grpc"));
    let peer = start_proxy(dir.path(), "peer", NOWHERE, None, &["--manager", &url]).await?;
    let rest = format!("http://{}/api/v1/settings", manager.address("manager"));
    let ask = async |method: Method, url: &str, body: Value| {
        let headers = [("content-type", "application/json")];
        let reply = http::send(method, url, &headers, body.to_string().into()).await?;
        ensure!(reply.status() == 200, "{reply:?}");
        Ok(())
    };
    let tasks = Tasks::new();
    let clock = Clock::start(&tasks);
    let follows = async |rate: f64| {
        let begin = clock.now();
        eventually("the rate", LIMIT, || async {
            let name = "darter_proxy_limits_rate_set_bytes_per_second";
            let set = peer.metric(name, "Upload").await;
            set.is_ok_and(|set| set == rate).then_some(())
        })
        .await?;
        let took = clock.now() - begin;
        ensure!(took < Duration::from_secs(2), "{took:?}");
        Ok(())
    };
    for (rate, shown) in [(1_048_576, 1_048_576.0), (0, 0.0), (2_097_152, 2_097_152.0)] {
        ask(Method::PUT, &rest, json!({"peers": {"upload": rate}})).await?;
        follows(shown).await?;
    }
    ask(
        Method::POST,
        &format!("{rest}/versions/1/restore"),
        json!({}),
    )
    .await?;
    follows(1_048_576.0).await
}
