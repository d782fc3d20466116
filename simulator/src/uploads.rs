//! Pieces that hosts ask of each other: requests, slots, stalls.

use std::time::Duration;

use darter_api::{PieceIndex, TaskId, Timestamp};
use darter_proxy::{
    limits::Class,
    swarm::core::event::{Event, PieceFailure, RequestId},
    transfer::turns::SlotId,
};

use crate::{
    host::{Asked, Upload},
    network::{Place, TransferId},
    world::{Happening, World},
};

impl World {
    pub(crate) fn request(
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
            task,
            piece,
            since: self.now,
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
            // A machine without power refuses nothing.
            if self.scenario.unseen.is_zero() {
                self.queue.put(back, refuse(PieceFailure::Unreachable));
            }
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
            self.hosts[parent].slots.give_back(slot);
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

    /// A piece has left its parent.
    pub(crate) fn piece_sent(&mut self, parent: Place, slot: SlotId) {
        self.hosts[parent].slots.sent(self.now, slot);
        self.serve(parent);
    }

    pub(crate) fn cancel(&mut self, host: Place, request: RequestId) {
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
            self.hosts[transfer.from].slots.give_back(slot);
            self.serve(transfer.from);
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
}
