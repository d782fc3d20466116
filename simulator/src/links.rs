//! Links between hosts, made and broken; and a host's end.

use darter_proxy::swarm::core::event::{Event, PieceFailure, RequestId};

use crate::{
    network::{Cargo, Place},
    world::{Happening, World},
};

impl World {
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
        let unseen = self.scenario.unseen;
        let seen = self.now + self.scenario.latency + unseen;
        let peer = &mut self.hosts[host];
        peer.alive = false;
        let links = std::mem::take(&mut peer.links);
        let waiting = peer.slots.drain();
        let requests: Vec<RequestId> = peer.requests.keys().copied().collect();
        for other in links {
            self.queue.put(seen, Happening::LinkDown(other, host));
        }
        for upload in waiting.into_iter().filter(|_| unseen.is_zero()) {
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
            if let Cargo::Piece(request) = transfer.cargo
                && unseen.is_zero()
            {
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
