//! What changes while a swarm runs: settings, roles, who is away, which manager there is.

use std::{
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use ::http::Method;
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use darter_integration::{
    darter::{Part, start_manager_at, start_proxy, start_scheduler},
    http,
    image::{Blob, Flavour, Image},
    postgres::Postgres,
    process::{eventually, free_port},
    registry::Registry,
    report::can_use,
    stand::has,
};
use darter_runtime::Tasks;
use futures::future::{try_join, try_join_all};
use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

#[path = "../../proxy/tests/front/clock.rs"]
mod clock;

use clock::Clock;

const LIMIT: Duration = Duration::from_secs(120);
/// What is set is everywhere within this, by a test's clock.
const PUSHED: Duration = Duration::from_secs(2);
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// A scheduler, a seed called `seed` and peers called `n0`, `n1`, ... of a manager that may not be
/// there.
struct Swarm {
    scheduler: Part,
    seed: Part,
    peers: Vec<Part>,
}

impl Swarm {
    async fn start(dir: &Path, manager: &str, registry: &Registry, peers: usize) -> Result<Self> {
        let upstream = format!("docker.io={}", registry.url());
        let settle = ["--set", "scheduler.preheat_settle=0s"];
        let scheduler = start_scheduler(dir, "scheduler", manager, &settle).await?;
        let proxy = async |name: &str, more: &[&str]| {
            let set = format!("proxy.name={name}");
            let arguments = [&["--manager", manager, "--set", &set], more].concat();
            start_proxy(dir, name, &upstream, None, &arguments).await
        };
        let seed = proxy("seed", &["--seed"]).await?;
        let mut all = Vec::new();
        for at in 0..peers {
            all.push(proxy(&format!("n{at}"), &[]).await?);
        }
        Ok(Self {
            scheduler,
            seed,
            peers: all,
        })
    }

    async fn has_sessions(&self, wanted: usize) -> Result<()> {
        let name = "darter_scheduler_sessions";
        shows(&self.scheduler, name, wanted as f64, LIMIT).await
    }

    /// Bytes that the seed has read from the registry.
    async fn seed_reads(&self) -> Result<f64> {
        let name = "darter_proxy_swarm_content_bytes_total";
        self.seed.metric(name, "from=\"Source\"").await
    }
}

async fn shows(part: &Part, name: &str, wanted: f64, limit: Duration) -> Result<()> {
    eventually(&format!("{name} {wanted}"), limit, || async {
        let value = part.metric(name, "").await;
        value.is_ok_and(|value| value == wanted).then_some(())
    })
    .await
}

async fn send(manager: &Part, method: Method, path: &str, body: Value) -> Result<(String, Value)> {
    let url = format!("http://{}{path}", manager.address("manager"));
    let reply = http::send(method, &url, &JSON, body.to_string().into()).await?;
    ensure!(reply.status().is_success(), "{path}: {reply:?}");
    let tag = reply.headers().get("etag");
    let tag = tag.and_then(|tag| tag.to_str().ok()).unwrap_or_default();
    let tag = tag.trim_matches('"').to_owned();
    Ok((tag, serde_json::from_slice(reply.body())?))
}

/// Sets this, and waits until the scheduler has it; in which version, and how long that took.
async fn set(manager: &Part, scheduler: &Part, body: Value) -> Result<f64> {
    let (version, _) = send(manager, Method::PUT, "/api/v1/settings", body).await?;
    let version: f64 = version.parse()?;
    let name = "darter_scheduler_configuration_version";
    shows(scheduler, name, version, PUSHED).await?;
    Ok(version)
}

/// Addresses of the active members of a list.
async fn active(manager: &Part, list: &str) -> Result<Vec<String>> {
    let path = format!("/api/v1/{list}?active=true");
    let (_, list) = send(manager, Method::GET, &path, json!({})).await?;
    let list = list.as_array().context("a list")?.iter();
    Ok(list
        .filter_map(|one| Some(one["address"].as_str()?.to_owned()))
        .collect())
}

async fn lists(manager: &Part, list: &str, wanted: &[&str]) -> Result<()> {
    eventually(&format!("{list} {wanted:?}"), LIMIT, || async {
        let got = active(manager, list).await;
        got.is_ok_and(|got| got == wanted).then_some(())
    })
    .await
}

async fn status(part: &Part, blob: &Blob) -> Result<u16> {
    Ok(get(part, blob).await?.status().as_u16())
}

async fn get(part: &Part, blob: &Blob) -> Result<::http::Response<Bytes>> {
    let mirror = part.mirror();
    let url = format!("{mirror}/v2/library/app/blobs/{}?ns=docker.io", blob.digest);
    let reply = tokio::time::timeout(LIMIT, http::get(&url)).await??;
    ensure!(
        reply.status() != 200 || reply.body() == &blob.bytes,
        "other bytes"
    );
    Ok(reply)
}

async fn pull(part: &Part, blob: &Blob) -> Result<()> {
    let reply = get(part, blob).await?;
    ensure!(reply.status() == 200, "{reply:?}");
    Ok(())
}

async fn push(registry: &Registry, layers: std::ops::Range<u64>, size: usize) -> Result<Image> {
    let tag = format!("from-{}", layers.start);
    let layers = layers.map(|seed| Blob::layer(seed, size)).collect();
    Image::push(registry, "library/app", &tag, Flavour::Oci, layers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_becomes_a_plain_peer_and_back_under_load() -> Result<()> {
    let test = "a_seed_becomes_a_plain_peer_and_back_under_load";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let registry = Registry::start(dir).await?;
    let image = push(&registry, 0..22, 600_000).await?;
    let (as_peer, load) = image.layers.split_at(2);
    let port = free_port()?;
    let manager = start_manager_at(dir, "manager", port, &[]).await?;
    let url = format!("http://127.0.0.1:{port}");
    let swarm = Swarm::start(dir, &url, &registry, 2).await?;
    swarm.has_sessions(3).await?;
    let address = swarm.seed.address("peer");
    lists(&manager, "seed-peers", &[address]).await?;

    let plain = json!({"schedulers": {"rules": [{"hosts": ["seed"], "seed": false}]}});
    let tasks = Tasks::new();
    let clock = Clock::start(&tasks);
    let change = async |settings: Value, seeds: &[&str]| {
        let begin = clock.now();
        set(&manager, &swarm.scheduler, settings).await?;
        lists(&manager, "seed-peers", seeds).await?;
        let took = clock.now() - begin;
        ensure!(took < PUSHED, "{took:?}");
        Ok(())
    };
    let pulled = AtomicBool::new(false);
    let pulls = async {
        for layer in load {
            try_join_all(swarm.peers.iter().map(|peer| pull(peer, layer))).await?;
        }
        pulled.store(true, Ordering::Relaxed);
        Ok(())
    };
    let changes = async {
        let mut changes = 0;
        while !pulled.load(Ordering::Relaxed) {
            change(plain.clone(), &[]).await?;
            change(json!({}), &[address]).await?;
            changes += 2;
        }
        Ok::<_, anyhow::Error>(changes)
    };
    let ((), changes) = try_join(pulls, changes).await?;
    println!("{} layers were pulled during {changes} changes", load.len());
    ensure!(changes > 2, "{changes}");

    // A seed that was slow to answer under load is passed over for half a minute.
    let before = swarm.seed_reads().await?;
    let fresh = std::sync::atomic::AtomicU64::new(100);
    eventually("a seed that reads for others", 2 * LIMIT, || async {
        let seed = fresh.fetch_add(1, Ordering::Relaxed);
        let image = push(&registry, seed..seed + 1, 600_000).await.ok()?;
        pull(&swarm.peers[0], &image.layers[0]).await.ok()?;
        (swarm.seed_reads().await.ok()? > before).then_some(())
    })
    .await?;
    change(plain, &[]).await?;
    let before = swarm.seed_reads().await?;
    for layer in as_peer {
        pull(&swarm.peers[0], layer).await?;
    }
    ensure!(
        swarm.seed_reads().await? == before,
        "a plain peer does not read for others"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_starts_from_what_was_set_last() -> Result<()> {
    let test = "a_scheduler_starts_from_what_was_set_last";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let registry = Registry::start(dir).await?;
    let image = push(&registry, 0..3, 300_000).await?;
    let port = free_port()?;
    let mut manager = start_manager_at(dir, "manager", port, &[]).await?;
    let url = format!("http://127.0.0.1:{port}");
    let mut swarm = Swarm::start(dir, &url, &registry, 1).await?;
    swarm.has_sessions(2).await?;
    pull(&swarm.peers[0], &image.layers[0]).await?;

    let blocked = json!({"schedulers": {
        "degree": 3,
        "rules": [{"hosts": ["n*"], "repositories": ["library/*"], "priority": "forbid"}],
    }});
    let version = set(&manager, &swarm.scheduler, blocked).await?;
    let refused = status(&swarm.peers[0], &image.layers[1]).await?;
    ensure!(refused == 403, "{refused}");

    // Without its manager a scheduler that starts has it from its disk.
    manager.process.kill().await?;
    swarm.scheduler.restart().await?;
    let name = "darter_scheduler_configuration_version";
    ensure!(swarm.scheduler.metric(name, "").await? == version);
    swarm.has_sessions(2).await?;
    let refused = status(&swarm.peers[0], &image.layers[1]).await?;
    ensure!(refused == 403, "{refused}");

    manager.start_again().await?;
    let session = "darter_manager_members";
    eventually("the scheduler at its manager", LIMIT, || async {
        let members = manager.metric(session, "kind=\"scheduler\",state=\"active\"");
        members.await.is_ok_and(|count| count == 1.0).then_some(())
    })
    .await?;
    set(&manager, &swarm.scheduler, json!({})).await?;
    pull(&swarm.peers[0], &image.layers[1]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn which_registries_are_spoken_to_follows_the_manager() -> Result<()> {
    let test = "which_registries_are_spoken_to_follows_the_manager";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let registry = Registry::start(dir).await?;
    let image = push(&registry, 0..1, 300_000).await?;
    let port = free_port()?;
    let manager = start_manager_at(dir, "manager", port, &[]).await?;
    let url = format!("http://127.0.0.1:{port}");
    let swarm = Swarm::start(dir, &url, &registry, 1).await?;
    let peer = &swarm.peers[0];
    pull(peer, &image.layers[0]).await?;
    let follows = async |wanted: u16| {
        eventually(&format!("{wanted}"), PUSHED, || async {
            let shown = status(peer, &image.layers[0]).await.ok()?;
            (shown == wanted).then_some(())
        })
        .await
    };
    let set = async |body: Value| send(&manager, Method::PUT, "/api/v1/settings", body).await;
    set(json!({"peers": {"upstreams": ["docker.io"]}})).await?;
    set(json!({"peers": {"upstreams": ["quay.io"], "prefetch": "after-first-range"}})).await?;
    follows(404).await?;
    let back = "/api/v1/settings/versions/1/restore";
    send(&manager, Method::POST, back, json!({})).await?;
    follows(200).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_silent_is_handed_out_by_nobody_and_comes_back() -> Result<()> {
    let test = "who_is_silent_is_handed_out_by_nobody_and_comes_back";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let registry = Registry::start(dir).await?;
    let image = push(&registry, 0..3, 300_000).await?;
    let port = free_port()?;
    let manager = start_manager_at(dir, "manager", port, &[]).await?;
    let url = format!("http://127.0.0.1:{port}");
    let swarm = Swarm::start(dir, &url, &registry, 1).await?;
    let seed = swarm.seed.address("peer");
    let scheduler = format!("http://{}", swarm.scheduler.address("scheduler"));
    swarm.has_sessions(2).await?;
    lists(&manager, "seed-peers", &[seed]).await?;
    lists(&manager, "schedulers", &[&scheduler]).await?;

    // Three beats of two seconds, and what a look takes.
    let three = Duration::from_secs(6) + Duration::from_secs(1);
    let tasks = Tasks::new();
    let clock = Clock::start(&tasks);
    let begin = clock.now();
    let since = || clock.now() - begin;
    // As a host whose power went: nobody closes its connections.
    swarm.seed.process.signal("STOP").await?;
    pull(&swarm.peers[0], &image.layers[0]).await?;
    println!("pulled with a silent seed after {:?}", since());
    let by_manager = async {
        lists(&manager, "seed-peers", &[]).await?;
        Ok(since())
    };
    let by_scheduler = async {
        swarm.has_sessions(1).await?;
        Ok::<_, anyhow::Error>(since())
    };
    let took = try_join(by_manager, by_scheduler).await?;
    println!("a silent seed is gone from manager and scheduler after {took:?}");
    ensure!(took.0 < three && took.1 < three, "{took:?}");
    pull(&swarm.peers[0], &image.layers[1]).await?;
    swarm.seed.process.signal("CONT").await?;
    lists(&manager, "seed-peers", &[seed]).await?;
    swarm.has_sessions(2).await?;

    let begin = clock.now();
    swarm.scheduler.process.signal("STOP").await?;
    lists(&manager, "schedulers", &[]).await?;
    let took = clock.now() - begin;
    println!("a silent scheduler is gone after {took:?}");
    ensure!(took < three, "{took:?}");
    pull(&swarm.peers[0], &image.layers[2]).await?;
    swarm.scheduler.process.signal("CONT").await?;
    lists(&manager, "schedulers", &[&scheduler]).await?;
    swarm.has_sessions(2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_parts_start_before_their_manager() -> Result<()> {
    let test = "all_parts_start_before_their_manager";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let registry = Registry::start(dir).await?;
    let image = push(&registry, 0..2, 300_000).await?;
    let port = free_port()?;
    let url = format!("http://127.0.0.1:{port}");
    let swarm = Swarm::start(dir, &url, &registry, 1).await?;
    // Without a manager each works alone.
    pull(&swarm.peers[0], &image.layers[0]).await?;
    let manager = start_manager_at(dir, "manager", port, &[]).await?;
    swarm.has_sessions(2).await?;
    lists(&manager, "seed-peers", &[swarm.seed.address("peer")]).await?;
    let before = swarm.seed_reads().await?;
    pull(&swarm.peers[0], &image.layers[1]).await?;
    let size = image.layers[1].bytes.len() as f64;
    ensure!(swarm.seed_reads().await? == before + size, "the seed reads");
    Ok(())
}

/// One address for several managers, as a balancer or a name has it.
async fn balance(listener: TcpListener, managers: Vec<SocketAddr>) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        let managers = managers.clone();
        connections.spawn(async move {
            for manager in managers {
                if let Ok(mut server) = TcpStream::connect(manager).await {
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                    return;
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_managers_dies_during_a_preheat_and_pulls() -> Result<()> {
    let test = "one_of_two_managers_dies_during_a_preheat_and_pulls";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    if !Postgres::is_installed() {
        eprintln!("skipped {test}: PostgreSQL is not installed");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let registry = Registry::start(dir).await?;
    let image = push(&registry, 0..2, 2_000_000).await?;
    let other = push(&registry, 100..120, 300_000).await?;
    let postgres = Postgres::start().await?;
    let database = format!("manager.database={}", postgres.url());
    let more = ["--set", &database];
    let mut first = start_manager_at(dir, "first", free_port()?, &more).await?;
    let second = start_manager_at(dir, "second", free_port()?, &more).await?;
    let managers = [&first, &second].map(|manager| manager.address("grpc").parse());
    let managers: Result<Vec<SocketAddr>, _> = managers.into_iter().collect();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let mut balancer = JoinSet::new();
    balancer.spawn(balance(listener, managers?));
    let swarm = Swarm::start(dir, &url, &registry, 2).await?;
    swarm.has_sessions(3).await?;
    for peer in &swarm.peers {
        // Slow enough to be killed in the middle.
        let url = format!("http://{}/limits", peer.address("operations"));
        let slow = Bytes::from(json!({"download": "1MB", "source": "1MB"}).to_string());
        http::send(Method::PUT, &url, &JSON, slow).await?;
    }
    let wish = json!({"image": "library/app:from-0", "scope": "all_peers"});
    let (_, posted) = send(&first, Method::POST, "/api/v1/jobs", wish).await?;
    let path = format!("/api/v1/jobs/{}", posted["id"]);
    let job = async |manager: &Part| {
        let (_, job) = send(manager, Method::GET, &path, json!({})).await?;
        Ok::<_, anyhow::Error>(job)
    };
    eventually("bytes", LIMIT, || async {
        let job = job(&first).await.ok()?;
        (job["summary"]["bytes_held"].as_u64()? > 0).then_some(())
    })
    .await?;
    let killed = Instant::now();
    first.process.kill().await?;
    let pulls = async {
        for layer in &other.layers {
            try_join_all(swarm.peers.iter().map(|peer| pull(peer, layer))).await?;
        }
        Ok(killed.elapsed())
    };
    let ends = async {
        let shown = eventually("the job's end", LIMIT, || async {
            let shown = job(&second).await.ok()?;
            let goes_on = shown["state"] == "PENDING" || shown["state"] == "RUNNING";
            (!goes_on).then_some(shown)
        });
        let shown = shown.await?;
        ensure!(shown["state"] == "SUCCESS", "{shown}");
        Ok((killed.elapsed(), shown))
    };
    let (pulled, (ended, shown)) = try_join(pulls, ends).await?;
    println!("pulls took {pulled:?}, the job ended {ended:?} after its manager's end");
    assert_eq!(shown["summary"]["hosts_done"], 3, "{shown}");
    for name in ["seed", "n0", "n1"] {
        ensure!(has(&dir.join(name), &image), "{name} lacks it: {shown}");
    }
    Ok(())
}
