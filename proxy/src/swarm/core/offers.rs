//! Super-seeding: who is offered the pieces that only this host has.
//!
//! If all subscribers were told of a piece at once, all would ask for it here, and the
//! swarm would get no faster than this host's uplink. So what came from the source, or
//! was here before the swarm, is offered to one subscriber at a time, and the others get
//! it from there. What one has announced is offered to another only while the uplink would
//! idle. All of it counts as promised ([`super::lease`]), so that nobody reads it again.
//!
//! What was given to one and does not spread from there ([`super::spread`]) is given to one more.
//!
//! An offer is open until its subscriber has announced the piece. As many are open as
//! [`super::open`] allows for all tasks together; offers of what is to be had elsewhere wait
//! until hardly any is.

use std::{collections::BTreeMap, time::Duration};

use darter_api::{HostId, PieceSet, Timestamp};
use rand::{RngExt as _, rngs::SmallRng};

use super::{
    insight::Given,
    open::{IDLE_BELOW, Open},
    spread::Spread,
    state::Subscriber,
};
use crate::limits::Class;

/// Pieces that nobody has are offered in order, but for a choice among so many, so that
/// several hosts that hold all don't offer the same.
const CHOICE: usize = 8;

/// What has not spread, and nobody wants yet, is offered again only while fewer offers are open, of
/// all tasks: what comes from the source next, and nobody else has, does not wait behind it then.
const SPARE_BELOW: usize = 6;
/// The pieces that this host gives out one by one.
#[derive(Debug, Default)]
pub(super) struct Offers {
    /// All of them.
    pub(super) own: PieceSet,
    /// Those that no subscriber has or is offered, and those that did not spread.
    unknown: PieceSet,
    open: BTreeMap<u32, Offer>,
    /// What the open ones count as.
    class: Class,
    spread: Spread,
}

#[derive(Debug, Clone, Copy)]
struct Offer {
    to: HostId,
    since: Timestamp,
}

impl Offers {
    /// Whether there is something to wait for.
    pub(super) fn is_open(&self) -> bool {
        !self.open.is_empty() || self.spread.is_awaited()
    }

    /// What a subscriber was offered and has not taken up.
    pub(super) fn open_to(&self, host: &HostId) -> PieceSet {
        let open = self.open.iter().filter(|(_, offer)| offer.to == *host);
        open.map(|(piece, _)| *piece).collect()
    }

    /// What becomes of one of its pieces.
    pub(super) fn given(&self, now: Timestamp, piece: u32) -> Given {
        match self.open.get(&piece) {
            Some(offer) => Given::Offered(offer.to, now.since(offer.since)),
            None if self.unknown.contains(piece) => Given::Waits,
            None => Given::Known,
        }
    }

    /// Whether there are pieces that wait for their first offer to one of so many hosts. A single one
    /// was told of all.
    pub(super) fn waits(&self, hosts: usize) -> bool {
        hosts > 1 && !self.unknown.is_empty()
    }

    /// Whether there are more pieces that nobody else has than the uplink bears now.
    pub(super) fn is_behind(&self) -> bool {
        !self.unknown.is_empty() || self.open.len() >= IDLE_BELOW
    }

    /// Somebody waits for its content now, or nobody any more.
    pub(super) fn set_class(&mut self, class: Class, open: &mut Open) {
        if self.class == class {
            return;
        }
        for (at, offer) in self.open.values().enumerate() {
            open.remove(self.class, &offer.to, self.open.len() - at);
            open.add(class, &offer.to, at);
        }
        self.class = class;
    }

    /// Pieces to give out from now on.
    pub(super) fn add(&mut self, pieces: &PieceSet, others: &BTreeMap<HostId, Subscriber>) {
        let mut new = pieces.clone();
        new.subtract(&self.own);
        self.own.union_with(&new);
        for other in others.values() {
            other.known.remove_from(&mut new);
        }
        self.unknown.union_with(&new);
    }

    /// These are not held any more.
    pub(super) fn take_back(&mut self, pieces: &PieceSet, open: &mut Open) {
        self.own.subtract(pieces);
        self.unknown.subtract(pieces);
        self.spread.forget(pieces);
        self.close(open, |piece, _| pieces.contains(piece));
    }

    /// These offers are not open any more.
    fn close(&mut self, open: &mut Open, mut ends: impl FnMut(u32, &Offer) -> bool) {
        let mut own = self.open.len();
        self.open.retain(|piece, offer| {
            let ends = ends(*piece, offer);
            if ends {
                open.remove(self.class, &offer.to, own);
                own -= 1;
            }
            !ends
        });
    }

    /// Its task is gone.
    pub(super) fn close_all(&mut self, open: &mut Open) {
        self.close(open, |_, _| true);
    }

    /// A subscriber announced pieces.
    pub(super) fn heard(
        &mut self,
        now: Timestamp,
        host: &HostId,
        pieces: &PieceSet,
        subscriber: Option<&mut Subscriber>,
        open: &mut Open,
    ) {
        for piece in self.unknown.intersection(pieces).iter() {
            self.spread.had_by(now, piece, host);
        }
        self.unknown.subtract(pieces);
        let mut taken_up = Vec::new();
        self.close(open, |piece, offer| {
            let answered = offer.to == *host && pieces.contains(piece);
            if answered {
                taken_up.push((piece, now.since(offer.since)));
            }
            answered
        });
        let is_taken = !taken_up.is_empty();
        for (piece, took) in taken_up {
            self.spread.taken_up(now, piece, *host, took);
        }
        if let Some(subscriber) = subscriber.filter(|_| is_taken) {
            subscriber.ignored = 0;
        }
    }

    /// A subscriber is gone, with all that it had and was offered: what nobody else has of
    /// that is given out again. Else those who are left would wait for it in vain.
    pub(super) fn gone(
        &mut self,
        host: &HostId,
        others: &BTreeMap<HostId, Subscriber>,
        open: &mut Open,
    ) {
        self.close(open, |_, offer| offer.to == *host);
        self.count_unknown(others);
    }

    /// Subscribers have not got all any more that they had.
    pub(super) fn count_unknown(&mut self, others: &BTreeMap<HostId, Subscriber>) {
        self.unknown = self.own.clone();
        for other in others.values() {
            other.known.remove_from(&mut self.unknown);
        }
        for piece in self.open.keys() {
            self.unknown.remove(*piece);
        }
    }

    /// Offers that were not taken up for at least so long are made to others as well, and so is what
    /// was taken up and did not spread.
    pub(super) fn expire(
        &mut self,
        now: Timestamp,
        after: Duration,
        others: &mut BTreeMap<HostId, Subscriber>,
        open: &mut Open,
    ) {
        for piece in self.spread.look(now, others) {
            if !self.open.contains_key(&piece) {
                self.unknown.insert(piece);
            }
        }
        let after = after.max(self.spread.usual() * 3);
        let mut late = Vec::new();
        self.close(open, |piece, offer| {
            let is_late = now.since(offer.since) >= after;
            if is_late {
                late.push((piece, offer.to));
            }
            is_late
        });
        for (piece, host) in late {
            if let Some(subscriber) = others.get_mut(&host) {
                subscriber.ignored += 1;
            }
            if !others.values().any(|other| other.known.contains(piece)) {
                self.unknown.insert(piece);
            }
        }
    }

    /// Makes as many offers as hosts and uplink bear; `open` are those of all tasks.
    pub(super) fn make(
        &mut self,
        now: Timestamp,
        others: &mut BTreeMap<HostId, Subscriber>,
        open: &mut Open,
        rng: &mut SmallRng,
    ) {
        if others.len() == 1 {
            for only in others.values_mut() {
                only.tell(&self.own);
            }
            return;
        }
        while !open.is_enough(self.class, self.open.len(), others.len()) {
            let Some((piece, host)) = self.next_piece(others, open, rng) else {
                return;
            };
            if open.is_enough_for(self.class, &host, others.len()) {
                return;
            }
            self.unknown.remove(piece);
            self.spread.offered(now, piece);
            open.add(self.class, &host, self.open.len());
            self.open.insert(
                piece,
                Offer {
                    to: host,
                    since: now,
                },
            );
            if let Some(subscriber) = others.get_mut(&host) {
                subscriber.tell_one(piece);
            }
        }
    }

    /// What to offer next, and to whom: what nobody has goes before what has been given out.
    fn next_piece(
        &mut self,
        others: &BTreeMap<HostId, Subscriber>,
        open: &Open,
        rng: &mut SmallRng,
    ) -> Option<(u32, HostId)> {
        let mut next = self.unknown_piece(others, open, rng);
        if next.is_none() && open.all() < SPARE_BELOW {
            next = self.unwanted_piece(others, open, rng);
        }
        if next.is_none() && open.all() < IDLE_BELOW {
            next = self.rarest_piece(others, open, rng);
        }
        next
    }

    /// One of the first of those that nobody has, and who is to have it.
    fn unknown_piece(
        &mut self,
        others: &BTreeMap<HostId, Subscriber>,
        open: &Open,
        rng: &mut SmallRng,
    ) -> Option<(u32, HostId)> {
        while !self.unknown.is_empty() {
            let early: Vec<u32> = self.unknown.iter().take(CHOICE).collect();
            let start = rng.random_range(0..early.len());
            let in_turn = early.iter().cycle().skip(start).take(early.len());
            let mut found = in_turn.filter_map(|piece| {
                Some((*piece, who_lacks(*piece, self.class, others, open, rng)?))
            });
            if let Some(found) = found.next() {
                return Some(found);
            }
            // All were offered these, one after the other. Those that come later wait no
            // longer for that.
            for piece in early {
                self.unknown.remove(piece);
            }
        }
        None
    }

    /// One that has not spread though it should have, and that nobody wants yet.
    fn unwanted_piece(
        &self,
        others: &BTreeMap<HostId, Subscriber>,
        open: &Open,
        rng: &mut SmallRng,
    ) -> Option<(u32, HostId)> {
        let unwanted = self.spread.unwanted();
        let mut unwanted = unwanted.filter(|piece| !self.open.contains_key(piece));
        unwanted.find_map(|piece| Some((piece, who_lacks(piece, self.class, others, open, rng)?)))
    }

    /// The one that fewest have.
    fn rarest_piece(
        &self,
        others: &BTreeMap<HostId, Subscriber>,
        open: &Open,
        rng: &mut SmallRng,
    ) -> Option<(u32, HostId)> {
        let mut rarest: Option<((usize, u32), u32, HostId)> = None;
        for piece in self.own.iter() {
            if self.open.contains_key(&piece) {
                continue;
            }
            let holders = others.values().filter(|other| other.known.contains(piece));
            let order = (holders.count(), rng.random());
            if rarest.is_none_or(|(least, ..)| order < least)
                && let Some(host) = who_lacks(piece, self.class, others, open, rng)
            {
                rarest = Some((order, piece, host));
            }
        }
        rarest.map(|(_, piece, host)| (piece, host))
    }
}

/// Of the subscribers that were not told of the piece one that gives out no pieces itself, if there
/// is any: who gives some out would hold this one back meanwhile, and all others would wait for it.
/// Of these one that bears another offer, ignores none and has the fewest open, of all tasks.
fn who_lacks(
    piece: u32,
    class: Class,
    others: &BTreeMap<HostId, Subscriber>,
    open: &Open,
    rng: &mut SmallRng,
) -> Option<HostId> {
    let order = |(host, other): &(&HostId, &Subscriber)| {
        let is_full = open.is_enough_for(class, host, others.len());
        let chance = rng.random::<u32>();
        (other.gives, is_full, other.ignored, open.to(host), chance)
    };
    let who = others.iter().filter(|(_, other)| other.lacks(piece));
    who.min_by_key(order).map(|(host, _)| *host)
}
