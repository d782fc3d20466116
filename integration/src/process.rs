//! Child processes that can't outlive their test.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::process::{Child, Command};

use crate::{darter, report, secrets};

/// Below Linux's `ip_local_port_range`, by default.
const NEVER_GIVEN: std::ops::Range<u16> = 10_000..32_000;

/// A daemon with its log file. Killed when dropped, and by the kernel when the test
/// process dies (`setpriv --pdeathsig`, from util-linux).
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`, with standard output and error in `<dir>/<name>.log`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start<S: AsRef<std::ffi::OsStr>>(
        name: &str,
        dir: &Path,
        program: &Path,
        arguments: impl IntoIterator<Item = S>,
        environment: &[(&str, String)],
    ) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name} ({})", program.display()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// All it has printed so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.log_bytes()).into_owned()
    }

    /// A line of its log that has one of these texts.
    pub fn line_with<S: AsRef<str>>(&self, texts: &[S]) -> Option<String> {
        secrets::first_line_with(&self.log_bytes(), texts.iter().map(AsRef::as_ref))
    }

    /// All it has printed so far, which may be no text.
    pub fn log_bytes(&self) -> Vec<u8> {
        std::fs::read(&self.log).unwrap_or_default()
    }

    /// Waits until `condition` holds for its log.
    ///
    /// # Errors
    /// When it ends first, or two minutes pass; with the log's end.
    pub async fn wait_for<T>(&mut self, mut condition: impl FnMut(&str) -> Option<T>) -> Result<T> {
        for _ in 0..6000 {
            if let Some(found) = condition(&self.log()) {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.name, self.tail());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("{} did not become ready:\n{}", self.name, self.tail())
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Sends a signal by name (`INT`, `STOP`) and does not wait.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn signal(&self, signal: &str) -> Result<()> {
        let pid = self.pid().context("the process has ended")?.to_string();
        let status = Command::new("kill")
            .args(["-s", signal, &pid])
            .status()
            .await?;
        anyhow::ensure!(status.success(), "kill -s {signal} {pid}: {status}");
        Ok(())
    }

    /// SIGTERM, and waits on this thread until it is gone, at most `limit`: for who drops it.
    #[expect(clippy::disallowed_methods, reason = "a Drop can't await")]
    pub fn end_softly(&mut self, limit: Duration) {
        let Some(pid) = self.pid() else { return };
        let asked = std::process::Command::new("kill")
            .arg(pid.to_string())
            .status();
        let until = Instant::now() + limit;
        // A child that nobody has waited for still has its id: only this says that it is gone.
        while asked.as_ref().is_ok_and(std::process::ExitStatus::success)
            && matches!(self.child.try_wait(), Ok(None))
            && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for its end, at most `limit`.
    ///
    /// # Errors
    /// When it still runs then.
    pub async fn ended(&mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        let status = tokio::time::timeout(limit, self.child.wait()).await;
        Ok(status.with_context(|| format!("{} still runs", self.name))??)
    }

    /// The last lines of its log.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

/// Runs a command to its end, however that comes about. What Darter's own says beside its result
/// is searched for secrets: where the binary runs under another program (`setpriv`, `unshare`),
/// too. No test asks for a command's output in another way.
///
/// # Errors
/// When it can't be started, says a secret, or takes longer than five minutes.
pub async fn output(command: &mut Command) -> Result<Output> {
    let shown = format!("{:?}", command.as_std());
    let output = command.kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(300), output)
        .await
        .with_context(|| format!("{shown}: takes too long"))?
        .with_context(|| shown.clone())?;
    if runs(command.as_std(), darter::is_binary) {
        if let Some(line) = secrets::line_in(&output.stderr) {
            bail!("{shown}: a secret in what it says: {line}");
        }
        report::searched(output.stderr.len());
    }
    Ok(output)
}

/// Whether a command runs a program, itself or under another one.
fn runs(command: &std::process::Command, is_it: impl Fn(&Path) -> bool) -> bool {
    let mut words = std::iter::once(command.get_program()).chain(command.get_args());
    words.any(|word| is_it(Path::new(word)))
}

/// The same with nothing to read: standard output, or an error with all it said.
///
/// # Errors
/// As [`output`], and when it fails.
pub async fn run(command: &mut Command) -> Result<String> {
    let output = output(command.stdin(Stdio::null())).await?;
    let shown = format!("{:?}", command.as_std());
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{shown}: {}\n{stdout}\n{stderr}", output.status);
    }
    Ok(stdout)
}

/// A loopback port that was free a moment ago, for software that can't take port 0, or that is to
/// start again where it was. It is none of those that the kernel gives to port 0 and to clients,
/// so that nothing else on this machine takes it by chance before, or in between.
///
/// # Errors
/// When no port is free.
pub fn free_port() -> Result<u16> {
    for _ in 0..1000 {
        let port = rand::random_range(NEVER_GIVEN);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free")
}

/// Polls until `condition` yields something, at most `limit`.
///
/// # Errors
/// When it never does; says what was waited for.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> F,
) -> Result<T> {
    let poll = async {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(limit, poll)
        .await
        .with_context(|| format!("waited {limit:?} for {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Darter says to a test that asks for it otherwise is searched by nobody.
    #[test]
    fn no_test_asks_for_a_commands_output_itself() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (mut folders, mut seen) = (vec![root.join("src"), root.join("tests")], 0);
        // This file has the one place, and `report` asks other programs for their versions.
        let own = ["src/process.rs", "src/report.rs"].map(|file| root.join(file));
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("the sources are here") {
                let path = entry.expect("a file or folder").path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                seen += 1;
                let text = std::fs::read_to_string(&path).expect("it is a text");
                let asks = [".output()", "wait_with_output"];
                let asks = asks.iter().any(|ask| text.contains(ask));
                assert!(
                    !asks || own.contains(&path),
                    "{}: process::output",
                    path.display()
                );
            }
        }
        assert!(seen > 40, "{seen} files");
    }

    #[test]
    fn a_program_is_found_under_another_one() {
        let is_it = |path: &Path| path == Path::new("/x/darter");
        let runs_it = |words: &[&str]| {
            let mut command = std::process::Command::new(words[0]);
            runs(command.args(&words[1..]), is_it)
        };
        assert!(runs_it(&["/x/darter", "ca"]));
        assert!(runs_it(&["unshare", "--net", "/x/darter", "ca"]));
        assert!(!runs_it(&["cat", "/x/darter.log"]));
    }
}
