//! Contents whose size their source does not tell: who asks is told it, where a member knows it.
//! Where nobody does, they are read and given on as tasks without an end
//! ([`darter_api::Lengths::open`]), with leases like all others.
//!
//! Who has another size of a content than its task is told so and left to itself: its pieces are
//! not the others', and nothing that it says of them counts until it says that it has that size.

use std::collections::BTreeMap;

use darter_api::{HostId, Lengths, TaskId, Timestamp, session::SchedulerMessage};

use super::Cluster;

/// Contents of one host that have another size than their tasks, as many as are remembered.
const MAX_DISPUTED: usize = 256;

/// The sizes that a host has of contents, where their tasks have others.
#[derive(Debug, Default)]
pub(super) struct Disputes(BTreeMap<TaskId, Lengths>);

impl Disputes {
    fn insert(&mut self, id: TaskId, lengths: Lengths) {
        if self.0.len() >= MAX_DISPUTED {
            self.0.pop_first();
        }
        self.0.insert(id, lengths);
    }

    /// The host says anew what size it has of it.
    pub(super) fn settle(&mut self, id: &TaskId) {
        self.0.remove(id);
    }

    /// Whether the host has another size of it than this one.
    pub(super) fn contradict(&self, id: &TaskId, lengths: Lengths) -> bool {
        self.0.get(id).is_some_and(|other| *other != lengths)
    }

    /// What is kept stays within its limits.
    #[cfg(test)]
    pub(super) fn is_bounded(&self) -> bool {
        self.0.len() <= MAX_DISPUTED
    }
}

impl Cluster {
    pub(super) fn size_wanted(&mut self, host: HostId, task: TaskId) {
        let known = self.tasks.get(&task);
        let size = known.and_then(|known| known.lengths.known_size());
        self.send(host, SchedulerMessage::Size { task, size });
    }

    /// A host says what size a content has that it wants or holds; whether its task has another
    /// one. The host has nothing to do with that task then, and is told so.
    pub(super) fn disputes(
        &mut self,
        now: Timestamp,
        host: HostId,
        id: &TaskId,
        lengths: Lengths,
    ) -> bool {
        if let Some(known) = self.hosts.get_mut(&host) {
            known.disputes.settle(id);
        }
        let other = |cluster: &Self| {
            let known = cluster.tasks.get(id).map(|task| task.lengths);
            known.filter(|known| *known != lengths)
        };
        if other(self).is_none() {
            return false;
        }
        // What it said of it before does not count any more either. If it was alone with that,
        // the task goes with it.
        self.forget_member(now, id, &host);
        let Some(known) = other(self) else {
            return false;
        };
        if let Some(host) = self.hosts.get_mut(&host) {
            host.disputes.insert(*id, lengths);
        }
        self.mismatch(host, id, known);
        true
    }

    /// Tells a host what size a task has.
    pub(super) fn mismatch(&mut self, host: HostId, id: &TaskId, lengths: Lengths) {
        let task = *id;
        self.send(host, SchedulerMessage::Mismatch { task, lengths });
    }
}
