//! What a run has still to say to its manager.
//!
//! Owner of state: the run. A manager that reads slower than hosts report is no reason to end the
//! run: what there is no room for waits here, where all that a host came to hold is one event.
//! It is bounded by hosts and contents: of each content of each host is spoken once. Failure: a
//! manager that has gone, or reads nothing for [`PATIENCE`] beats, has called the run off.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use darter_api::wire::v1::{
    PreheatEvent,
    preheat_event::{self, Kind},
};
use tokio::sync::mpsc::error::TrySendError;

use super::Events;

/// Beats, of a second each, in which a manager may read nothing.
const PATIENCE: u32 = 60;

/// The manager does not read, or has gone.
pub(super) struct CalledOff;

/// See the module.
#[derive(Debug)]
pub(super) struct Backlog {
    events: Events,
    /// In their order, before all that hosts hold.
    first: VecDeque<Kind>,
    held: BTreeMap<Bytes, Vec<String>>,
    /// Its last word.
    ending: Ending,
    /// Beats since the manager last read anything.
    silent: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Open,
    Wanted,
    Said,
}

impl Backlog {
    pub(super) const fn new(events: Events) -> Self {
        Self {
            events,
            first: VecDeque::new(),
            held: BTreeMap::new(),
            ending: Ending::Open,
            silent: 0,
        }
    }

    /// Says it now, or when there is room.
    pub(super) fn say(&mut self, kind: Kind) -> Result<(), CalledOff> {
        match kind {
            Kind::Held(held) => {
                let known = self.held.entry(held.host).or_default();
                known.extend(held.digests);
            }
            other => self.first.push_back(other),
        }
        self.flush()
    }

    /// Nothing more comes: says so once all else is said. Whether that is done.
    pub(super) fn end(&mut self) -> Result<bool, CalledOff> {
        if self.ending == Ending::Open {
            self.ending = Ending::Wanted;
        }
        self.flush()?;
        if self.is_empty() && self.ending == Ending::Wanted {
            let done = Kind::Done(preheat_event::Done {});
            if self.send(done).is_none() {
                self.ending = Ending::Said;
            }
        }
        Ok(self.ending == Ending::Said)
    }

    /// A second has passed.
    pub(super) fn beat(&mut self) -> Result<(), CalledOff> {
        self.silent += 1;
        self.flush()?;
        if self.is_empty() && self.ending != Ending::Wanted {
            self.silent = 0;
        }
        if self.silent > PATIENCE {
            return Err(CalledOff);
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.first.is_empty() && self.held.is_empty()
    }

    fn flush(&mut self) -> Result<(), CalledOff> {
        if self.events.is_closed() {
            return Err(CalledOff);
        }
        while let Some(kind) = self.first.pop_front() {
            if let Some(kind) = self.send(kind) {
                self.first.push_front(kind);
                return Ok(());
            }
        }
        while let Some((host, digests)) = self.held.pop_first() {
            let held = preheat_event::Held { host, digests };
            if let Some(Kind::Held(held)) = self.send(Kind::Held(held)) {
                self.held.insert(held.host, held.digests);
                return Ok(());
            }
        }
        Ok(())
    }

    /// What there is no room for comes back.
    fn send(&mut self, kind: Kind) -> Option<Kind> {
        let event = PreheatEvent { kind: Some(kind) };
        match self.events.try_send(Ok(event)) {
            Ok(()) => {
                self.silent = 0;
                None
            }
            Err(TrySendError::Full(event) | TrySendError::Closed(event)) => {
                event.ok().and_then(|event| event.kind)
            }
        }
    }
}
