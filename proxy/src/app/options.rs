//! The proxy's section of the configuration.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use darter_api::{ClusterName, session as vocabulary};
use serde::{Deserialize, Serialize};

use crate::{
    clients, intercept, limits, mirror, rights,
    session::PeerAddress,
    store,
    swarm::{
        core,
        driver::{Policy, Prefetch},
    },
    transfer,
    upstream::UpstreamOptions,
};

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
    /// Schedulers, as URLs that are the same on all hosts. A content belongs to one of
    /// them. Default none: a pull-through mirror that works alone.
    pub schedulers: Vec<String>,
    /// Instead of schedulers: the peer ports of all hosts, this one among them, as
    /// `ADDRESS:PORT` or `dns:NAME:PORT`. Each is the scheduler of its share of the contents.
    /// The same on all hosts. Default none.
    pub peers: Vec<String>,
    /// The manager's gRPC, as a URL. Schedulers are found through it where none are named,
    /// and a seed is shown there. Default none.
    pub manager: Option<String>,
    /// The cluster of schedulers and peers that it belongs to, by the name that the manager has for
    /// it. Default none: the manager finds it by address, name and locality.
    pub cluster: Option<ClusterName>,
    /// Speak plain text to peers and schedulers beyond loopback. Default false. Costs
    /// confidentiality on that network.
    pub insecure: bool,
    /// Whose grants count beside the schedulers': `members` (a host may lease to itself,
    /// so that swarms work without a scheduler) or `schedulers`. Default `members`.
    pub trust: Policy,
    /// The registries, a closed list; the first is the default. Default Docker Hub alone.
    pub upstreams: Vec<UpstreamOptions>,
    /// The content on disk.
    pub store: store::Options,
    /// Tags and slow beginnings.
    pub mirror: mirror::Options,
    /// The same port as an HTTP proxy.
    pub intercept: intercept::Options,
    /// Who may read.
    pub rights: rights::Options,
    /// Who is let in to what the proxy's own credentials can read.
    pub clients: clients::Options,
    /// How pieces are asked for.
    pub swarm: core::Options,
    /// What is given to other peers.
    pub transfer: transfer::Options,
    /// What becomes of contents that clients read in small parts, as lazy pullers do: `off`, or
    /// `after-first-range` to get all of them in the background. Default off.
    pub prefetch: Prefetch,
    /// What may be moved a second.
    pub limits: limits::Options,
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
            peers: Vec::new(),
            manager: None,
            cluster: None,
            insecure: false,
            trust: Policy::default(),
            upstreams: vec![UpstreamOptions::parse("docker.io")],
            store: store::Options::default(),
            mirror: mirror::Options::default(),
            intercept: intercept::Options::default(),
            rights: rights::Options::default(),
            clients: clients::Options::default(),
            swarm: core::Options::default(),
            transfer: transfer::Options::default(),
            prefetch: Prefetch::default(),
            limits: limits::Options::default(),
        }
    }
}

impl Options {
    /// Whether the host is to serve a scheduler on its peer port, for its share of the
    /// contents.
    pub const fn is_home(&self) -> bool {
        !self.peers.is_empty() && self.schedulers.is_empty()
    }

    /// Whether there are schedulers that it always speaks with.
    pub(super) const fn has_schedulers(&self) -> bool {
        !self.schedulers.is_empty() || (self.manager.is_some() && self.peers.is_empty())
    }

    /// Whether it speaks with other nodes.
    pub(super) const fn has_fellows(&self) -> bool {
        !self.peers.is_empty() || !self.schedulers.is_empty() || self.manager.is_some()
    }

    /// What is wrong with the list of peers.
    pub fn check_peers(&self) -> Vec<String> {
        let entries = self.peers.iter();
        let parsed = entries.filter_map(|entry| entry.parse::<PeerAddress>().err());
        let mut mistakes: Vec<String> = parsed.map(|error| error.to_string()).collect();
        if self.peers.is_empty() {
            return mistakes;
        }
        if !self.schedulers.is_empty() {
            mistakes.push("there are `schedulers` already".to_owned());
        }
        if self.trust == Policy::Schedulers {
            mistakes.push("every peer is a scheduler: `trust` has to be \"members\"".to_owned());
        }
        mistakes
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

impl From<Locality> for vocabulary::Locality {
    fn from(locality: Locality) -> Self {
        Self {
            host_group: locality.host_group,
            idc: locality.idc,
            location: locality.location,
        }
    }
}
