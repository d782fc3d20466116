//! What a client of a proxy asks to be connected to.

use std::net::IpAddr;

use http::Uri;

const HTTP: u16 = 80;
const HTTPS: u16 = 443;

/// A host and port, as a client wrote them. A key into the list of upstreams; only what
/// is tunnelled blind is ever resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// In lower case, without a root dot or an IPv6 address's brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// `https` inside a tunnel.
    pub(super) scheme: &'static str,
}

impl Target {
    /// From a CONNECT's `host:port` (RFC 9110, section 9.3.6: the port is required).
    pub(super) fn of_connect(uri: &Uri) -> Option<Self> {
        if uri.scheme().is_some() || uri.path_and_query().is_some() {
            return None;
        }
        let port = uri.port_u16()?;
        Self::new(uri, port, "https")
    }

    /// From an absolute-form request target (RFC 9112, section 3.2.2).
    pub(super) fn of_absolute(uri: &Uri) -> Option<Self> {
        let (scheme, default) = match uri.scheme_str()? {
            "http" => ("http", HTTP),
            "https" => ("https", HTTPS),
            _ => return None,
        };
        // `host:` and a port that is no number are not the default port.
        let explicit = uri.authority()?.as_str().ends_with(uri.host()?);
        let port = match uri.port_u16() {
            None if explicit => default,
            port => port?,
        };
        Self::new(uri, port, scheme)
    }

    fn new(uri: &Uri, port: u16, scheme: &'static str) -> Option<Self> {
        let authority = uri.authority()?;
        let host = authority.host();
        let bracketed = host.strip_prefix('[');
        let bare = match bracketed {
            Some(rest) => rest.strip_suffix(']')?,
            None => host.strip_suffix('.').unwrap_or(host),
        };
        let bare = bare.to_lowercase();
        let written = bare.len() <= 253 && port != 0;
        let in_label = |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        let mut labels = bare.split('.');
        let name = labels.all(|label| !label.is_empty() && label.bytes().all(in_label));
        let name = name && bracketed.is_none();
        let valid = written && (name || bare.parse::<IpAddr>().is_ok());
        (valid && !authority.as_str().contains('@')).then_some(Self {
            host: bare,
            port,
            scheme,
        })
    }

    /// Whether the port is the one that needs no writing.
    pub(super) fn on_default_port(&self) -> bool {
        self.port == if self.scheme == "http" { HTTP } else { HTTPS }
    }

    /// The host as it stands in a URL.
    pub(super) fn url_host(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        }
    }

    /// `scheme://host[:port]`
    pub(super) fn origin(&self) -> String {
        let (scheme, host) = (self.scheme, self.url_host());
        if self.on_default_port() {
            format!("{scheme}://{host}")
        } else {
            format!("{scheme}://{host}:{}", self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(text: &str) -> Option<(String, u16)> {
        let target = Target::of_connect(&text.parse().ok()?)?;
        Some((target.host, target.port))
    }

    #[test]
    fn connect_targets() {
        for (text, host, port) in [
            ("docker.io:443", "docker.io", 443),
            ("Docker.IO.:443", "docker.io", 443),
            ("10.0.0.1:5000", "10.0.0.1", 5000),
            ("[::1]:443", "::1", 443),
            ("my_registry:1", "my_registry", 1),
        ] {
            assert_eq!(connect(text), Some((host.to_owned(), port)), "{text}");
        }
        for text in [
            "docker.io",
            "docker.io:",
            "docker.io:0",
            "docker.io:99999",
            "docker.io:x",
            "user@docker.io:443",
            "http://docker.io:443",
            "https://docker.io:443/v2/",
            "/v2/",
            "*",
            "a%2fb:443",
            "a;b:443",
            "[zz]:443",
            ".:443",
            "docker.io..:443",
            "docker..io:443",
            ".docker.io:443",
        ] {
            assert_eq!(connect(text), None, "{text}");
        }
    }

    #[test]
    fn absolute_targets() {
        for (text, origin) in [
            ("http://r/v2/", "http://r"),
            ("http://r:80/v2/", "http://r"),
            ("http://R.:5000/v2/", "http://r:5000"),
            ("https://r/v2/", "https://r"),
            ("http://[::1]:5000/", "http://[::1]:5000"),
        ] {
            let target = Target::of_absolute(&text.parse().unwrap()).unwrap();
            assert_eq!(target.origin(), origin);
        }
        for text in ["ftp://r/", "/v2/", "http://u@r/", "http://r:0/"] {
            let uri: Uri = text.parse().unwrap();
            assert_eq!(Target::of_absolute(&uri), None, "{text}");
        }
    }
}
