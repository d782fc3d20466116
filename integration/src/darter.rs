//! The parts of Darter as processes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context as _, Result};

use crate::{
    http,
    process::{Process, free_port},
    report, secrets,
};

static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// Whether this is the binary under test, and was asked for.
pub(crate) fn is_binary(program: &Path) -> bool {
    BINARY.get().is_some_and(|binary| binary == program)
}

/// The binary under test: `DARTER_BIN`, or the workspace's, built now if it is stale.
pub fn binary() -> &'static Path {
    BINARY.get_or_init(|| {
        if let Some(given) = std::env::var_os("DARTER_BIN") {
            return given.into();
        }
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
        let status = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--package",
                "darter",
                "--manifest-path",
                manifest,
            ])
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "cargo build -p darter"
        );
        let test = std::env::current_exe().expect("a running test has a path");
        let deps = test.parent().expect("a file has a folder");
        deps.parent()
            .expect("deps lies in the profile's folder")
            .join("darter")
    })
}

/// A running part: its process, and the addresses of its `ready` line.
pub struct Part {
    /// The process.
    pub process: Process,
    addresses: BTreeMap<String, String>,
    name: String,
    dir: PathBuf,
    arguments: Vec<String>,
    starts: usize,
}

impl Part {
    /// Starts `darter <arguments>`, with a log named `name`, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or does not become ready.
    pub async fn start(name: &str, dir: &Path, arguments: &[&str]) -> Result<Self> {
        let mut part = Self {
            process: launch(name, dir, arguments)?,
            addresses: BTreeMap::new(),
            name: name.to_owned(),
            dir: dir.to_owned(),
            arguments: arguments
                .iter()
                .map(|argument| (*argument).to_owned())
                .collect(),
            starts: 1,
        };
        part.await_ready().await?;
        Ok(part)
    }

    async fn await_ready(&mut self) -> Result<()> {
        let starts = self.starts;
        self.addresses = self
            .process
            .wait_for(|log| {
                let mut ready = log.lines().filter_map(|line| line.strip_prefix("ready "));
                ready.nth(starts - 1).map(parse_ready)
            })
            .await?;
        Ok(())
    }

    /// kill -9, then the same command again, on the ports it had.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill().await?;
        self.start_again().await
    }

    /// Starts it again after its end, on the ports it had.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn start_again(&mut self) -> Result<()> {
        let arguments = self.arguments_with_ports();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.process = launch(&self.name, &self.dir, &arguments)?;
        self.starts += 1;
        self.await_ready().await
    }

    fn arguments_with_ports(&self) -> Vec<String> {
        let keys = [
            (
                "--listen",
                match self.arguments[0].as_str() {
                    part @ ("scheduler" | "manager") => part,
                    _ => "mirror",
                },
            ),
            ("--operations-listen", "operations"),
        ];
        let mut arguments = self.arguments.clone();
        for (flag, key) in keys {
            let at = arguments.iter().position(|argument| argument == flag);
            if let (Some(at), Some(address)) = (at, self.addresses.get(key)) {
                arguments[at + 1].clone_from(address);
            }
        }
        arguments
    }

    /// The most memory that its process has had, in bytes.
    ///
    /// # Errors
    /// When it does not run.
    pub fn peak_memory(&self) -> Result<u64> {
        let pid = self.process.pid().context("it runs")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(kib.context("it has a peak")?.parse::<u64>()? * 1024)
    }

    /// An address of the `ready` line: `mirror`, `peer`, `operations`, `scheduler`, `manager`.
    pub fn address(&self, part: &str) -> &str {
        self.addresses.get(part).unwrap_or_else(|| {
            panic!(
                "{} says no address of {part}: {:?}",
                self.name, self.addresses
            )
        })
    }

    /// The mirror's URL.
    pub fn mirror(&self) -> String {
        format!("http://{}", self.address("mirror"))
    }

    /// The value of a metric, summed over its labels that contain `labels`.
    ///
    /// # Errors
    /// When the metrics can't be read.
    pub async fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        let text = http::get(&format!("http://{}/metrics", self.address("operations"))).await?;
        let text = String::from_utf8(text.into_body().to_vec())?;
        let mut sum = 0.0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (key, value) = line.rsplit_once(' ').context("a sample has a value")?;
            let matches = key == name
                || key
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('{'));
            if matches && key.contains(labels) {
                sum += value.parse::<f64>()?;
            }
        }
        Ok(sum)
    }
}

impl Drop for Part {
    /// Every log of every part of the whole suite is searched.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let log = self.process.log_bytes();
        if let Some(line) = secrets::line_in(&log) {
            panic!("a secret in the log of {}: {line}", self.name);
        }
        report::searched(log.len());
    }
}

fn launch(name: &str, dir: &Path, arguments: &[&str]) -> Result<Process> {
    let level =
        std::env::var("DARTER_LOG_LEVEL").unwrap_or_else(|_| "info,darter=debug".to_owned());
    Process::start(
        name,
        dir,
        binary(),
        arguments,
        &[("DARTER_LOG_LEVEL", level)],
    )
}

fn parse_ready(line: &str) -> BTreeMap<String, String> {
    line.split_whitespace()
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// A scheduler, a seed and some peers in front of one upstream called `docker.io`.
pub struct Cluster {
    /// The scheduler.
    pub scheduler: Part,
    /// The seed peer.
    pub seed: Part,
    /// The peers.
    pub peers: Vec<Part>,
    dir: PathBuf,
    upstream: String,
}

impl Cluster {
    /// Starts them on free ports, with data under `dir`.
    ///
    /// # Errors
    /// When one of them does not become ready.
    pub async fn start(dir: &Path, upstream_url: &str, peers: usize) -> Result<Self> {
        Self::start_with(dir, upstream_url, peers, &[]).await
    }

    /// The same with more flags for the scheduler.
    ///
    /// # Errors
    /// When one of them does not become ready.
    pub async fn start_with(
        dir: &Path,
        upstream_url: &str,
        peers: usize,
        more: &[&str],
    ) -> Result<Self> {
        let data = dir.join("scheduler").display().to_string();
        let mut scheduler = vec![
            "scheduler",
            "--listen",
            "127.0.0.1:0",
            "--operations-listen",
            "127.0.0.1:0",
            "--data",
            &data,
        ];
        scheduler.extend(more);
        let scheduler = Part::start("scheduler", dir, &scheduler).await?;
        let upstream = format!("docker.io={upstream_url}");
        let url = format!("http://{}", scheduler.address("scheduler"));
        let seed = start_proxy(dir, "seed", &upstream, Some(&url), &["--seed"]).await?;
        let mut cluster = Self {
            scheduler,
            seed,
            peers: Vec::new(),
            dir: dir.to_owned(),
            upstream,
        };
        for _ in 0..peers {
            cluster.add_peer().await?;
        }
        Ok(cluster)
    }

    /// One more peer, with an empty store.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn add_peer(&mut self) -> Result<()> {
        let name = format!("peer-{}", self.peers.len());
        let peer = self.proxy(&name, &[]).await?;
        self.peers.push(peer);
        Ok(())
    }

    /// Another seed.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn another_seed(&self) -> Result<Part> {
        self.proxy("seed-2", &["--seed"]).await
    }

    async fn proxy(&self, name: &str, more: &[&str]) -> Result<Part> {
        let url = format!("http://{}", self.scheduler.address("scheduler"));
        start_proxy(&self.dir, name, &self.upstream, Some(&url), more).await
    }
}

/// Starts one `darter proxy` on free ports; `upstream` is `NAME=URL`, or the whole list as a
/// setting, `proxy.upstreams=[..]`.
///
/// # Errors
/// When it does not become ready.
pub async fn start_proxy(
    dir: &Path,
    name: &str,
    upstream: &str,
    scheduler: Option<&str>,
    more: &[&str],
) -> Result<Part> {
    let data = dir.join(name).display().to_string();
    let is_list = upstream.starts_with("proxy.upstreams=");
    let upstreams = if is_list { "--set" } else { "--upstream" };
    let mut arguments = vec![
        "proxy",
        "--listen",
        "127.0.0.1:0",
        "--operations-listen",
        "127.0.0.1:0",
        "--set",
        "proxy.peer=\"127.0.0.1:0\"",
        "--data",
        &data,
        upstreams,
        upstream,
    ];
    if let Some(url) = scheduler {
        arguments.extend(["--scheduler", url]);
    }
    arguments.extend(more);
    Part::start(name, dir, &arguments).await
}

/// Starts a `darter manager` on free ports, that of gRPC the same after a restart too, with data
/// under `dir`.
///
/// # Errors
/// When it does not become ready.
pub async fn start_manager(dir: &Path) -> Result<Part> {
    start_manager_at(dir, "manager", free_port()?, &[]).await
}

/// Starts one of several, with its gRPC at this port of loopback.
///
/// # Errors
/// When it does not become ready.
pub async fn start_manager_at(dir: &Path, name: &str, grpc: u16, more: &[&str]) -> Result<Part> {
    let data = dir.join(name).display().to_string();
    let grpc = format!("manager.grpc=127.0.0.1:{grpc}");
    let mut arguments = vec![
        "manager",
        "--listen",
        "127.0.0.1:0",
        "--set",
        &grpc,
        "--operations-listen",
        "127.0.0.1:0",
        "--data",
        &data,
    ];
    arguments.extend(more);
    Part::start(name, dir, &arguments).await
}

/// Starts a `darter scheduler` on free ports that the manager, by the URL of its gRPC, knows.
///
/// # Errors
/// When it does not become ready.
pub async fn start_scheduler(dir: &Path, name: &str, manager: &str, more: &[&str]) -> Result<Part> {
    let data = dir.join(name).display().to_string();
    let mut arguments = vec![
        "scheduler",
        "--listen",
        "127.0.0.1:0",
        "--operations-listen",
        "127.0.0.1:0",
        "--data",
        &data,
        "--manager",
        manager,
    ];
    arguments.extend(more);
    Part::start(name, dir, &arguments).await
}
