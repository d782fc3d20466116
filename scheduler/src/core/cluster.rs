//! The state of all hosts and tasks.

use std::sync::Arc;

use darter_api::{NodeKey, Timestamp};

use super::{Command, Event, Options};

/// Everything the scheduler knows.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    key: Arc<NodeKey>,
    seed: u64,
    started: Timestamp,
    unix_ms_at_zero: u64,
}

impl Cluster {
    /// An empty cluster that starts at `now`. `unix_ms_at_zero` is the wall clock at
    /// [`Timestamp::ZERO`], in milliseconds since the Unix epoch: grants carry it.
    pub fn new(
        options: Options,
        seed: u64,
        key: Arc<NodeKey>,
        now: Timestamp,
        unix_ms_at_zero: u64,
    ) -> Self {
        Self {
            options,
            key,
            seed,
            started: now,
            unix_ms_at_zero,
        }
    }

    /// Takes an event; `now` never goes back.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Vec<Command> {
        let _ = (now, event);
        Vec::new()
    }

    /// When [`Event::Tick`] is due, if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let _ = (
            &self.options,
            &self.key,
            self.seed,
            self.started,
            self.unix_ms_at_zero,
        );
        None
    }
}
