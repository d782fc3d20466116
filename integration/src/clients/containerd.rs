//! containerd: by `ctr`, and by CRI's PullImage, which is what `crictl pull` sends.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tokio::process::Command;

use super::{Reach, cri, under};
use crate::{
    process::{Process, run},
    report::find,
};

/// A containerd of its own, whose `docker.io` is a mirror.
pub struct Containerd {
    process: Process,
    dir: PathBuf,
}

impl Containerd {
    /// Starts it under `dir/containerd`, with a hosts.toml that points `docker.io` at `mirror`.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(dir: &Path, mirror: &str) -> Result<Self> {
        let reach = Reach {
            image: "docker.io/".to_owned(),
            mirror: Some(mirror.to_owned()),
            proxy: None,
            trust: PathBuf::new(),
            login: None,
            plain: false,
        };
        Self::start_with(dir, &reach, &[]).await
    }

    /// Starts it under `dir/containerd` for images on this way.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_by(dir: &Path, reach: &Reach) -> Result<Self> {
        Self::start_with(dir, reach, &reach.environment()).await
    }

    async fn start_with(dir: &Path, reach: &Reach, environment: &[(&str, String)]) -> Result<Self> {
        let dir = dir.join("containerd");
        reach.write_hosts(&dir.join("certs.d"))?;
        let config = dir.join("config.toml");
        let registry = format!(
            "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"{}/certs.d\"\n",
            dir.display()
        );
        std::fs::write(&config, Self::configuration(&dir, 1) + &registry)?;
        let program = find("containerd").context("containerd is not installed")?;
        let arguments = ["--config".as_ref(), config.as_os_str()];
        Self::run(dir, &program, arguments, environment).await
    }

    /// Starts it with state under `dir` and the `/etc/containerd` that lies under `root`,
    /// whose config.toml begins with a [`Containerd::configuration`] of `dir`.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_under(root: &Path, dir: &Path) -> Result<Self> {
        let program = find("containerd").context("containerd is not installed")?;
        let (unshare, arguments) = under(root, &["containerd"], &program);
        Self::run(dir.to_owned(), &unshare, arguments, &[]).await
    }

    /// A config.toml for a containerd of `major`, which keeps everything in `dir` and says
    /// nothing of registries. NRI, whose socket all on the host would share, is off.
    pub fn configuration(dir: &Path, major: u32) -> String {
        let shown = dir.display();
        let places = format!(
            "root = \"{shown}/root\"\nstate = \"{shown}/state\"\n\
             [grpc]\naddress = \"{shown}/sock\"\n[ttrpc]\naddress = \"{shown}/ttrpc\"\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{shown}/opt\"\n"
        );
        let cri =
            "enable_selinux = false\nstream_server_port = \"0\"\ndisable_tcp_service = true\n";
        if major < 2 {
            return format!(
                "version = 2\n{places}[plugins.\"io.containerd.grpc.v1.cri\"]\n{cri}\
                 [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n"
            );
        }
        format!(
            "version = 3\n{places}\
             [plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n\
             [plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = \"native\"\n\
             [plugins.\"io.containerd.transfer.v1.local\"]\n\
             [[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n\
             platform = \"linux\"\nsnapshotter = \"native\"\n"
        )
    }

    /// The major version of the containerd that is installed.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn major() -> Result<u32> {
        let program = find("containerd").context("containerd is not installed")?;
        let said = run(Command::new(program).arg("--version")).await?;
        let version = said.split_whitespace().nth(2).unwrap_or_default();
        let major = version.trim_start_matches('v').split('.').next();
        major
            .and_then(|major| major.parse().ok())
            .with_context(|| said.clone())
    }

    async fn run<S: AsRef<std::ffi::OsStr>>(
        dir: PathBuf,
        program: &Path,
        arguments: impl IntoIterator<Item = S>,
        environment: &[(&str, String)],
    ) -> Result<Self> {
        let mut process = Process::start("containerd", &dir, program, arguments, environment)?;
        process
            .wait_for(|log| log.contains("containerd successfully booted").then_some(()))
            .await?;
        Ok(Self { process, dir })
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", "test"]);
        command
    }

    /// `ctr images pull`: fetched, verified by containerd and unpacked.
    ///
    /// # Errors
    /// What ctr said.
    pub async fn ctr_pull(&self, image: &str) -> Result<()> {
        let mut command = self.ctr();
        command.args(["images", "pull", "--snapshotter", "native", "--hosts-dir"]);
        run(command.arg(self.dir.join("certs.d")).arg(image))
            .await
            .map(drop)
    }

    /// `ctr content fetch --all-platforms`: fetched and verified, not unpacked.
    ///
    /// # Errors
    /// What ctr said.
    pub async fn ctr_fetch(&self, image: &str) -> Result<()> {
        let mut command = self.ctr();
        command.args(["content", "fetch", "--all-platforms", "--hosts-dir"]);
        run(command.arg(self.dir.join("certs.d")).arg(image))
            .await
            .map(drop)
    }

    /// The same with `name:password`, trusting this authority's token server.
    ///
    /// # Errors
    /// What ctr said.
    pub async fn ctr_fetch_as(
        &self,
        image: &str,
        as_whom: Option<&str>,
        authority: &Path,
    ) -> Result<()> {
        let mut command = self.ctr();
        command.env("SSL_CERT_FILE", authority);
        command.args(["content", "fetch", "--all-platforms", "--hosts-dir"]);
        command.arg(self.dir.join("certs.d"));
        command.args(as_whom.iter().flat_map(|pair| ["--user", pair]));
        run(command.arg(image)).await.map(drop)
    }

    /// The same on the way for which it was started. ctr 1.x does the HTTP itself.
    ///
    /// # Errors
    /// What ctr said.
    pub async fn ctr_fetch_by(&self, reach: &Reach) -> Result<()> {
        let mut command = self.ctr();
        command.envs(reach.environment());
        command.args(["content", "fetch", "--all-platforms", "--hosts-dir"]);
        command.arg(self.dir.join("certs.d"));
        command.args(reach.login.iter().flat_map(|pair| ["--user", pair]));
        run(command.arg(&reach.image)).await.map(drop)
    }

    /// The digests in its content store.
    ///
    /// # Errors
    /// What ctr said.
    pub async fn contents(&self) -> Result<Vec<String>> {
        let listing = run(self.ctr().args(["content", "ls", "--quiet"])).await?;
        Ok(listing.lines().map(str::to_owned).collect())
    }

    /// The same by `crictl`, for who has it.
    ///
    /// # Errors
    /// With crictl's own words when it fails.
    pub async fn crictl_pull(&self, image: &str) -> Result<()> {
        let mut crictl = Command::new("crictl");
        let endpoint = format!("unix://{}", self.socket().display());
        crictl.args([
            "--runtime-endpoint",
            &endpoint,
            "--image-endpoint",
            &endpoint,
        ]);
        run(crictl.args(["pull", image])).await?;
        Ok(())
    }

    /// CRI's PullImage over containerd's socket.
    ///
    /// # Errors
    /// The status it answered.
    pub async fn cri_pull(&self, image: &str) -> Result<String> {
        self.cri_pull_as(image, None).await
    }

    /// The same with a name and a password, as from a pull secret.
    ///
    /// # Errors
    /// The status it answered.
    pub async fn cri_pull_as(&self, image: &str, as_whom: Option<(&str, &str)>) -> Result<String> {
        let pulled = cri::pull(&self.socket(), image, as_whom).await;
        pulled.with_context(|| self.process.tail())
    }
}
