//! What members hold, and how many hold each piece.
//!
//! Most of the millions of members hold all or nothing, which is a mark of theirs: what the others
//! hold is in here.

use std::collections::BTreeMap;

use darter_api::{HostId, PieceSet};

use super::{super::MAX_CLAIMED, copies::Copies};

/// Nothing, to be pointed at.
static NO_PIECES: PieceSet = PieceSet::new();

/// See the module.
#[derive(Debug)]
pub(super) struct Census {
    /// Of the task.
    pieces: u32,
    /// All of them.
    all: PieceSet,
    /// Members that hold all.
    pub(super) whole: usize,
    /// What those hold that hold a part: only while there are any are pieces counted.
    parts: BTreeMap<HostId, PieceSet>,
    /// How many hold each piece, those that hold all left out.
    copies: Copies,
    /// Pieces that one of those holds.
    pub(super) somewhere: PieceSet,
}

impl Census {
    pub(super) fn new(pieces: u32) -> Self {
        Self {
            pieces,
            all: PieceSet::full(pieces),
            whole: 0,
            parts: BTreeMap::new(),
            copies: Copies::default(),
            somewhere: PieceSet::new(),
        }
    }

    /// What a host holds, which is all if its member says so.
    pub(super) fn held(&self, host: &HostId, is_all: bool) -> &PieceSet {
        match is_all {
            true => &self.all,
            false => self.parts.get(host).unwrap_or(&NO_PIECES),
        }
    }

    /// A host that held all or not says that it holds `held`, and has claimed so many
    /// pieces so far. What lies beyond the task's end does not count, and nothing does that
    /// would be too much to count: whether it holds all, and what it has claimed then.
    pub(super) fn told(
        &mut self,
        host: &HostId,
        held_all: bool,
        mut held: PieceSet,
        claimed: u64,
    ) -> (bool, u64) {
        // First of all: how much there is to count follows from what lies within.
        if held.end() > self.pieces {
            held.remove_range(self.pieces..u32::MAX);
        }
        let others = claimed - self.claim_of(host);
        if others + self.claim(&held) > MAX_CLAIMED {
            held = PieceSet::new();
        }
        let holds_all = self.replace(host, held_all, held);
        (holds_all, others + self.claim_of(host))
    }

    /// A host that held all or not holds `held` from now on, which ends with the task: whether
    /// that is all.
    pub(super) fn replace(&mut self, host: &HostId, held_all: bool, held: PieceSet) -> bool {
        let is_whole = self.is_whole(&held);
        if is_whole && held_all {
            return true;
        }
        let before = match held_all {
            true => self.all.clone(),
            false => self.parts.remove(host).unwrap_or_default(),
        };
        if held_all || is_whole {
            self.uncount(&before);
            self.count(&held);
        } else {
            let (mut gained, mut lost) = (held.clone(), before.clone());
            gained.subtract(&before);
            lost.subtract(&held);
            self.count(&gained);
            self.uncount(&lost);
        }
        if self.is_part(&held) {
            self.parts.insert(*host, held);
        }
        if self.parts.is_empty() {
            self.copies = Copies::default();
        }
        is_whole
    }

    /// Pieces that are counted for what a host holds.
    pub(super) fn claim_of(&self, host: &HostId) -> u64 {
        match self.parts.contains_key(host) {
            true => u64::from(self.pieces),
            false => 0,
        }
    }

    /// Pieces that have to be counted for a host that holds these.
    fn claim(&self, held: &PieceSet) -> u64 {
        match self.is_part(held) {
            true => u64::from(self.pieces),
            false => 0,
        }
    }

    /// How many hold a piece, those that hold all left out.
    pub(super) fn copies(&self, piece: u32) -> u32 {
        self.copies.of(piece)
    }

    /// Whether these are some pieces and not all.
    fn is_part(&self, set: &PieceSet) -> bool {
        !set.is_empty() && !self.is_whole(set)
    }

    /// Whether these are all pieces; of a content without any, nobody's are.
    fn is_whole(&self, set: &PieceSet) -> bool {
        !set.is_empty() && set.len() == self.pieces
    }

    fn count(&mut self, set: &PieceSet) {
        if self.is_whole(set) {
            self.whole += 1;
            return;
        }
        set.runs().iter().for_each(|run| self.copies.add(run));
        self.somewhere.union_with(set);
    }

    fn uncount(&mut self, set: &PieceSet) {
        if self.is_whole(set) {
            self.whole -= 1;
            return;
        }
        for run in set.runs() {
            let somewhere = &mut self.somewhere;
            self.copies.remove(run, |gone| somewhere.remove_range(gone));
        }
    }
}
