//! Offers that are open, of all tasks together: they share this host's uplink, and what is
//! offered to one host shares that host's downlink.
//!
//! Few are open at a time. What is offered early is bound to whom it was offered, however busy that host
//! turns out to be: its downlink is then full with what others send, it takes its time, and all
//! upload slots here end up with such hosts while the uplink idles. What is offered late goes to
//! who is free by then.

use std::collections::BTreeMap;

use darter_api::HostId;

/// Enough in all for the uplink to be busy while answers are under way: what is sent in all
/// slots, and twice as much that is about to be asked for.
const ENOUGH: usize = 16;
/// To one host at least: one under way, and the next.
const EACH: usize = 2;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Open {
    all: usize,
    /// Tasks that have some.
    tasks: usize,
    to: BTreeMap<HostId, usize>,
}

impl Open {
    /// How many there are.
    pub(super) const fn all(&self) -> usize {
        self.all
    }

    /// Whether there are fewer than the uplink bears, whatever the hosts are.
    pub(super) const fn has_room(&self) -> bool {
        self.all < ENOUGH
    }

    /// How many a host has not taken up.
    pub(super) fn to(&self, host: &HostId) -> usize {
        self.to.get(host).copied().unwrap_or_default()
    }

    /// Whether a task with `own` of them makes no more now to any of so many hosts. Each has its
    /// share, whatever the others have.
    pub(super) fn is_enough(&self, own: usize, hosts: usize) -> bool {
        let most = hosts.max(ENOUGH);
        let others = self.tasks - usize::from(own > 0);
        self.all >= most && own >= most / (others + 1)
    }

    /// Whether no more are made now to one of so many hosts.
    pub(super) fn is_enough_for(&self, host: &HostId, hosts: usize) -> bool {
        self.to(host) >= ENOUGH.div_ceil(hosts.max(1)).max(EACH)
    }

    /// One more to a host, of a task that had `own`.
    pub(super) fn add(&mut self, host: &HostId, own: usize) {
        self.all += 1;
        self.tasks += usize::from(own == 0);
        *self.to.entry(*host).or_default() += 1;
    }

    /// One to a host less, of a task that had `own`.
    pub(super) fn remove(&mut self, host: &HostId, own: usize) {
        self.all -= 1;
        self.tasks -= usize::from(own == 1);
        if let Some(open) = self.to.get_mut(host) {
            *open -= 1;
            if *open == 0 {
                self.to.remove(host);
            }
        }
    }
}
