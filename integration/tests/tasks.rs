//! Tasks and images on all hosts: looked at, dropped, and tags forgotten, through a manager.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use darter_integration::{
    darter::{Part, binary, start_proxy},
    http as client,
    image::{Blob, Flavour, Image},
    process::eventually,
    registry::Registry,
    report::can_use,
};
use http::Method;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const ANY: &str = "127.0.0.1:0";
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry, a manager, a scheduler and three peers.
struct Stand {
    registry: Registry,
    manager: Part,
    peers: Vec<Part>,
    _scheduler: Part,
    _dir: tempfile::TempDir,
}

impl Stand {
    async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let registry = Registry::start(dir.path()).await?;
        let data = |name: &str| dir.path().join(name).display().to_string();
        let (of_manager, of_scheduler) = (data("manager"), data("scheduler"));
        let mut arguments = vec!["manager", "--listen", ANY, "--operations-listen", ANY];
        arguments.extend(["--set", "manager.grpc=127.0.0.1:0", "--data", &of_manager]);
        let manager = Part::start("manager", dir.path(), &arguments).await?;
        let grpc = format!("http://{}", manager.address("grpc"));
        let mut arguments = vec!["scheduler", "--listen", ANY, "--operations-listen", ANY];
        arguments.extend(["--data", &of_scheduler, "--manager", &grpc]);
        arguments.extend(["--set", "scheduler.preheat_settle=0s"]);
        let scheduler = Part::start("scheduler", dir.path(), &arguments).await?;
        let upstream = format!("docker.io={}", registry.url());
        let mut peers = Vec::new();
        for number in 0..3 {
            let name = format!("n{number}");
            let set = format!("proxy.name={name}");
            let believed = ["--set", "proxy.mirror.tag_ttl=10m"];
            let arguments = [&["--manager", &grpc, "--set", &set], &believed[..]].concat();
            let peer = start_proxy(dir.path(), &name, &upstream, None, &arguments).await?;
            eventually("a session", LIMIT, || async {
                let sessions = peer.metric("darter_proxy_peer_sessions", "").await;
                sessions.is_ok_and(|count| count == 1.0).then_some(())
            })
            .await?;
            peers.push(peer);
        }
        Ok(Self {
            registry,
            manager,
            peers,
            _scheduler: scheduler,
            _dir: dir,
        })
    }

    fn rest(&self) -> String {
        format!("http://{}", self.manager.address("manager"))
    }

    async fn darter(&self, arguments: &[&str]) -> Result<Output> {
        let child = tokio::process::Command::new(binary())
            .args(arguments)
            .args(["--manager", &self.rest()])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        Ok(tokio::time::timeout(LIMIT, child).await??)
    }

    /// What `darter task .. --json` says; it has to succeed.
    async fn task(&self, arguments: &[&str]) -> Result<Value> {
        let all = [&["task"], arguments, &["--json"]].concat();
        let output = self.darter(&all).await?;
        ensure!(output.status.success(), "{arguments:?}: {output:?}");
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    async fn preheat(&self, image: &str) -> Result<()> {
        let arguments = ["preheat", image, "--scope", "all_peers", "--wait"];
        let output = self.darter(&arguments).await?;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    }

    async fn get(&self, peer: &Part, path: &str) -> Result<(u16, Bytes)> {
        let url = format!("{}/v2/library/app/{path}?ns=docker.io", peer.mirror());
        let reply = client::send(Method::GET, &url, &[("accept", MANIFESTS)], Bytes::new());
        let reply = tokio::time::timeout(LIMIT, reply).await??;
        Ok((reply.status().as_u16(), reply.into_body()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_looked_at_and_dropped_everywhere() -> Result<()> {
    let test = "an_image_is_looked_at_and_dropped_everywhere";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let mut stand = Stand::start().await?;
    let blobs = [1, 2, 3].map(|seed| Blob::layer(seed, 300_000));
    let [shared, own, other] = &blobs;
    let push = async |tag: &str, layers: Vec<Blob>| {
        Image::push(&stand.registry, "library/app", tag, Flavour::Oci, layers).await
    };
    let first = push("1", vec![shared.clone(), own.clone()]).await?;
    push("2", vec![shared.clone(), other.clone()]).await?;
    stand.preheat("library/app:1").await?;
    stand.preheat("library/app:2").await?;

    let own_task = own.digest.to_string();
    let listed = eventually("all hosts' words", LIMIT, || async {
        let listed = stand.task(&["ls"]).await.ok()?;
        let tasks = listed["tasks"].as_array()?.iter();
        let mut own = tasks.filter(|one| one["task"] == json!(own_task));
        (own.next()?["whole"] == 3).then_some(listed)
    })
    .await?;
    assert_eq!(listed["silent"], json!([]));
    let image = stand.task(&["show", "library/app:1"]).await?;
    let parts = image["tasks"].as_array().context("tasks")?;
    assert_eq!(
        parts.len(),
        4,
        "a manifest, a configuration, two layers: {image}"
    );
    assert_eq!(parts[0]["task"], json!(first.manifest.to_string()));
    let graph = stand.task(&["show", &own_task]).await?;
    assert_eq!(graph["hosts"].as_array().map(Vec::len), Some(3), "{graph}");
    let peers = client::get(&format!("{}/api/v1/peers", stand.rest())).await?;
    let peers: Value = serde_json::from_slice(peers.body())?;
    let peers = peers["peers"].as_array().context("peers")?;
    assert_eq!(peers.len(), 3);
    for peer in peers {
        assert_eq!(peer["version"], env!("CARGO_PKG_VERSION"), "{peer}");
        assert_eq!(peer["role"], "peer", "{peer}");
        assert!(peer["bytes"].as_u64() >= Some(900_000), "{peer}");
    }

    let dropped = stand.task(&["rm", "library/app:1"]).await?;
    let hosts = dropped["hosts"].as_array().context("hosts")?;
    assert_eq!(hosts.len(), 3, "{dropped}");
    for host in hosts {
        assert_eq!(host["dropped"].as_array().map(Vec::len), Some(3), "{host}");
        assert_eq!(host["needed"], json!([shared.digest.to_string()]), "{host}");
        assert_eq!(host["failed"], Value::Null);
    }
    let gone = stand.darter(&["task", "show", &own_task]).await?;
    let gone_soon = eventually("the schedulers' word", LIMIT, || async {
        let shown = stand.darter(&["task", "show", &own_task]).await.ok()?;
        (!shown.status.success()).then_some(())
    });
    gone_soon.await.with_context(|| format!("{gone:?}"))?;
    stand.registry.stop().await?;
    for peer in &stand.peers {
        let blob = |blob: &Blob| format!("blobs/{}", blob.digest);
        let (status, bytes) = stand.get(peer, &blob(shared)).await?;
        assert!(status == 200 && bytes == shared.bytes, "{status}");
        assert_eq!(stand.get(peer, &blob(other)).await?.0, 200);
        assert_ne!(stand.get(peer, &blob(own)).await?.0, 200, "it is nowhere");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_asked_anew_on_all_hosts() -> Result<()> {
    let test = "a_tag_is_asked_anew_on_all_hosts";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let stand = Stand::start().await?;
    let push = async |seed| {
        let layers = vec![Blob::layer(seed, 10_000)];
        Image::push(&stand.registry, "library/app", "1", Flavour::Oci, layers).await
    };
    let shows = async |image: &Image| -> Result<()> {
        for peer in &stand.peers {
            let (status, bytes) = stand.get(peer, "manifests/1").await?;
            ensure!(status == 200 && bytes == image.manifest_bytes, "{status}");
        }
        Ok(())
    };
    let old = push(1).await?;
    shows(&old).await?;
    let new = push(2).await?;
    shows(&old).await.context("it is believed for a while")?;
    let forgotten = stand.task(&["invalidate", "library/app:1"]).await?;
    let hosts = forgotten["hosts"].as_array().context("hosts")?;
    assert_eq!(hosts.len(), 3, "{forgotten}");
    assert!(
        hosts.iter().all(|host| host["failed"].is_null()),
        "{forgotten}"
    );
    shows(&new).await
}
