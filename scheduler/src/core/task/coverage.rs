//! What of a task is held, by whom, and what nobody has.

use std::{sync::Arc, time::Duration};

use darter_api::{HostId, PieceSet, Timestamp, session::Locality};

use super::{Marks, Task};

/// Hosts tell of what they have once a second.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// Neighbours tell each other several times within this.
const HEARD_WITHIN: Duration = Duration::from_millis(300);

impl Task {
    /// What a host holds; nothing, if it is no member.
    pub(in crate::core) fn held(&self, host: &HostId) -> &PieceSet {
        let member = self.members.get(host);
        let holds_all = member.is_some_and(|member| member.marks.has(Marks::ALL));
        self.census.held(host, holds_all)
    }

    /// A member tells what it holds. Its host has `claimed` so many pieces so far; how many it
    /// has then.
    pub(in crate::core) fn holds(&mut self, host: HostId, held: PieceSet, claimed: u64) -> u64 {
        let held_all = self.member(host).marks.has(Marks::ALL);
        let (holds_all, claimed) = self.census.told(&host, held_all, held, claimed);
        self.member(host).marks.set(Marks::ALL, holds_all);
        claimed
    }

    /// A member holds nothing any more.
    pub(super) fn lets_go(&mut self, host: HostId) {
        let held_all = self.member(host).marks.set(Marks::ALL, false);
        self.census.replace(&host, held_all, PieceSet::new());
    }

    /// A host that stands there tells in one what it holds and whether it wants the rest, which
    /// makes it a member. It has `claimed` so many pieces so far; how many it has then.
    pub(in crate::core) fn told(
        &mut self,
        (host, place): (&Arc<HostId>, &Arc<Locality>),
        wants: bool,
        held: PieceSet,
        claimed: u64,
    ) -> u64 {
        self.seat(host, place);
        // One look at a member for all of it: a host tells of hundreds of contents.
        let member = self.members.or_default(Arc::clone(host));
        let held_all = member.marks.has(Marks::ALL);
        let wanted = member.marks.set(Marks::WANTS, wants);
        self.waiting = self.waiting + usize::from(wants) - usize::from(wanted);
        let (holds_all, claimed) = self.census.told(host, held_all, held, claimed);
        member.marks.set(Marks::ALL, holds_all);
        claimed
    }

    /// Pieces that are counted for what a member holds.
    pub(in crate::core) fn claim_of(&self, host: &HostId) -> u64 {
        self.census.claim_of(host)
    }

    /// Pieces that nobody holds and nobody may read.
    pub(in crate::core) fn uncovered(&self) -> PieceSet {
        if self.census.whole > 0 {
            return PieceSet::new();
        }
        let mut covered = self.census.somewhere.clone();
        for lease in &self.leases {
            covered.union_with(&lease.pieces);
        }
        covered.missing(self.lengths.pieces())
    }

    /// The same without what is about to be told of: asked for in vain, one host after the
    /// other would say so.
    pub(in crate::core) fn unclaimed(&self, now: Timestamp) -> PieceSet {
        let mut unclaimed = self.uncovered();
        if let Some((pieces, until)) = &self.elsewhere
            && now < *until
        {
            unclaimed.subtract(pieces);
        }
        unclaimed
    }

    /// A reader need not read these.
    pub(in crate::core) fn is_elsewhere(&mut self, now: Timestamp, pieces: &PieceSet) {
        self.leave_until(now, pieces, now + TOLD_WITHIN);
    }

    /// These are left alone until then, or until that is over for what was left alone before.
    pub(in crate::core) fn leave_until(
        &mut self,
        now: Timestamp,
        pieces: &PieceSet,
        until: Timestamp,
    ) {
        let lasts = |(all, until): &(PieceSet, Timestamp)| now < *until && !all.is_empty();
        let before = self.elsewhere.take().filter(lasts);
        let (mut all, until) = before.unwrap_or_else(|| (PieceSet::new(), until));
        all.union_with(pieces);
        self.elsewhere = Some((all, until));
    }

    /// What a host that is about to go has read, and perhaps given to others that have not told of it;
    /// and when they will have. Where all are neighbours, the next reader hears it from them: there
    /// it is all that this one was known to have as well.
    pub(in crate::core) fn given_by_reader(
        &self,
        now: Timestamp,
        host: &HostId,
        are_neighbours: bool,
    ) -> Option<(PieceSet, Timestamp)> {
        if !self.reads_source(host) {
            return None;
        }
        let mut given = PieceSet::new();
        for lease in self.leases.iter().filter(|lease| lease.holder == *host) {
            given.union_with(&lease.probably_read(now));
        }
        let mut within = TOLD_WITHIN;
        if are_neighbours {
            within = HEARD_WITHIN;
            given.union_with(self.held(host));
        }
        (!given.is_empty()).then(|| (given, now + within))
    }

    /// Somebody lacks these.
    pub(in crate::core) fn is_nowhere(&mut self, pieces: &PieceSet) {
        if let Some((all, _)) = &mut self.elsewhere {
            all.subtract(pieces);
        }
    }

    /// Somebody left, who may have had what others counted on.
    pub(in crate::core) fn doubt_elsewhere(&mut self) {
        self.elsewhere = None;
    }

    /// Those of `pieces` that another member holds.
    pub(in crate::core) fn held_by_others(&self, host: &HostId, pieces: &PieceSet) -> PieceSet {
        let own = self.held(host);
        let others = |piece: &u32| {
            let is_own = own.contains(*piece);
            self.census.whole > 0 || self.census.copies(*piece) > u32::from(is_own)
        };
        pieces.iter().filter(others).collect()
    }

    /// Whether anybody is known to hold any of it, or to read it.
    pub(in crate::core) fn is_held_or_read(&self) -> bool {
        self.census.whole > 0 || !self.census.somewhere.is_empty() || !self.leases.is_empty()
    }

    /// Whether a member knows where a content ends whose size nobody had told: it holds what lies
    /// past it.
    pub(in crate::core) fn has_told_end(&self, host: &HostId) -> bool {
        let last = self.lengths.pieces().saturating_sub(1);
        self.lengths.is_open() && self.held(host).contains(last)
    }

    /// Whether each piece is held by somebody.
    pub(in crate::core) fn is_held(&self) -> bool {
        self.census.whole > 0 || self.census.somewhere.len() == self.lengths.pieces()
    }
}
