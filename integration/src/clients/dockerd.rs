//! dockerd with `registry-mirrors`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use serde_json::json;
use tokio::process::Command;

use super::Reach;
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
        Self::run(dir, &config, &[&format!("--registry-mirror={mirror}")], &[]).await
    }

    /// Starts it under `dir/dockerd` for images on this way.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_by(dir: &Path, reach: &Reach) -> Result<Self> {
        let config = dir.join("dockerd/daemon.json");
        std::fs::create_dir_all(dir.join("dockerd"))?;
        std::fs::write(&config, "{}")?;
        let mirror = reach.mirror.as_ref();
        let mirror = mirror.map(|mirror| format!("--registry-mirror={mirror}"));
        let more: Vec<&str> = mirror.iter().map(String::as_str).collect();
        Self::run(dir, &config, &more, &reach.environment()).await
    }

    /// Starts it under `dir/dockerd` with a daemon.json that says where its mirror is.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_with(dir: &Path, config: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir.join("dockerd"))?;
        Self::run(dir, config, &[], &[]).await
    }

    async fn run(
        dir: &Path,
        config: &Path,
        more: &[&str],
        environment: &[(&str, String)],
    ) -> Result<Self> {
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
        let mut process = Process::start("dockerd", &dir, &program, &arguments, environment)?;
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
        let header = as_whom.and_then(login);
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

    /// `docker import`: a root file system as a tar, which becomes `repository:tag`.
    ///
    /// # Errors
    /// What dockerd said.
    pub async fn import(&self, tar: &Path, repository: &str, tag: &str) -> Result<()> {
        let url = format!("http://docker/images/create?fromSrc=-&repo={repository}&tag={tag}");
        let tar = tar.display().to_string();
        let said = self.api(&["-X", "POST", "-T", &tar, &url]).await?;
        if said.contains("\"error\"") {
            bail!("docker import: {said}");
        }
        Ok(())
    }

    /// Pushes as `docker push` does; the digest of the manifest.
    ///
    /// # Errors
    /// What dockerd said.
    pub async fn push(&self, repository: &str, tag: &str) -> Result<String> {
        let url = format!("http://docker/images/{repository}/push?tag={tag}");
        let nobody = login(":").unwrap_or_default();
        let said = self.api(&["-X", "POST", "-H", &nobody, &url]).await?;
        let lines = said
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let digest = lines
            .filter_map(|line: serde_json::Value| line["aux"]["Digest"].as_str().map(str::to_owned))
            .next();
        match digest {
            Some(digest) if !said.contains("\"error\"") => Ok(digest),
            _ => bail!(
                "docker push {repository}:{tag}: {said}\n{}",
                self.process.tail()
            ),
        }
    }

    async fn api(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--unix-socket"]);
        run(command.arg(&self.socket).args(arguments)).await
    }
}

/// The header that shows `name:password` to a registry.
fn login(pair: &str) -> Option<String> {
    let (name, password) = pair.split_once(':')?;
    let login = json!({"username": name, "password": password});
    let login = URL_SAFE.encode(login.to_string());
    Some(format!("X-Registry-Auth: {login}"))
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // SIGTERM first: dockerd ends its own containerd, which a SIGKILL would orphan.
        self.process.end_softly(Duration::from_secs(10));
    }
}
