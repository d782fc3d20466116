//! How a client gets to an image: by a mirror, by the mirror's own name, or through a proxy.

use std::path::{Path, PathBuf};

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

/// One image on one way, as any client can be told of it.
#[derive(Debug, Clone)]
pub struct Reach {
    /// The image as the client names it.
    pub image: String,
    /// `http://host:port` of a mirror of `docker.io`.
    pub mirror: Option<String>,
    /// `http://host:port` of an HTTP proxy for all that is https.
    pub proxy: Option<String>,
    /// The authorities to trust, in PEM.
    pub trust: PathBuf,
    /// `name:password`
    pub login: Option<String>,
    /// Whether the registry that the image names speaks plain HTTP.
    pub plain: bool,
}

impl Reach {
    /// The registry that the image names.
    pub fn host(&self) -> &str {
        self.image.split('/').next().unwrap_or_default()
    }

    /// `name:password` in two.
    pub fn pair(&self) -> Option<(&str, &str)> {
        self.login.as_deref()?.split_once(':')
    }

    /// What clients in Go read of it from their environment.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![
            ("SSL_CERT_FILE", self.trust.display().to_string()),
            ("NO_PROXY", String::new()),
        ];
        all.extend(
            self.proxy
                .iter()
                .map(|proxy| ("HTTPS_PROXY", proxy.clone())),
        );
        all
    }

    /// Writes `dir/config.json` as `docker login` does for this registry; the file.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn log_in(&self, dir: &Path, host: &str) -> Result<PathBuf> {
        std::fs::create_dir_all(dir)?;
        let key = match host {
            "docker.io" => "https://index.docker.io/v1/",
            host => host,
        };
        let login = self.login.as_ref();
        let auths = login.map(|pair| json!({key: {"auth": STANDARD.encode(pair)}}));
        let file = dir.join("config.json");
        let text = json!({"auths": auths.unwrap_or(json!({}))}).to_string();
        std::fs::write(&file, text)?;
        Ok(file)
    }

    /// Writes the hosts.toml files of a containerd into `dir`: its fallback for `docker.io` is
    /// a port where nobody listens, so that a pull that succeeds came through the mirror.
    pub(super) fn write_hosts(&self, dir: &Path) -> Result<()> {
        let write = |host: &str, text: String| {
            let dir = dir.join(host);
            std::fs::create_dir_all(&dir)?;
            std::fs::write(dir.join("hosts.toml"), text)
        };
        std::fs::create_dir_all(dir)?;
        if let Some(mirror) = &self.mirror {
            let text = format!(
                "server = \"http://127.0.0.1:1\"\n\n[host.\"{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
            );
            write("docker.io", text)?;
        }
        if self.plain {
            let host = self.host();
            write(host, format!("server = \"http://{host}\"\n"))?;
        }
        Ok(())
    }
}
