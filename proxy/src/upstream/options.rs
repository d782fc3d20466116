//! The list of registries, as it is configured.

use std::path::PathBuf;

use darter_api::UpstreamName;
use darter_runtime::Tasks;
use http::Uri;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::credential::Secret;

use super::{
    MOST_QUESTIONS, Upstream, http_client::HttpClient, own::Own, own::OwnOptions, policy::Policy,
    pulse::Pulse, stats::Stats, token::Tokens,
};

/// One registry of the list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamOptions {
    /// How clients name it: `docker.io`, `registry.example.com:5000`.
    pub name: String,
    /// Where it is; `https://<name>` by default, and Docker Hub's own for `docker.io`.
    pub url: Option<String>,
    /// Other names of it.
    pub aliases: Vec<String>,
    /// A PEM file with certificate authorities to trust beside the system's.
    pub ca: Option<PathBuf>,
    /// Token servers, as `host` or `host:port`, beside those of its own domain at its own or
    /// the scheme's port. They speak https, unless the registry itself is http://.
    pub realms: Vec<String>,
    /// Hosts, `host:port` or CIDR ranges that it may redirect to although they are
    /// private or plain HTTP.
    pub redirects: Vec<String>,
    /// A PEM file with a certificate, and its chain, for a registry that asks clients for one.
    /// It is shown to the registry and to what is listed of it, not where else redirects lead
    /// (another upstream among it), and
    /// counts as a credential of the proxy's own: what it opens is for callers that the proxy
    /// knows itself (`[proxy.clients]`).
    pub client_certificate: Option<PathBuf>,
    /// The PEM file with its key.
    pub client_key: Option<PathBuf>,
    /// An HTTP proxy that tunnels to the registry, if that is https://, and to where it
    /// redirects: `http[s]://[name:password@]host:port`; over https its certificate is checked
    /// by the system's authorities and `ca`. Default none.
    pub proxy: Option<Secret>,
    /// Credentials of the proxy's own, for callers that it knows itself (`[proxy.clients]`).
    /// Default none: callers show theirs to the registry.
    pub credentials: Option<OwnOptions>,
}

/// A mistake in the list.
#[derive(Debug, thiserror::Error)]
#[error("upstream `{name}`: {what}")]
pub struct ConfigError {
    /// The entry's name.
    pub name: String,
    /// What was expected.
    pub what: String,
}

impl UpstreamOptions {
    /// An entry from `NAME=URL` or `NAME`.
    pub fn parse(text: &str) -> Self {
        let (name, url) = match text.split_once('=') {
            Some((name, url)) => (name, Some(url.to_owned())),
            None => (text, None),
        };
        Self {
            name: name.to_owned(),
            url,
            ..Self::default()
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names = vec![self.name.clone()];
        names.extend(self.aliases.iter().cloned());
        if self.name == "docker.io" {
            names.extend(["registry-1.docker.io", "index.docker.io"].map(str::to_owned));
        }
        names
    }

    pub(super) fn base(&self) -> String {
        match &self.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None if self.name == "docker.io" => "https://registry-1.docker.io".to_owned(),
            None => format!("https://{}", self.name),
        }
    }

    /// `host:port` of its URL, if that is one.
    fn authority(&self) -> Option<String> {
        let uri: Uri = self.base().parse().ok()?;
        Some(uri.authority()?.to_string())
    }

    pub(super) fn build(&self, listed: &[Uri], tasks: &Tasks) -> Result<Upstream, ConfigError> {
        let wrong = |what: String| ConfigError {
            name: self.name.clone(),
            what,
        };
        let name: UpstreamName = self
            .name
            .parse()
            .map_err(|cause| wrong(format!("{cause}")))?;
        for alias in &self.aliases {
            alias
                .parse::<UpstreamName>()
                .map_err(|cause| wrong(format!("alias `{alias}`: {cause}")))?;
        }
        let text = self.base();
        let base: Uri = text
            .parse()
            .map_err(|_| wrong(format!("`{text}` is no URL")))?;
        let plain = match base.scheme_str() {
            Some("http") => true,
            Some("https") => false,
            _ => return Err(wrong(format!("`{text}` is no http:// or https:// URL"))),
        };
        if base
            .authority()
            .is_none_or(|authority| authority.as_str().contains('@'))
            || base.query().is_some()
        {
            return Err(wrong(
                "its URL is `http[s]://host[:port]`, without credentials".to_owned(),
            ));
        }
        let policy =
            Policy::new(&base, plain, &self.realms, &self.redirects, listed).map_err(wrong)?;
        let own = self.credentials.as_ref().map(|options| {
            let mut names = self.names();
            names.extend(self.authority());
            Own::new(options, names, tasks)
        });
        let own = own.transpose().map_err(wrong)?;
        let client = HttpClient::new(self).map_err(wrong)?;
        Ok(Upstream {
            name,
            base,
            policy,
            client,
            own,
            has_certificate: self.client_certificate.is_some(),
            tokens: Tokens::new(),
            pulse: Pulse::default(),
            stats: Stats::new(),
            questions: Semaphore::new(MOST_QUESTIONS),
        })
    }
}
