//! Offers that are open, of all tasks together: they share this host's uplink, and what is
//! offered to one host shares that host's downlink.
//!
//! Few are open at a time. What is offered early is bound to whom it was offered, however busy that host
//! turns out to be: its downlink is then full with what others send, it takes its time, and all
//! upload slots here end up with such hosts while the uplink idles. What is offered late goes to
//! who is free by then.
//!
//! What nobody waits for ([`Class::Background`]) is counted apart, so that its offers, which hosts that pull
//! something else take up late, are not in the way of what somebody waits for.

use std::collections::BTreeMap;

use darter_api::HostId;

use crate::limits::Class;

/// Enough in all for the uplink to be busy while answers are under way: what is sent in all
/// slots, and twice as much that is about to be asked for.
const ENOUGH: usize = 16;
/// To one host at least: one under way, and the next.
const EACH: usize = 2;

/// Of what nobody waits for, while enough is open that somebody does.
const BACKGROUND: usize = 1;
/// With fewer open offers in all, of all tasks, an uplink idles.
pub(super) const IDLE_BELOW: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Open {
    foreground: Share,
    background: Share,
}

/// The offers of one class.
#[derive(Debug, Default)]
struct Share {
    all: usize,
    /// Tasks that have some.
    tasks: usize,
    to: BTreeMap<HostId, usize>,
}

impl Open {
    const fn of(&self, class: Class) -> &Share {
        match class {
            Class::Foreground => &self.foreground,
            Class::Background => &self.background,
        }
    }

    const fn of_mut(&mut self, class: Class) -> &mut Share {
        match class {
            Class::Foreground => &mut self.foreground,
            Class::Background => &mut self.background,
        }
    }

    /// How many there are.
    pub(super) const fn all(&self) -> usize {
        self.foreground.all + self.background.all
    }

    /// Whether there are fewer than the uplink bears of a class, whatever the hosts are.
    pub(super) fn has_room(&self, class: Class) -> bool {
        self.of(class).all < self.most(class)
    }

    fn most(&self, class: Class) -> usize {
        match class {
            Class::Background if self.foreground.all > 0 => {
                BACKGROUND.max(IDLE_BELOW.saturating_sub(self.foreground.all))
            }
            _ => ENOUGH,
        }
    }

    /// How many a host has not taken up.
    pub(super) fn to(&self, host: &HostId) -> usize {
        let of = |share: &Share| share.to.get(host).copied().unwrap_or_default();
        of(&self.foreground) + of(&self.background)
    }

    /// Whether a task with `own` of them makes no more now to any of so many hosts. Each has its
    /// share, whatever the others of its class have.
    pub(super) fn is_enough(&self, class: Class, own: usize, hosts: usize) -> bool {
        let share = self.of(class);
        let most = self.most(class);
        if most < ENOUGH {
            return share.all >= most;
        }
        let most = hosts.max(ENOUGH);
        let others = share.tasks - usize::from(own > 0);
        share.all >= most && own >= most / (others + 1)
    }

    /// Whether no more are made now to one of so many hosts.
    pub(super) fn is_enough_for(&self, class: Class, host: &HostId, hosts: usize) -> bool {
        let open = self.of(class).to.get(host).copied().unwrap_or_default();
        open >= ENOUGH.div_ceil(hosts.max(1)).max(EACH)
    }

    /// One more to a host, of a task that had `own`.
    pub(super) fn add(&mut self, class: Class, host: &HostId, own: usize) {
        let share = self.of_mut(class);
        share.all += 1;
        share.tasks += usize::from(own == 0);
        *share.to.entry(*host).or_default() += 1;
    }

    /// One to a host less, of a task that had `own`.
    pub(super) fn remove(&mut self, class: Class, host: &HostId, own: usize) {
        let share = self.of_mut(class);
        share.all -= 1;
        share.tasks -= usize::from(own == 1);
        if let Some(open) = share.to.get_mut(host) {
            *open -= 1;
            if *open == 0 {
                share.to.remove(host);
            }
        }
    }
}
