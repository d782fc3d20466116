//! Who reads: opens contents, moves on as pieces come, leaves.

use std::{collections::BTreeMap, ops::Range};

use darter_api::TaskId;
use darter_proxy::swarm::core::event::{Event, ReaderId};
use rand::seq::SliceRandom as _;

use crate::{
    network::Place,
    scenario::Client,
    world::{Happening, World, origin},
};

/// Ranges that a chunk-wise client reads at the same time.
const PARALLEL: usize = 4;

/// How far a chunk-wise client is with a content.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    next: u32,
    open: BTreeMap<ReaderId, Range<u32>>,
}

impl World {
    /// A client begins with all contents, or with as many as it pulls at a time: then its host
    /// has said what it will want, as after a manifest.
    pub(crate) fn client_starts(&mut self, host: Place) {
        let all = self.contents.len();
        let mut rest: Vec<usize> = (0..all).collect();
        if self.scenario.shuffled {
            rest.shuffle(&mut self.rng);
        }
        let peer = &mut self.hosts[host];
        peer.began = Some(self.now);
        peer.rest = rest.into();
        let parallel = self.scenario.parallel.filter(|few| *few < all);
        if parallel.is_some() {
            let (tasks, origin) = (self.contents.clone(), origin());
            self.handle(host, Event::Interest { tasks, origin });
        }
        for _ in 0..parallel.unwrap_or(all) {
            self.begins_next(host);
        }
    }

    /// A client begins with the next content that its host does not have, if there is one.
    pub(crate) fn begins_next(&mut self, host: Place) {
        let peer = &mut self.hosts[host];
        let (task, lengths, place) = loop {
            let Some(place) = peer.rest.pop_front() else {
                return;
            };
            let (task, lengths) = self.contents[place];
            if peer.tasks[&task].committed.is_none() {
                break (task, lengths, place);
            }
        };
        peer.reading.insert(task);
        match self.client_of(host) {
            Client::Whole => {
                self.open(host, task, 0..lengths.pieces());
            }
            Client::Leaves(after) => {
                if let Some(reader) = self.open(host, task, 0..lengths.pieces()) {
                    let leaves = Happening::Leaves { host, task, reader };
                    self.queue.put(self.now + after, leaves);
                }
            }
            Client::Chunks { .. } => self.read_chunks(host, task),
        }
        self.gets_ahead(host, place);
    }

    /// A client has all of a content, or will not get it: on to the next one.
    pub(crate) fn is_done_with(&mut self, host: Place, task: TaskId) {
        if self.hosts[host].reading.remove(&task) {
            self.begins_next(host);
        }
    }

    /// A host gets small contents after the one that its client has begun with.
    fn gets_ahead(&mut self, host: Place, place: usize) {
        if self.scenario.parallel.is_none() {
            return;
        }
        let most = self.scenario.swarm.ahead as usize;
        let next = self.contents[place + 1..].iter().take(most);
        let small = next.filter(|(_, lengths)| lengths.is_small());
        let tasks: Vec<TaskId> = small.map(|(task, _)| *task).collect();
        for task in tasks {
            if let Some(local) = self.hosts[host].tasks.get_mut(&task) {
                local.fetching = local.committed.is_none();
            }
            self.start(host, task);
        }
    }

    /// Opens ranges until enough are open.
    fn read_chunks(&mut self, host: Place, task: TaskId) {
        let Client::Chunks { pieces, patience } = self.client_of(host) else {
            return;
        };
        let end = self.lengths(&task).pieces();
        loop {
            let state = self.chunks.entry((host, task)).or_default();
            if state.open.len() >= PARALLEL || state.next >= end {
                return;
            }
            let range = state.next..(state.next + pieces).min(end);
            state.next = range.end;
            self.open_chunk(host, task, range, patience);
        }
    }

    fn open_chunk(
        &mut self,
        host: Place,
        task: TaskId,
        range: Range<u32>,
        patience: std::time::Duration,
    ) {
        if let Some(reader) = self.open(host, task, range.clone()) {
            let state = self.chunks.entry((host, task)).or_default();
            state.open.insert(reader, range);
            let aborts = Happening::Aborts { host, task, reader };
            self.queue.put(self.now + patience, aborts);
        }
    }

    /// A chunk-wise client loses patience with a range, and asks for the rest of it anew.
    pub(crate) fn aborts(&mut self, host: Place, task: TaskId, reader: ReaderId) {
        let Client::Chunks { patience, .. } = self.client_of(host) else {
            return;
        };
        let state = self.chunks.entry((host, task)).or_default();
        let Some(range) = state.open.remove(&reader) else {
            return;
        };
        self.close(host, task, reader);
        self.open_chunk(host, task, range, patience);
    }

    /// A client that read everything of a range.
    fn range_read(&mut self, host: Place, task: TaskId, reader: ReaderId) {
        let known = self.chunks.get_mut(&(host, task));
        if known.is_some_and(|state| state.open.remove(&reader).is_some()) {
            self.read_chunks(host, task);
        }
    }

    /// Opens a reader, and the download with it; `None` when all of it is there.
    fn open(&mut self, host: Place, task: TaskId, wants: Range<u32>) -> Option<ReaderId> {
        let peer = &mut self.hosts[host];
        let local = peer.tasks.get_mut(&task)?;
        if !peer.alive || local.failed || local.held.first_gap(wants.start) >= wants.end {
            return None;
        }
        peer.next_reader += 1;
        let reader = ReaderId(peer.next_reader);
        let at = local.held.first_gap(wants.start);
        local.readers.insert(reader, at..wants.end);
        self.start(host, task);
        self.handle(
            host,
            Event::Reader {
                task,
                reader,
                wants: at..wants.end,
            },
        );
        Some(reader)
    }

    /// A reader leaves; with the last one the download is stopped.
    pub(crate) fn close(&mut self, host: Place, task: TaskId, reader: ReaderId) {
        let Some(local) = self.hosts[host].tasks.get_mut(&task) else {
            return;
        };
        if local.readers.remove(&reader).is_none() {
            return;
        }
        let stops = local.started && !local.is_wanted() && !local.is_whole();
        if stops {
            local.started = false;
        }
        self.handle(host, Event::ReaderGone { task, reader });
        if stops {
            self.handle(host, Event::Stop { task });
        }
    }

    /// Moves all readers on to what they do not have yet.
    pub(crate) fn move_readers(&mut self, host: Place, task: TaskId) {
        self.drains(host);
        let Some(local) = self.hosts[host].tasks.get_mut(&task) else {
            return;
        };
        let mut moved = Vec::new();
        for (reader, wants) in &mut local.readers {
            let at = local.held.first_gap(wants.start).min(wants.end);
            if at != wants.start {
                wants.start = at;
                moved.push((*reader, wants.clone()));
            }
        }
        for (reader, wants) in moved {
            if wants.is_empty() {
                self.range_read(host, task, reader);
                self.close(host, task, reader);
            } else {
                self.handle(
                    host,
                    Event::Reader {
                        task,
                        reader,
                        wants,
                    },
                );
            }
        }
    }
}
