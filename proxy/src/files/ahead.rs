//! Files that this host is to have before a client asks for them.
//!
//! Who orders it names a URL; whether it may be had, by which addresses, and which version of it
//! there is, this host finds out as it does for its own clients: by its own rules, at the source.

use darter_api::{Lengths, Origin, OriginKind, TaskId};
use http::{
    HeaderMap, Method, StatusCode, Uri,
    uri::{Authority, Scheme},
};

use super::{Files, Place, version::Version};
use crate::source::SourceError;

/// A version of a file that can be had.
#[derive(Debug)]
pub(crate) struct Ahead {
    pub(crate) task: TaskId,
    pub(crate) size: u64,
    pub(crate) origin: Origin,
}

/// A file can't be had ahead of time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AheadError {
    #[error("it is no URL of a file")]
    Url,
    #[error("no rule of the host shares it")]
    Rule,
    #[error("its source can't be asked")]
    Source(#[from] SourceError),
    #[error("its source has none ({0})")]
    Missing(StatusCode),
    #[error("its source does not let everybody keep it, or tells no version")]
    NotShared,
    #[error("it is empty")]
    Empty,
}

impl AheadError {
    /// Whether another host may do better.
    pub(crate) const fn is_of_this_host(&self) -> bool {
        matches!(self, Self::Rule | Self::Source(_))
    }
}

impl Files {
    /// The version of `url` that its source has now; what is called so can be read from then on.
    pub(crate) async fn ahead(&self, url: &str) -> Result<Ahead, AheadError> {
        let (scheme, host, url) = parts(url).ok_or(AheadError::Url)?;
        let rule = self.rule(&scheme, &host).ok_or(AheadError::Rule)?;
        if !rule.has_path(url.path()) {
            return Err(AheadError::Rule);
        }
        let reply = rule
            .client
            .ask(Method::HEAD, &url, HeaderMap::new())
            .await?;
        if reply.status() != StatusCode::OK {
            return Err(AheadError::Missing(reply.status()));
        }
        let version = Version::of(reply.status(), reply.headers());
        let version = version.ok_or(AheadError::NotShared)?;
        let size = version.length;
        let pieces = Lengths::of(size).map_or(0, |lengths| lengths.pieces());
        if pieces == 0 {
            return Err(AheadError::Empty);
        }
        let place = Place::new(&rule, &url, version).ok_or(AheadError::Url)?;
        let place = self.remember(place);
        Ok(Ahead {
            task: place.task,
            size,
            origin: place.origin(),
        })
    }
}

impl Place {
    /// Where the swarm reads it.
    pub(super) fn origin(&self) -> Origin {
        Origin {
            upstream: self.upstream.clone(),
            repository: self.repository.clone(),
            kind: OriginKind::Blob,
            private: false,
        }
    }
}

/// The host as rules name it, and the URL as clients of the proxy ask for it.
fn parts(url: &str) -> Option<(Scheme, String, Uri)> {
    let mut parts = url.parse::<Uri>().ok()?.into_parts();
    let (scheme, authority) = (parts.scheme.clone()?, parts.authority?);
    let own_port = match scheme.as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => return None,
    };
    if authority.as_str().contains('@') {
        return None;
    }
    let host = authority.as_str().to_ascii_lowercase();
    let host = host.strip_suffix(own_port).unwrap_or(&host).to_owned();
    parts.authority = Some(host.parse::<Authority>().ok()?);
    Some((scheme, host, Uri::from_parts(parts).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_as_clients_ask_for_them() {
        let of = |url: &str| parts(url).map(|(_, host, url)| (host, url.to_string()));
        let (host, url) = of("http://DL.Example.com:80/Dist/a.iso?v=1").unwrap();
        assert_eq!(host, "dl.example.com");
        assert_eq!(url, "http://dl.example.com/Dist/a.iso?v=1");
        for (url, host) in [
            ("http://h:8080/a", "h:8080"),
            ("https://h:443/a", "h"),
            ("https://h:80/a", "h:80"),
        ] {
            assert_eq!(of(url).unwrap().0, host, "{url}");
        }
        for not in [
            "",
            "/a",
            "h:80",
            "ftp://h/a",
            "http://u:p@h/a",
            "http:///a",
            "http://h /a",
        ] {
            assert_eq!(of(not), None, "{not}");
        }
    }
}
