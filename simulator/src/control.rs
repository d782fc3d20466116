//! A scheduler: the real scheduling core, and what its shell keeps. There is one, or several,
//! or every host is one beside.

use std::{collections::BTreeMap, time::Duration};

use darter_api::{NodeKey, SchedulerName, Timestamp, session::SchedulerMessage};
use darter_scheduler::core::{Cluster, Command, Event};

use crate::network::Place;

/// Where a run's clock stands in the calendar.
const UNIX_MS: u64 = 1_800_000_000_000;

/// See the module. Dead while there is no cluster.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) name: SchedulerName,
    key: [u8; 32],
    pub(crate) cluster: Option<Cluster>,
    /// When the core wants to be woken.
    pub(crate) deadline: Option<Timestamp>,
    /// The session of each host; only its newest counts.
    pub(crate) sessions: BTreeMap<Place, u64>,
    /// Until it looks at a message.
    pub(crate) delay: Duration,
    options: darter_scheduler::Options,
    seed: u64,
    granted: u64,
}

impl Control {
    pub(crate) fn new(
        number: usize,
        options: darter_scheduler::Options,
        delay: Duration,
        seed: u64,
    ) -> Self {
        let mut key = [7; 32];
        key[..8].copy_from_slice(&(number as u64).to_be_bytes());
        Self {
            name: SchedulerName::new(&format!("http://scheduler-{number}:8002")),
            key,
            cluster: None,
            deadline: None,
            sessions: BTreeMap::new(),
            delay,
            options,
            seed,
            granted: 0,
        }
    }

    /// A cluster without memory.
    pub(crate) fn start(&mut self, now: Timestamp) {
        let key = NodeKey::from_seed(self.key);
        let unix = UNIX_MS;
        self.seed += 1;
        self.deadline = None;
        let options = self.options.clone();
        self.cluster = Some(Cluster::new(options, key, now, unix, self.seed));
    }

    /// Forgets everything.
    pub(crate) fn kill(&mut self) {
        self.granted = self.granted();
        self.cluster = None;
        self.deadline = None;
        self.sessions.clear();
    }

    /// Leases granted so far, by all of its lives.
    pub(crate) fn granted(&self) -> u64 {
        let now = self
            .cluster
            .as_ref()
            .map(|cluster| cluster.counts().granted);
        self.granted + now.unwrap_or(0)
    }

    pub(crate) fn handle(&mut self, now: Timestamp, event: Event) -> Vec<Command> {
        let Some(cluster) = &mut self.cluster else {
            return Vec::new();
        };
        let commands = cluster.handle(now, event);
        self.deadline = cluster.next_deadline(now);
        commands
    }

    pub(crate) fn tick(&mut self, now: Timestamp) -> Vec<Command> {
        let Some(cluster) = &mut self.cluster else {
            return Vec::new();
        };
        let commands = cluster.tick(now);
        self.deadline = cluster.next_deadline(now);
        commands
    }
}

/// Whether a message is the answer to a hello.
pub(crate) fn is_welcome(message: &SchedulerMessage) -> bool {
    matches!(message, SchedulerMessage::Welcome { .. })
}
