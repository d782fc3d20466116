//! What a host's commands do, and what arrives.

use std::time::Duration;

use darter_api::{PieceIndex, PieceSet, TaskId, Timestamp, session::Purpose};
use darter_proxy::{
    limits::Class,
    swarm::core::event::{Authority, Command, Event, PieceFailure, RequestId},
    transfer::turns::SlotId,
};

use crate::{
    host::{Asked, Kind, Stream, Upload},
    network::{Cargo, Chunk, Hop, Place, TransferId},
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
            Command::Delete { .. } | Command::Found { .. } | Command::Trust(_) => {}
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
        self.settled(host, task, true);
    }

    fn request(
        &mut self,
        host: Place,
        request: RequestId,
        parent: Place,
        task: TaskId,
        piece: u32,
        stall_after: Duration,
    ) {
        let asked = Asked {
            parent,
            last_byte: self.now,
            stall_after,
            begun: false,
            transfer: None,
        };
        self.hosts[host].requests.insert(request, asked);
        let upload = Upload {
            child: host,
            request,
            task,
            piece,
        };
        let takes = self.network.latency(host, parent);
        self.queue
            .put(self.now + takes, Happening::Asks(parent, upload));
        self.watch_stalls(host, self.now + stall_after);
    }

    /// A piece is asked of this host.
    pub(crate) fn asks(&mut self, parent: Place, upload: Upload) {
        let back = self.now + self.network.latency(parent, upload.child);
        let refuse = |failure| Happening::Refused(upload.child, upload.request, failure);
        let peer = &mut self.hosts[parent];
        if !peer.alive {
            self.queue.put(back, refuse(PieceFailure::Unreachable));
            return;
        }
        let local = peer.tasks.get(&upload.task);
        if local.is_none_or(|local| !local.held.contains(upload.piece)) {
            self.queue.put(back, refuse(PieceFailure::NotHeld));
            return;
        }
        let piece = PieceIndex(upload.piece);
        let bytes = local.map_or(0, |local| local.lengths.piece_bytes(piece));
        let class = Class::Foreground;
        let asked = peer.slots.ask(self.now, upload.child, class, bytes, upload);
        match asked {
            Ok(()) => self.serve(parent),
            Err(_) => self.queue.put(back, refuse(PieceFailure::Busy)),
        }
    }

    /// Sends pieces in the slots that are free.
    fn serve(&mut self, parent: Place) {
        while let Some((upload, slot)) = self.hosts[parent].slots.next(self.now) {
            self.upload(parent, upload, slot);
        }
        let peer = &mut self.hosts[parent];
        if let Some(due) = peer.slots.due(self.now)
            && peer.lends.is_none_or(|at| at > due || at <= self.now)
        {
            peer.lends = Some(due);
            self.queue.put(due, Happening::Lends(parent));
        }
    }

    pub(crate) fn lends(&mut self, parent: Place) {
        if self.hosts[parent].alive {
            self.serve(parent);
        }
    }

    fn upload(&mut self, parent: Place, upload: Upload, slot: SlotId) {
        let child = &mut self.hosts[upload.child];
        let Some(asked) = child.requests.get_mut(&upload.request) else {
            self.hosts[parent].slots.give_back(self.now, slot);
            return;
        };
        let lengths = child.tasks[&upload.task].lengths;
        let transfer = self.network.send_piece(
            parent,
            upload.child,
            upload.task,
            lengths,
            upload.piece,
            upload.request,
        );
        asked.transfer = Some(transfer);
        self.in_slots.insert(transfer, slot);
        self.pump(parent);
    }

    fn give_back(&mut self, parent: Place, slot: SlotId) {
        self.hosts[parent].slots.give_back(self.now, slot);
        self.serve(parent);
    }

    fn cancel(&mut self, host: Place, request: RequestId) {
        let Some(asked) = self.hosts[host].requests.remove(&request) else {
            return;
        };
        match asked.transfer {
            Some(transfer) => self.cut(transfer),
            None => {
                let is_it = |upload: &Upload| upload.child == host && upload.request == request;
                let slots = &mut self.hosts[asked.parent].slots;
                slots.retain(|_, upload| !is_it(upload));
            }
        }
    }

    fn cut(&mut self, id: TransferId) {
        if let Some(transfer) = self.network.cut(id)
            && let Some(slot) = self.in_slots.remove(&id)
        {
            self.give_back(transfer.from, slot);
        }
    }

    pub(crate) fn refused(&mut self, host: Place, request: RequestId, failure: PieceFailure) {
        if self.hosts[host].requests.remove(&request).is_some() {
            self.handle(host, Event::PieceFailed { request, failure });
        }
    }

    /// Looks at a host's requests at the latest then.
    fn watch_stalls(&mut self, host: Place, at: Timestamp) {
        let watch = &mut self.hosts[host].stall_watch;
        if watch.is_none_or(|due| due > at) {
            *watch = Some(at);
            self.queue.put(at, Happening::Stalls(host));
        }
    }

    pub(crate) fn stalls(&mut self, host: Place) {
        let peer = &mut self.hosts[host];
        if peer.stall_watch.is_none_or(|due| due > self.now) {
            return;
        }
        peer.stall_watch = None;
        let due = |asked: &Asked| asked.last_byte + asked.stall_after;
        let requests = peer.requests.iter();
        let late: Vec<RequestId> = requests
            .filter(|(_, asked)| due(asked) <= self.now)
            .map(|(request, _)| *request)
            .collect();
        for request in late {
            self.cancel(host, request);
            let failure = PieceFailure::Stalled;
            self.handle(host, Event::PieceFailed { request, failure });
        }
        if let Some(next) = self.hosts[host].requests.values().map(due).min() {
            self.watch_stalls(host, next);
        }
    }

    fn pump(&mut self, place: Place) {
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
                self.give_back(place, slot);
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

    fn source_bytes(&mut self, host: Place, task: TaskId, chunk: &Chunk) {
        let Some(local) = self.hosts[host].tasks.get_mut(&task) else {
            return;
        };
        if let Some(Stream::Flows(_, begun @ false)) = &mut local.stream {
            *begun = true;
            let ranges = self.scenario.source_ranges;
            self.handle(host, Event::SourceFirstByte { task, ranges });
        }
        if !chunk.last {
            return;
        }
        if chunk.wanted {
            if let Some(local) = self.hosts[host].tasks.get_mut(&task) {
                local.held.insert(chunk.piece);
            }
            let piece = PieceIndex(chunk.piece);
            self.handle(host, Event::SourcePiece { task, piece });
            self.move_readers(host, task);
        }
        let over = self.network.get(chunk.transfer);
        if over.is_some_and(crate::network::Transfer::is_over) {
            self.stop_source(host, task);
        }
    }

    fn read_source(&mut self, host: Place, task: TaskId, pieces: PieceSet, authority: &Authority) {
        if pieces.is_empty() {
            self.stop_source(host, task);
            return;
        }
        let Some(local) = self.hosts[host].tasks.get_mut(&task) else {
            return;
        };
        match &mut local.stream {
            Some(Stream::Asked(_, wanted)) => *wanted = pieces,
            Some(Stream::Flows(transfer, _)) => {
                let transfer = *transfer;
                self.network.change_stream(transfer, pieces);
                self.pump(self.source);
            }
            None => {
                self.next_stream += 1;
                let number = self.next_stream;
                local.stream = Some(Stream::Asked(number, pieces));
                if *authority == Authority::Own {
                    self.self_leases += 1;
                }
                let takes = self.scenario.latency * 2 + self.scenario.source_delay;
                let begins = Happening::StreamBegins { host, task, number };
                self.queue.put(self.now + takes, begins);
            }
        }
    }

    pub(crate) fn stream_begins(&mut self, host: Place, task: TaskId, number: u64) {
        let peer = &mut self.hosts[host];
        let Some(local) = peer.tasks.get_mut(&task).filter(|_| peer.alive) else {
            return;
        };
        let pieces = match &local.stream {
            Some(Stream::Asked(asked, pieces)) if *asked == number => pieces.clone(),
            _ => return,
        };
        let lengths = local.lengths;
        let transfer = self
            .network
            .send_stream(self.source, host, task, lengths, pieces);
        local.stream = Some(Stream::Flows(transfer, false));
        self.pump(self.source);
    }

    pub(crate) fn stop_source(&mut self, host: Place, task: TaskId) {
        let Some(local) = self.hosts[host].tasks.get_mut(&task) else {
            return;
        };
        if let Some(Stream::Flows(transfer, _)) = local.stream.take() {
            self.network.cut(transfer);
        }
    }

    pub(crate) fn dials(&mut self, from: Place, to: Place) {
        if !self.hosts[from].alive {
            return;
        }
        if !self.hosts[to].alive {
            let host = self.hosts[to].id;
            self.handle(from, Event::LinkDown(host));
            return;
        }
        let stood = self.hosts[from].links.contains(&to);
        self.hosts[from].links.insert(to);
        self.hosts[to].links.insert(from);
        let (caller, called) = (self.hosts[from].id, self.hosts[to].id);
        if !stood {
            self.handle(to, Event::LinkUp(caller));
        }
        self.handle(from, Event::LinkUp(called));
    }

    pub(crate) fn link_down(&mut self, host: Place, other: Place) {
        if self.hosts[host].links.remove(&other) {
            let id = self.hosts[other].id;
            self.handle(host, Event::LinkDown(id));
        }
    }

    pub(crate) fn kill(&mut self, host: Place) {
        let seen = self.now + self.scenario.latency;
        let peer = &mut self.hosts[host];
        peer.alive = false;
        let links = std::mem::take(&mut peer.links);
        let waiting = peer.slots.drain();
        let requests: Vec<RequestId> = peer.requests.keys().copied().collect();
        for other in links {
            self.queue.put(seen, Happening::LinkDown(other, host));
        }
        for upload in waiting {
            let failure = PieceFailure::Unreachable;
            let refused = Happening::Refused(upload.child, upload.request, failure);
            self.queue.put(seen, refused);
        }
        for request in requests {
            self.cancel(host, request);
        }
        for id in self.network.of(host) {
            let Some(transfer) = self.network.cut(id) else {
                continue;
            };
            self.in_slots.remove(&id);
            if let Cargo::Piece(request) = transfer.cargo {
                let failure = PieceFailure::Unreachable;
                let refused = Happening::Refused(transfer.to, request, failure);
                self.queue.put(seen, refused);
            }
        }
        for (scheduler, line) in std::mem::take(&mut self.hosts[host].lines) {
            if let Some(session) = line.session {
                let misses = Happening::Misses(host, scheduler, session);
                self.queue.put(seen, misses);
            }
        }
        if self.scenario.homes {
            self.kill_scheduler(host);
        }
    }
}
