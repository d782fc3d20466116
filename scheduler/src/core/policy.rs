//! What the operator's rules and a manager's settings make of hosts and contents.

use darter_api::{
    HostId, Origin, TaskId,
    configuration::{Priority, Rule, SchedulerSettings},
    session::{LeaseEnd, Role, SchedulerMessage},
};

use super::{Cluster, task::Task};

impl Cluster {
    /// Other settings from now on; leases and neighbours that are stay. What is not set is as at
    /// the start.
    pub fn set(&mut self, settings: &SchedulerSettings) {
        self.options = self.own.overlaid(settings);
        let hosts: Vec<HostId> = self.hosts.keys().copied().collect();
        for host in hosts {
            self.assign_role(&host);
        }
    }

    /// Makes a host what rules say it is, or what it says itself. Who keeps its content to
    /// itself is no seed.
    pub(super) fn assign_role(&mut self, host: &HostId) {
        let Some(known) = self.hosts.get_mut(host) else {
            return;
        };
        let hello = &mut known.hello;
        let made = Rule::seed_of(&self.options.rules, host, &hello.name);
        hello.role = match made {
            _ if !hello.shares => Role::Peer,
            Some(true) => Role::Seed,
            Some(false) => Role::Peer,
            None => known.declared,
        };
        known.is_made_seed = made == Some(true) && hello.shares;
        if hello.role == Role::Seed && known.resting.is_none() {
            self.seeds.insert(*host);
        } else {
            self.seeds.remove(host);
        }
    }

    pub(super) fn priority(&self, host: &HostId, origin: Option<&Origin>) -> Priority {
        let Some(known) = self.hosts.get(host) else {
            return Priority::default();
        };
        let rules = self.options.rules.iter();
        rules
            .filter(|rule| rule.fits_host(host, &known.hello.name) && rule.fits_origin(origin))
            .find_map(|rule| rule.priority)
            .unwrap_or_default()
    }

    /// Whether a rule makes it a seed: what a host says of itself widens no right.
    pub(super) fn is_made_seed(&self, host: &HostId) -> bool {
        self.hosts.get(host).is_some_and(|known| known.is_made_seed)
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
        self.is_kept_from(host, self.priority_for(task, host))
    }

    /// Whether a host with this priority may not read a source.
    pub(super) fn is_kept_from(&self, host: &HostId, priority: Priority) -> bool {
        matches!(priority, Priority::Forbid | Priority::NeverSource) && !self.is_made_seed(host)
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
