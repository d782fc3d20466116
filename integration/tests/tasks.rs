//! Tasks and images on all hosts: looked at, dropped, and tags forgotten, through a manager.

use anyhow::{Context as _, Result, ensure};
use darter_integration::{
    http as client,
    image::{Blob, Flavour, Image},
    process::eventually,
    report::can_use,
    stand::{LIMIT, Stand},
};
use serde_json::{Value, json};

/// Three peers that believe tags for long.
async fn start() -> Result<Stand> {
    Stand::start_with(3, &["proxy.mirror.tag_ttl=10m"]).await
}

/// What `darter task .. --json` says; it has to succeed.
async fn task(stand: &Stand, arguments: &[&str]) -> Result<Value> {
    let all = [&["task"], arguments, &["--json"]].concat();
    let output = stand.darter(&all).await?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

async fn preheat(stand: &Stand, image: &str) -> Result<()> {
    let output = stand.preheat(&[image, "--scope", "all_peers"]).await?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_looked_at_and_dropped_everywhere() -> Result<()> {
    let test = "an_image_is_looked_at_and_dropped_everywhere";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let mut stand = start().await?;
    let blobs = [1, 2, 3].map(|seed| Blob::layer(seed, 300_000));
    let [shared, own, other] = &blobs;
    let push = async |tag: &str, layers: Vec<Blob>| {
        Image::push(&stand.registry, "library/app", tag, Flavour::Oci, layers).await
    };
    let first = push("1", vec![shared.clone(), own.clone()]).await?;
    push("2", vec![shared.clone(), other.clone()]).await?;
    preheat(&stand, "library/app:1").await?;
    preheat(&stand, "library/app:2").await?;

    let own_task = own.digest.to_string();
    let listed = eventually("all hosts' words", LIMIT, || async {
        let listed = task(&stand, &["ls"]).await.ok()?;
        let tasks = listed["tasks"].as_array()?.iter();
        let mut own = tasks.filter(|one| one["task"] == json!(own_task));
        (own.next()?["whole"] == 3).then_some(listed)
    })
    .await?;
    assert_eq!(listed["silent"], json!([]));
    let image = task(&stand, &["show", "library/app:1"]).await?;
    let parts = image["tasks"].as_array().context("tasks")?;
    assert_eq!(
        parts.len(),
        4,
        "a manifest, a configuration, two layers: {image}"
    );
    assert_eq!(parts[0]["task"], json!(first.manifest.to_string()));
    let graph = task(&stand, &["show", &own_task]).await?;
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

    let dropped = task(&stand, &["rm", "library/app:1"]).await?;
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
    let stand = start().await?;
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
    let forgotten = task(&stand, &["invalidate", "library/app:1"]).await?;
    let hosts = forgotten["hosts"].as_array().context("hosts")?;
    assert_eq!(hosts.len(), 3, "{forgotten}");
    assert!(
        hosts.iter().all(|host| host["failed"].is_null()),
        "{forgotten}"
    );
    shows(&new).await
}
