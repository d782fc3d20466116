//! What clients are pointed at: the mirror, and the registries behind it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use darter_api::UpstreamName;
use darter_proxy::upstream::UpstreamOptions;
use hyper::Uri;

/// The URL of a mirror, without credentials, query or a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirror {
    plain: bool,
    authority: String,
    path: String,
}

impl Mirror {
    /// The one that listens there, as this machine reaches it.
    pub(crate) fn at(listen: SocketAddr) -> Self {
        Self {
            plain: true,
            authority: reachable(listen).to_string(),
            path: String::new(),
        }
    }

    /// Whether it is spoken to in plain text.
    pub(crate) const fn is_plain(&self) -> bool {
        self.plain
    }

    /// Whether only this machine can speak to it.
    pub(crate) fn is_on_loopback(&self) -> bool {
        let host = match self.authority.rsplit_once(':') {
            Some((host, _)) => host,
            None => &self.authority,
        };
        let host = host.trim_matches(['[', ']']);
        host == "localhost"
            || host
                .parse()
                .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
    }

    /// `host:port/path`, as registries.conf names it.
    pub(crate) fn location(&self) -> String {
        format!("{}{}", self.authority, self.path)
    }

    /// Below its host; empty, or beginning with a slash.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.plain { "http" } else { "https" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

impl FromStr for Mirror {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no URL like http://127.0.0.1:4001");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let plain = match uri.scheme_str() {
            Some("http") => true,
            Some("https") => false,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?.as_str();
        if authority.contains('@') || uri.query().is_some() {
            return Err("a mirror's URL has no credentials and no query".to_owned());
        }
        Ok(Self {
            plain,
            authority: authority.to_owned(),
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

/// A registry by the name that images have, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registry {
    /// `docker.io`, `registry.example.com:5000`; or [`Registry::ALL`].
    pub(crate) name: String,
    /// Where that is not `https://<name>`.
    pub(crate) url: Option<Mirror>,
}

impl Registry {
    /// containerd's name for all registries that have no folder of their own.
    pub(crate) const ALL: &str = "_default";

    /// One of the proxy's configuration; none if its URL is one that only the proxy takes.
    pub(crate) fn of(upstream: &UpstreamOptions) -> Option<Self> {
        let url = upstream.url.as_ref().map(|url| url.parse());
        Some(Self {
            name: upstream.name.clone(),
            url: url.transpose().ok()?,
        })
    }

    /// Where clients go without the mirror.
    pub(crate) fn server(&self) -> String {
        match &self.url {
            Some(url) => url.to_string(),
            None if self.name == "docker.io" => "https://registry-1.docker.io".to_owned(),
            None => format!("https://{}", self.name),
        }
    }
}

impl FromStr for Registry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, url) = match text.split_once('=') {
            Some((name, url)) => (name, Some(url.parse()?)),
            None => (text, None),
        };
        if name != Self::ALL {
            name.parse::<UpstreamName>()
                .map_err(|error| format!("`{name}`: {error}"))?;
        }
        Ok(Self {
            name: name.to_owned(),
            url,
        })
    }
}

/// Where a listening address is reached from this machine.
pub(crate) fn reachable(listen: SocketAddr) -> SocketAddr {
    let mut address = listen;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_mirrors() {
        for text in [
            "http://127.0.0.1:4001",
            "https://mirror.example/hub",
            "http://[::1]:4001",
        ] {
            assert_eq!(text.parse::<Mirror>().unwrap().to_string(), text);
        }
        let slash: Mirror = "http://localhost:4001/".parse().unwrap();
        assert_eq!(slash.to_string(), "http://localhost:4001");
        assert!(slash.is_on_loopback());
        assert!(
            "http://[::1]:4001"
                .parse::<Mirror>()
                .unwrap()
                .is_on_loopback()
        );
        assert!(
            !"http://10.0.0.1:4001"
                .parse::<Mirror>()
                .unwrap()
                .is_on_loopback()
        );
        let everywhere = Mirror::at("0.0.0.0:4001".parse().unwrap());
        assert_eq!(everywhere.to_string(), "http://127.0.0.1:4001");
        for text in ["127.0.0.1:4001", "ftp://x", "http://u:p@x", "http://x?y"] {
            assert!(text.parse::<Mirror>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_registry_is_no_path() {
        for text in ["../../etc", "a/b", "", "UPPER", "x=y"] {
            assert!(text.parse::<Registry>().is_err(), "{text}");
        }
        let named: Registry = "reg.example:5000=http://10.0.0.5:5000".parse().unwrap();
        assert_eq!(named.name, "reg.example:5000");
        assert_eq!(named.server(), "http://10.0.0.5:5000");
        let hub: Registry = "docker.io".parse().unwrap();
        assert_eq!(hub.server(), "https://registry-1.docker.io");
    }
}
