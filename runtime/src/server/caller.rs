//! Who is at a connection's other end, and where the caller of a request is.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use axum::extract::FromRequestParts;
use http::{Extensions, HeaderMap, HeaderValue, Uri, header, request::Parts, uri::Authority};

/// The address of a connection's other end, as a request extension.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress(pub SocketAddr);

impl ClientAddress {
    /// Of a request with these extensions, whoever sent it; 0.0.0.0 where no connection is known.
    pub fn ip_of(extensions: &Extensions) -> IpAddr {
        let client = extensions.get::<Self>();
        client.map_or(Ipv4Addr::UNSPECIFIED.into(), |client| client.0.ip())
    }
}

/// What a proxy in front says of the client that it passes on (RFC 7239; RFC 9110, section
/// 7.6.3).
pub const PASSED_ON: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

/// Where the caller of a request is, if that can be known: not of a request that a proxy in
/// front has passed on. The connection's address is then that proxy's, and no proof of being on
/// this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerAddress(pub Option<IpAddr>);

impl CallerAddress {
    /// Of a request with these headers and extensions.
    pub fn of(headers: &HeaderMap, extensions: &Extensions) -> Self {
        if PASSED_ON.iter().any(|name| headers.contains_key(*name)) {
            return Self(None);
        }
        let client = extensions.get::<ClientAddress>();
        Self(client.map(|client| client.0.ip()))
    }

    /// The same of a request for a service of this host's own, which a page in a browser here
    /// may have sent: that is from nowhere, too ([`sent_by_others`]).
    pub fn of_own(uri: &Uri, headers: &HeaderMap, extensions: &Extensions) -> Self {
        match sent_by_others(uri, headers) {
            Some(_) => Self(None),
            None => Self::of(headers, extensions),
        }
    }

    /// Whether it is on this host.
    pub fn is_here(self) -> bool {
        self.0
            .is_some_and(|address| address.to_canonical().is_loopback())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for CallerAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of_own(&parts.uri, &parts.headers, &parts.extensions))
    }
}

/// Why a request from this host may be somebody else's: a page that a browser here shows, also
/// one whose name was pointed here (DNS rebinding), or a proxy's client.
pub fn sent_by_others(uri: &Uri, headers: &HeaderMap) -> Option<&'static str> {
    if PASSED_ON.iter().any(|name| headers.contains_key(*name)) {
        return Some("the request was forwarded");
    }
    let site = headers.get("sec-fetch-site");
    let is_own = |site: &HeaderValue| *site == "none" || *site == "same-origin";
    if headers.contains_key(header::ORIGIN) || site.is_some_and(|site| !is_own(site)) {
        return Some("a web page sent the request");
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let named = hosts.all(|host| host.to_str().is_ok_and(is_address))
        && uri.authority().is_none_or(|host| is_address(host.as_str()));
    (!named).then_some("the request names another host than an address or localhost")
}

/// Whether a host is named by an address or as localhost, or not at all.
fn is_address(host: &str) -> bool {
    if host.is_empty() {
        return true;
    }
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let ip = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || ip.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn what_was_passed_on_is_from_nowhere() {
        let is_here = |address: &str, header: Option<&str>| {
            let mut request = Request::new(());
            if let Some(name) = header {
                let name = name.parse::<http::HeaderName>().expect("a name");
                let value = http::HeaderValue::from_static("127.0.0.1");
                request.headers_mut().insert(name, value);
            }
            let address: IpAddr = address.parse().expect("an address");
            let client = ClientAddress(SocketAddr::from((address, 1)));
            request.extensions_mut().insert(client);
            CallerAddress::of(request.headers(), request.extensions()).is_here()
        };
        for here in ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(is_here(here, None), "{here}");
            for name in PASSED_ON {
                assert!(!is_here(here, Some(name)), "{here} {name}");
            }
        }
        for far in ["10.0.0.1", "::ffff:10.0.0.1", "0.0.0.0", "fe80::1"] {
            assert!(!is_here(far, None), "{far}");
        }
        let bare = CallerAddress::of(&HeaderMap::new(), &Extensions::new());
        assert!(!bare.is_here());
    }

    #[test]
    fn what_a_page_in_a_browser_here_sends_is_from_nowhere() {
        let is_here = |uri: &str, headers: &[(&'static str, &str)]| {
            let mut request = Request::get(uri);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let mut request = request.body(()).expect("a request");
            let client = ClientAddress(SocketAddr::from(([127, 0, 0, 1], 1)));
            request.extensions_mut().insert(client);
            let (uri, headers) = (request.uri(), request.headers());
            CallerAddress::of_own(uri, headers, request.extensions()).is_here()
        };
        for host in [
            "127.0.0.1:4001",
            "[::1]:4001",
            "LOCALHOST:4001",
            "10.0.0.1",
            "",
        ] {
            assert!(is_here("/v2/", &[("host", host)]), "{host}");
        }
        assert!(is_here("/v2/", &[]));
        assert!(is_here("http://localhost:4001/v2/", &[]));
        for host in [
            "evil.test:4001",
            "localhost.evil.test",
            "127.0.0.1.evil.test",
            "a b",
            "@",
        ] {
            assert!(!is_here("/v2/", &[("host", host)]), "{host}");
        }
        assert!(!is_here("http://evil.test/v2/", &[]));
        let two = [("host", "127.0.0.1"), ("host", "evil.test")];
        assert!(!is_here("/v2/", &two));
        for (name, value) in [
            ("origin", "http://evil.test"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("forwarded", "for=10.0.0.1"),
        ] {
            let headers = [("host", "127.0.0.1:4001"), (name, value)];
            assert!(!is_here("/v2/", &headers), "{name}: {value}");
        }
    }
}
