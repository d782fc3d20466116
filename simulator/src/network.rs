//! Links, and the bytes on them.
//!
//! Every place (a host, or the source, which is the last place) has an uplink that sends one
//! quantum after the other, in turn between its transfers, and a downlink that is a FIFO.
//! A transfer has a window: what is under way and not yet through the receiver's downlink is
//! bounded, so that a slow receiver holds up its own transfers only. Control messages take
//! the latency and no capacity.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use darter_api::{Lengths, PieceIndex, PieceSet, READ_OVER_BYTES, TaskId, Timestamp};
use darter_proxy::swarm::core::event::RequestId;

use crate::borders::Borders;

/// Quanta of a transfer that are under way at the same time.
const WINDOW: u32 = 4;

/// A host by its number; the source is one past the last.
pub(crate) type Place = usize;

/// Names a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TransferId(pub(crate) u64);

/// Some bytes of a piece.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk {
    pub(crate) transfer: TransferId,
    pub(crate) piece: u32,
    pub(crate) bytes: u64,
    /// Whether the piece ends with it.
    pub(crate) last: bool,
    /// Whether it was not only read over.
    pub(crate) wanted: bool,
}

/// What a transfer carries.
#[derive(Debug)]
pub(crate) enum Cargo {
    /// One piece for one request.
    Piece(RequestId),
    /// A stream of the source: the pieces that are still to be sent.
    Stream(PieceSet),
}

/// Bytes on their way from one place to another.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) from: Place,
    pub(crate) to: Place,
    pub(crate) task: TaskId,
    pub(crate) cargo: Cargo,
    lengths: Lengths,
    /// The piece being sent, and how much of it is sent.
    current: Option<(u32, u64)>,
    in_flight: u32,
    /// Pieces of a stream that were sent whole and have not arrived.
    on_the_way: PieceSet,
    queued: bool,
    /// Where a stream's last piece ended.
    after: Option<u32>,
}

#[derive(Debug)]
struct Ends {
    /// `None` for what lies outside of all zones.
    zone: Option<usize>,
    up: u64,
    down: u64,
    down_free: Timestamp,
    /// Transfers that have something to send, in turn.
    turn: VecDeque<TransferId>,
    sending: Option<Chunk>,
    sent: u64,
}

/// All links.
#[derive(Debug)]
pub(crate) struct Network {
    latency: Duration,
    quantum: u64,
    borders: Borders,
    ends: Vec<Ends>,
    transfers: BTreeMap<TransferId, Transfer>,
    next: u64,
}

/// Where a quantum is when its uplink has sent it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hop {
    /// It is through the receiver's downlink then.
    Arrives(Timestamp),
    /// It is in the receiver's zone then.
    Crosses(Timestamp),
}

/// When an uplink will have sent what it has begun to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sending {
    pub(crate) place: Place,
    pub(crate) until: Timestamp,
}

impl Network {
    pub(crate) fn new(latency: Duration, quantum: u64, borders: Borders) -> Self {
        Self {
            latency,
            quantum,
            borders,
            ends: Vec::new(),
            transfers: BTreeMap::new(),
            next: 0,
        }
    }

    /// A place with these rates, in bytes a second.
    pub(crate) fn add(&mut self, zone: Option<usize>, up: u64, down: u64) -> Place {
        self.ends.push(Ends {
            zone,
            up,
            down,
            down_free: Timestamp::ZERO,
            turn: VecDeque::new(),
            sending: None,
            sent: 0,
        });
        self.ends.len() - 1
    }

    /// From the next quantum on, in bytes a second.
    pub(crate) fn set_rates(&mut self, place: Place, up: u64, down: u64) {
        let ends = &mut self.ends[place];
        (ends.up, ends.down) = (up, down);
    }

    /// Whether an uplink is busy.
    pub(crate) fn is_sending(&self, place: Place) -> bool {
        self.ends[place].sending.is_some()
    }

    /// Bytes that left a place.
    pub(crate) fn sent(&self, place: Place) -> u64 {
        self.ends[place].sent
    }

    /// Bytes that went from one zone to another.
    pub(crate) const fn crossed_borders(&self) -> u64 {
        self.borders.crossed()
    }

    /// From one host to another, one way.
    pub(crate) fn latency(&self, from: Place, to: Place) -> Duration {
        match self.zones(from, to) {
            Some(_) => self.borders.latency(),
            None => self.latency,
        }
    }

    /// Both zones, where they differ.
    fn zones(&self, from: Place, to: Place) -> Option<(usize, usize)> {
        let zones = (self.ends[from].zone?, self.ends[to].zone?);
        (zones.0 != zones.1).then_some(zones)
    }

    pub(crate) fn up_rate(&self, place: Place) -> u64 {
        self.ends[place].up
    }

    pub(crate) fn get(&self, id: TransferId) -> Option<&Transfer> {
        self.transfers.get(&id)
    }

    /// What a stream has still to send.
    pub(crate) fn left(&self, id: TransferId) -> PieceSet {
        match self.transfers.get(&id).map(|transfer| &transfer.cargo) {
            Some(Cargo::Stream(pieces)) => pieces.clone(),
            _ => PieceSet::new(),
        }
    }

    /// Begins to send one piece.
    pub(crate) fn send_piece(
        &mut self,
        from: Place,
        to: Place,
        task: TaskId,
        lengths: Lengths,
        piece: u32,
        request: RequestId,
    ) -> TransferId {
        let cargo = Cargo::Piece(request);
        let id = self.insert(from, to, task, lengths, cargo);
        if let Some(transfer) = self.transfers.get_mut(&id) {
            transfer.current = Some((piece, 0));
        }
        self.make_ready(id);
        id
    }

    /// Begins a stream of pieces.
    pub(crate) fn send_stream(
        &mut self,
        from: Place,
        to: Place,
        task: TaskId,
        lengths: Lengths,
        pieces: PieceSet,
    ) -> TransferId {
        let id = self.insert(from, to, task, lengths, Cargo::Stream(pieces));
        self.make_ready(id);
        id
    }

    fn insert(
        &mut self,
        from: Place,
        to: Place,
        task: TaskId,
        lengths: Lengths,
        cargo: Cargo,
    ) -> TransferId {
        self.next += 1;
        let id = TransferId(self.next);
        let transfer = Transfer {
            from,
            to,
            task,
            cargo,
            lengths,
            current: None,
            in_flight: 0,
            on_the_way: PieceSet::new(),
            queued: false,
            after: None,
        };
        self.transfers.insert(id, transfer);
        id
    }

    /// Changes what a stream is to carry; what is on its way goes on.
    pub(crate) fn change_stream(&mut self, id: TransferId, mut pieces: PieceSet) {
        if let Some(transfer) = self.transfers.get_mut(&id) {
            pieces.subtract(&transfer.on_the_way);
            if transfer
                .current
                .is_some_and(|(piece, _)| !pieces.contains(piece))
            {
                transfer.current = None;
            }
            transfer.cargo = Cargo::Stream(pieces);
        }
        self.make_ready(id);
    }

    /// Ends a transfer; what is on its way arrives nowhere.
    pub(crate) fn cut(&mut self, id: TransferId) -> Option<Transfer> {
        let transfer = self.transfers.remove(&id)?;
        self.ends[transfer.from].turn.retain(|other| *other != id);
        Some(transfer)
    }

    /// All transfers from or to a place.
    pub(crate) fn of(&self, place: Place) -> Vec<TransferId> {
        let touches = |transfer: &Transfer| transfer.from == place || transfer.to == place;
        let found = self.transfers.iter().filter(|(_, one)| touches(one));
        found.map(|(id, _)| *id).collect()
    }

    fn make_ready(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get_mut(&id) else {
            return;
        };
        if !transfer.queued && transfer.in_flight < WINDOW && transfer.has_more() {
            transfer.queued = true;
            self.ends[transfer.from].turn.push_back(id);
        }
    }

    /// Has an idle uplink send its next quantum.
    pub(crate) fn pump(&mut self, now: Timestamp, place: Place) -> Option<Sending> {
        if self.ends[place].sending.is_some() {
            return None;
        }
        while let Some(id) = self.ends[place].turn.pop_front() {
            let Some(transfer) = self.transfers.get_mut(&id) else {
                continue;
            };
            transfer.queued = false;
            let Some(chunk) = transfer.next_chunk(id, self.quantum) else {
                continue;
            };
            transfer.in_flight += 1;
            let ends = &mut self.ends[place];
            ends.sending = Some(chunk);
            let until = now + time_for(chunk.bytes, ends.up);
            self.make_ready(id);
            return Some(Sending { place, until });
        }
        None
    }

    /// An uplink has sent its quantum: which one, and where it is next (`None` when the
    /// transfer was cut meanwhile).
    pub(crate) fn sent_quantum(&mut self, now: Timestamp, place: Place) -> Option<(Chunk, Hop)> {
        let chunk = self.ends[place].sending.take()?;
        self.ends[place].sent += chunk.bytes;
        let to = self.transfers.get(&chunk.transfer)?.to;
        let hop = match self.zones(place, to) {
            Some((here, there)) => Hop::Crosses(self.borders.cross(now, here, there, chunk.bytes)),
            None => Hop::Arrives(self.receive(now + self.latency, to, chunk.bytes)),
        };
        Some((chunk, hop))
    }

    /// A quantum is in the receiver's zone; when it is through the receiver's downlink.
    pub(crate) fn crossed(&mut self, now: Timestamp, chunk: &Chunk) -> Option<Timestamp> {
        let to = self.transfers.get(&chunk.transfer)?.to;
        Some(self.receive(now, to, chunk.bytes))
    }

    fn receive(&mut self, at: Timestamp, to: Place, bytes: u64) -> Timestamp {
        let receiver = &mut self.ends[to];
        receiver.down_free = at.max(receiver.down_free) + time_for(bytes, receiver.down);
        receiver.down_free
    }

    /// A quantum is through the receiver's downlink; where from.
    pub(crate) fn arrived(&mut self, chunk: &Chunk) -> Option<Place> {
        let transfer = self.transfers.get_mut(&chunk.transfer)?;
        transfer.in_flight -= 1;
        if chunk.last {
            transfer.on_the_way.remove(chunk.piece);
        }
        let from = transfer.from;
        self.make_ready(chunk.transfer);
        Some(from)
    }
}

impl Transfer {
    fn has_more(&self) -> bool {
        match &self.cargo {
            Cargo::Piece(_) => self.current.is_some(),
            Cargo::Stream(pieces) => self.current.is_some() || !pieces.is_empty(),
        }
    }

    /// Whether nothing of it is left to be sent or to arrive.
    pub(crate) fn is_over(&self) -> bool {
        !self.has_more() && self.in_flight == 0
    }

    fn next_chunk(&mut self, transfer: TransferId, quantum: u64) -> Option<Chunk> {
        let (piece, sent) = match (self.current, &self.cargo) {
            (Some(current), _) => current,
            (None, Cargo::Stream(pieces)) => (self.next_of(pieces)?, 0),
            (None, Cargo::Piece(_)) => return None,
        };
        let whole = self.lengths.piece_bytes(PieceIndex(piece));
        let bytes = quantum.min(whole - sent);
        let last = sent + bytes >= whole;
        self.current = (!last).then_some((piece, sent + bytes));
        let mut wanted = true;
        if last && let Cargo::Stream(pieces) = &mut self.cargo {
            wanted = pieces.remove(piece);
            self.after = Some(piece + 1);
            self.on_the_way.insert(piece);
        }
        Some(Chunk {
            transfer,
            piece,
            bytes,
            last,
            wanted,
        })
    }

    /// The next piece of a stream: as the driver does, a small gap of pieces that are not
    /// wanted is read over.
    fn next_of(&self, pieces: &PieceSet) -> Option<u32> {
        let ahead = self.after.and_then(|after| {
            let next = pieces.runs().iter().find(|run| run.end > after)?.start;
            let gap =
                u64::from(next.saturating_sub(after)) * u64::from(self.lengths.piece_length());
            (gap <= READ_OVER_BYTES).then_some(after)
        });
        ahead.or(pieces.first())
    }
}

/// How long so many bytes take at so many bytes a second.
pub(crate) fn time_for(bytes: u64, rate: u64) -> Duration {
    Duration::from_micros(bytes.saturating_mul(1_000_000) / rate.max(1))
}
