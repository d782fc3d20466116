//! containerd: by `ctr`, and by CRI's PullImage, which is what `crictl pull` sends.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, process::Command};
use tonic::transport::{Endpoint, Uri};

use super::under;
use crate::{
    process::{Process, run},
    report::find,
};

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated from proto/cri.proto"
)]
mod cri {
    tonic::include_proto!("runtime.v1");
}

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
        let dir = dir.join("containerd");
        let hosts = dir.join("certs.d/docker.io");
        std::fs::create_dir_all(&hosts)?;
        std::fs::write(
            hosts.join("hosts.toml"),
            // The fallback is a port where nobody listens: a pull that succeeds came
            // through the mirror.
            format!(
                "server = \"http://127.0.0.1:1\"\n\n[host.\"{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
            ),
        )?;
        let config = dir.join("config.toml");
        let registry = format!(
            "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"{}/certs.d\"\n",
            dir.display()
        );
        std::fs::write(&config, Self::configuration(&dir, 1) + &registry)?;
        let program = find("containerd").context("containerd is not installed")?;
        let arguments = ["--config".as_ref(), config.as_os_str()];
        Self::run(dir, &program, arguments).await
    }

    /// Starts it with state under `dir` and the `/etc/containerd` that lies under `root`,
    /// whose config.toml begins with a [`Containerd::configuration`] of `dir`.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_under(root: &Path, dir: &Path) -> Result<Self> {
        let program = find("containerd").context("containerd is not installed")?;
        let (unshare, arguments) = under(root, &["containerd"], &program);
        Self::run(dir.to_owned(), &unshare, arguments).await
    }

    /// A config.toml for a containerd of `major`, which keeps everything in `dir` and says
    /// nothing of registries.
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
    ) -> Result<Self> {
        let mut process = Process::start("containerd", &dir, program, arguments, &[])?;
        process
            .wait_for(|log| log.contains("containerd successfully booted").then_some(()))
            .await?;
        Ok(Self { process, dir })
    }

    fn socket(&self) -> PathBuf {
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
        let socket = self.socket();
        let connect = move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        };
        let channel = Endpoint::from_static("http://containerd")
            .connect_with_connector(tower::service_fn(connect))
            .await?;
        let mut client = cri::image_service_client::ImageServiceClient::new(channel);
        let request = cri::PullImageRequest {
            image: Some(cri::ImageSpec {
                image: image.to_owned(),
            }),
            auth: None,
        };
        let reply = client
            .pull_image(request)
            .await
            .with_context(|| self.process.tail())?;
        Ok(reply.into_inner().image_ref)
    }
}
