//! Forgetting members that have nothing to do with their task any more.
//!
//! A manifest makes its puller, and a seed, members of each of its contents before the
//! first join, which may never come. Each host's memberships are looked at twice within the
//! time to live; one that holds and wants nothing both times ends.

use darter_api::{HostId, TaskId, Timestamp};

use super::Cluster;

impl Cluster {
    pub(super) fn sweep_later(&mut self, now: Timestamp, host: HostId) {
        let due = now + self.options.member_ttl / 2;
        if let Some(known) = self.hosts.get_mut(&host) {
            self.sweeps.remove(&(known.sweep_at, host));
            known.sweep_at = due;
            self.sweeps.insert((due, host));
        }
    }

    /// When the next sweep is due.
    pub(super) fn sweep_due(&self) -> Option<Timestamp> {
        self.sweeps.first().map(|(due, _)| *due)
    }

    /// Looks at the memberships of hosts whose turn it is.
    pub(super) fn sweep(&mut self, now: Timestamp) {
        while let Some((_, host)) = self.sweeps.first().copied().filter(|(due, _)| *due <= now) {
            self.sweeps.pop_first();
            for task in self.tasks_of(&host) {
                self.give_up_cells(now, &task);
                if self.is_idle_again(&host, &task) {
                    self.forget_member(now, &task, &host);
                }
            }
            self.expire_rest(now, &host);
            self.sweep_later(now, host);
        }
    }

    /// Nobody has been introduced to others for long.
    fn give_up_cells(&mut self, now: Timestamp, id: &TaskId) {
        if let Some(task) = self.tasks.get_mut(id) {
            task.cells.take_if(|cells| cells.is_unused(now));
        }
    }

    /// Whether a member holds and wants nothing, as it did last time.
    fn is_idle_again(&mut self, host: &HostId, id: &TaskId) -> bool {
        let Some(task) = self.tasks.get_mut(id) else {
            return false;
        };
        let reads = task.leases.iter().any(|lease| lease.holder == *host);
        let holds = !task.held(host).is_empty();
        let Some(member) = task.members.get_mut(host) else {
            return false;
        };
        let idle = !reads && !member.wants() && !holds;
        member.set_idle(idle) && idle
    }
}
