//! Where an upstream may send this proxy: token realms and redirects.

use std::net::IpAddr;

use http::Uri;
use ipnet::IpNet;

/// What one upstream's replies may make this proxy dial.
#[derive(Debug)]
pub(super) struct Policy {
    host: String,
    port: u16,
    plain: bool,
    realms: Vec<String>,
    redirect_hosts: Vec<String>,
    redirect_ranges: Vec<IpNet>,
    base: Uri,
    /// Where all upstreams are.
    fellows: Vec<Uri>,
}

/// How a redirect may be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    /// As it is: the target is the upstream's own, or on its list.
    Listed,
    /// To another upstream, as anybody: what is the proxy's own for one opens nothing there.
    Fellow,
    /// Only to a public address.
    Public,
    /// Not at all.
    Never,
}

impl Policy {
    pub(super) fn new(
        base: &Uri,
        plain: bool,
        realms: &[String],
        redirects: &[String],
        fellows: &[Uri],
    ) -> Result<Self, String> {
        let mut redirect_hosts = Vec::new();
        let mut redirect_ranges = Vec::new();
        for entry in redirects {
            if entry.contains('/') {
                let range = entry
                    .parse()
                    .map_err(|_| format!("redirect `{entry}` is no host or CIDR range"))?;
                redirect_ranges.push(range);
            } else {
                redirect_hosts.push(entry.to_lowercase());
            }
        }
        Ok(Self {
            host: base.host().unwrap_or_default().to_lowercase(),
            port: port_of(base).unwrap_or_default(),
            plain,
            realms: realms.iter().map(|realm| realm.to_lowercase()).collect(),
            redirect_hosts,
            redirect_ranges,
            base: base.clone(),
            fellows: fellows.to_vec(),
        })
    }

    /// Whether tokens may be asked of this realm (CVE-2026-33540: not because a registry
    /// said so). On the registry's own domain that is its own port or the scheme's: whatever
    /// else listens beside it has to be listed.
    pub(super) fn allows_realm(&self, realm: &Uri) -> bool {
        let Some(host) = realm.host().map(str::to_lowercase) else {
            return false;
        };
        if realm
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
        {
            return false;
        }
        // A password would go there in plain text: only where the registry itself is read so.
        let scheme_fits = match realm.scheme_str() {
            Some("https") => true,
            Some("http") => self.plain,
            _ => false,
        };
        if !scheme_fits {
            return false;
        }
        let with_port = realm.port_u16().map(|port| format!("{host}:{port}"));
        if self
            .realms
            .iter()
            .any(|listed| *listed == host || Some(listed) == with_port.as_ref())
        {
            return true;
        }
        let port = port_of(realm);
        let usual = if realm.scheme_str() == Some("http") {
            80
        } else {
            443
        };
        let port_fits = port == Some(usual) || (port == Some(self.port) && host == self.host);
        port_fits && (host == self.host || same_domain(&host, &self.host))
    }

    /// Whether this is the registry itself, which alone says who may read.
    pub(super) fn is_home(&self, target: &Uri) -> bool {
        is_same_origin(&self.base, target)
    }

    /// Whether and how a redirect to this target is followed.
    pub(super) fn follow(&self, target: &Uri) -> Follow {
        let (Some(host), Some(authority)) = (target.host(), target.authority()) else {
            return Follow::Never;
        };
        if authority.as_str().contains('@') {
            return Follow::Never;
        }
        let host = host.trim_matches(['[', ']']).to_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        let mut hosts = self.redirect_hosts.iter();
        let same = |listed: &String| listed.eq_ignore_ascii_case(authority.as_str());
        let listed = hosts.any(|listed| *listed == host || same(listed))
            || address.is_some_and(|address| {
                let mut ranges = self.redirect_ranges.iter();
                ranges.any(|range| range.contains(&address))
            });
        if listed || self.is_home(target) {
            return Follow::Listed;
        }
        if self.fellows.iter().any(|one| is_same_origin(one, target)) {
            return Follow::Fellow;
        }
        let https = target.scheme_str() == Some("https");
        if https && address.is_none_or(is_public) && host != "localhost" {
            Follow::Public
        } else {
            Follow::Never
        }
    }
}

/// Whether scheme, host and port are the same (RFC 6454, section 5): what is listed as https is
/// not listed as http.
fn is_same_origin(one: &Uri, other: &Uri) -> bool {
    let host = |uri: &Uri| uri.host().map(str::to_lowercase);
    one.scheme() == other.scheme() && host(one) == host(other) && port_of(one) == port_of(other)
}

/// The port, said or not.
fn port_of(uri: &Uri) -> Option<u16> {
    match uri.scheme_str() {
        Some("http") => Some(uri.port_u16().unwrap_or(80)),
        Some("https") => Some(uri.port_u16().unwrap_or(443)),
        _ => None,
    }
}

/// Whether two host names are of one registrable domain, by the shape of names: two
/// labels, or three under a two-letter country's short second level (`co.uk`).
fn same_domain(one: &str, other: &str) -> bool {
    fn registrable(host: &str) -> Option<String> {
        if host.parse::<IpAddr>().is_ok() {
            return None;
        }
        let labels: Vec<&str> = host.split('.').collect();
        let [.., second, top] = labels[..] else {
            return None;
        };
        let short = top.len() == 2 && second.len() <= 3;
        let wanted = if short && labels.len() > 2 { 3 } else { 2 };
        Some(labels[labels.len() - wanted.min(labels.len())..].join("."))
    }
    match (registrable(one), registrable(other)) {
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

/// Whether an address belongs to nobody's inside.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let special =
                a == 0 || a >= 240 || (a == 192 && b == 0) || (a == 198 && (18..20).contains(&b));
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || shared
                || special)
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_public(v4.into()),
            None => {
                let [first, second, ..] = v6.segments();
                let global = first & 0xe000 == 0x2000;
                // 6to4, Teredo and NAT64 carry an IPv4 address that would escape the checks
                // above; 2001:db8::/32 is documentation's (RFC 3849).
                let carries = first == 0x2002 || (first == 0x2001 && second == 0);
                global && !carries && (first, second) != (0x2001, 0xdb8)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(base: &str, realms: &[&str], redirects: &[&str]) -> Policy {
        let own = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        let base: Uri = base.parse().unwrap();
        let plain = base.scheme_str() == Some("http");
        Policy::new(
            &base,
            plain,
            &own(realms),
            &own(redirects),
            &["http://10.0.0.5:5000".parse().unwrap(), base.clone()],
        )
        .unwrap()
    }

    #[test]
    fn addresses_that_only_look_public() {
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "169.254.169.254",
            "::ffff:10.0.0.1",
            "2002:7f00:1::",
            "2001:0:7f00:1::",
            "2001:db8::1",
            "fe80::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in ["1.1.1.1", "2606:4700::1111", "2001:4860:4860::8888"] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn realms_of_the_own_domain_or_listed() {
        let hub = policy("https://registry-1.docker.io", &["tokens.other.org"], &[]);
        for (realm, allowed) in [
            ("https://auth.docker.io/token", true),
            ("https://tokens.other.org/token", true),
            ("http://auth.docker.io/token", false),
            ("http://tokens.other.org/token", false),
            ("https://auth.docker.io.evil.org/token", false),
            ("https://evil.org/token", false),
            ("https://user@auth.docker.io/token", false),
            ("https://169.254.169.254/token", false),
            ("/token", false),
        ] {
            assert_eq!(
                hub.allows_realm(&realm.parse().unwrap()),
                allowed,
                "{realm}"
            );
        }
        let own = policy("http://r.example.com:5000", &["r.example.com:5001"], &[]);
        for (realm, allowed) in [
            ("http://r.example.com:5000/t", true),
            ("http://r.example.com/t", true),
            ("https://auth.example.com/t", true),
            ("http://r.example.com:5001/t", true),
            ("http://r.example.com:22/t", false),
            ("http://auth.example.com:5000/t", false),
            ("http://r.example.com:443/t", false),
        ] {
            let realm = realm.parse().unwrap();
            assert_eq!(own.allows_realm(&realm), allowed, "{realm}");
        }
        let uk = policy("https://registry.example.co.uk", &[], &[]);
        assert!(uk.allows_realm(&"https://auth.example.co.uk/t".parse().unwrap()));
        assert!(!uk.allows_realm(&"https://auth.other.co.uk/t".parse().unwrap()));
    }

    #[test]
    fn redirects_to_public_https_or_listed_targets() {
        let one = policy(
            "https://r.example.com",
            &[],
            &["cdn.internal", "192.168.7.0/24"],
        );
        for (target, follow) in [
            ("https://cdn.example.net/blob?sig=1", Follow::Public),
            ("http://cdn.example.net/blob", Follow::Never),
            ("https://127.0.0.1/", Follow::Never),
            ("https://localhost/", Follow::Never),
            ("https://[::1]/", Follow::Never),
            ("https://[::ffff:10.0.0.1]/", Follow::Never),
            ("https://169.254.169.254/latest/meta-data", Follow::Never),
            ("http://10.0.0.5:5000/x", Follow::Fellow),
            ("https://10.0.0.5:5000/x", Follow::Never),
            ("https://r.example.com:443/x", Follow::Listed),
            ("http://r.example.com/x", Follow::Never),
            ("http://10.0.0.5:5001/x", Follow::Never),
            ("http://cdn.internal/x", Follow::Listed),
            ("http://192.168.7.9:9000/x", Follow::Listed),
            ("https://a@cdn.example.net/", Follow::Never),
        ] {
            assert_eq!(one.follow(&target.parse().unwrap()), follow, "{target}");
        }
    }
}
