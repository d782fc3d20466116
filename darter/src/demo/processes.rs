//! The demo's processes: they end when this one does, because their standard input does.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
};

use crate::http::{client, get};

/// A part and where it listens.
pub(crate) struct Part {
    child: Child,
    _stdin: ChildStdin,
    ready: String,
}

impl Part {
    /// Starts `darter <arguments>` with data and log under `dir`, and waits for its
    /// `ready` line.
    pub(crate) async fn start(dir: &Path, name: &str, arguments: &[&str]) -> Result<Self> {
        let log = std::fs::File::create(dir.join(format!("{name}.log")))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments);
        if arguments[0] != "demo-registry" {
            command.args([
                "--operations-listen",
                "127.0.0.1:0",
                "--exit-with-stdin",
                "--data",
            ]);
            command.arg(dir.join(name));
        }
        let mut child = command
            .env("DARTER_LOG_LEVEL", "warn")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting the {name}"))?;
        let stdin = child.stdin.take().context("a piped standard input")?;
        let stdout = child.stdout.take().context("a piped standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(ready) = line.strip_prefix("ready ") {
                    return anyhow::Ok(ready.to_owned());
                }
            }
            bail!(
                "the {name} did not start: {}",
                std::fs::read_to_string(dir.join(format!("{name}.log")))?
            )
        };
        let ready = tokio::time::timeout(Duration::from_secs(20), ready).await;
        let ready = ready.with_context(|| format!("the {name} is not ready"))??;
        Ok(Self {
            child,
            _stdin: stdin,
            ready,
        })
    }

    /// An address of the `ready` line.
    pub(crate) fn address(&self, part: &str) -> Result<&str> {
        let pairs = self
            .ready
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='));
        let found = pairs.into_iter().find(|(key, _)| *key == part);
        found
            .map(|(_, address)| address)
            .with_context(|| format!("no {part} in `{}`", self.ready))
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().context("the process has ended")
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// How many messages a scheduler decided upon within how many seconds, by its histogram.
    pub(crate) async fn decisions(&self) -> Result<Vec<(f64, u64)>> {
        let url = format!("http://{}/metrics", self.address("operations")?);
        let text = get(&client(), &url).await?;
        let text = std::str::from_utf8(&text)?;
        let bucket = |line: &str| {
            let rest = line.strip_prefix("darter_scheduler_decision_seconds_bucket{le=\"")?;
            let (bound, count) = rest.split_once("\"} ")?;
            let bound = bound.replace("+Inf", "inf");
            Some((bound.parse().ok()?, count.trim().parse().ok()?))
        };
        Ok(text.lines().filter_map(bucket).collect())
    }

    /// Content bytes from source, from peers, and from the own cache.
    pub(crate) async fn content_bytes(&self) -> Result<[u64; 3]> {
        let url = format!("http://{}/metrics", self.address("operations")?);
        let text = get(&client(), &url).await?;
        let text = std::str::from_utf8(&text)?;
        let of = |from: &str| {
            let name = format!("darter_proxy_swarm_content_bytes_total{{from=\"{from}\"}}");
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name.as_str()));
            line.and_then(|value| value.trim().parse().ok())
                .unwrap_or(0)
        };
        Ok([of("Source"), of("Peer"), of("Cache")])
    }
}
