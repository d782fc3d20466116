//! The source, and who reads it.

use darter_api::{PieceIndex, PieceSet, TaskId};
use darter_proxy::swarm::core::event::{Authority, Event};

use crate::{
    host::Stream,
    network::{Chunk, Place},
    world::{Happening, World},
};

impl World {
    pub(crate) fn source_bytes(&mut self, host: Place, task: TaskId, chunk: &Chunk) {
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

    pub(crate) fn read_source(
        &mut self,
        host: Place,
        task: TaskId,
        pieces: PieceSet,
        authority: &Authority,
    ) {
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
}
