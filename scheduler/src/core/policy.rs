//! Rules of the operator: who may download what, who reads the source first, who is a seed.
//!
//! The first rule that fits decides. A rule fits a host by its name or id, and a content by
//! where it is read; empty lists fit all.

use darter_api::{
    HostId, Origin, TaskId,
    session::{Hello, LeaseEnd, Role, SchedulerMessage},
};
use serde::{Deserialize, Serialize};

use super::{Cluster, task::Task};

/// What a rule allows a host for a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// No download at all.
    Forbid,
    /// From peers and seeds alone, never from the source. Says nothing to seeds.
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
    /// Names or ids of hosts; a `*` at the end stands for any rest. Default: all.
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
    fn fits_host(&self, hello: &Hello) -> bool {
        let fits =
            |pattern: &String| matches(pattern, &hello.name) || *pattern == hello.host.to_string();
        self.hosts.is_empty() || self.hosts.iter().any(fits)
    }

    fn fits_origin(&self, origin: Option<&Origin>) -> bool {
        if self.upstreams.is_empty() && self.repositories.is_empty() {
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
}

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => pattern == text,
    }
}

impl Cluster {
    /// What a host is, as it says itself unless a rule says otherwise. Who keeps its
    /// content to itself is no seed.
    pub(super) fn role_of(&self, hello: &Hello) -> Role {
        let rules = self.options.rules.iter();
        let mut fit = rules.filter(|rule| rule.fits_host(hello) && rule.fits_origin(None));
        let role = match fit.find_map(|rule| rule.seed) {
            Some(true) => Role::Seed,
            Some(false) => Role::Peer,
            None => hello.role,
        };
        if hello.shares { role } else { Role::Peer }
    }

    pub(super) fn priority(&self, host: &HostId, origin: Option<&Origin>) -> Priority {
        let Some(known) = self.hosts.get(host) else {
            return Priority::default();
        };
        let rules = self.options.rules.iter();
        rules
            .filter(|rule| rule.fits_host(&known.hello) && rule.fits_origin(origin))
            .find_map(|rule| rule.priority)
            .unwrap_or_default()
    }

    fn priority_for(&self, task: &Task, host: &HostId) -> Priority {
        if self.options.rules.is_empty() {
            return Priority::default();
        }
        self.priority(host, task.origins.first())
    }

    /// Whether a host may be granted reads of the source: what it reads is for all, so it
    /// has to share.
    pub(super) fn may_be_reader(&self, task: &Task, host: &HostId) -> bool {
        self.shares(host) && !self.is_barred(task, host)
    }

    /// Whether a rule keeps a host from the source.
    pub(super) fn is_barred(&self, task: &Task, host: &HostId) -> bool {
        if self.seeds.contains(host) {
            return false;
        }
        let priority = self.priority_for(task, host);
        matches!(priority, Priority::Forbid | Priority::NeverSource)
    }

    /// Whether a host that waits is to read the source before any seed does.
    pub(super) fn reads_first(&self, task: &Task, host: &HostId) -> bool {
        self.priority_for(task, host) == Priority::PeerFirst
    }

    /// Whether a host may not have this content at all; it is told.
    pub(super) fn forbids(&mut self, host: HostId, task: TaskId, origin: &Origin) -> bool {
        let forbidden = self.priority(&host, Some(origin)) == Priority::Forbid;
        if forbidden {
            let message = SchedulerMessage::Unavailable {
                task,
                why: LeaseEnd::Refused,
                forbidden,
            };
            self.send(host, message);
        }
        forbidden
    }

    /// Whether so many read a task's source already that this host may not begin.
    pub(super) fn is_over_budget(&self, task: &Task, host: &HostId) -> bool {
        let mut readers: Vec<&HostId> = task.leases.iter().map(|lease| &lease.holder).collect();
        readers.sort_unstable();
        readers.dedup();
        !readers.contains(&host) && readers.len() >= self.options.source_budget
    }
}
