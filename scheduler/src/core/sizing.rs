//! Contents whose size their source does not tell: who asks is told it, where a member knows it.
//! Where nobody does, they are read and given on as tasks without an end
//! ([`darter_api::Lengths::open`]), with leases like all others.

use darter_api::{HostId, TaskId, session::SchedulerMessage};

use super::Cluster;

impl Cluster {
    pub(super) fn size_wanted(&mut self, host: HostId, task: TaskId) {
        let known = self.tasks.get(&task);
        let size = known.and_then(|known| known.lengths.known_size());
        self.send(host, SchedulerMessage::Size { task, size });
    }
}
