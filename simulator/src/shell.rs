//! What a host's commands do, and what arrives.

use std::time::Duration;

use darter_api::{TaskId, session::Purpose};
use darter_proxy::swarm::core::event::{Command, Event, PieceFailure, RequestId};

use crate::{
    host::Kind,
    network::{Cargo, Chunk, Hop, Place},
    world::{Happening, World, origin},
};

/// To check a content's digest once its last piece is there.
const COMMIT: Duration = Duration::from_millis(1);

impl World {
    pub(crate) fn execute_one(&mut self, host: Place, command: Command) {
        match command {
            Command::Session(name, message) => self.tells(host, &name, message),
            Command::Open(name) => self.opens(host, &name),
            Command::Close(name) => self.closes(host, &name),
            Command::Dial(neighbour) => {
                if let Some(other) = self.places.get(&neighbour.host).copied() {
                    let takes = self.network.latency(host, other) * 4;
                    self.queue
                        .put(self.now + takes, Happening::Dials(host, other));
                }
            }
            Command::HangUp(other) => {
                if let Some(other) = self.places.get(&other).copied() {
                    self.queue.put(self.now, Happening::LinkDown(host, other));
                    let takes = self.network.latency(host, other);
                    self.queue
                        .put(self.now + takes, Happening::LinkDown(other, host));
                }
            }
            Command::Link { host: to, message } => {
                if let Some(to) = self.places.get(&to).copied() {
                    self.said.link(&message);
                    let linked = Happening::Linked {
                        from: host,
                        to,
                        message,
                    };
                    let takes = self.network.latency(host, to);
                    self.queue.put(self.now + takes, linked);
                }
            }
            Command::Request {
                request,
                host: parent,
                task,
                piece,
                stall_after,
                ..
            } => self.request(
                host,
                request,
                self.places[&parent],
                task,
                piece.0,
                stall_after,
            ),
            Command::Cancel(request) => self.cancel(host, request),
            Command::ReadSource {
                task,
                pieces,
                authority,
                ..
            } => self.read_source(host, task, pieces, &authority),
            Command::StopSource { task } => self.stop_source(host, task),
            Command::Complete { task } => {
                self.queue
                    .put(self.now + COMMIT, Happening::Completed(host, task));
            }
            Command::Fail { task, .. } => self.fail(host, task),
            Command::Fetch { task, purpose, .. } => self.fetch(host, task, purpose),
            Command::Forsaken { task } => self.forsaken(host, task),
            Command::Found { .. } | Command::Trust(_) => {}
        }
    }

    /// Has the core start a download that it does not run.
    pub(crate) fn start(&mut self, host: Place, task: TaskId) {
        let Some(local) = self.hosts[host].tasks.get_mut(&task) else {
            return;
        };
        if local.started || local.committed.is_some() {
            return;
        }
        local.started = true;
        let start = Event::Start {
            task,
            lengths: local.lengths,
            origin: origin(),
            held: local.held.clone(),
            purpose: local.purpose,
        };
        self.handle(host, start);
    }

    fn fetch(&mut self, host: Place, task: TaskId, purpose: Purpose) {
        if let Some(local) = self.hosts[host].tasks.get_mut(&task) {
            local.fetching = local.committed.is_none();
            local.purpose = purpose;
        }
        self.start(host, task);
    }

    /// What is fetched for others alone, and wanted by none of them, stops.
    fn forsaken(&mut self, host: Place, task: TaskId) {
        let Some(local) = self.hosts[host].tasks.get_mut(&task) else {
            return;
        };
        let fetched = local.purpose == Purpose::Seed && local.fetching && !local.is_whole();
        if !fetched {
            return;
        }
        local.fetching = false;
        if local.started && !local.is_wanted() {
            local.started = false;
            self.handle(host, Event::Stop { task });
        }
    }

    fn fail(&mut self, host: Place, task: TaskId) {
        self.stop_source(host, task);
        if let Some(local) = self.hosts[host].tasks.get_mut(&task) {
            local.failed = true;
            local.started = false;
            local.fetching = false;
            local.readers.clear();
        }
        self.settled(host, task, false);
    }

    pub(crate) fn completed(&mut self, host: Place, task: TaskId) {
        let Some(local) = self.hosts[host].tasks.get_mut(&task) else {
            return;
        };
        if !local.is_whole() || local.committed.is_some() {
            return;
        }
        local.committed = Some(self.now);
        local.started = false;
        local.fetching = false;
        self.handle(host, Event::Committed { task });
        self.drained(host, task);
    }

    pub(crate) fn pump(&mut self, place: Place) {
        if let Some(sending) = self.network.pump(self.now, place) {
            self.queue
                .put(sending.until, Happening::Sent(sending.place));
        }
    }

    pub(crate) fn sent(&mut self, place: Place) {
        let chunk = self.network.sent_quantum(self.now, place);
        if place == self.source {
            self.source_sent();
        }
        if let Some((chunk, hop)) = chunk {
            if place != self.source {
                self.peer_sent(chunk.bytes);
            }
            match hop {
                Hop::Arrives(at) => self.queue.put(at, Happening::Arrived(chunk)),
                Hop::Crosses(at) => self.queue.put(at, Happening::Crosses(chunk)),
            }
            if chunk.last
                && let Some(slot) = self.in_slots.remove(&chunk.transfer)
            {
                self.piece_sent(place, slot);
            }
        }
        self.pump(place);
    }

    pub(crate) fn crosses(&mut self, chunk: Chunk) {
        if let Some(at) = self.network.crossed(self.now, &chunk) {
            self.queue.put(at, Happening::Arrived(chunk));
        }
    }

    pub(crate) fn arrived(&mut self, chunk: &Chunk) {
        let Some(from) = self.network.arrived(chunk) else {
            return;
        };
        let Some(transfer) = self.network.get(chunk.transfer) else {
            return;
        };
        let (host, task) = (transfer.to, transfer.task);
        match transfer.cargo {
            Cargo::Piece(request) => self.piece_bytes(host, task, request, chunk),
            Cargo::Stream(_) => self.source_bytes(host, task, chunk),
        }
        self.pump(from);
    }

    fn piece_bytes(&mut self, host: Place, task: TaskId, request: RequestId, chunk: &Chunk) {
        let parent = self.hosts[host]
            .requests
            .get(&request)
            .map(|asked| asked.parent);
        if parent.is_some_and(|parent| self.hosts[parent].kind == Kind::Rotten) {
            // The first group that fails its check ends the request.
            self.cancel(host, request);
            let failure = PieceFailure::Rot;
            self.handle(host, Event::PieceFailed { request, failure });
            return;
        }
        let Some(asked) = self.hosts[host].requests.get_mut(&request) else {
            return;
        };
        asked.last_byte = self.now;
        if !std::mem::replace(&mut asked.begun, true) {
            self.handle(host, Event::PieceBegun(request));
        }
        if !chunk.last {
            return;
        }
        self.network.cut(chunk.transfer);
        let peer = &mut self.hosts[host];
        peer.requests.remove(&request);
        if let Some(local) = peer.tasks.get_mut(&task) {
            local.held.insert(chunk.piece);
        }
        self.handle(host, Event::PieceStored(request));
        self.move_readers(host, task);
    }
}
