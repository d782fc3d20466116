//! Who reads a source and says nothing any more: a machine without power, a process that is stopped.
//!
//! Its session ends when its pings are late, some five seconds after; until then all who wait would
//! stand still at what it was to read. A host that is well says something once a second, if only what
//! it has to do. So what a silent one was to read is read by somebody else. Of that content it is nobody's
//! neighbour, what it holds counts for nothing until it says what it has, and it is not asked to read it
//! again for a while (`refusal_memory`); in others nobody new meets it until it says anything.
//!
//! Owner of state: `silent_since` of each host. Invariant: nobody is given up at the
//! first look, since it may be this scheduler that has not listened for a while.

use std::time::Duration;

use darter_api::{HostId, PieceSet, TaskId, Timestamp};

use super::{Cluster, LOOK_EVERY};

/// Who has said nothing for so long, and nothing until the next look, is silent: twice as long as
/// hosts are quiet for.
const SILENT: Duration = Duration::from_secs(2);

impl Cluster {
    /// Gives what silent hosts were to read to others; call it every [`LOOK_EVERY`].
    pub(super) fn replace_silent(&mut self, now: Timestamp) {
        for (id, holder) in self.readers_waited_for() {
            if self.notes_silence(now, &holder) {
                self.leave_alone(now, &id, holder);
            }
        }
    }

    /// Who reads what others wait for as well.
    fn readers_waited_for(&self) -> Vec<(TaskId, HostId)> {
        let mut found = Vec::new();
        for id in &self.live {
            let Some(task) = self.tasks.get(id) else {
                continue;
            };
            let others_wait = |reader: &HostId| {
                let wants = task.members.get(reader).is_some_and(|one| one.wants());
                task.waiting() > usize::from(wants)
            };
            let mut readers = task.readers();
            readers.retain(others_wait);
            found.extend(readers.into_iter().map(|reader| (*id, reader)));
        }
        found
    }

    /// Whether it has said nothing, at this look as at the last one.
    fn notes_silence(&mut self, now: Timestamp, host: &HostId) -> bool {
        let Some(known) = self.hosts.get_mut(host) else {
            return false;
        };
        if known.resting.is_some() || now.since(known.heard) < SILENT {
            return false;
        }
        let since = *known.silent_since.get_or_insert(now);
        now.since(since) >= LOOK_EVERY
    }

    /// Whether a host was silent at the last look, and has said nothing since.
    pub(super) fn was_silent(&self, host: &HostId) -> bool {
        let known = self.hosts.get(host);
        known.is_some_and(|known| known.silent_since.is_some())
    }

    /// Nobody counts on a host, and it gets its neighbours back when it says what it has.
    fn leave_alone(&mut self, now: Timestamp, id: &TaskId, holder: HostId) {
        self.note_held(holder, id, PieceSet::new());
        self.lose_leases(now, id, holder);
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let neighbours = task.part_from_all(&holder);
        self.parted(id, holder, neighbours);
        self.ensure_source(now, id);
    }
}
