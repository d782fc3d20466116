//! containerd with the stargz snapshotter, which mounts layers and reads them as files are read.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tokio::process::Command;

use super::{Containerd, Reach};
use crate::{
    process::{Process, eventually, run},
    report::{find, tool},
};

/// How long the snapshotter may take to serve its socket.
const START: std::time::Duration = std::time::Duration::from_secs(120);

/// Both, in mount and process namespaces of their own: their FUSE mounts end with them.
pub struct Stargz {
    process: Process,
    dir: PathBuf,
}

impl Stargz {
    /// Starts them under `dir/stargz`, with `mirror` first for `docker.io`. Nothing is read
    /// ahead of what a container reads.
    ///
    /// # Errors
    /// When they do not come up.
    pub async fn start(dir: &Path, mirror: &str) -> Result<Self> {
        let dir = dir.join("stargz");
        let reach = Reach {
            image: "docker.io/".to_owned(),
            mirror: Some(mirror.to_owned()),
            proxy: None,
            trust: PathBuf::new(),
            login: None,
            plain: false,
        };
        reach.write_hosts(&dir.join("certs.d"))?;
        let host = mirror.trim_start_matches("http://");
        let (socket, snapshotter) = (dir.join("snapshotter.sock"), dir.join("snapshotter.toml"));
        std::fs::write(
            &snapshotter,
            format!(
                "noprefetch = true\nno_background_fetch = true\n\
                 [[resolver.host.\"docker.io\".mirrors]]\nhost = \"{host}\"\ninsecure = true\n"
            ),
        )?;
        let config = dir.join("config.toml");
        let plugin = format!(
            "[proxy_plugins.stargz]\ntype = \"snapshot\"\naddress = \"{}\"\n",
            socket.display()
        );
        std::fs::write(&config, Containerd::configuration(&dir, 1) + &plugin)?;
        let script = "\"$0\" \"$1\" \"$2\" \"$3\" & exec \"$4\" --config \"$5\"";
        let namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let stargz = tool("stargz").context("the snapshotter is not built")?;
        let containerd = find("containerd").context("containerd is not installed")?;
        let files = [stargz, snapshotter, dir.join("mounts"), socket.clone()];
        let files = files.into_iter().chain([containerd, config]);
        let arguments = namespaces.into_iter().chain(["sh", "-c", script]);
        let arguments = arguments.map(PathBuf::from).chain(files);
        let mut process = Process::start("containerd", &dir, Path::new("unshare"), arguments, &[])?;
        process
            .wait_for(|log| log.contains("containerd successfully booted").then_some(()))
            .await?;
        let serves = || async { socket.exists().then_some(()) };
        eventually("the snapshotter", START, serves).await?;
        Ok(Self { process, dir })
    }

    /// Pulls an image without its layers: they are mounted.
    ///
    /// # Errors
    /// What ctr-remote said.
    pub async fn pull(&self, image: &str) -> Result<()> {
        let mut pull = self.command("ctr-remote");
        pull.args(["images", "rpull", "--snapshotter", "stargz", "--hosts-dir"]);
        let pulled = run(pull.arg(self.dir.join("certs.d")).arg(image)).await;
        pulled.map(drop).with_context(|| self.process.tail())
    }

    /// Runs a command in a container of the image, and returns what it printed.
    ///
    /// # Errors
    /// When it can't be started, or fails.
    pub async fn run(&self, image: &str, name: &str, command: &[&str]) -> Result<String> {
        let mut container = self.command("ctr");
        container.args(["run", "--rm", "--snapshotter", "stargz", image, name]);
        let ran = run(container.args(command)).await;
        ran.with_context(|| self.process.tail())
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        let socket = self.dir.join("sock");
        command.arg("--address").arg(socket);
        command.args(["--namespace", "test"]);
        command
    }
}

impl Containerd {
    /// Makes an eStargz image of one that it has pulled, and pushes it as `to`.
    ///
    /// # Errors
    /// What ctr-remote said.
    pub async fn push_as_estargz(&self, image: &str, to: &str) -> Result<()> {
        let made = format!("{image}-estargz");
        let remote = || {
            let mut command = Command::new("ctr-remote");
            command.arg("--address").arg(self.socket());
            command.args(["--namespace", "test", "images"]);
            command
        };
        let convert = ["convert", "--estargz", "--oci", image, &made];
        run(remote().args(convert)).await?;
        let push = ["push", "--plain-http", to, &made];
        run(remote().args(push)).await.map(drop)
    }
}
