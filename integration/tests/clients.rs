//! Every client pulls the same image through a proxy of its own: each layer leaves the
//! registry once, and then not even the registry is needed.

use std::time::Duration;

use anyhow::{Context as _, Result};
use darter_integration::{
    clients::{Containerd, Dockerd, podman_pull, skopeo_copy},
    darter::Cluster,
    http,
    image::{Blob, Flavour, Image},
    process::{eventually, run},
    registry::Registry,
    report::can_use,
};
use tokio::process::Command;

const COMMANDS: &[&str] = &[
    "docker-registry",
    "containerd",
    "ctr",
    "dockerd",
    "skopeo",
    "podman",
    "curl",
];

#[tokio::test(flavor = "multi_thread")]
async fn one_image_through_many_proxies() -> Result<()> {
    if !can_use("one_image_through_many_proxies", COMMANDS, true) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut registry = Registry::start(dir.path()).await?;
    let layers = vec![
        Blob::layer(1, 9_000_000),
        Blob::layer(2, 700_000),
        Blob::layer(3, 10),
    ];
    let image = Image::push(&registry, "library/app", "1", Flavour::Oci, layers).await?;
    let mut cluster = Cluster::start(dir.path(), &registry.url(), 3).await?;
    let mirrors: Vec<String> = cluster.peers.iter().map(|peer| peer.mirror()).collect();

    let containerd = Containerd::start(dir.path(), &mirrors[0]).await?;
    let dockerd = Dockerd::start(dir.path(), &mirrors[1]).await?;
    let name = "docker.io/library/app:1";
    let (ctr, docker, skopeo, podman) = tokio::join!(
        containerd.ctr_pull(name),
        dockerd.pull("library/app", "1"),
        skopeo_copy(dir.path(), &mirrors[2], name),
        podman_pull(dir.path(), &mirrors[2], name),
    );
    ctr.context("ctr")?;
    assert_eq!(docker.context("dockerd")?, image.config.digest.to_string());
    skopeo.context("skopeo")?;
    assert_eq!(podman.context("podman")?, image.config.digest.hex());
    let cri = containerd.cri_pull(name).await.context("CRI")?;
    assert_eq!(cri, image.config.digest.to_string());
    // No package of Debian's has it.
    if can_use("crictl beside the other clients", &["crictl"], true) {
        containerd.crictl_pull(name).await.context("crictl")?;
    }
    for layer in image.layers.iter().chain([&image.config]) {
        let sent = registry.sent_of(&layer.digest.to_string());
        assert_eq!(
            sent,
            layer.bytes.len() as u64,
            "{} left the registry once",
            layer.digest
        );
    }

    let blob = &image.layers[0];
    through_connect(&cluster, dir.path(), blob).await?;
    assert_eq!(
        registry.sent_of(&blob.digest.to_string()),
        blob.bytes.len() as u64
    );

    registry.stop().await?;
    cluster.add_peer().await?;
    let fourth = cluster.peers[3].mirror();
    let late = dir.path().join("late");
    std::fs::create_dir_all(&late)?;
    let containerd = Containerd::start(&late, &fourth).await?;
    containerd
        .ctr_pull(name)
        .await
        .context("by tag, with the registry gone")?;
    let by_digest = format!("docker.io/library/app@{}", image.manifest);
    containerd
        .cri_pull(&by_digest)
        .await
        .context("by digest, with the registry gone")?;
    Ok(())
}

/// `curl -x` with the proxy's CA gets the blob of `https://docker.io` from the swarm.
async fn through_connect(cluster: &Cluster, dir: &std::path::Path, blob: &Blob) -> Result<()> {
    let peer = &cluster.peers[1];
    let ca = eventually("the CA certificate", Duration::from_secs(60), || async {
        let ca = dir.join("peer-1/ca.crt");
        ca.is_file().then_some(ca)
    })
    .await?;
    let target = dir.join("by-connect");
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail",
        "--proxy",
        &peer.mirror(),
        "--cacert",
    ]);
    curl.arg(ca).arg("--output").arg(&target);
    curl.arg(format!(
        "https://docker.io/v2/library/app/blobs/{}",
        blob.digest
    ));
    run(&mut curl).await?;
    assert_eq!(std::fs::read(target)?, blob.bytes);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_at_the_same_moment_make_one_fetch() -> Result<()> {
    if !can_use(
        "two_clients_at_the_same_moment_make_one_fetch",
        &["docker-registry"],
        false,
    ) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let registry = Registry::start(dir.path()).await?;
    let blob = Blob::layer(7, 5_000_000);
    let image = Image::push(
        &registry,
        "library/app",
        "1",
        Flavour::Oci,
        vec![blob.clone()],
    )
    .await?;
    let upstream = format!("docker.io={}", registry.url());
    let proxy =
        darter_integration::darter::start_proxy(dir.path(), "alone", &upstream, None, &[]).await?;
    let url = format!(
        "{}/v2/library/app/blobs/{}?ns=docker.io",
        proxy.mirror(),
        blob.digest
    );
    let (first, second) = tokio::join!(http::get(&url), http::get(&url));
    assert_eq!(first?.body(), &blob.bytes);
    assert_eq!(second?.body(), &blob.bytes);
    assert_eq!(
        registry.sent_of(&blob.digest.to_string()),
        blob.bytes.len() as u64
    );

    let manifest = format!("{}/v2/library/app/manifests/1", proxy.mirror());
    let manifest = http::get(&manifest).await?;
    assert_eq!(manifest.body(), &image.manifest_bytes);
    Ok(())
}
