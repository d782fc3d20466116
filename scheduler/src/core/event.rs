//! What goes into the core, and what comes out.

use darter_api::{
    HostId, TaskId,
    session::{Hello, PeerMessage, SchedulerMessage},
};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A host's hello was accepted. A higher epoch replaces the host's older session.
    HostUp(Hello),
    /// A session ended. Does nothing when the host has come back with another epoch.
    HostDown {
        /// Whose.
        host: HostId,
        /// Which session.
        epoch: u64,
    },
    /// A host spoke, in its newest session.
    Message {
        /// Who.
        host: HostId,
        /// What.
        message: PeerMessage,
    },
    /// Somebody in charge wants a task dropped from every store.
    Delete {
        /// The task.
        task: TaskId,
    },
    /// Time has passed; due at [`super::Cluster::next_deadline`].
    Tick,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Tell a host.
    Send {
        /// Whom.
        host: HostId,
        /// What.
        message: SchedulerMessage,
    },
}
