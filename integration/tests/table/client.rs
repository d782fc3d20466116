//! The clients, and how each pulls on each way.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use darter_api::Digest;
use darter_integration::{
    clients::{
        Containerd, Dockerd, NewContainerd, Reach, buildah_pull_by, podman_pull_by, skopeo_copy_by,
        through_by,
    },
    image::Image,
    process::run,
    report::{can_use, has_tools},
};
use tokio::process::Command;

use crate::site::{Common, Kind, Site, Way};

/// Of containerd 2.2's parallel fetch: small enough for more than one a layer.
const CHUNK: u64 = 200_000;

/// A client, by the name it has in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    Ctr,
    Cri,
    NewCtr,
    NewCtrChunks,
    NewCri,
    Nerdctl,
    Dockerd,
    Podman,
    Skopeo,
    Buildah,
    Oras,
    Crane,
    Curl,
}

/// What a cell of the table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Pulled, and equal by digest.
    Pulls,
    /// The client knows no such way; nothing was tried.
    NoSuchWay(&'static str),
    /// It was tried, and failed for this reason.
    Fails(&'static str),
}

impl Client {
    pub(crate) const ALL: [Self; 13] = [
        Self::Ctr,
        Self::Cri,
        Self::NewCtr,
        Self::NewCtrChunks,
        Self::NewCri,
        Self::Nerdctl,
        Self::Dockerd,
        Self::Podman,
        Self::Skopeo,
        Self::Buildah,
        Self::Oras,
        Self::Crane,
        Self::Curl,
    ];

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Ctr => "`ctr`, containerd 1.6",
            Self::Cri => "CRI, containerd 1.6",
            Self::NewCtr => "`ctr`, containerd 2.2",
            Self::NewCtrChunks => "the same, in parallel chunks",
            Self::NewCri => "CRI, containerd 2.2",
            Self::Nerdctl => "`nerdctl` 2.1 with containerd 2.2",
            Self::Dockerd => "dockerd 20.10",
            Self::Podman => "podman 4.3",
            Self::Skopeo => "skopeo 1.9",
            Self::Buildah => "buildah 1.28",
            Self::Oras => "oras 1.2",
            Self::Crane => "crane 0.20",
            Self::Curl => "curl",
        }
    }

    /// Whether it is here; says so.
    pub(crate) fn is_there(self) -> bool {
        let test = self.title();
        let (commands, root): (&[&str], bool) = match self {
            Self::Ctr | Self::Cri => (&["containerd", "ctr"], true),
            Self::Dockerd => (&["dockerd", "containerd", "curl"], true),
            Self::Podman => (&["podman"], true),
            Self::Skopeo => (&["skopeo"], false),
            Self::Buildah => (&["buildah"], true),
            Self::Curl => (&["curl"], false),
            Self::NewCtr | Self::NewCtrChunks | Self::NewCri | Self::Nerdctl => (&[], true),
            Self::Oras | Self::Crane => (&[], false),
        };
        let tools: &[&str] = match self {
            Self::NewCtr | Self::NewCtrChunks | Self::NewCri => &["containerd", "ctr"],
            Self::Nerdctl => &["containerd", "ctr", "nerdctl"],
            Self::Oras => &["oras"],
            Self::Crane => &["crane"],
            _ => &[],
        };
        can_use(test, commands, root) && has_tools(test, tools)
    }

    /// What the table says of a cell.
    pub(crate) const fn expected(self, way: Way, kind: Kind) -> Verdict {
        match (self, way) {
            (Self::Nerdctl, Way::Ns) if kind.asks_for_names() => {
                Verdict::Fails("shows a mirror no credentials; it does by the mirror's own name")
            }
            (Self::Podman | Self::Skopeo | Self::Buildah, Way::Ns) => {
                Verdict::NoSuchWay("says no `ns`: its mirrors have the registry in the path")
            }
            (Self::Oras | Self::Crane, Way::Ns) => Verdict::NoSuchWay("knows no mirrors"),
            _ => Verdict::Pulls,
        }
    }

    /// Whether it is told of a mirror whose path names the registry, rather than of an image by
    /// the mirror's own name.
    const fn has_mirrors_by_path(self) -> bool {
        matches!(self, Self::Podman | Self::Skopeo | Self::Buildah)
    }

    /// Pulls with a store of its own in `dir`, and checks the digests of what it has then.
    pub(crate) async fn pull(
        self,
        way: Way,
        site: &Site,
        common: &Common,
        dir: &Path,
    ) -> Result<()> {
        let reach = site.reach(way, self.has_mirrors_by_path());
        let image = &common.image;
        match self {
            Self::Ctr => {
                let containerd = Containerd::start_by(dir, &reach).await?;
                containerd.ctr_fetch_by(&reach).await?;
                all_in(image, &containerd.contents().await?)
            }
            Self::Cri => {
                let containerd = Containerd::start_by(dir, &reach).await?;
                let pulled = containerd.cri_pull_as(&reach.image, reach.pair()).await?;
                is_config(image, &pulled)
            }
            Self::NewCtr => new_ctr(dir, &reach, image, 0).await,
            Self::NewCtrChunks => new_ctr(dir, &reach, image, CHUNK).await,
            Self::NewCri => {
                let containerd = NewContainerd::start_by(dir, &reach, 0).await?;
                is_config(image, &containerd.cri_pull_by(&reach).await?)
            }
            Self::Nerdctl => {
                let containerd = NewContainerd::start_by(dir, &reach, 0).await?;
                containerd.nerdctl_pull_by(&reach).await?;
                all_in(image, &containerd.contents().await?)
            }
            Self::Dockerd => {
                let dockerd = Dockerd::start_by(dir, &reach).await?;
                let name = reach.image.trim_end_matches(":1");
                let name = name.trim_start_matches("docker.io/");
                let pulled = dockerd.pull_as(name, "1", reach.login.as_deref()).await?;
                is_config(image, &pulled)
            }
            Self::Podman => is_config(image, &podman_pull_by(dir, &reach).await?),
            Self::Buildah => is_config(image, &buildah_pull_by(dir, &reach).await?),
            Self::Skopeo => all_below(image, &skopeo_copy_by(dir, &reach).await?),
            Self::Oras => {
                let mut oras = through_by("oras", &reach, dir)?;
                oras.args(["copy", &reach.image, "--to-oci-layout"]);
                if reach.plain {
                    oras.arg("--from-plain-http");
                }
                run(oras.arg(format!("{}:1", dir.join("image").display()))).await?;
                all_below(image, &dir.join("image/blobs/sha256"))
            }
            Self::Crane => {
                let mut crane = through_by("crane", &reach, dir)?;
                crane.args(["pull", "--format=oci", &reach.image]);
                run(crane.arg(dir.join("image"))).await?;
                all_below(image, &dir.join("image/blobs/sha256"))
            }
            Self::Curl => curl(way, site, common, &reach, dir).await,
        }
    }
}

async fn new_ctr(dir: &Path, reach: &Reach, image: &Image, chunks: u64) -> Result<()> {
    let containerd = NewContainerd::start_by(dir, reach, chunks).await?;
    containerd.ctr_pull_by(reach).await?;
    all_in(image, &containerd.contents().await?)
}

async fn curl(way: Way, site: &Site, common: &Common, reach: &Reach, dir: &Path) -> Result<()> {
    let authorization = site.authorization(common).await?;
    let get = async |path: &str, file: PathBuf| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--cacert"]);
        curl.arg(&reach.trust);
        curl.args(reach.proxy.iter().flat_map(|proxy| ["--proxy", proxy]));
        if let Some(authorization) = &authorization {
            curl.args(["--header", &format!("Authorization: {authorization}")]);
        }
        curl.args(["--header", &format!("Accept: {}", common.image.media_type)]);
        curl.arg("--output").arg(file);
        run(curl.arg(site.url(way, path))).await
    };
    let image = &common.image;
    get("manifests/1", dir.join(image.manifest.hex())).await?;
    for blob in image.layers.iter().chain([&image.config]) {
        let path = format!("blobs/{}", blob.digest);
        get(&path, dir.join(blob.digest.hex())).await?;
    }
    ensure!(has(dir, &image.manifest)?, "another manifest");
    all_below(image, dir)
}

/// Whether a client's list of verified contents has all of the image.
fn all_in(image: &Image, contents: &[String]) -> Result<()> {
    let blobs = image.layers.iter().chain([&image.config]);
    let mut digests = blobs.map(|blob| blob.digest).chain([image.manifest]);
    let missing = digests.find(|digest| !contents.contains(&digest.to_string()));
    ensure!(missing.is_none(), "without {missing:?}: {contents:?}");
    Ok(())
}

/// Whether an image's id is the digest of its configuration, which names those of its layers.
fn is_config(image: &Image, id: &str) -> Result<()> {
    let wanted = image.config.digest;
    let same = id == wanted.to_string() || id == wanted.hex();
    ensure!(same, "{id}, not {wanted}");
    Ok(())
}

/// Whether files named by their digests have all of the image's blobs.
fn all_below(image: &Image, dir: &Path) -> Result<()> {
    for blob in image.layers.iter().chain([&image.config]) {
        ensure!(has(dir, &blob.digest)?, "another {}", blob.digest);
    }
    Ok(())
}

fn has(dir: &Path, digest: &Digest) -> Result<bool> {
    let file = dir.join(digest.hex());
    let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
    Ok(Digest::sha256(&bytes) == *digest)
}
