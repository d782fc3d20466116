//! A registry of a company behind TLS and tokens, and a node before it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use darter_integration::{
    darter::Part,
    guarded::{Authority, Tokens, ask, bearer},
    image::{Blob, Flavour, Image},
    process::eventually,
    registry::{Guard, Registry, Setup, plant},
};
use hyper::Method;

/// For a confirmed right; a token of the server's lives as long.
pub(crate) const ALLOWED: Duration = Duration::from_secs(2);
/// Until something is refused at the latest: the right that is remembered, the token that is
/// taken till it expires, and the slowest machine.
pub(crate) const TOO_LONG: Duration = Duration::from_secs(30);
pub(crate) const ALICE: Option<(&str, &str)> = Some(("alice", "s3cret-of-alice"));
pub(crate) const BOB: Option<(&str, &str)> = Some(("bob", "s3cret-of-bob"));

/// The flags of an upstream `corp.test` at `url`, whose authority is trusted.
pub(crate) fn upstream(url: &str, authority: &Authority, more: &str) -> String {
    let ca = authority.file().display().to_string();
    format!("proxy.upstreams=[{{name = \"corp.test\", url = \"{url}\", ca = \"{ca}\"{more}}}]")
}

/// A node that is a cluster of its own: its peer port speaks mutual TLS.
pub(crate) async fn node(dir: &Path, upstream: &str, allowed: Duration) -> Result<Part> {
    node_with(dir, upstream, allowed, &["log.level=\"trace\""]).await
}

/// With further settings.
pub(crate) async fn node_with(
    dir: &Path,
    upstream: &str,
    allowed: Duration,
    more: &[&str],
) -> Result<Part> {
    let allowed = format!("proxy.rights.allowed_for=\"{}s\"", allowed.as_secs());
    let data = dir.join("node").display().to_string();
    let mut arguments = vec!["standalone", "--data", &data, "--set", upstream];
    for setting in [
        "proxy.listen=\"127.0.0.1:0\"",
        "proxy.peer=\"127.0.0.1:0\"",
        "scheduler.listen=\"127.0.0.1:0\"",
        "manager.listen=\"127.0.0.1:0\"",
        "manager.grpc=\"127.0.0.1:0\"",
        "operations.listen=\"127.0.0.1:0\"",
        &allowed,
        "proxy.mirror.tag_ttl=\"1s\"",
    ] {
        arguments.extend(["--set", setting]);
    }
    for setting in more {
        arguments.extend(["--set", setting]);
    }
    Part::start("node", dir, &arguments).await
}

pub(crate) fn no_secret_in(part: &Part, secrets: &[String]) -> Result<()> {
    let at_work = part.process.line_with(&["TRACE"]).is_some();
    ensure!(
        at_work && part.process.line_with(&["answered"]).is_some(),
        "the log is at work"
    );
    let secrets: Vec<&String> = secrets.iter().filter(|secret| !secret.is_empty()).collect();
    match part.process.line_with(&secrets) {
        Some(line) => anyhow::bail!("a secret in {line}"),
        None => Ok(()),
    }
}

/// What two replies must have in common to be the same refusal.
pub(crate) fn said(reply: &hyper::Response<Bytes>) -> (u16, String, String) {
    let challenge = reply.headers().get("www-authenticate");
    let challenge = challenge
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let body = String::from_utf8_lossy(reply.body()).trim().to_owned();
    (reply.status().as_u16(), challenge.to_owned(), body)
}

pub(crate) struct Company {
    _dir: tempfile::TempDir,
    pub(crate) authority: Authority,
    pub(crate) tokens: Tokens,
    pub(crate) registry: Registry,
    pub(crate) node: Part,
    pub(crate) private: Image,
    pub(crate) public: Image,
}

impl Company {
    /// `team/app` is Alice's, `library/app` everybody's and shares a layer with it, and Bob has
    /// pushed `thief/app`, whose manifest names Alice's layer.
    pub(crate) async fn found(life: Duration) -> Result<Self> {
        Self::found_with(life, "trace").await
    }

    pub(crate) async fn found_with(life: Duration, level: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let root = dir.path();
        let authority = Authority::new(&root.join("authority"))?;
        let tokens = Tokens::start(&authority, life).await?;
        for (name, password) in [ALICE, BOB].into_iter().flatten() {
            tokens.user(name, password);
        }
        tokens.allow(Some("alice"), "team/app");
        tokens.allow(None, "library/app");
        tokens.allow(None, "thief/app");
        let identity = authority.issue("registry")?;
        let guarded = Setup {
            name: "guarded",
            guard: Guard::Tokens(&tokens),
            identity: Some(&identity),
            clients: None,
        };
        let back_door = Registry::start(root).await?;
        let shared = Blob::layer(1, 700_000);
        let layers = vec![shared.clone(), Blob::layer(2, 3_000_000)];
        let private = Image::push(&back_door, "team/app", "1", Flavour::Oci, layers).await?;
        let public =
            Image::push(&back_door, "library/app", "1", Flavour::Oci, vec![shared]).await?;
        plant(root, "thief/app", "1", &private.manifest_bytes)?;
        let registry = Registry::start_as(root, guarded).await?;
        let realms = format!(", realms = [\"{}\"]", tokens.authority());
        let upstream = upstream(&registry.url(), &authority, &realms);
        let level = format!("log.level=\"{level}\"");
        let node = node_with(root, &upstream, life, &[&level]).await?;
        Ok(Self {
            _dir: dir,
            authority,
            tokens,
            registry,
            node,
            private,
            public,
        })
    }

    /// Manifest by tag and by digest, then config and layers, below a repository's name.
    pub(crate) fn paths(&self, repository: &str, image: &Image) -> Vec<String> {
        let manifests = ["1".to_owned(), image.manifest.to_string()];
        let manifests =
            manifests.map(|reference| format!("/v2/{repository}/manifests/{reference}"));
        let blobs = image.layers.iter().chain([&image.config]);
        let blobs = blobs.map(|blob| format!("/v2/{repository}/blobs/{}", blob.digest));
        manifests.into_iter().chain(blobs).collect()
    }

    pub(crate) async fn bearer(
        &self,
        user: Option<(&str, &str)>,
        repository: &str,
    ) -> Result<String> {
        bearer(&self.authority, &self.tokens, user, repository).await
    }

    /// What the mirror says, and what the registry itself does.
    pub(crate) async fn both(
        &self,
        method: &Method,
        path: &str,
        authorization: Option<&str>,
    ) -> Result<(hyper::Response<Bytes>, hyper::Response<Bytes>)> {
        let mirror = format!("{}{path}?ns=corp.test", self.node.mirror());
        let own = format!("{}{path}", self.registry.url());
        let ask = |url| {
            let method = method.clone();
            async move { ask(&self.authority, method, url, authorization).await }
        };
        Ok((ask(&mirror).await?, ask(&own).await?))
    }

    /// Asks until the mirror refuses, and says how long that took.
    pub(crate) async fn until_refused(
        &self,
        path: &str,
        authorization: Option<&str>,
    ) -> Result<Duration> {
        let began = Instant::now();
        let what = format!("{path} is refused");
        let refused = eventually(&what, TOO_LONG, || async {
            let asked = self.both(&Method::GET, path, authorization).await;
            match asked.map(|(mirror, _)| mirror.status().as_u16()) {
                Ok(200) => None,
                Ok(401) => Some(Ok(began.elapsed())),
                other => Some(other.and_then(|status| bail!("{path}: {status}"))),
            }
        });
        refused.await?
    }
}
