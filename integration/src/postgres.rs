//! PostgreSQL for managers that share it: a cluster of its own in the test's directory, reached
//! by a socket there, without a port.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tokio::process::Command;

use crate::process::{self, Process};

/// A running server; it ends with this.
pub struct Postgres {
    _process: Process,
    dir: TempDir,
}

impl Postgres {
    /// Whether its programs are installed.
    pub fn is_installed() -> bool {
        binaries().is_some()
    }

    /// Makes a cluster in a directory of its own and starts its server.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub async fn start() -> Result<Self> {
        let binaries = binaries().context("PostgreSQL is not installed")?;
        let dir = tempfile::tempdir()?;
        let script = format!(
            "cd {dir} && {bin}/initdb -D data -U darter -A trust -N >initdb.log 2>&1 && \
             exec {bin}/postgres -D data -k {dir} -c listen_addresses= -c fsync=off",
            dir = dir.path().display(),
            bin = binaries.display(),
        );
        let mut arguments = vec!["--pdeathsig", "KILL"];
        // The server does not run as root.
        if output("id", &["-u"]).await? == "0" {
            let id = async |flag| {
                Ok::<u32, anyhow::Error>(output("id", &[flag, "postgres"]).await?.parse()?)
            };
            let (user, group) = (id("-u").await?, id("-g").await?);
            std::os::unix::fs::chown(dir.path(), Some(user), Some(group))?;
            arguments.extend([
                "--reuid",
                "postgres",
                "--regid",
                "postgres",
                "--clear-groups",
            ]);
        }
        arguments.extend(["--", "sh", "-c", &script]);
        let setpriv = Path::new("setpriv");
        let mut process = Process::start("server", dir.path(), setpriv, &arguments, &[])?;
        let ready = "database system is ready to accept connections";
        process
            .wait_for(|log| log.contains(ready).then_some(()))
            .await?;
        Ok(Self {
            _process: process,
            dir,
        })
    }

    /// For `manager.database`.
    pub fn url(&self) -> String {
        let dir = self.dir.path().display();
        format!("postgres://darter@localhost/postgres?host={dir}")
    }
}

/// Debian keeps the server's programs off everybody's PATH.
fn binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").is_file() && bin.join("postgres").is_file())
        .collect();
    found.sort();
    found.pop()
}

async fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = process::output(Command::new(program).args(arguments)).await?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
