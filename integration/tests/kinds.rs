//! Every kind of image that registries hold comes through byte for byte.

use anyhow::{Context as _, Result};
use darter_integration::{
    clients::{Containerd, skopeo_copy},
    darter::{Cluster, Part},
    http,
    image::{Blob, Flavour, Image, push_blob, push_manifest},
    registry::Registry,
    report::can_use,
};
use serde_json::json;

struct Bench {
    dir: tempfile::TempDir,
    registry: Registry,
    cluster: Cluster,
}

impl Bench {
    async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let registry = Registry::start(dir.path()).await?;
        let cluster = Cluster::start(dir.path(), &registry.url(), 2).await?;
        Ok(Self {
            dir,
            registry,
            cluster,
        })
    }
}

async fn blob_through(peer: &Part, repository: &str, digest: &str) -> Result<bytes::Bytes> {
    let url = format!(
        "{}/v2/{repository}/blobs/{digest}?ns=docker.io",
        peer.mirror()
    );
    let reply = http::get(&url).await?;
    anyhow::ensure!(
        reply.status() == 200,
        "{url}: {} {:?}",
        reply.status(),
        reply.body()
    );
    Ok(reply.into_body())
}

#[tokio::test(flavor = "multi_thread")]
async fn schema2_index_and_foreign_types() -> Result<()> {
    if !can_use(
        "schema2_index_and_foreign_types",
        &["docker-registry", "skopeo"],
        false,
    ) {
        return Ok(());
    }
    let bench = Bench::start().await?;
    let registry = &bench.registry;
    let one = Image::push(
        registry,
        "library/app",
        "one",
        Flavour::Schema2,
        vec![Blob::layer(1, 50_000)],
    )
    .await?;
    let two = Image::push(
        registry,
        "library/app",
        "two",
        Flavour::Schema2,
        vec![Blob::layer(2, 60_000)],
    )
    .await?;
    let entry = |image: &Image, architecture: &str| {
        json!({"mediaType": image.media_type, "digest": image.manifest.to_string(), "size": image.manifest_bytes.len(),
               "platform": {"architecture": architecture, "os": "linux"}})
    };
    let list = json!({"schemaVersion": 2, "mediaType": Flavour::Schema2.index(),
                      "manifests": [entry(&one, "amd64"), entry(&two, "arm64")]});
    push_manifest(
        registry,
        "library/app",
        "list",
        Flavour::Schema2.index(),
        &list,
    )
    .await?;
    let copied = skopeo_copy(
        bench.dir.path(),
        &bench.cluster.peers[0].mirror(),
        "docker.io/library/app:list",
    )
    .await?;
    for image in [&one, &two] {
        let layer = &image.layers[0];
        assert_eq!(std::fs::read(copied.join(layer.digest.hex()))?, layer.bytes);
    }

    let artifact = Blob::new(&b"{\"sbom\": true}"[..]);
    push_blob(registry, "library/app", &artifact).await?;
    let empty = Blob::new(&b"{}"[..]);
    push_blob(registry, "library/app", &empty).await?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": Flavour::Oci.manifest(), "artifactType": "application/spdx+json",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty.digest.to_string(), "size": 2},
        "layers": [
            {"mediaType": "application/spdx+json", "digest": artifact.digest.to_string(), "size": artifact.bytes.len()},
            {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "size": 10,
             "digest": Blob::new(&b"elsewhere"[..]).digest.to_string(), "urls": ["https://elsewhere.invalid/layer"]},
        ],
    });
    let (digest, bytes) = push_manifest(
        registry,
        "library/app",
        "sbom",
        Flavour::Oci.manifest(),
        &manifest,
    )
    .await?;
    let peer = &bench.cluster.peers[1];
    let reply = http::get(&format!(
        "{}/v2/library/app/manifests/{digest}",
        peer.mirror()
    ))
    .await?;
    assert_eq!(reply.body(), &bytes);
    assert_eq!(reply.headers()["content-type"], Flavour::Oci.manifest());
    let got = blob_through(peer, "library/app", &artifact.digest.to_string()).await?;
    assert_eq!(got, artifact.bytes);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn smallest_layers_and_many_of_them() -> Result<()> {
    if !can_use(
        "smallest_layers_and_many_of_them",
        &["docker-registry", "containerd", "ctr"],
        true,
    ) {
        return Ok(());
    }
    let bench = Bench::start().await?;
    let odd = vec![Blob::new(&b"x"[..]), Blob::new(&b""[..])];
    let odd = Image::push(&bench.registry, "library/odd", "1", Flavour::Oci, odd).await?;
    let many = (0..100)
        .map(|seed| Blob::layer(1000 + seed, 2000))
        .collect();
    let many = Image::push(&bench.registry, "library/many", "1", Flavour::Oci, many).await?;
    let containerd = Containerd::start(bench.dir.path(), &bench.cluster.peers[0].mirror()).await?;
    containerd.ctr_pull("docker.io/library/many:1").await?;
    let contents = containerd.contents().await?;
    for layer in &many.layers {
        assert!(
            contents.contains(&layer.digest.to_string()),
            "{}",
            layer.digest
        );
    }
    for layer in &odd.layers {
        let got = blob_through(
            &bench.cluster.peers[1],
            "library/odd",
            &layer.digest.to_string(),
        )
        .await?;
        assert_eq!(got, layer.bytes);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_of_one_gibibyte() -> Result<()> {
    if !can_use(
        "a_layer_of_one_gibibyte",
        &["docker-registry", "containerd", "ctr"],
        true,
    ) {
        return Ok(());
    }
    let bench = Bench::start().await?;
    let layer = Blob::layer(9, (1 << 30) - 2048);
    let digest = layer.digest.to_string();
    let size = layer.bytes.len() as u64;
    Image::push(
        &bench.registry,
        "library/large",
        "1",
        Flavour::Oci,
        vec![layer],
    )
    .await?;
    let containerd = Containerd::start(bench.dir.path(), &bench.cluster.peers[0].mirror()).await?;
    containerd.ctr_fetch("docker.io/library/large:1").await?;
    assert!(containerd.contents().await?.contains(&digest));
    assert_eq!(
        bench.registry.sent_of(&digest),
        size,
        "one copy left the registry"
    );
    let got = blob_through(&bench.cluster.peers[1], "library/large", &digest)
        .await
        .context("second peer")?;
    assert_eq!(darter_api::Digest::sha256(&got).to_string(), digest);
    assert_eq!(bench.registry.sent_of(&digest), size);
    Ok(())
}
