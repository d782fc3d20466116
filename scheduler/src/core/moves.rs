//! Tasks that come from another scheduler, and hosts whose session rests.
//!
//! A task that moves here is told of by one host after the other: until that has settled,
//! nobody is granted what the next one may turn out to hold or read. A host that rests has
//! ended its session because nothing goes on; others are still introduced to it, until one
//! finds it unreachable or it has not come back for [`REST_LASTS`].

use std::{collections::BTreeSet, time::Duration};

use darter_api::{HostId, TaskId, Timestamp, session::Hello};

use super::{Cluster, hosts::Host};

/// A host that rests comes back within a third of this to say what it holds.
const REST_LASTS: Duration = Duration::from_secs(3600);
/// A task settles once within this.
const SETTLED_FOR: Duration = Duration::from_secs(30);
/// Those that have settled are looked for so often at most, while there are too many: hosts tell of
/// theirs in small parts.
const SETTLING_SWEPT: Duration = Duration::from_secs(1);
/// Tasks that settle at a time, or did lately; beyond it they don't.
const MOST_SETTLING: usize = 100_000;

impl Cluster {
    /// Another scheduler had these until now.
    pub(super) fn moved(&mut self, now: Timestamp, tasks: Vec<TaskId>) {
        let full = self.settling.len() + tasks.len() > MOST_SETTLING;
        if full && now.since(self.settling_swept) >= SETTLING_SWEPT {
            self.settling_swept = now;
            self.settling.retain(|_, until| *until + SETTLED_FOR > now);
        }
        for id in tasks {
            let told = self
                .tasks
                .get(&id)
                .is_some_and(|task| task.is_held_or_read());
            if told || self.settling.len() >= MOST_SETTLING {
                continue;
            }
            let until = now + self.options.settle;
            let known = self.settling.entry(id).or_insert(until);
            if *known + SETTLED_FOR <= now {
                *known = until;
            }
        }
    }

    /// Whether there may be hosts that have yet to say what they hold of a task.
    pub(super) fn settles(&self, now: Timestamp, id: &TaskId) -> bool {
        let started = now.since(self.started) < self.options.settle;
        started || self.settling.get(id).is_some_and(|until| now < *until)
    }

    /// A host ended its session and stays.
    pub(super) fn host_rests(&mut self, now: Timestamp, host: &HostId, epoch: u64) {
        if let Some(known) = self.hosts.get_mut(host)
            && known.hello.epoch == epoch
        {
            known.resting = Some(now);
            self.seeds.remove(host);
        }
    }

    pub(super) fn is_resting(&self, host: &HostId) -> bool {
        let known = self.hosts.get(host);
        known.is_some_and(|known| known.resting.is_some())
    }

    /// A host that rested is back: what it told stands until it has told all anew.
    pub(super) fn host_returned(&mut self, now: Timestamp, known: Box<Host>, hello: Hello) {
        let host = hello.host;
        self.sweeps.remove(&(known.sweep_at, host));
        let mut returned = Box::new(Host::new(now, hello));
        returned.tasks = known.tasks;
        returned.claimed = known.claimed;
        returned.listed = Some(BTreeSet::new());
        self.hosts.insert(host, returned);
    }

    /// A host that was away has told all: what it did not name it no longer has.
    pub(super) fn told_all(&mut self, now: Timestamp, host: HostId) {
        let Some(known) = self.hosts.get_mut(&host) else {
            return;
        };
        let Some(listed) = known.listed.take() else {
            return;
        };
        let gone = known.tasks.keys().filter(|task| !listed.contains(*task));
        let gone: Vec<TaskId> = gone.map(|task| **task).collect();
        for task in gone {
            self.forget_member(now, &task, &host);
        }
    }

    /// Forgets a host that has rested for too long.
    pub(super) fn expire_rest(&mut self, now: Timestamp, host: &HostId) {
        let known = self.hosts.get(host);
        let since = known.and_then(|known| known.resting);
        if since.is_some_and(|since| now.since(since) >= REST_LASTS) {
            self.host_down(now, host);
        }
    }
}
