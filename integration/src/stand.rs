//! A registry, a manager, a scheduler and peers, and what people ask of them.

use std::{
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::Value;

use crate::{
    darter::{Part, binary, start_manager, start_proxy, start_scheduler},
    http as client,
    image::{Blob, Flavour, Image},
    process::{eventually, output},
    registry::Registry,
};

/// For whatever happens between processes of a loaded machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// See the module.
pub struct Stand {
    /// `docker.io` to the peers.
    pub registry: Registry,
    /// Whose REST is asked.
    pub manager: Part,
    /// Called `n0`, `n1`, ...
    pub peers: Vec<Part>,
    /// Where all data is, a directory a part.
    pub dir: tempfile::TempDir,
    /// Of peers that are added: `docker.io=URL`, or their whole list of registries.
    pub upstream: String,
    /// URL of the manager's gRPC.
    pub grpc: String,
    /// Introduces the peers.
    pub scheduler: Part,
    settings: Vec<String>,
}

impl Stand {
    /// With so many peers.
    ///
    /// # Errors
    /// When a part does not become ready.
    pub async fn start(peers: usize) -> Result<Self> {
        Self::start_with(peers, &[]).await
    }

    /// The same, where all peers have these settings.
    ///
    /// # Errors
    /// When a part does not become ready.
    pub async fn start_with(peers: usize, settings: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let registry = Registry::start(dir.path()).await?;
        Self::start_for(dir, registry, peers, settings).await
    }

    /// The same, in front of a registry that is there already.
    ///
    /// # Errors
    /// When a part does not become ready.
    pub async fn start_for(
        dir: tempfile::TempDir,
        registry: Registry,
        peers: usize,
        settings: &[&str],
    ) -> Result<Self> {
        let manager = start_manager(dir.path()).await?;
        let grpc = format!("http://{}", manager.address("grpc"));
        let settled = ["--set", "scheduler.preheat_settle=0s"];
        let scheduler = start_scheduler(dir.path(), "scheduler", &grpc, &settled).await?;
        let mut stand = Self {
            upstream: format!("docker.io={}", registry.url()),
            registry,
            manager,
            peers: Vec::new(),
            dir,
            grpc,
            scheduler,
            settings: settings.iter().map(ToString::to_string).collect(),
        };
        for _ in 0..peers {
            stand.add_peer(&[]).await?;
        }
        Ok(stand)
    }

    /// One more, with more arguments.
    ///
    /// # Errors
    /// When it does not become ready, or finds no scheduler.
    pub async fn add_peer(&mut self, more: &[&str]) -> Result<()> {
        let name = format!("n{}", self.peers.len());
        let set = format!("proxy.name={name}");
        let mut arguments = vec!["--manager", &self.grpc, "--set", &set];
        for setting in &self.settings {
            arguments.extend(["--set", setting]);
        }
        arguments.extend(more);
        let peer = start_proxy(self.dir.path(), &name, &self.upstream, None, &arguments).await?;
        eventually("a session", LIMIT, || async {
            let sessions = peer.metric("darter_proxy_peer_sessions", "").await;
            sessions.is_ok_and(|count| count == 1.0).then_some(())
        })
        .await?;
        self.peers.push(peer);
        Ok(())
    }

    /// `library/app:TAG` with a layer of each size.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub async fn push(&self, tag: &str, sizes: &[usize]) -> Result<Image> {
        let layers = sizes.iter().enumerate();
        let layers = layers.map(|(seed, size)| Blob::layer(seed as u64 + 1, *size));
        let layers = layers.collect();
        Image::push(&self.registry, "library/app", tag, Flavour::Oci, layers).await
    }

    /// URL of the manager's REST.
    pub fn rest(&self) -> String {
        format!("http://{}", self.manager.address("manager"))
    }

    /// `darter ... --manager URL`
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn darter(&self, arguments: &[&str]) -> Result<Output> {
        let mut darter = tokio::process::Command::new(binary());
        darter.args(arguments).args(["--manager", &self.rest()]);
        let said = output(darter.stdin(Stdio::null()));
        tokio::time::timeout(LIMIT, said).await?
    }

    /// `darter preheat ... --wait`
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn preheat(&self, arguments: &[&str]) -> Result<Output> {
        let all = [&["preheat", "--wait"], arguments].concat();
        self.darter(&all).await
    }

    /// What a POST of JSON is answered.
    ///
    /// # Errors
    /// When it is no success.
    pub async fn post(&self, path: &str, wish: Value) -> Result<Value> {
        let headers = [("content-type", "application/json")];
        let url = format!("{}{path}", self.rest());
        let reply = client::send(Method::POST, &url, &headers, wish.to_string().into()).await?;
        ensure!(reply.status().is_success(), "{reply:?}");
        Ok(serde_json::from_slice(reply.body())?)
    }

    /// A job as it is shown.
    ///
    /// # Errors
    /// When there is no such one.
    pub async fn job(&self, id: &Value) -> Result<Value> {
        let url = format!("{}/api/v1/jobs/{id}", self.rest());
        Ok(serde_json::from_slice(client::get(&url).await?.body())?)
    }

    /// A job as it has ended.
    ///
    /// # Errors
    /// When it goes on and on.
    pub async fn ended(&self, id: &Value) -> Result<Value> {
        let ended = eventually("the job's end", LIMIT, || async {
            let job = self.job(id).await.ok()?;
            let over = !matches!(job["state"].as_str()?, "PENDING" | "RUNNING");
            over.then_some(job)
        });
        match ended.await {
            Ok(job) => Ok(job),
            Err(error) => Err(error.context(self.job(id).await?)),
        }
    }

    /// What a peer answers for `library/app`: `manifests/TAG`, `blobs/DIGEST`.
    ///
    /// # Errors
    /// When no whole answer comes in time.
    pub async fn get(&self, peer: &Part, path: &str) -> Result<(u16, Bytes)> {
        let accept = [("accept", "application/vnd.oci.image.manifest.v1+json")];
        let url = format!("{}/v2/library/app/{path}?ns=docker.io", peer.mirror());
        let reply = client::send(Method::GET, &url, &accept, Bytes::new());
        let reply = tokio::time::timeout(LIMIT, reply).await??;
        Ok((reply.status().as_u16(), reply.into_body()))
    }

    /// Where a peer's data is.
    pub fn data(&self, peer: usize) -> std::path::PathBuf {
        self.dir.path().join(format!("n{peer}"))
    }
}

/// Whether the store below a part's data has all of an image, by its files.
pub fn has(data: &Path, image: &Image) -> bool {
    let contents = image.layers.iter().chain([&image.config]);
    let digests = contents.map(|blob| blob.digest).chain([image.manifest]);
    digests.into_iter().all(|digest| {
        let file = digest.to_string().replace(':', "/");
        std::fs::metadata(data.join("store/blobs").join(file)).is_ok()
    })
}

/// What a command has written.
pub fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).into_owned()
}
