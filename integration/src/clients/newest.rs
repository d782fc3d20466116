//! The clients that `hack/tools.sh` builds: containerd 2.2 with its ctr, nerdctl, crane, oras.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tokio::process::Command;

use super::Containerd;
use crate::{
    process::{Process, run},
    report::tool,
};

/// A containerd 2.2 of a test's own, whose hosts.toml names the mirror.
pub struct NewContainerd {
    _process: Process,
    dir: PathBuf,
}

impl NewContainerd {
    /// Starts it under `dir`; layers are fetched in `chunks` of so many bytes at once, where
    /// that is not 0 (its `concurrent_layer_fetch_buffer`).
    ///
    /// # Errors
    /// When it is not built, or does not come up.
    pub async fn start(dir: &Path, mirror: &str, chunks: u64) -> Result<Self> {
        let dir = dir.join("containerd-2");
        let hosts = dir.join("certs.d/docker.io");
        std::fs::create_dir_all(&hosts)?;
        let toml = format!(
            "server = \"http://127.0.0.1:1\"\n[host.\"{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        );
        std::fs::write(hosts.join("hosts.toml"), toml)?;
        let config = dir.join("config.toml");
        // Its configuration ends with the transfer service's unpacking: keys of the service
        // itself have to stand before.
        let service = "[plugins.\"io.containerd.transfer.v1.local\"]\n";
        let parallel = format!("{service}concurrent_layer_fetch_buffer = {chunks}\n");
        let text = Containerd::configuration(&dir, 2).replace(service, &parallel);
        std::fs::write(&config, text)?;
        let program = tool("containerd").context("containerd 2.2 is not built")?;
        let arguments = ["--config".as_ref(), config.as_os_str()];
        let mut process = Process::start("containerd-2", &dir, &program, arguments, &[])?;
        process
            .wait_for(|log| log.contains("containerd successfully booted").then_some(()))
            .await?;
        Ok(Self {
            _process: process,
            dir,
        })
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

    /// `nerdctl pull`.
    ///
    /// # Errors
    /// What nerdctl said.
    pub async fn nerdctl_pull(&self, image: &str) -> Result<()> {
        let mut nerdctl = self.command("nerdctl")?;
        nerdctl.arg("--hosts-dir").arg(self.dir.join("certs.d"));
        nerdctl.arg("--data-root").arg(self.dir.join("nerdctl"));
        nerdctl.args(["--snapshotter", "native", "pull", "--quiet", image]);
        run(&mut nerdctl).await.map(drop)
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
