//! The upstream: Docker's distribution, with a log that tells what left it.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};
use darter_api::Digest;

use crate::{
    guarded::{Identity, SERVICE, Tokens},
    process::{Process, free_port},
    report::find,
};

/// Who gets in.
pub enum Guard<'a> {
    /// Everybody.
    Nobody,
    /// Who has a token of this server.
    Tokens(&'a Tokens),
    /// Who is in this htpasswd file, which may change.
    Htpasswd(&'a Path),
}

/// How a registry runs.
pub struct Setup<'a> {
    /// Of its log and configuration.
    pub name: &'a str,
    /// Who gets in.
    pub guard: Guard<'a>,
    /// A certificate for `localhost`; plain HTTP without.
    pub identity: Option<&'a Identity>,
    /// Whose certificates clients must show.
    pub clients: Option<&'a Path>,
}

/// A registry of its own on a loopback port.
pub struct Registry {
    process: Process,
    port: u16,
    is_tls: bool,
}

impl Registry {
    /// Starts distribution with its storage under `dir`.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(dir: &Path) -> Result<Self> {
        let setup = Setup {
            name: "registry",
            guard: Guard::Nobody,
            identity: None,
            clients: None,
        };
        Self::start_as(dir, setup).await
    }

    /// The same, guarded. All registries of one `dir` have the same contents.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_as(dir: &Path, setup: Setup<'_>) -> Result<Self> {
        let program = find("docker-registry").context("docker-registry is not installed")?;
        let port = free_port()?;
        let config = dir.join(format!("{}.yml", setup.name));
        let tls = setup.identity.map(|identity| {
            let (certificate, key) = (identity.certificate.display(), identity.key.display());
            let clients = setup
                .clients
                .map(|file| format!(", clientcas: ['{}']", file.display()));
            let clients = clients.unwrap_or_default();
            format!("tls: {{certificate: '{certificate}', key: '{key}'{clients}}}, ")
        });
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: info, formatter: json, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
                 http: {{{}addr: '127.0.0.1:{port}'}}\n\
                 {}\
                 compatibility: {{schema1: {{enabled: false}}}}\n\
                 validation: {{disabled: true}}\n",
                dir.join("registry").display(),
                tls.as_deref().unwrap_or_default(),
                setup.guard.section(),
            ),
        )?;
        let arguments = ["serve".as_ref(), config.as_os_str()];
        let mut process = Process::start(setup.name, dir, &program, arguments, &[])?;
        process
            .wait_for(|log| log.contains("listening on").then_some(()))
            .await?;
        let is_tls = tls.is_some();
        Ok(Self {
            process,
            port,
            is_tls,
        })
    }

    /// `http://127.0.0.1:<port>`, or `https://localhost:<port>`.
    pub fn url(&self) -> String {
        match self.is_tls {
            true => format!("https://localhost:{}", self.port),
            false => format!("http://127.0.0.1:{}", self.port),
        }
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

impl Guard<'_> {
    /// The `auth` of distribution's configuration.
    fn section(&self) -> String {
        match self {
            Self::Nobody => String::new(),
            Self::Tokens(tokens) => {
                let (realm, root) = (tokens.realm(), tokens.root());
                let (issuer, root) = (Tokens::ISSUER, root.display());
                format!(
                    "auth: {{token: {{realm: '{realm}', service: {SERVICE}, issuer: {issuer}, rootcertbundle: '{root}'}}}}\n"
                )
            }
            Self::Htpasswd(file) => {
                format!(
                    "auth: {{htpasswd: {{realm: guarded, path: '{}'}}}}\n",
                    file.display()
                )
            }
        }
    }
}

/// Puts a blob into the storage of the registries under `dir` by renaming a file: one that is
/// too large to be pushed by a test.
///
/// # Errors
/// When it can't be written.
pub fn plant_blob(dir: &Path, repository: &str, file: &Path, digest: &Digest) -> Result<()> {
    let (hex, root) = (digest.hex(), dir.join("registry/docker/registry/v2"));
    let folder = root.join(format!("blobs/sha256/{}/{hex}", &hex[..2]));
    std::fs::create_dir_all(&folder)?;
    std::fs::rename(file, folder.join("data"))?;
    let link = root.join(format!("repositories/{repository}/_layers/sha256/{hex}"));
    std::fs::create_dir_all(&link)?;
    Ok(std::fs::write(link.join("link"), digest.to_string())?)
}

/// Puts a manifest into the storage of the registries under `dir`, past all their checks: what
/// a registry keeps that does not look whether the one who pushes may read what he names.
///
/// # Errors
/// When it can't be written.
pub fn plant(dir: &Path, repository: &str, tag: &str, manifest: &[u8]) -> Result<Digest> {
    let digest = Digest::sha256(manifest);
    let (hex, root) = (digest.hex(), dir.join("registry/docker/registry/v2"));
    let own = root.join(format!("repositories/{repository}/_manifests"));
    let tag = own.join(format!("tags/{tag}"));
    let files = [
        root.join(format!("blobs/sha256/{}/{hex}/data", &hex[..2])),
        own.join(format!("revisions/sha256/{hex}/link")),
        tag.join("current/link"),
        tag.join(format!("index/sha256/{hex}/link")),
    ];
    for (at, file) in files.iter().enumerate() {
        let folder = file.parent().context("a file lies in a folder")?;
        std::fs::create_dir_all(folder)?;
        let text = digest.to_string();
        std::fs::write(file, if at == 0 { manifest } else { text.as_bytes() })?;
    }
    Ok(digest)
}
