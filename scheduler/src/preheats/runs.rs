//! The preheats under way.
//!
//! Owner of state: [`Runs`], in the actor. Invariant: a [`Run`] ends when all is said, or when
//! its manager has gone or reads nothing; hosts that were asked are told to stop then.

use std::collections::BTreeMap;

use darter_api::{
    HostId, Origin,
    preheat::{PreheatReport, Present},
};

use super::{Events, Wish, backlog::CalledOff, run::Run};
use crate::core::Command;

/// Runs at the same time; further ones are refused.
const MOST_RUNS: usize = 64;
/// Bytes of orders that go out within a second, of all runs together: each waits in its host's
/// session until that is read.
const ORDERED: usize = 32 * 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Runs {
    runs: BTreeMap<u64, Run>,
    next: u64,
}

impl Runs {
    /// None; numbers begin at `first`, so that a host does not take a run for one before the
    /// scheduler's restart.
    pub(crate) const fn new(first: u64) -> Self {
        Self {
            runs: BTreeMap::new(),
            next: first,
        }
    }

    /// A manager wishes for something.
    pub(crate) fn begin(
        &mut self,
        wish: Wish,
        present: Vec<Present>,
        events: Events,
    ) -> Vec<Command> {
        if self.runs.len() >= MOST_RUNS {
            let status = tonic::Status::resource_exhausted("too many preheats are under way");
            let _ = events.try_send(Err(status));
            return Vec::new();
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let share = ORDERED / (self.runs.len() + 1);
        self.runs.insert(id, Run::new(id, wish, events, share));
        self.change(id, |run| run.begin(&present))
    }

    /// A host says how an order goes.
    pub(crate) fn report(
        &mut self,
        host: HostId,
        report: PreheatReport,
        forbids: impl Fn(&HostId, &Origin) -> bool,
    ) -> Vec<Command> {
        self.change(report.run, |run| run.heard(host, report.what, forbids))
    }

    /// A host's session has ended.
    pub(crate) fn gone(&mut self, host: HostId) -> Vec<Command> {
        let ids: Vec<u64> = self.runs.keys().copied().collect();
        let gone = |id| self.change(id, |run| run.gone(host));
        ids.into_iter().flat_map(gone).collect()
    }

    /// Says what there was no room for, lets hosts go on, and ends what was called off.
    pub(crate) fn beat(&mut self) -> Vec<Command> {
        let ids: Vec<u64> = self.runs.keys().copied().collect();
        let share = ORDERED / ids.len().max(1);
        let beat = |id| self.change(id, |run| run.beat(share));
        ids.into_iter().flat_map(beat).collect()
    }

    fn call_off(&mut self, id: u64) -> Vec<Command> {
        let run = self.runs.remove(&id);
        run.map_or_else(Vec::new, |run| run.stop())
    }

    /// Changes a run, which ends if all is said, or nobody listens.
    fn change(
        &mut self,
        id: u64,
        change: impl FnOnce(&mut Run) -> Result<Vec<Command>, CalledOff>,
    ) -> Vec<Command> {
        let Some(run) = self.runs.get_mut(&id) else {
            return Vec::new();
        };
        match change(run) {
            Err(CalledOff) => self.call_off(id),
            Ok(mut commands) => {
                match run.end() {
                    Err(CalledOff) => commands.extend(self.call_off(id)),
                    Ok(true) => drop(self.runs.remove(&id)),
                    // Hosts have something to say, or the last words wait for the manager.
                    Ok(false) => {}
                }
                commands
            }
        }
    }
}

#[cfg(test)]
mod tests;
