//! What members tell a manager: that they live, what they are, where they are.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::host::HostId;

/// Bytes of a member's name at most: a host name's (RFC 1035, section 2.3.4).
pub const MOST_NAME: usize = 255;
/// Bytes of a member's address at most: a host name in a URL with scheme and port.
pub const MOST_ADDRESS: usize = 272;
/// Bytes of a cluster's name at most.
pub const MOST_CLUSTER: usize = 63;
/// Bytes of a data centre's or a location's name at most.
pub const MOST_WHERE: usize = 255;
/// Bytes of a member's version at most.
pub const MOST_VERSION: usize = 64;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberKind {
    /// Introduces peers to each other.
    Scheduler,
    /// A peer that reads sources first.
    SeedPeer,
}

impl MemberKind {
    /// Its name in databases and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::SeedPeer => "seed-peer",
        }
    }
}

/// The cluster that every manager has, for nodes that no other one claims.
pub const DEFAULT_CLUSTER: &str = "default";

/// The name of a cluster: 1 to 63 lower-case letters, digits, `-`, `_` and `.`, beginning with a
/// letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(String);

/// A text is no cluster's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a cluster's name is 1 to {MOST_CLUSTER} of a-z, 0-9, `-`, `_`, `.`, beginning with one of a-z, 0-9"
)]
pub struct ClusterNameError;

impl ClusterName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ClusterName {
    fn default() -> Self {
        Self(DEFAULT_CLUSTER.to_owned())
    }
}

impl FromStr for ClusterName {
    type Err = ClusterNameError;

    fn from_str(text: &str) -> Result<Self, ClusterNameError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fine = text.bytes().next().is_some_and(plain)
            && text
                .bytes()
                .all(|byte| plain(byte) || b"-_.".contains(&byte))
            && text.len() <= MOST_CLUSTER;
        fine.then(|| Self(text.to_owned())).ok_or(ClusterNameError)
    }
}

impl TryFrom<String> for ClusterName {
    type Error = ClusterNameError;

    fn try_from(text: String) -> Result<Self, ClusterNameError> {
        text.parse()
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What says to which cluster a node belongs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The cluster, where the node names one.
    pub cluster: Option<ClusterName>,
    /// The host's name; at most [`MOST_NAME`] bytes.
    pub name: String,
    /// Where others reach it.
    pub address: Option<IpAddr>,
    /// The data centre; at most [`MOST_WHERE`] bytes.
    pub idc: String,
    /// From the widest to the narrowest, `region|zone|room`; at most [`MOST_WHERE`] bytes.
    pub location: String,
}

/// A member's word about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it is.
    pub kind: MemberKind,
    /// Its public key.
    pub host: HostId,
    /// A scheduler's URL, a seed's peer address; at most [`MOST_ADDRESS`] bytes.
    pub address: String,
    /// Of its software; at most [`MOST_VERSION`] bytes.
    pub version: String,
    /// Its name, and what else says to which cluster it belongs.
    pub place: Place,
}

impl Member {
    /// Whether the address is one that others can connect to.
    pub fn has_valid_address(&self) -> bool {
        if self.address.len() > MOST_ADDRESS {
            return false;
        }
        match self.kind {
            MemberKind::Scheduler => self.address.parse::<PartUrl>().is_ok(),
            MemberKind::SeedPeer => self.address.parse().is_ok_and(|address: SocketAddr| {
                !address.ip().is_unspecified() && address.port() != 0
            }),
        }
    }
}

/// A part's URL, `http://host:port` or `https://host:port`: no path, no user, nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartUrl(String);

/// Why a text is no such URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no `http://host:port` or `https://host:port`")]
pub struct PartUrlError;

impl FromStr for PartUrl {
    type Err = PartUrlError;

    fn from_str(text: &str) -> Result<Self, PartUrlError> {
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .ok_or(PartUrlError)?;
        let (host, port) = rest.rsplit_once(':').ok_or(PartUrlError)?;
        let named = |host: &str| {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        };
        let bracketed = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let host_ok = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => named(host),
        };
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port_ok = digits && port.parse::<u16>().is_ok_and(|port| port != 0);
        if host_ok && port_ok && text.len() <= MOST_ADDRESS {
            Ok(Self(text.to_owned()))
        } else {
            Err(PartUrlError)
        }
    }
}

impl fmt::Display for PartUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_clusters() {
        for good in ["default", "a", "9", "eu-west.1_x", &"a".repeat(63)] {
            assert!(good.parse::<ClusterName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "A", "a b", "a/b", "\u{e4}", &"a".repeat(64)] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad}");
        }
        assert_eq!(ClusterName::default().as_str(), DEFAULT_CLUSTER);
    }

    #[test]
    fn urls_of_parts() {
        for good in [
            "http://10.0.0.2:8002",
            "https://10.0.0.2:8002",
            "http://scheduler-0.darter:8002",
            "http://[::1]:1",
        ] {
            assert!(good.parse::<PartUrl>().is_ok(), "{good}");
        }
        for bad in [
            "10.0.0.2:8002",
            "ftp://10.0.0.2:8002",
            "http://10.0.0.2",
            "http://:8002",
            "http://a:0",
            "http://a:70000",
            "http://a:+1",
            "http://a:1/x",
            "http://u@a:1",
            "http://a b:1",
            "http://::1:1",
        ] {
            assert!(bad.parse::<PartUrl>().is_err(), "{bad}");
        }
        let long = format!("http://{}:1", "a".repeat(MOST_ADDRESS));
        assert!(long.parse::<PartUrl>().is_err());
    }
}
