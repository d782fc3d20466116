//! How many members hold each piece.

use std::sync::Arc;

use darter_api::PieceSet;

use super::{super::MAX_CLAIMED, copies::Copies};

/// See the module.
#[derive(Debug)]
pub(super) struct Census {
    /// Of the task.
    pieces: u32,
    /// All of them, which most members point to.
    all: Arc<PieceSet>,
    /// Members that hold all.
    pub(super) whole: usize,
    /// Members that hold a part: only while there are any are pieces counted.
    partial: usize,
    /// How many hold each piece, those that hold all left out.
    copies: Copies,
    /// Pieces that one of those holds.
    pub(super) somewhere: PieceSet,
}

impl Census {
    pub(super) fn new(pieces: u32) -> Self {
        Self {
            pieces,
            all: Arc::new(PieceSet::full(pieces)),
            whole: 0,
            partial: 0,
            copies: Copies::default(),
            somewhere: PieceSet::new(),
        }
    }

    /// A member that held `before` says that it holds `held`, and its host has claimed so many
    /// pieces so far. What lies beyond the task's end does not count, and nothing does that
    /// would be too much to count: what the member is to keep, and what its host has claimed then.
    pub(super) fn told(
        &mut self,
        before: Option<Arc<PieceSet>>,
        mut held: PieceSet,
        claimed: u64,
    ) -> (Option<Arc<PieceSet>>, u64) {
        // First of all: how much there is to count follows from what lies within.
        if held.end() > self.pieces {
            held.remove_range(self.pieces..u32::MAX);
        }
        let others = claimed - before.as_deref().map_or(0, |held| self.claim(held));
        if others + self.claim(&held) > MAX_CLAIMED {
            held = PieceSet::new();
        }
        let kept = self.replace(before, held);
        let claimed = others + kept.as_deref().map_or(0, |held| self.claim(held));
        (kept, claimed)
    }

    /// A member that held `before` holds `held` from now on, which ends with the task: what it is
    /// to keep.
    pub(super) fn replace(
        &mut self,
        before: Option<Arc<PieceSet>>,
        held: PieceSet,
    ) -> Option<Arc<PieceSet>> {
        let is_whole = self.is_whole(&held);
        if is_whole
            && before
                .as_ref()
                .is_some_and(|set| Arc::ptr_eq(set, &self.all))
        {
            return before;
        }
        let before = before.map(Arc::unwrap_or_clone).unwrap_or_default();
        if self.is_whole(&before) || is_whole {
            self.uncount(&before);
            self.count(&held);
        } else {
            let (mut gained, mut lost) = (held.clone(), before.clone());
            gained.subtract(&before);
            lost.subtract(&held);
            self.count(&gained);
            self.uncount(&lost);
        }
        let (was, is) = (self.is_part(&before), self.is_part(&held));
        self.partial = self.partial + usize::from(is) - usize::from(was);
        if self.partial == 0 {
            self.copies = Copies::default();
        }
        match held.is_empty() {
            true => None,
            false if is_whole => Some(Arc::clone(&self.all)),
            false => Some(Arc::new(held)),
        }
    }

    /// Pieces that have to be counted for a host that holds these.
    pub(super) fn claim(&self, held: &PieceSet) -> u64 {
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
