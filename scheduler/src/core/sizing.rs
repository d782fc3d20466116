//! Contents whose size their source does not tell: one host reads all of such a content to find
//! out, and the others wait for it, so that the source is still read once.
//!
//! Owner of state: [`Unsized`], bounded. Invariant: a content has one reader that is heard of
//! at a time. Failure: a reader that is silent for [`SILENCE`], gives up, or leaves is
//! replaced by the next host that asks; beyond [`MOST`] everybody reads for itself.

use std::{collections::HashMap, time::Duration};

use darter_api::{
    HostId, TaskId, Timestamp,
    session::{SchedulerMessage, Sizing},
};

use super::Cluster;

/// A reader says every second that bytes came.
const SILENCE: Duration = Duration::from_secs(4);
/// Contents whose size is being found out.
const MOST: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unsized(HashMap<TaskId, Reader>);

#[derive(Debug)]
struct Reader {
    host: HostId,
    heard: Timestamp,
}

impl Unsized {
    /// Whether the host that asks is to read it.
    fn asked(&mut self, now: Timestamp, id: TaskId, host: HostId) -> bool {
        if !self.0.contains_key(&id) && self.0.len() >= MOST {
            self.0.retain(|_, reader| now.since(reader.heard) < SILENCE);
            if self.0.len() >= MOST {
                return true;
            }
        }
        let reader = self.0.entry(id).or_insert(Reader { host, heard: now });
        if reader.host == host || now.since(reader.heard) >= SILENCE {
            *reader = Reader { host, heard: now };
        }
        reader.host == host
    }

    fn forget(&mut self, id: &TaskId, host: &HostId) {
        if self.0.get(id).is_some_and(|reader| reader.host == *host) {
            self.0.remove(id);
        }
    }

    /// A host has left.
    pub(super) fn gone(&mut self, host: &HostId) {
        self.0.retain(|_, reader| reader.host != *host);
    }
}

impl Cluster {
    pub(super) fn sizing(&mut self, now: Timestamp, host: HostId, id: TaskId, state: Sizing) {
        match state {
            Sizing::Asks => {
                let size = self.tasks.get(&id).map(|task| task.lengths.size());
                if size.is_some() {
                    self.unsized_tasks.0.remove(&id);
                }
                let read = size.is_none() && self.unsized_tasks.asked(now, id, host);
                let task = id;
                self.send(host, SchedulerMessage::Size { task, size, read });
            }
            Sizing::Reads => {
                self.unsized_tasks.asked(now, id, host);
            }
            Sizing::GaveUp => self.unsized_tasks.forget(&id, &host),
        }
    }
}
