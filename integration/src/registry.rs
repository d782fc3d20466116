//! The upstream: Docker's distribution, with a log that tells what left it.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};

use crate::{
    process::{Process, free_port},
    report::find,
};

/// A registry of its own on a loopback port.
pub struct Registry {
    process: Process,
    port: u16,
}

impl Registry {
    /// Starts distribution with its storage under `dir`.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(dir: &Path) -> Result<Self> {
        let program = find("docker-registry").context("docker-registry is not installed")?;
        let port = free_port()?;
        let config = dir.join("registry.yml");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: info, formatter: json, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
                 http: {{addr: '127.0.0.1:{port}'}}\n\
                 compatibility: {{schema1: {{enabled: false}}}}\n\
                 validation: {{disabled: true}}\n",
                dir.join("registry").display()
            ),
        )?;
        let arguments = ["serve".as_ref(), config.as_os_str()];
        let mut process = Process::start("registry", dir, &program, arguments, &[])?;
        process
            .wait_for(|log| log.contains("listening on").then_some(()))
            .await?;
        Ok(Self { process, port })
    }

    /// `http://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// `127.0.0.1:<port>`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Bytes that left it in bodies of GETs, by path.
    pub fn sent(&self) -> BTreeMap<String, u64> {
        let mut sent = BTreeMap::new();
        for line in self.process.log().lines() {
            let Ok(entry) = serde_json::from_str::<serde_json::Value>(line) else {
                continue;
            };
            let is_get = entry["http.request.method"] == "GET";
            let uri = entry["http.request.uri"].as_str();
            let written = entry["http.response.written"].as_u64();
            if let (true, Some(uri), Some(written)) = (is_get, uri, written) {
                let path = uri.split('?').next().unwrap_or(uri);
                *sent.entry(path.to_owned()).or_default() += written;
            }
        }
        sent
    }

    /// Bytes of one blob that left it, whatever the repository.
    pub fn sent_of(&self, digest: &str) -> u64 {
        self.sent()
            .iter()
            .filter(|(path, _)| path.ends_with(digest) && path.contains("/blobs/"))
            .map(|(_, bytes)| bytes)
            .sum()
    }

    /// Stops it for good.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub async fn stop(&mut self) -> Result<()> {
        self.process.kill().await
    }
}
