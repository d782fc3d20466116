//! Who is at a connection's other end, and where the caller of a request is.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
};

use axum::extract::FromRequestParts;
use http::{Extensions, HeaderMap, request::Parts};

/// The address of a connection's other end, as a request extension.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress(pub SocketAddr);

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

    /// Whether it is on this host.
    pub fn is_here(self) -> bool {
        self.0
            .is_some_and(|address| address.to_canonical().is_loopback())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for CallerAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers, &parts.extensions))
    }
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
}
