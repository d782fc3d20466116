//! What is said between hosts, and between hosts and schedulers, counted by kind: what a content
//! costs beside its bytes.

use std::{collections::BTreeMap, fmt};

use darter_api::{
    link::LinkMessage,
    session::{PeerMessage, SchedulerMessage},
};
use serde::Serialize;

/// Messages by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Said {
    /// From a host to another.
    pub links: BTreeMap<&'static str, u64>,
    /// From hosts to schedulers.
    pub peers: BTreeMap<&'static str, u64>,
    /// From schedulers to hosts.
    pub schedulers: BTreeMap<&'static str, u64>,
}

impl Said {
    pub(crate) fn link(&mut self, message: &LinkMessage) {
        let kind = match message {
            LinkMessage::Subscribe { .. } => "subscribe",
            LinkMessage::Unsubscribe { .. } => "unsubscribe",
            LinkMessage::Have { .. } => "have",
            LinkMessage::Lost { .. } => "lost",
            LinkMessage::Reading { .. } => "reading",
        };
        *self.links.entry(kind).or_default() += 1;
    }

    pub(crate) fn peer(&mut self, message: &PeerMessage) {
        let kind = match message {
            PeerMessage::Join(_) => "join",
            PeerMessage::Done { .. } => "done",
            PeerMessage::Progress { .. } => "progress",
            PeerMessage::Starved { .. } => "starved",
            PeerMessage::Load { .. } | PeerMessage::Parents { .. } => "load",
            PeerMessage::LeaseAccepted { .. } | PeerMessage::LeaseFirstByte { .. } => "lease",
            _ => "other",
        };
        *self.peers.entry(kind).or_default() += 1;
    }

    pub(crate) fn scheduler(&mut self, message: &SchedulerMessage) {
        let kind = match message {
            SchedulerMessage::Neighbours { .. } => "neighbours",
            SchedulerMessage::Grant(_) => "grant",
            SchedulerMessage::Fetch { .. } => "fetch",
            SchedulerMessage::Heartbeat => "heartbeat",
            _ => "other",
        };
        *self.schedulers.entry(kind).or_default() += 1;
    }
}

/// As one line: how many in all, and of each kind.
fn line(f: &mut fmt::Formatter<'_>, kinds: &BTreeMap<&'static str, u64>) -> fmt::Result {
    write!(f, "{}", kinds.values().sum::<u64>())?;
    for (at, (kind, count)) in kinds.iter().enumerate() {
        write!(f, "{} {count} {kind}", if at == 0 { ":" } else { "," })?;
    }
    Ok(())
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  links         ")?;
        line(f, &self.links)?;
        write!(f, "\n  to schedulers ")?;
        line(f, &self.peers)?;
        write!(f, "\n  from them     ")?;
        line(f, &self.schedulers)
    }
}
