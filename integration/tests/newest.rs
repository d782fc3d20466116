//! The clients that distributions do not have yet: pulls in parallel chunks, and pushes that
//! pass through the proxy unchanged.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use darter_api::Digest;
use darter_integration::{
    clients::{NewContainerd, through},
    darter::{Part, start_proxy},
    guarded::Authority,
    http,
    image::{Blob, Flavour, Image},
    process::run,
    registry::{Guard, Registry, Setup},
    report::{can_use, has_tools},
};
use tokio::process::Command;

const CHUNK: u64 = 4 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn parallel_chunks_of_a_cold_layer_are_one_fetch() -> Result<()> {
    let test = "parallel_chunks_of_a_cold_layer_are_one_fetch";
    if !can_use(test, &["docker-registry"], true) || !has_tools(test, &["containerd", "ctr"]) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let registry = Registry::start(dir.path()).await?;
    let layer = Blob::layer(1, 64_000_000);
    let layers = vec![layer.clone()];
    Image::push(&registry, "library/app", "1", Flavour::Oci, layers).await?;
    let upstream = format!("docker.io={}", registry.url());
    let proxy = start_proxy(dir.path(), "alone", &upstream, None, &[]).await?;
    let containerd = NewContainerd::start(dir.path(), &proxy.mirror(), CHUNK).await?;
    containerd.ctr_pull("docker.io/library/app:1").await?;

    let digest = layer.digest.to_string();
    assert!(containerd.contents().await?.contains(&digest));
    assert_eq!(registry.sent_of(&digest), layer.bytes.len() as u64);
    let log = proxy.process.log();
    let gets = log.lines().filter(|line| {
        line.contains("method=GET") && line.contains(&digest) && line.contains("status=206")
    });
    let gets = gets.count();
    assert!(gets > 1, "containerd asked in {gets} chunks:\n{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nerdctl_pulls_each_layer_once() -> Result<()> {
    let test = "nerdctl_pulls_each_layer_once";
    let tools = ["containerd", "ctr", "nerdctl"];
    if !can_use(test, &["docker-registry"], true) || !has_tools(test, &tools) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let registry = Registry::start(dir.path()).await?;
    let layers = vec![Blob::layer(1, 9_000_000), Blob::layer(2, 700_000)];
    let image = Image::push(&registry, "library/app", "1", Flavour::Oci, layers).await?;
    let upstream = format!("docker.io={}", registry.url());
    let proxy = start_proxy(dir.path(), "alone", &upstream, None, &[]).await?;
    let containerd = NewContainerd::start(dir.path(), &proxy.mirror(), 0).await?;
    containerd.nerdctl_pull("docker.io/library/app:1").await?;

    let contents = containerd.contents().await?;
    for layer in &image.layers {
        let digest = layer.digest.to_string();
        assert!(contents.contains(&digest), "{digest}");
        assert_eq!(registry.sent_of(&digest), layer.bytes.len() as u64);
    }
    Ok(())
}

/// What a registry speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Plain,
    /// TLS, and HTTP/2 with who offers it.
    Tls,
}

/// A registry that is called `registry.test`, and a proxy that opens it.
struct Pushing {
    dir: tempfile::TempDir,
    /// The registry, as the test itself looks into it.
    registry: Registry,
    proxy: Part,
    _tls: Option<Registry>,
}

impl Pushing {
    async fn start(speaks: Speaks) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let registry = Registry::start(dir.path()).await?;
        let authority = Authority::new(&dir.path().join("authority"))?;
        let (mut url, mut tls) = (registry.url(), None);
        if speaks == Speaks::Tls {
            let setup = Setup {
                name: "tls",
                guard: Guard::Nobody,
                identity: Some(&authority.issue("registry")?),
                clients: None,
            };
            let front = Registry::start_as(dir.path(), setup).await?;
            url = front.url();
            tls = Some(front);
        }
        let ca = authority.file();
        let upstreams = format!(
            "proxy.upstreams=[{{name = \"registry.test\", url = \"{url}\", ca = \"{}\"}}]",
            ca.display()
        );
        let data = dir.path().join("alone").display().to_string();
        let any = "127.0.0.1:0";
        let arguments = [
            "proxy",
            "--listen",
            any,
            "--operations-listen",
            any,
            "--set",
            "proxy.peer=\"127.0.0.1:0\"",
            "--data",
            &data,
            "--set",
            &upstreams,
        ];
        let proxy = Part::start("alone", dir.path(), &arguments).await?;
        Ok(Self {
            dir,
            registry,
            proxy,
            _tls: tls,
        })
    }

    fn tool(&self, name: &str) -> Result<Command> {
        let ca = self.dir.path().join("alone/ca.crt");
        let mut command = through(name, &self.proxy.mirror(), &ca)?;
        command.current_dir(self.dir.path());
        Ok(command)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The manifest that the registry itself has.
    async fn manifest(&self, name: &str, tag: &str) -> Result<serde_json::Value> {
        let url = format!("{}/v2/{name}/manifests/{tag}", self.registry.url());
        let oci = "application/vnd.oci.image.manifest.v1+json";
        let docker = "application/vnd.docker.distribution.manifest.v2+json";
        let accept = format!("{oci}, {docker}");
        let none = bytes::Bytes::new();
        let headers = [("accept", accept.as_str())];
        let reply = http::send(::http::Method::GET, &url, &headers, none).await?;
        anyhow::ensure!(reply.status() == 200, "{url}: {}", reply.status());
        Ok(serde_json::from_slice(reply.body())?)
    }

    /// The first layer of it, as the registry itself has it.
    async fn layer(&self, name: &str, tag: &str) -> Result<bytes::Bytes> {
        let manifest = self.manifest(name, tag).await?;
        let digest = manifest["layers"][0]["digest"].as_str();
        let digest = digest.with_context(|| format!("no layer in {manifest}"))?;
        let url = format!("{}/v2/{name}/blobs/{digest}", self.registry.url());
        let reply = http::get(&url).await?;
        assert_eq!(Digest::sha256(reply.body()).to_string(), digest);
        Ok(reply.body().clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_oras_pushes_through_the_proxy_arrives_byte_for_byte() -> Result<()> {
    let test = "what_oras_pushes_through_the_proxy_arrives_byte_for_byte";
    if !can_use(test, &["docker-registry"], false) || !has_tools(test, &["oras"]) {
        return Ok(());
    }
    for speaks in [Speaks::Plain, Speaks::Tls] {
        let lab = Pushing::start(speaks).await?;
        let blob = Blob::layer(5, 40_000_000);
        std::fs::write(lab.path("data.bin"), &blob.bytes)?;
        let mut push = lab.tool("oras")?;
        push.args(["push", "registry.test/files/data:1"]);
        run(push.arg("data.bin:application/octet-stream")).await?;
        assert_eq!(lab.layer("files/data", "1").await?, blob.bytes);

        let mut pull = lab.tool("oras")?;
        pull.args(["pull", "registry.test/files/data:1", "--output", "back"]);
        run(&mut pull).await?;
        assert_eq!(std::fs::read(lab.path("back/data.bin"))?, blob.bytes);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_crane_pushes_through_the_proxy_arrives_byte_for_byte() -> Result<()> {
    let test = "what_crane_pushes_through_the_proxy_arrives_byte_for_byte";
    if !can_use(test, &["docker-registry"], false) || !has_tools(test, &["crane"]) {
        return Ok(());
    }
    for speaks in [Speaks::Plain, Speaks::Tls] {
        let lab = Pushing::start(speaks).await?;
        let blob = Blob::layer(6, 20_000_000);
        std::fs::write(lab.path("layer.tar"), &blob.bytes)?;
        let name = "registry.test/team/app:1";
        let mut append = lab.tool("crane")?;
        run(append.args(["append", "--new_layer", "layer.tar", "--new_tag", name])).await?;
        let pushed = lab.layer("team/app", "1").await?;
        let digest = Digest::sha256(&pushed);

        // What comes back through the proxy is what the registry has.
        let mut get = lab.tool("crane")?;
        let blob = format!("registry.test/team/app@{digest}");
        get.args(["blob", &blob]);
        let back = lab.path("back.bin");
        get.stdout(std::fs::File::create(&back)?);
        let status = get.status().await?;
        assert!(status.success());
        assert_eq!(std::fs::read(&back)?, pushed);

        // `crane push` of what `crane pull` wrote.
        let mut pull = lab.tool("crane")?;
        run(pull.args(["pull", name, "image.tar"])).await?;
        let mut push = lab.tool("crane")?;
        let again = "registry.test/team/again:1";
        run(push.args(["push", "image.tar", again])).await?;
        assert_eq!(lab.layer("team/again", "1").await?, pushed);
    }
    Ok(())
}
