//! The test bench itself: every real client pulls straight from the registry.
//!
//! When one of these fails, the machine or the harness is at fault, not Darter.

use anyhow::Result;
use darter_integration::{
    clients::{Containerd, Dockerd, podman_pull, skopeo_copy},
    image::{Blob, Flavour, Image},
    registry::Registry,
    report::can_use,
};

async fn bench() -> Result<(tempfile::TempDir, Registry, Image)> {
    let dir = tempfile::tempdir()?;
    let registry = Registry::start(dir.path()).await?;
    let layers = vec![Blob::layer(1, 3_000_000), Blob::layer(2, 70_000)];
    let image = Image::push(&registry, "library/app", "1", Flavour::Oci, layers).await?;
    Ok((dir, registry, image))
}

#[tokio::test]
async fn ctr_and_cri() -> Result<()> {
    if !can_use(
        "ctr_and_cri",
        &["docker-registry", "containerd", "ctr"],
        true,
    ) {
        return Ok(());
    }
    let (dir, registry, image) = bench().await?;
    let containerd = Containerd::start(dir.path(), &registry.url()).await?;
    containerd.ctr_pull("docker.io/library/app:1").await?;
    let contents = containerd.contents().await?;
    assert!(
        contents.contains(&image.layers[0].digest.to_string()),
        "{contents:?}"
    );
    let layer = image.layers[0].digest.to_string();
    assert_eq!(registry.sent_of(&layer), image.layers[0].bytes.len() as u64);
    let reference = containerd.cri_pull("docker.io/library/app:1").await?;
    assert_eq!(reference, image.config.digest.to_string());
    Ok(())
}

#[tokio::test]
async fn dockerd() -> Result<()> {
    if !can_use(
        "dockerd",
        &["docker-registry", "dockerd", "containerd", "curl"],
        true,
    ) {
        return Ok(());
    }
    let (dir, registry, image) = bench().await?;
    let dockerd = Dockerd::start(dir.path(), &registry.url()).await?;
    assert_eq!(
        dockerd.pull("library/app", "1").await?,
        image.config.digest.to_string()
    );
    Ok(())
}

#[tokio::test]
async fn skopeo_and_podman() -> Result<()> {
    if !can_use(
        "skopeo_and_podman",
        &["docker-registry", "skopeo", "podman"],
        true,
    ) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let registry = Registry::start(dir.path()).await?;
    // registries.conf mirrors carry the upstream in the path.
    let layers = vec![Blob::layer(1, 300_000)];
    let image = Image::push(
        &registry,
        "docker.io/library/app",
        "1",
        Flavour::Schema2,
        layers,
    )
    .await?;
    let copied = skopeo_copy(dir.path(), &registry.url(), "docker.io/library/app:1").await?;
    assert!(copied.join(image.layers[0].digest.hex()).is_file());
    let id = podman_pull(dir.path(), &registry.url(), "docker.io/library/app:1").await?;
    assert_eq!(id, image.config.digest.hex());
    Ok(())
}
