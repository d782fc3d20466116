//! A lazy puller of the real kind: the stargz snapshotter mounts an image's layer through a cold
//! node, and a container reads one of its files.

use std::{
    fs::{create_dir_all, write},
    os::unix::fs::symlink,
    path::Path,
};

use ::http::Method;
use anyhow::{Context as _, Result, ensure};
use darter_api::Digest;
use darter_integration::{
    clients::{Containerd, Stargz},
    darter::Cluster,
    http::send,
    image::{Blob, Flavour, Image},
    process::run,
    registry::Registry,
    report::{can_use, find, has_tools},
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::process::Command;

/// Files of a megabyte in the image, which do not compress.
const FILES: u64 = 40;
/// Of the layer's bytes, in per cent, that may leave the registry: the program (2 MB), the one
/// file, the table of contents, and what surrounds them.
const MOST: u64 = 15;

/// A layer with busybox and files of random bytes; the digest of the file `wanted`.
async fn layer(dir: &Path, wanted: u64) -> Result<(Blob, Digest)> {
    let root = dir.join("root");
    for folder in ["bin", "data"] {
        create_dir_all(root.join(folder))?;
    }
    let busybox = find("busybox").context("busybox is not installed")?;
    std::fs::copy(busybox, root.join("bin/busybox"))?;
    symlink("busybox", root.join("bin/sha256sum"))?;
    let (mut random, mut found) = (SmallRng::seed_from_u64(7), None);
    let mut bytes = vec![0; 1_000_000];
    for file in 0..FILES {
        random.fill(&mut bytes[..]);
        write(root.join("data").join(file.to_string()), &bytes)?;
        if file == wanted {
            found = Some(Digest::sha256(&bytes));
        }
    }
    let archive = dir.join("layer.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".");
    run(&mut tar).await?;
    let layer = Blob::new(std::fs::read(archive)?);
    Ok((layer, found.context("no such file")?))
}

/// The digest and the size of an image's one layer.
async fn layer_of(registry: &Registry, tag: &str) -> Result<(String, u64)> {
    let url = format!("{}/v2/library/app/manifests/{tag}", registry.url());
    let accept = [("accept", "application/vnd.oci.image.manifest.v1+json")];
    let reply = send(Method::GET, &url, &accept, bytes::Bytes::new()).await?;
    let manifest: serde_json::Value = serde_json::from_slice(reply.body())?;
    let layer = &manifest["layers"][0];
    let marked = layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"].is_string();
    ensure!(marked, "no eStargz: {manifest}");
    let digest = layer["digest"].as_str().context("a digest")?.to_owned();
    Ok((digest, layer["size"].as_u64().context("a size")?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stargz_container_starts_from_a_cold_node() -> Result<()> {
    let test = "a_stargz_container_starts_from_a_cold_node";
    let commands = [
        "docker-registry",
        "containerd",
        "ctr",
        "ctr-remote",
        "runc",
        "busybox",
    ];
    if !can_use(test, &commands, true) || !has_tools(test, &["stargz"]) {
        return Ok(());
    }
    if !Path::new("/dev/fuse").exists() {
        darter_integration::report::skip(test, "there is no /dev/fuse");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let registry = Registry::start(dir).await?;
    let (plain, wanted) = layer(dir, 7).await?;
    Image::push(&registry, "library/app", "1", Flavour::Oci, vec![plain]).await?;
    let builder = dir.join("builder");
    create_dir_all(&builder)?;
    let builder = Containerd::start(&builder, &registry.url()).await?;
    let image = "docker.io/library/app:1";
    builder.ctr_pull(image).await?;
    let to = format!("{}/library/app:lazy", registry.address());
    builder.push_as_estargz(image, &to).await?;
    drop(builder);
    let (digest, size) = layer_of(&registry, "lazy").await?;

    let cluster = Cluster::start(dir, &registry.url(), 1).await?;
    let node = Stargz::start(dir, &cluster.peers[0].mirror()).await?;
    let image = "docker.io/library/app:lazy";
    node.pull(image).await?;
    let mounted = registry.sent_of(&digest);
    let said = node
        .run(image, "one", &["/bin/sha256sum", "/data/7"])
        .await?;
    let sum = said.split_whitespace().next().unwrap_or_default();
    ensure!(sum == wanted.hex(), "{said}");
    let sent = registry.sent_of(&digest);
    println!(
        "mounted after {mounted} bytes, read after {sent} of {size} ({:.1} %) that left the registry",
        sent as f64 * 100.0 / size as f64
    );
    ensure!(sent > 0 && sent * 100 <= size * MOST, "{sent} of {size}");
    Ok(())
}
