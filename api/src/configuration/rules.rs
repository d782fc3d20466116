//! Rules of the operator: who may download what, who reads the source first, who is a seed.
//!
//! The first rule that fits decides. A rule fits a host by its name or id, and a content by
//! where it is read; empty lists fit all.

use serde::{Deserialize, Serialize};

use crate::{host::HostId, origin::Origin};

/// What a rule allows a host for a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// No download at all.
    Forbid,
    /// From peers and seeds alone, never from the source. Says nothing to hosts that a rule
    /// makes seeds; what a host calls itself does not count.
    NeverSource,
    /// Who asks reads the source, seeds only if it can't.
    PeerFirst,
    /// Seeds read the source, who asks only if they can't.
    #[default]
    SeedFirst,
}

/// What is so for some hosts and some contents.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Names or ids of hosts; a `*` at the end stands for any rest. A host gives itself its
    /// name; its id is proved. Default: all.
    pub hosts: Vec<String>,
    /// Names of registries. Default: all.
    pub upstreams: Vec<String>,
    /// Repositories; a `*` at the end stands for any rest. Default: all.
    pub repositories: Vec<String>,
    /// What they may. Default: the next rule says.
    pub priority: Option<Priority>,
    /// Whether the hosts are seeds, whatever they say themselves; of a rule without
    /// registries and repositories. Default: the next rule says.
    pub seed: Option<bool>,
}

impl Rule {
    /// Whether it says something of this host.
    pub fn fits_host(&self, host: &HostId, name: &str) -> bool {
        let fits = |pattern: &String| matches(pattern, name) || *pattern == host.to_string();
        self.hosts.is_empty() || self.hosts.iter().any(fits)
    }

    /// Whether it says something of contents from here; of no content in particular, where
    /// there is none.
    pub fn fits_origin(&self, origin: Option<&Origin>) -> bool {
        if !self.is_of_contents() {
            return true;
        }
        let Some(origin) = origin else {
            return false;
        };
        let (upstream, repository) = (origin.upstream.to_string(), origin.repository.to_string());
        let listed = |list: &[String], text: &str| {
            list.is_empty() || list.iter().any(|pattern| matches(pattern, text))
        };
        listed(&self.upstreams, &upstream) && listed(&self.repositories, &repository)
    }

    /// Whether rules say that a host is a seed, or that it is none.
    pub fn seed_of(rules: &[Self], host: &HostId, name: &str) -> Option<bool> {
        let mut fit = rules
            .iter()
            .filter(|rule| rule.seed.is_some() && rule.fits_origin(None));
        fit.find(|rule| rule.fits_host(host, name))?.seed
    }

    /// Whether it is about some contents alone.
    pub(super) const fn is_of_contents(&self) -> bool {
        !self.upstreams.is_empty() || !self.repositories.is_empty()
    }

    /// Its lists of patterns.
    pub(super) const fn lists(&self) -> [&Vec<String>; 3] {
        [&self.hosts, &self.upstreams, &self.repositories]
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => pattern == text,
    }
}
