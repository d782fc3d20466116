//! Which upstream is meant, and what of it.
//!
//! The upstream comes from `ns`, then from the path's first component, then it is the
//! default. All three are looked up in the closed list; none is ever dialled.

use std::sync::Arc;

use darter_api::{Digest, Repository, UpstreamName, session::Reference};
use http::Uri;

use super::Failure;
use crate::upstream::{Upstream, Upstreams};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// `/v2`, which lacks its slash.
    Moved,
    /// `/v2/`
    Base,
    Manifest(Repository, Reference),
    Blob(Repository, Digest),
    Tags(Repository),
    Referrers(Repository, Digest),
    Catalog,
}

impl Kind {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Moved | Self::Base => "base",
            Self::Manifest(..) => "manifest",
            Self::Blob(..) => "blob",
            Self::Tags(_) => "tags",
            Self::Referrers(..) => "referrers",
            Self::Catalog => "catalog",
        }
    }
}

impl Kind {
    pub(super) const fn repository(&self) -> Option<&Repository> {
        match self {
            Self::Manifest(repository, _)
            | Self::Blob(repository, _)
            | Self::Tags(repository)
            | Self::Referrers(repository, _) => Some(repository),
            Self::Moved | Self::Base | Self::Catalog => None,
        }
    }
}

/// A request, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) kind: Kind,
    /// The path below `/v2/` as the upstream knows it.
    pub(super) path: String,
    /// The query without `ns`.
    pub(super) query: Option<String>,
    /// What stood before the path, for rewriting links: `docker.io/`.
    pub(super) prefix: String,
    /// `ns`, as it was given.
    pub(super) ns: Option<String>,
}

pub(super) fn route(
    upstreams: &Upstreams,
    fixed: Option<&UpstreamName>,
    uri: &Uri,
) -> Result<(Arc<Upstream>, Target), Failure> {
    let (ns, query) = split_query(uri.query());
    let path = uri.path();
    let Some(rest) = path.strip_prefix("/v2/") else {
        if path == "/v2" {
            let upstream = named(upstreams, fixed, ns.as_deref())?;
            return Ok((upstream, target(Kind::Moved, "", None, "", ns)));
        }
        return Err(Failure::NotFound);
    };
    if rest.contains('%') || rest.contains('\\') {
        // No valid name needs an escape; what hides behind one is not a repository.
        return Err(Failure::NameInvalid);
    }
    let (upstream, below, prefix) = match (fixed, &ns, upstreams.by_path(rest)) {
        (None, None, Some((upstream, below))) => (
            Arc::clone(upstream),
            below,
            &rest[..rest.len() - below.len()],
        ),
        _ => (named(upstreams, fixed, ns.as_deref())?, rest, ""),
    };
    let kind = kind(below)?;
    Ok((upstream, target(kind, below, query, prefix, ns)))
}

fn target(
    kind: Kind,
    path: &str,
    query: Option<String>,
    prefix: &str,
    ns: Option<String>,
) -> Target {
    Target {
        kind,
        path: path.to_owned(),
        query,
        prefix: prefix.to_owned(),
        ns,
    }
}

fn named(
    upstreams: &Upstreams,
    fixed: Option<&UpstreamName>,
    ns: Option<&str>,
) -> Result<Arc<Upstream>, Failure> {
    let found = match (fixed, ns) {
        (Some(name), _) => upstreams.resolve(name.as_str()),
        (None, Some(name)) => upstreams.resolve(name),
        (None, None) => upstreams.default_upstream(),
    };
    found.cloned().ok_or(Failure::NameUnknown)
}

fn split_query(query: Option<&str>) -> (Option<String>, Option<String>) {
    let Some(query) = query else {
        return (None, None);
    };
    let mut ns = None;
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.strip_prefix("ns=") {
            // `%3A` is the colon of a port; nothing else needs an escape.
            Some(value) => ns = Some(value.replace("%3A", ":").replace("%3a", ":")),
            None => rest.push(pair),
        }
    }
    (ns, (!rest.is_empty()).then(|| rest.join("&")))
}

fn kind(path: &str) -> Result<Kind, Failure> {
    if path.is_empty() {
        return Ok(Kind::Base);
    }
    if path == "_catalog" {
        return Ok(Kind::Catalog);
    }
    let repository = |text: &str| text.parse::<Repository>().map_err(|_| Failure::NameInvalid);
    let digest = |text: &str| text.parse::<Digest>().map_err(|_| Failure::DigestInvalid);
    let (head, last) = path.rsplit_once('/').ok_or(Failure::NotFound)?;
    let Some((name, endpoint)) = head.rsplit_once('/') else {
        return Err(Failure::NotFound);
    };
    match (endpoint, last) {
        ("tags", "list") => Ok(Kind::Tags(repository(name)?)),
        ("manifests", reference) if reference.contains(':') => Ok(Kind::Manifest(
            repository(name)?,
            Reference::Digest(digest(reference)?),
        )),
        ("manifests", tag) if is_tag(tag) => Ok(Kind::Manifest(
            repository(name)?,
            Reference::Tag(tag.to_owned()),
        )),
        ("manifests", _) => Err(Failure::TagInvalid),
        ("blobs", text) => Ok(Kind::Blob(repository(name)?, digest(text)?)),
        ("referrers", text) => Ok(Kind::Referrers(repository(name)?, digest(text)?)),
        _ if path.contains("/blobs/uploads") => Err(Failure::Unsupported),
        _ => Err(Failure::NotFound),
    }
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::UpstreamOptions;

    fn routed(uri: &str) -> Result<(String, Kind), Failure> {
        let list = [
            "docker.io",
            "ghcr.io=https://ghcr.io",
            "r:5000=http://127.0.0.1:1",
        ]
        .map(UpstreamOptions::parse);
        let upstreams = Upstreams::new(&list, &darter_runtime::Tasks::new()).unwrap();
        route(&upstreams, None, &uri.parse().unwrap())
            .map(|(upstream, target)| (upstream.name().to_string(), target.kind))
    }

    #[test]
    fn the_upstream_is_looked_up_and_never_dialled() {
        let digest = Digest::sha256(b"x");
        let blob = |repository: &str| Kind::Blob(repository.parse().unwrap(), digest);
        let path = format!("/v2/library/a/blobs/{digest}");
        assert_eq!(
            routed(&path).unwrap(),
            ("docker.io".into(), blob("library/a"))
        );
        assert_eq!(routed(&format!("{path}?ns=ghcr.io")).unwrap().0, "ghcr.io");
        assert_eq!(routed(&format!("{path}?ns=r%3A5000")).unwrap().0, "r:5000");
        assert_eq!(
            routed(&format!("/v2/ghcr.io/o/a/blobs/{digest}")).unwrap(),
            ("ghcr.io".into(), blob("o/a"))
        );
        for ns in [
            "169.254.169.254",
            "127.0.0.1:22",
            "evil@host",
            "http://x",
            "",
            "GHCR.IO",
        ] {
            assert!(
                matches!(
                    routed(&format!("{path}?ns={ns}")),
                    Err(Failure::NameUnknown)
                ),
                "{ns}"
            );
        }
    }

    #[test]
    fn bad_names_digests_and_references() {
        let hex = "0".repeat(64);
        for (path, wanted) in [
            ("/v2/a/manifests/..", "TagInvalid"),
            ("/v2/a/../b/manifests/x", "NameInvalid"),
            ("/v2/a/..%2fb/manifests/x", "NameInvalid"),
            ("/v2/A/manifests/x", "NameInvalid"),
            ("/v2/a/manifests/sha256:xyz", "DigestInvalid"),
            ("/v2/a/blobs/md5:00", "DigestInvalid"),
            ("/v2/a/blobs/latest", "DigestInvalid"),
            ("/v2/x", "NotFound"),
            ("/v1/", "NotFound"),
            ("/v2/a/blobs/uploads/", "Unsupported"),
        ] {
            let failure = routed(path).unwrap_err();
            assert!(
                format!("{failure:?}").starts_with(wanted),
                "{path}: {failure:?}"
            );
        }
        assert!(routed(&format!("/v2/a/b/c/manifests/sha256:{hex}")).is_ok());
        assert_eq!(routed("/v2/").unwrap().1, Kind::Base);
        assert_eq!(
            routed("/v2/a/tags/list?n=1").unwrap().1,
            Kind::Tags("a".parse().unwrap())
        );
    }
}
