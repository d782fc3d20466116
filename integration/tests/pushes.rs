//! What dockerd and buildah push through the HTTP proxy arrives byte for byte, and comes back.
//! (oras and crane: `newest.rs`.)

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use darter_api::Digest;
use darter_integration::{
    clients::{Dockerd, Reach, buildah_pull_by, buildah_push_by},
    darter::{Part, start_proxy},
    http,
    image::{Blob, Flavour, Image},
    registry::Registry,
    report::can_use,
};

/// A registry that is called `registry.test`, which has no address anywhere, and a proxy that
/// opens it.
struct Office {
    dir: tempfile::TempDir,
    registry: Registry,
    proxy: Part,
}

impl Office {
    async fn open() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let registry = Registry::start(dir.path()).await?;
        let upstream = format!("registry.test={}", registry.url());
        let proxy = start_proxy(dir.path(), "alone", &upstream, None, &[]).await?;
        Ok(Self {
            dir,
            registry,
            proxy,
        })
    }

    fn reach(&self, repository: &str) -> Reach {
        Reach {
            image: format!("registry.test/{repository}:1"),
            mirror: None,
            proxy: Some(self.proxy.mirror()),
            trust: self.dir.path().join("alone/ca.crt"),
            login: None,
            plain: false,
        }
    }

    fn place(&self, name: &str) -> Result<PathBuf> {
        let place = self.dir.path().join(name);
        std::fs::create_dir_all(&place)?;
        Ok(place)
    }

    /// The digest of what the registry itself has under a tag, whose every blob it has in the
    /// bytes that its manifest names.
    async fn whole(&self, repository: &str) -> Result<(Digest, serde_json::Value)> {
        let base = format!("{}/v2/{repository}", self.registry.url());
        let types = [Flavour::Oci, Flavour::Schema2].map(Flavour::manifest);
        let accept = types.join(", ");
        let url = format!("{base}/manifests/1");
        let headers = [("accept", accept.as_str())];
        let none = bytes::Bytes::new();
        let reply = http::send(::http::Method::GET, &url, &headers, none).await?;
        ensure!(reply.status() == 200, "{url}: {}", reply.status());
        let manifest: serde_json::Value = serde_json::from_slice(reply.body())?;
        let layers = manifest["layers"].as_array().context("layers")?;
        for blob in layers.iter().chain([&manifest["config"]]) {
            let digest = blob["digest"].as_str().context("a digest")?;
            let got = http::get(&format!("{base}/blobs/{digest}")).await?;
            let is = Digest::sha256(got.body()).to_string();
            ensure!(got.status() == 200 && is == digest, "{digest}: {is}");
        }
        Ok((Digest::sha256(reply.body()), manifest))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_push_through_the_proxy() -> Result<()> {
    let commands = ["docker-registry", "dockerd", "containerd", "curl"];
    if !can_use("docker_push_through_the_proxy", &commands, true) {
        return Ok(());
    }
    let office = Office::open().await?;
    let (name, tar) = (
        "registry.test/team/docker",
        office.dir.path().join("root.tar"),
    );
    std::fs::write(&tar, &Blob::layer(3, 12_000_000).bytes)?;
    let reach = office.reach("team/docker");
    let here = Dockerd::start_by(&office.place("here")?, &reach).await?;
    here.import(&tar, name, "1").await?;
    let pushed = here.push(name, "1").await?;
    let (manifest, content) = office.whole("team/docker").await?;
    ensure!(manifest.to_string() == pushed, "{manifest}, not {pushed}");

    let there = Dockerd::start_by(&office.place("there")?, &reach).await?;
    let back = there.pull(name, "1").await?;
    let config = content["config"]["digest"].as_str();
    ensure!(config == Some(&back), "{back}: {content}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn buildah_push_through_the_proxy() -> Result<()> {
    if !can_use(
        "buildah_push_through_the_proxy",
        &["docker-registry", "buildah"],
        true,
    ) {
        return Ok(());
    }
    let office = Office::open().await?;
    let layers = vec![Blob::layer(4, 6_000_000), Blob::layer(5, 900)];
    let image = Image::push(&office.registry, "team/app", "1", Flavour::Oci, layers).await?;
    let pull = async |at: &Path, repository: &str| {
        let id = buildah_pull_by(at, &office.reach(repository)).await?;
        ensure!(id == image.config.digest.hex(), "{repository}: {id}");
        Ok(id)
    };
    let here = office.place("here")?;
    let id = pull(&here, "team/app").await?;
    buildah_push_by(&here, &office.reach("team/again"), &id).await?;
    let (_, content) = office.whole("team/again").await?;
    let config = content["config"]["digest"].as_str();
    ensure!(
        config == Some(&image.config.digest.to_string()),
        "{content}"
    );
    // The layers went out anew, packed, and what they unpack to is the same.
    pull(&office.place("there")?, "team/again").await?;
    Ok(())
}
