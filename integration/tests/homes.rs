//! Several schedulers, and peers that know each other from a list: one copy leaves the
//! registry, and whoever dies takes nothing along but itself.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use darter_api::{SchedulerName, TaskId};
use darter_integration::{
    darter::{Part, start_proxy},
    http,
    image::{Blob, Flavour, Image},
    process::{eventually, free_port},
    registry::Registry,
    repetitions,
    report::can_use,
    throttle::Throttle,
};
use futures::future::join_all;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(120);
const ANY: &str = "127.0.0.1:0";

/// A slow registry and what has been pushed to it.
struct Bench {
    dir: tempfile::TempDir,
    registry: Registry,
    throttle: Throttle,
}

impl Bench {
    async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let registry = Registry::start(dir.path()).await?;
        let throttle = Throttle::start(&registry.url(), 8 * MIB).await?;
        Ok(Self {
            dir,
            registry,
            throttle,
        })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn upstream(&self) -> String {
        format!("docker.io={}", self.throttle.url())
    }

    async fn layer(&self, seed: u64) -> Result<Blob> {
        let layer = Blob::layer(seed, 16_000_000);
        let (tag, layers) = (format!("v{seed}"), vec![layer.clone()]);
        Image::push(&self.registry, "library/app", &tag, Flavour::Oci, layers).await?;
        Ok(layer)
    }

    /// How often the blob has left the registry.
    fn copies(&self, blob: &Blob) -> f64 {
        self.throttle.sent_of(&blob.digest.to_string()) as f64 / blob.bytes.len() as f64
    }

    /// Until so much of the blob's first copy is under way.
    async fn until(&self, blob: &Blob, share: f64) -> Result<()> {
        eventually("the moment to kill", LIMIT, || async {
            (self.copies(blob) >= share).then_some(())
        })
        .await
    }

    /// Proxies that know each other from a list.
    async fn peers(&self, number: usize) -> Result<(Vec<Part>, Vec<SchedulerName>)> {
        let ports: Vec<u16> = (0..number).map(|_| free_port()).collect::<Result<_>>()?;
        let entries = ports.iter().map(|port| format!("\"127.0.0.1:{port}\""));
        let list = format!("proxy.peers=[{}]", entries.collect::<Vec<_>>().join(","));
        let mut peers = Vec::new();
        for (place, port) in ports.iter().enumerate() {
            let own = format!("proxy.peer=\"127.0.0.1:{port}\"");
            let more = ["--set", &own, "--set", &list];
            let name = format!("peer-{place}");
            peers.push(start_proxy(self.path(), &name, &self.upstream(), None, &more).await?);
        }
        let name = |port: &u16| SchedulerName::new(&format!("http://127.0.0.1:{port}"));
        Ok((peers, ports.iter().map(name).collect()))
    }
}

/// Which of them has a blob.
fn owner(names: &[SchedulerName], blob: &Blob) -> usize {
    let task = TaskId::of_content(blob.digest);
    let ranked = names.iter().enumerate();
    let first = ranked.min_by_key(|(_, name)| name.rank(&task));
    first.expect("there are some").0
}

async fn pull(part: &Part, blob: &Blob) -> Result<()> {
    let mirror = part.mirror();
    let url = format!("{mirror}/v2/library/app/blobs/{}?ns=docker.io", blob.digest);
    let reply = tokio::time::timeout(LIMIT, http::get(&url)).await??;
    ensure!(reply.status() == 200, "{}", reply.status());
    ensure!(reply.body() == &blob.bytes, "other bytes");
    Ok(())
}

async fn pull_all<'a>(parts: impl Iterator<Item = &'a Part>, blob: &Blob) -> Result<()> {
    let pulls = join_all(parts.map(|part| pull(part, blob))).await;
    pulls.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_in_a_list_need_no_scheduler_for_one_copy() -> Result<()> {
    let test = "peers_in_a_list_need_no_scheduler_for_one_copy";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let bench = Bench::start().await?;
    let (peers, _) = bench.peers(5).await?;
    for round in 0..repetitions(2, 10) {
        let blob = bench.layer(round as u64).await?;
        pull_all(peers.iter(), &blob).await?;
        println!("round {round}: {:.3} copies", bench.copies(&blob));
        ensure!(bench.copies(&blob) <= 1.01, "{}", bench.copies(&blob));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_is_killed_in_mid_blob_and_comes_back() -> Result<()> {
    let test = "a_home_is_killed_in_mid_blob_and_comes_back";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let bench = Bench::start().await?;
    let (mut peers, names) = bench.peers(5).await?;
    for round in 0..repetitions(2, 10) {
        let blob = bench.layer(100 + round as u64).await?;
        let home = owner(&names, &blob);
        let mut killed = peers.remove(home);
        let kill = async {
            bench.until(&blob, 0.3).await?;
            killed.process.kill().await
        };
        let (pulled, killed_it) = tokio::join!(pull_all(peers.iter(), &blob), kill);
        killed_it?;
        pulled.with_context(|| format!("round {round}"))?;
        println!("round {round}: {:.3} copies", bench.copies(&blob));
        ensure!(bench.copies(&blob) <= 2.0, "{}", bench.copies(&blob));
        killed.start_again().await?;
        all_sessions(&killed, 4.0).await?;
        let before = bench.copies(&blob);
        pull(&killed, &blob).await?;
        ensure!(bench.copies(&blob) == before, "others hold it");
        peers.insert(home, killed);
    }
    Ok(())
}

async fn start_scheduler(dir: &Path, name: &str) -> Result<Part> {
    let data = dir.join(name).display().to_string();
    let arguments = [
        "scheduler",
        "--listen",
        ANY,
        "--operations-listen",
        ANY,
        "--data",
        &data,
    ];
    Part::start(name, dir, &arguments).await
}

async fn all_sessions(scheduler: &Part, wanted: f64) -> Result<()> {
    eventually("the sessions", LIMIT, || async {
        let sessions = scheduler.metric("darter_scheduler_sessions", "").await;
        sessions.is_ok_and(|count| count >= wanted).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_schedulers_the_owner_is_killed_in_mid_blob() -> Result<()> {
    let test = "of_two_schedulers_the_owner_is_killed_in_mid_blob";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let bench = Bench::start().await?;
    let mut schedulers = Vec::new();
    for name in ["scheduler-0", "scheduler-1"] {
        schedulers.push(start_scheduler(bench.path(), name).await?);
    }
    let url = |part: &Part| format!("http://{}", part.address("scheduler"));
    let urls: Vec<String> = schedulers.iter().map(url).collect();
    let names: Vec<SchedulerName> = urls.iter().map(|url| SchedulerName::new(url)).collect();
    let (first, second) = (Some(urls[0].as_str()), ["--scheduler", &urls[1]]);
    let mut proxies = Vec::new();
    for name in ["seed", "peer-0", "peer-1", "peer-2"] {
        let mut more = second.to_vec();
        more.extend((name == "seed").then_some("--seed"));
        let upstream = bench.upstream();
        let proxy = start_proxy(bench.path(), name, &upstream, first, &more).await?;
        proxies.push(proxy);
    }
    for round in 0..repetitions(3, 10) {
        for scheduler in &schedulers {
            all_sessions(scheduler, 4.0).await?;
        }
        let blob = bench.layer(200 + round as u64).await?;
        let owner = &mut schedulers[owner(&names, &blob)];
        let kill = async {
            bench.until(&blob, 0.3).await?;
            owner.process.kill().await
        };
        // The last one comes when the owner is dead.
        let early = pull_all(proxies[1..3].iter(), &blob);
        let late = async {
            bench.until(&blob, 0.5).await?;
            pull(&proxies[3], &blob).await
        };
        let (early, late, killed) = tokio::join!(early, late, kill);
        killed?;
        early.with_context(|| format!("round {round}"))?;
        late.with_context(|| format!("round {round}, who came late"))?;
        println!("round {round}: {:.3} copies", bench.copies(&blob));
        ensure!(bench.copies(&blob) <= 1.05, "{}", bench.copies(&blob));
        owner.start_again().await?;
    }
    Ok(())
}
