//! The system's trust store: a folder of certificates, and a program that makes of it what
//! clients read.

use anyhow::{Context as _, Result, bail, ensure};
use darter_proxy::intercept::CaFacts;
use tokio::process::Command;

use crate::setup::Root;

/// Folder, and the programs that bring an addition and a removal into effect.
type Kind = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

/// Where systems keep what their administrator trusts, by their manuals:
/// update-ca-certificates(8) of Debian, Alpine and SUSE, update-ca-trust(8) of Fedora and Arch.
const KINDS: [Kind; 4] = [
    (
        "/etc/pki/ca-trust/source/anchors",
        &["update-ca-trust", "extract"],
        &["update-ca-trust", "extract"],
    ),
    (
        "/etc/ca-certificates/trust-source/anchors",
        &["update-ca-trust", "extract"],
        &["update-ca-trust", "extract"],
    ),
    (
        "/etc/pki/trust/anchors",
        &["update-ca-certificates"],
        &["update-ca-certificates"],
    ),
    (
        "/usr/local/share/ca-certificates",
        &["update-ca-certificates"],
        &["update-ca-certificates", "--fresh"],
    ),
];
const PREFIX: &str = "darter-interception-";
const MODE: u32 = 0o644;

pub(super) struct TrustStore {
    root: Root,
    kind: Kind,
}

impl TrustStore {
    /// That of the system under `root`.
    pub(super) fn find(root: Root) -> Result<Self> {
        let kind = KINDS.into_iter().find(|(dir, ..)| root.is_dir(dir));
        let kind = kind.with_context(|| {
            let dirs: Vec<&str> = KINDS.iter().map(|(dir, ..)| *dir).collect();
            format!(
                "no trust store: none of {} is there (is the package ca-certificates installed?); `darter ca interception export` prints the certificate",
                dirs.join(", ")
            )
        })?;
        Ok(Self { root, kind })
    }

    fn path(&self, ca: &CaFacts) -> String {
        // As many nodes' CAs as there are may be in one store.
        let short: String = ca.fingerprint.chars().take(16).collect();
        format!("{}/{PREFIX}{short}.crt", self.kind.0)
    }

    pub(super) fn has(&self, ca: &CaFacts) -> Result<bool> {
        Ok(self.root.read(&self.path(ca))?.is_some())
    }

    /// Puts it in; where it is.
    pub(super) async fn add(&self, ca: &CaFacts) -> Result<String> {
        let path = self.path(ca);
        self.root.write(&path, first(&ca.pem), MODE)?;
        self.update(self.kind.1).await?;
        Ok(self.root.shown(&path))
    }

    /// Takes it out; where it was.
    pub(super) async fn remove(&self, ca: &CaFacts) -> Result<Vec<String>> {
        let mut paths = Vec::new();
        if self.has(ca)? {
            paths.push(self.path(ca));
        }
        self.remove_files(paths).await
    }

    /// Takes out whatever darter put in.
    pub(super) async fn remove_all(&self) -> Result<Vec<String>> {
        let names = self.root.list(self.kind.0)?.into_iter();
        let ours = names.filter(|name| name.starts_with(PREFIX));
        let paths = ours.map(|name| format!("{}/{name}", self.kind.0));
        self.remove_files(paths.collect()).await
    }

    async fn remove_files(&self, paths: Vec<String>) -> Result<Vec<String>> {
        for path in &paths {
            self.root.remove(path)?;
        }
        if !paths.is_empty() {
            self.update(self.kind.2).await?;
        }
        Ok(paths.iter().map(|path| self.root.shown(path)).collect())
    }

    async fn update(&self, line: &[&str]) -> Result<()> {
        let outside = self.root.shown("/");
        let mut command = if outside == "/" {
            let [program, arguments @ ..] = line else {
                bail!("no program");
            };
            let mut command = Command::new(program);
            command.args(arguments);
            command
        } else {
            let mut command = Command::new("chroot");
            command.arg(&outside).args(line);
            command
        };
        let shown = line.join(" ");
        let output = command.output().await.with_context(|| {
            format!("the folder is changed, but {shown} can't be run: install ca-certificates, then run it")
        })?;
        ensure!(
            output.status.success(),
            "{shown}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

/// The signing certificate without its chain: update-ca-certificates wants one a file.
fn first(pem: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----\n";
    pem.find(END).map_or(pem, |at| &pem[..at + END.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_chain() {
        let one = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        assert_eq!(first(&one.repeat(2)), one);
        assert_eq!(first("odd"), "odd");
    }

    #[test]
    fn a_system_without_a_store() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let error = TrustStore::find(root).err().unwrap().to_string();
        assert!(error.contains("ca-certificates"), "{error}");
    }
}
