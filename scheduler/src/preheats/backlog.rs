//! What a run has still to say to its manager.
//!
//! Owner of state: the run. A manager that reads slower than hosts report is no reason to end the
//! run: what there is no room for waits here, where all that a host came to hold is one event,
//! kept as places in the list of contents. It is bounded by hosts and contents: of each content
//! of each host is spoken once. Failure: a
//! manager that has gone, or reads nothing for [`PATIENCE`] beats, has called the run off.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use darter_api::{
    HostId,
    preheat::Content,
    wire::v1::{
        PreheatEvent,
        preheat_event::{self, Kind},
    },
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
    held: BTreeMap<HostId, Vec<u16>>,
    contents: Arc<[Content]>,
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
    pub(super) fn new(events: Events) -> Self {
        Self {
            events,
            first: VecDeque::new(),
            held: BTreeMap::new(),
            contents: Arc::default(),
            ending: Ending::Open,
            silent: 0,
        }
    }

    /// Says it now, or when there is room.
    pub(super) fn say(&mut self, kind: Kind) -> Result<(), CalledOff> {
        self.first.push_back(kind);
        self.flush()
    }

    /// Says what the contents are; what is held are places in this list from now on.
    pub(super) fn name(&mut self, contents: Arc<[Content]>) -> Result<(), CalledOff> {
        let list = contents.iter().map(Into::into).collect();
        self.contents = contents;
        self.say(Kind::Contents(preheat_event::Contents { contents: list }))
    }

    /// Says that a host holds the contents at these places.
    pub(super) fn held(&mut self, host: HostId, places: &[usize]) -> Result<(), CalledOff> {
        let places = places.iter().filter_map(|place| u16::try_from(*place).ok());
        self.held.entry(host).or_default().extend(places);
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
        while let Some((host, places)) = self.held.pop_first() {
            let contents = places
                .iter()
                .filter_map(|at| self.contents.get(usize::from(*at)));
            let held = Kind::Held(preheat_event::Held {
                host: Bytes::copy_from_slice(host.as_bytes()),
                digests: contents.map(|one| one.digest.to_string()).collect(),
            });
            if self.send(held).is_some() {
                self.held.insert(host, places);
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
