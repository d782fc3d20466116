//! The clients that `hack/tools.sh` builds: containerd 2.2 with its ctr, nerdctl, crane, oras.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tokio::process::Command;

use super::{Containerd, Reach, cri};
use crate::{
    process::{Process, run},
    report::tool,
};

/// A containerd 2.2 of a test's own, whose hosts.toml names the mirror.
pub struct NewContainerd {
    process: Process,
    dir: PathBuf,
}

impl NewContainerd {
    /// Starts it under `dir`; layers are fetched in `chunks` of so many bytes at once, where
    /// that is not 0 (its `concurrent_layer_fetch_buffer`).
    ///
    /// # Errors
    /// When it is not built, or does not come up.
    pub async fn start(dir: &Path, mirror: &str, chunks: u64) -> Result<Self> {
        let reach = Reach {
            image: "docker.io/".to_owned(),
            mirror: Some(mirror.to_owned()),
            proxy: None,
            trust: PathBuf::new(),
            login: None,
            plain: false,
        };
        Self::start_with(dir, &reach, chunks, &[]).await
    }

    /// The same for images on this way.
    ///
    /// # Errors
    /// When it is not built, or does not come up.
    pub async fn start_by(dir: &Path, reach: &Reach, chunks: u64) -> Result<Self> {
        Self::start_with(dir, reach, chunks, &reach.environment()).await
    }

    async fn start_with(
        dir: &Path,
        reach: &Reach,
        chunks: u64,
        environment: &[(&str, String)],
    ) -> Result<Self> {
        let dir = dir.join("containerd-2");
        reach.write_hosts(&dir.join("certs.d"))?;
        let config = dir.join("config.toml");
        // Its configuration ends with the transfer service's unpacking: keys of the service
        // itself have to stand before.
        let service = "[plugins.\"io.containerd.transfer.v1.local\"]\n";
        let parallel = format!("{service}concurrent_layer_fetch_buffer = {chunks}\n");
        let text = Containerd::configuration(&dir, 2).replace(service, &parallel);
        let registry = format!(
            "[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"{}/certs.d\"\n",
            dir.display()
        );
        std::fs::write(&config, text + &registry)?;
        let program = tool("containerd").context("containerd 2.2 is not built")?;
        let arguments = ["--config".as_ref(), config.as_os_str()];
        let mut process = Process::start("containerd-2", &dir, &program, arguments, environment)?;
        process
            .wait_for(|log| log.contains("containerd successfully booted").then_some(()))
            .await?;
        Ok(Self { process, dir })
    }

    fn command(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(tool(name).with_context(|| format!("{name} is not built"))?);
        command
            .arg("--address")
            .arg(self.dir.join("sock"))
            .args(["--namespace", "test"]);
        Ok(command)
    }

    /// `ctr images pull`, by containerd's transfer service: fetched, verified, unpacked.
    ///
    /// # Errors
    /// What ctr said.
    pub async fn ctr_pull(&self, image: &str) -> Result<()> {
        let mut ctr = self.command("ctr")?;
        ctr.args(["images", "pull", "--snapshotter", "native", "--hosts-dir"]);
        let pull = ctr.arg(self.dir.join("certs.d")).arg(image);
        run(pull).await.map(drop)
    }

    /// `ctr images pull` on the way for which it was started: the daemon does the HTTP.
    ///
    /// # Errors
    /// What ctr said.
    pub async fn ctr_pull_by(&self, reach: &Reach) -> Result<()> {
        let mut ctr = self.command("ctr")?;
        ctr.args(["images", "pull", "--snapshotter", "native", "--hosts-dir"]);
        ctr.arg(self.dir.join("certs.d"));
        ctr.args(reach.login.iter().flat_map(|pair| ["--user", pair]));
        let pulled = run(ctr.arg(&reach.image)).await;
        pulled.map(drop).with_context(|| self.process.tail())
    }

    /// CRI's PullImage over its socket; the image's id.
    ///
    /// # Errors
    /// The status it answered.
    pub async fn cri_pull_by(&self, reach: &Reach) -> Result<String> {
        let pulled = cri::pull(&self.dir.join("sock"), &reach.image, reach.pair()).await;
        pulled.with_context(|| self.process.tail())
    }

    /// `nerdctl pull` on the way for which it was started, after a `nerdctl login` to the
    /// registry that the image names.
    ///
    /// # Errors
    /// What nerdctl said.
    pub async fn nerdctl_pull_by(&self, reach: &Reach) -> Result<()> {
        let home = self.dir.join("home");
        reach.log_in(&home, reach.host())?;
        let mut nerdctl = self.command("nerdctl")?;
        nerdctl
            .envs(reach.environment())
            .env("DOCKER_CONFIG", &home);
        self.nerdctl(&mut nerdctl, &reach.image).await
    }

    /// `nerdctl pull`.
    ///
    /// # Errors
    /// What nerdctl said.
    pub async fn nerdctl_pull(&self, image: &str) -> Result<()> {
        self.nerdctl(&mut self.command("nerdctl")?, image).await
    }

    async fn nerdctl(&self, nerdctl: &mut Command, image: &str) -> Result<()> {
        nerdctl.arg("--hosts-dir").arg(self.dir.join("certs.d"));
        nerdctl.arg("--data-root").arg(self.dir.join("nerdctl"));
        nerdctl.args(["--snapshotter", "native", "pull", "--quiet", image]);
        run(nerdctl).await.map(drop)
    }

    /// The digests in its content store.
    ///
    /// # Errors
    /// What ctr said.
    pub async fn contents(&self) -> Result<Vec<String>> {
        let listing = run(self.command("ctr")?.args(["content", "ls", "--quiet"])).await?;
        Ok(listing.lines().map(str::to_owned).collect())
    }
}

/// A tool (crane, oras) that reaches all registries through the proxy, whose CA it trusts.
///
/// # Errors
/// When it is not built.
pub fn through(name: &str, proxy: &str, ca: &Path) -> Result<Command> {
    let mut command = Command::new(tool(name).with_context(|| format!("{name} is not built"))?);
    command
        .env("HTTPS_PROXY", proxy)
        .env("SSL_CERT_FILE", ca)
        .env_remove("NO_PROXY");
    Ok(command)
}

/// The same on this way, with `dir` as its home, after a login to the registry that the image
/// names.
///
/// # Errors
/// When it is not built.
pub fn through_by(name: &str, reach: &Reach, dir: &Path) -> Result<Command> {
    let mut command = Command::new(tool(name).with_context(|| format!("{name} is not built"))?);
    let home = dir.join("home");
    reach.log_in(&home, reach.host())?;
    command
        .envs(reach.environment())
        .env("HOME", &home)
        .env("DOCKER_CONFIG", &home)
        .current_dir(dir);
    Ok(command)
}
