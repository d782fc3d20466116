//! dockerd with `registry-mirrors`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use serde_json::json;
use tokio::process::Command;

use crate::{
    process::{Process, run},
    report::find,
};

/// A dockerd of its own, without networks.
pub struct Dockerd {
    process: Process,
    socket: PathBuf,
}

impl Dockerd {
    /// Starts it under `dir/dockerd` with `mirror` in front of Docker Hub.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(dir: &Path, mirror: &str) -> Result<Self> {
        let config = dir.join("dockerd/daemon.json");
        std::fs::create_dir_all(dir.join("dockerd"))?;
        std::fs::write(&config, "{}")?;
        Self::run(dir, &config, &[&format!("--registry-mirror={mirror}")]).await
    }

    /// Starts it under `dir/dockerd` with a daemon.json that says where its mirror is.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_with(dir: &Path, config: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir.join("dockerd"))?;
        Self::run(dir, config, &[]).await
    }

    async fn run(dir: &Path, config: &Path, more: &[&str]) -> Result<Self> {
        let dir = dir.join("dockerd");
        let socket = dir.join("sock");
        let path = |name: &str| dir.join(name).display().to_string();
        let mut arguments = vec![
            format!("--data-root={}", path("data")),
            format!("--exec-root={}", path("exec")),
            format!("--pidfile={}", path("pid")),
            format!("--host=unix://{}", socket.display()),
            format!("--config-file={}", config.display()),
            "--storage-driver=vfs".into(),
            "--bridge=none".into(),
            "--iptables=false".into(),
            "--ip6tables=false".into(),
            "--ip-forward=false".into(),
        ];
        arguments.extend(more.iter().map(|flag| (*flag).to_owned()));
        let program = find("dockerd").context("dockerd is not installed")?;
        let mut process = Process::start("dockerd", &dir, &program, &arguments, &[])?;
        process
            .wait_for(|log| log.contains("API listen on").then_some(()))
            .await?;
        Ok(Self { process, socket })
    }

    /// Pulls as `docker pull` does; the image's id.
    ///
    /// # Errors
    /// What dockerd said.
    pub async fn pull(&self, repository: &str, tag: &str) -> Result<String> {
        self.pull_as(repository, tag, None).await
    }

    /// The same with `name:password`, as after `docker login`.
    ///
    /// # Errors
    /// What dockerd said.
    pub async fn pull_as(
        &self,
        repository: &str,
        tag: &str,
        as_whom: Option<&str>,
    ) -> Result<String> {
        let url = format!("http://docker/images/create?fromImage={repository}&tag={tag}");
        let header = as_whom
            .and_then(|pair| pair.split_once(':'))
            .map(|(name, password)| {
                let login = json!({"username": name, "password": password});
                format!("X-Registry-Auth: {}", URL_SAFE.encode(login.to_string()))
            });
        let mut arguments = vec!["-X", "POST", url.as_str()];
        arguments.extend(header.iter().flat_map(|header| ["-H", header.as_str()]));
        let progress = self.api(&arguments).await?;
        if progress.contains("\"error\"") || !progress.contains("Downloaded newer image") {
            bail!(
                "docker pull {repository}:{tag}: {progress}\n{}",
                self.process.tail()
            );
        }
        let image = self
            .api(&[&format!("http://docker/images/{repository}:{tag}/json")])
            .await?;
        let image: serde_json::Value = serde_json::from_str(&image)?;
        Ok(image["Id"].as_str().unwrap_or_default().to_owned())
    }

    async fn api(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--unix-socket"]);
        run(command.arg(&self.socket).args(arguments)).await
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // SIGTERM first: dockerd ends its own containerd, which a SIGKILL would orphan.
        self.process.end_softly(Duration::from_secs(10));
    }
}
