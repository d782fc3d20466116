//! Who is told of which pieces.
//!
//! What came from peers is announced to all subscribers, in batches; what only this host
//! has is offered to one at a time ([`super::offers`]), and promised to the others.

use std::time::Duration;

use darter_api::{HostId, Lengths, PieceSet, TaskId, Timestamp, link::LinkMessage};

use super::{
    Node,
    bits::Bits,
    event::Command,
    open::Open,
    state::{Announcer, Subscriber},
};
use crate::limits::Class;

/// What came from peers is held back for so long at most: who gave it may be gone, and
/// others may need it before they have use for what is given out.
const HELD_BACK: Duration = Duration::from_secs(3);
/// Tasks that others may subscribe to before this host knows them.
const MAX_EARLY: usize = 10_000;
/// Contents that are no larger are announced to all at once: sending one takes no longer than
/// finding out who else could have it.
const TINY: u64 = 32 * 1024;

impl Announcer {
    /// Whether there is, or will be, something to tell or to offer though nothing more comes.
    pub(super) fn is_busy(&self) -> bool {
        self.offers.is_open()
            || self.offers.waits(self.subscribers.len())
            || !self.later.is_empty()
            || self.has_pending()
    }

    fn has_pending(&self) -> bool {
        self.subscribers
            .values()
            .any(|subscriber| !subscriber.pending.is_empty())
    }

    /// Pieces that this host may be counted on for, beside those it announces.
    fn promised(&self, reading: &PieceSet) -> PieceSet {
        let mut promised = reading.clone();
        promised.union_with(&self.offers.own);
        promised.union_with(&self.later);
        promised
    }

    /// Whether anybody waits for pieces at a neighbour that has not got all `pieces` of them.
    pub(super) fn is_waited_for(&self, pieces: u32) -> bool {
        let lacks = |one: &Subscriber| one.known.len() < pieces;
        self.subscribers.values().any(|one| one.waits && lacks(one))
    }

    /// Whether the uplink is for what nobody else has: now, or as soon as it is read.
    fn is_giving_out(&self, reading: &PieceSet) -> bool {
        let gives = !reading.is_empty() || self.offers.is_behind();
        gives && !self.offers.own.is_empty() && self.subscribers.len() > 1
    }

    /// Announces what was held back, if it was for long enough.
    fn release(&mut self, now: Timestamp, reading: &PieceSet) {
        let waited = self
            .later_since
            .is_some_and(|since| now.since(since) >= HELD_BACK);
        if !self.later.is_empty() && (waited || !self.is_giving_out(reading)) {
            let later = std::mem::take(&mut self.later);
            self.later_since = None;
            self.tell_all(&later);
        }
    }

    /// All subscribers hear of these with the next batch.
    pub(super) fn tell_all(&mut self, pieces: &PieceSet) {
        for subscriber in self.subscribers.values_mut() {
            subscriber.tell(pieces);
        }
    }

    fn heard(&mut self, now: Timestamp, host: &HostId, pieces: &PieceSet, open: &mut Open) {
        let mut subscriber = self.subscribers.get_mut(host);
        if let Some(subscriber) = &mut subscriber {
            subscriber.known.union_with(pieces);
        }
        self.offers.heard(now, host, pieces, subscriber, open);
    }

    /// A subscriber promises these pieces, whether it has read them already or not.
    pub(super) fn promises(&mut self, host: &HostId, pieces: &PieceSet) {
        if let Some(subscriber) = self.subscribers.get_mut(host) {
            subscriber.gives = !pieces.is_empty();
        }
    }

    pub(super) fn leave(&mut self, host: &HostId, open: &mut Open) {
        if self.subscribers.remove(host).is_some() {
            self.offers.gone(host, &self.subscribers, open);
        }
    }

    /// Nobody wants to hear of it any more.
    pub(super) fn leave_all(&mut self) {
        self.subscribers.clear();
        self.offers.count_unknown(&self.subscribers);
    }

    /// These are not held any more, by anybody.
    pub(super) fn take_back(&mut self, pieces: &PieceSet, open: &mut Open) {
        self.offers.take_back(pieces, open);
        self.later.subtract(pieces);
        for subscriber in self.subscribers.values_mut() {
            subscriber.pending.subtract(pieces);
            subscriber.told.subtract(pieces);
            subscriber.known.subtract(pieces);
        }
    }
}

impl Subscriber {
    /// Lets it know of pieces with the next batch, even of those that it has: who offered
    /// them hears of it so, and all count how rare they are.
    pub(super) fn tell(&mut self, pieces: &PieceSet) {
        self.told.add_new(pieces, &mut self.pending);
    }

    /// Who subscribes once more is told all of it again. What it has announced, and was
    /// offered, stays: it does not announce that again, and offers of what it has would
    /// wait in vain.
    fn tell_anew(&mut self, pieces: &PieceSet) {
        self.told = Bits::default();
        self.pending = Bits::default();
        self.tell(pieces);
    }

    /// Lets it know of one piece.
    pub(super) fn tell_one(&mut self, piece: u32) {
        if self.told.insert(piece) {
            self.pending.insert(piece);
        }
    }

    /// Whether it neither has a piece nor was told of it.
    pub(super) fn lacks(&self, piece: u32) -> bool {
        !self.told.contains(piece) && !self.known.contains(piece)
    }

    fn has_all_it_was_told(&self) -> bool {
        self.told.is_within(&self.known)
    }

    /// All that is to be told.
    fn batch(&mut self, host: &HostId, id: &TaskId) -> Option<Command> {
        if self.pending.is_empty() {
            return None;
        }
        let pieces = std::mem::take(&mut self.pending).to_pieces();
        Some(Command::Link {
            host: *host,
            message: LinkMessage::Have { task: *id, pieces },
        })
    }
}

impl Node {
    /// Announces a piece that came from a peer. At once to that peer, which learns that its
    /// offer was taken up, and to who has all that it was told of here: it may have nothing
    /// to ask for. The others hear of it with the next batch; of what came while this host's
    /// uplink is for what nobody else has, they hear later.
    pub(super) fn announce(&mut self, now: Timestamp, id: &TaskId, piece: u32, from: &HostId) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        let announcer = &mut task.announcer;
        let holds_back = announcer.is_giving_out(&task.reading);
        if holds_back {
            announcer.later.insert(piece);
            announcer.later_since.get_or_insert(now);
        }
        for (host, subscriber) in &mut announcer.subscribers {
            let is_giver = host == from;
            if holds_back && !is_giver {
                continue;
            }
            let waits = is_giver || subscriber.has_all_it_was_told();
            subscriber.tell_one(piece);
            if waits {
                self.commands.extend(subscriber.batch(host, id));
            } else {
                self.state.untold = true;
            }
        }
        self.state.busy.insert(*id);
    }

    /// Gives out a piece that came from the source.
    pub(super) fn announce_fresh(&mut self, now: Timestamp, id: &TaskId, piece: u32) {
        self.give_out(now, id, &PieceSet::from_range(piece..piece + 1));
    }

    /// Gives out pieces that did not come from a peer.
    pub(super) fn give_out(&mut self, now: Timestamp, id: &TaskId, pieces: &PieceSet) {
        let Some(task) = self.state.tasks.get_mut(id).filter(|_| !pieces.is_empty()) else {
            return;
        };
        if task.lengths.size() <= TINY {
            task.announcer.tell_all(pieces);
        } else {
            let Announcer {
                offers,
                subscribers,
                ..
            } = &mut task.announcer;
            offers.add(pieces, subscribers);
        }
        self.state.busy.insert(*id);
        self.offer(now, id);
    }

    /// Makes the offers that can be made, and sends all that is to be told.
    pub(super) fn offer(&mut self, now: Timestamp, id: &TaskId) {
        let after = self.options.reveal_after;
        let class = self.class_of(id);
        if let Some(task) = self.state.tasks.get_mut(id) {
            task.announcer.release(now, &task.reading);
            let Announcer {
                offers,
                subscribers,
                ..
            } = &mut task.announcer;
            let open = &mut self.state.open_offers;
            if !offers.own.is_empty() {
                offers.set_class(class, open);
                offers.expire(now, after, subscribers, open);
                offers.make(now, subscribers, open, &mut self.rng);
                if offers.waits(subscribers.len()) {
                    self.state.unoffered.insert(*id);
                } else {
                    self.state.unoffered.remove(id);
                }
                if offers.is_open() {
                    self.state.busy.insert(*id);
                }
                self.flush(id);
            } else if task.announcer.has_pending() {
                self.state.untold = true;
            }
        }
    }

    /// For whom a task is given out: while it is downloaded, its own readers say so, who speak for
    /// others where they read for others; afterwards neighbours do.
    pub(super) fn class_of(&self, id: &TaskId) -> Class {
        let is_waited_for = self.state.tasks.get(id).is_some_and(|task| {
            let by_neighbours = || task.announcer.is_waited_for(task.lengths.pieces());
            match &task.download {
                Some(download) => !download.is_ahead(),
                None => by_neighbours(),
            }
        });
        if is_waited_for {
            Class::Foreground
        } else {
            Class::Background
        }
    }

    pub(super) fn heard(&mut self, now: Timestamp, id: &TaskId, host: &HostId, pieces: &PieceSet) {
        if let Some(task) = self.state.tasks.get_mut(id) {
            if pieces.end() > task.lengths.pieces() {
                return;
            }
            task.announcer
                .heard(now, host, pieces, &mut self.state.open_offers);
        }
        self.offer(now, id);
        self.offer_elsewhere(now);
    }

    /// What one task leaves of the offers may be another's.
    fn offer_elsewhere(&mut self, now: Timestamp) {
        let mut after = None;
        let has_room =
            |open: &Open| [Class::Foreground, Class::Background].map(|class| open.has_room(class));
        while has_room(&self.state.open_offers).contains(&true)
            && let Some(id) = self.state.unoffered_after(after)
        {
            if self.state.open_offers.has_room(self.class_of(&id)) {
                self.offer(now, &id);
            }
            after = Some(id);
        }
    }

    /// A subscriber has not got these any more.
    pub(super) fn lost_elsewhere(
        &mut self,
        now: Timestamp,
        id: &TaskId,
        host: &HostId,
        pieces: &PieceSet,
    ) {
        if let Some(task) = self.state.tasks.get_mut(id) {
            let Announcer {
                offers,
                subscribers,
                ..
            } = &mut task.announcer;
            if let Some(subscriber) = subscribers.get_mut(host) {
                subscriber.known.subtract(pieces);
                offers.count_unknown(subscribers);
            }
        }
        self.offer(now, id);
    }

    /// Sends what is to be told.
    pub(super) fn flush(&mut self, id: &TaskId) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        for (host, subscriber) in &mut task.announcer.subscribers {
            self.commands.extend(subscriber.batch(host, id));
        }
    }

    /// A neighbour wants to hear of a task.
    pub(super) fn subscribed(
        &mut self,
        now: Timestamp,
        host: HostId,
        id: TaskId,
        lengths: Lengths,
        waits: bool,
    ) {
        if !self.options.share {
            return;
        }
        let Some(task) = self.state.tasks.get_mut(&id) else {
            if self.state.early.len() < MAX_EARLY || self.state.early.contains_key(&id) {
                let early = self.state.early.entry(id).or_default();
                early.insert(host, waits);
            }
            return;
        };
        if task.lengths != lengths {
            return;
        }
        let announcer = &mut task.announcer;
        let mut pieces = task.held.clone();
        pieces.subtract(&announcer.offers.own);
        pieces.subtract(&announcer.later);
        pieces.union_with(&announcer.offers.open_to(&host));
        let subscriber = announcer.subscribers.entry(host).or_default();
        subscriber.waits = waits;
        let download = task.download.as_ref();
        let promised_there = download.and_then(|one| one.read_by.get(&host));
        subscriber.gives |= promised_there.is_some_and(|pieces| !pieces.is_empty());
        subscriber.tell_anew(&pieces);
        let promised = announcer.promised(&task.reading);
        if !promised.is_empty() {
            self.commands.push(Command::Link {
                host,
                message: LinkMessage::Reading {
                    task: id,
                    pieces: promised,
                },
            });
        }
        self.subscribe_back(host, &id);
        self.flush(&id);
        self.offer(now, &id);
        self.part(&id);
    }

    pub(super) fn unsubscribed(&mut self, now: Timestamp, host: &HostId, id: &TaskId) {
        if let Some(task) = self.state.tasks.get_mut(id) {
            task.announcer.leave(host, &mut self.state.open_offers);
        }
        if let Some(hosts) = self.state.early.get_mut(id) {
            hosts.remove(host);
        }
        self.offer(now, id);
    }

    /// Those who subscribed before the task was known.
    pub(super) fn adopt_early_subscribers(&mut self, now: Timestamp, id: &TaskId) {
        let Some(lengths) = self.state.tasks.get(id).map(|task| task.lengths) else {
            return;
        };
        for (host, waits) in self.state.early.remove(id).unwrap_or_default() {
            self.subscribed(now, host, *id, lengths, waits);
        }
    }

    /// Tells all subscribers what is read from the source.
    pub(super) fn tell_reading(&mut self, id: &TaskId) {
        let Some(task) = self.state.tasks.get(id) else {
            return;
        };
        let hosts: Vec<HostId> = task.announcer.subscribers.keys().copied().collect();
        let pieces = task.announcer.promised(&task.reading);
        for host in hosts {
            self.tell(
                host,
                LinkMessage::Reading {
                    task: *id,
                    pieces: pieces.clone(),
                },
            );
        }
    }

    pub(super) fn tell(&mut self, host: HostId, message: LinkMessage) {
        self.commands.push(Command::Link { host, message });
    }
}
