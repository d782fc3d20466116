//! A set of pieces as runs, the form in which hosts tell what they have.

use std::{fmt, ops::Range};

/// Sets with more runs are merged in one pass: run by run, each would move all that come after it,
/// and another host says how many there are.
const FEW: usize = 8;

/// Sorted, disjoint, non-touching runs of piece indices.
#[derive(Clone, PartialEq, Eq, Default, Hash)]
pub struct PieceSet {
    runs: Vec<Range<u32>>,
}

impl PieceSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { runs: Vec::new() }
    }

    /// All pieces of a task of `pieces` pieces.
    pub fn full(pieces: u32) -> Self {
        Self::from_range(0..pieces)
    }

    /// One run; the empty set when the range is empty.
    pub fn from_range(range: Range<u32>) -> Self {
        let mut set = Self::new();
        set.insert_range(range);
        set
    }

    /// The runs, sorted and disjoint.
    pub fn runs(&self) -> &[Range<u32>] {
        &self.runs
    }

    /// Number of pieces in the set.
    pub fn len(&self) -> u32 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }

    /// Whether there is no piece in it.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether `piece` is in it.
    pub fn contains(&self, piece: u32) -> bool {
        let at = self.runs.partition_point(|run| run.end <= piece);
        self.runs.get(at).is_some_and(|run| run.start <= piece)
    }

    /// Which of the 64 pieces from `start` on are in it, the first one in the lowest bit.
    pub fn bits(&self, start: u32) -> u64 {
        let end = start.saturating_add(u64::BITS);
        let at = self.runs.partition_point(|run| run.end <= start);
        let runs = self.runs[at..].iter().take_while(|run| run.start < end);
        runs.fold(0, |bits, run| {
            let from = run.start.max(start) - start;
            let count = run.end.min(end) - start - from;
            bits | (u64::MAX >> (u64::BITS - count)) << from
        })
    }

    /// The pieces, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs.iter().flat_map(Clone::clone)
    }

    /// The lowest piece.
    pub fn first(&self) -> Option<u32> {
        self.runs.first().map(|run| run.start)
    }

    /// The lowest index not in the set, from `from` on.
    pub fn first_gap(&self, from: u32) -> u32 {
        let at = self.runs.partition_point(|run| run.end <= from);
        match self.runs.get(at) {
            Some(run) if run.start <= from => run.end,
            _ => from,
        }
    }

    /// One past the highest piece; zero when empty.
    pub fn end(&self) -> u32 {
        self.runs.last().map_or(0, |run| run.end)
    }

    /// Adds one piece; whether it was new.
    pub fn insert(&mut self, piece: u32) -> bool {
        let new = !self.contains(piece);
        if new {
            self.insert_range(piece..piece + 1);
        }
        new
    }

    /// Adds a run.
    pub fn insert_range(&mut self, range: Range<u32>) {
        if range.start >= range.end {
            return;
        }
        let from = self.runs.partition_point(|run| run.end < range.start);
        let to = self.runs.partition_point(|run| run.start <= range.end);
        let mut merged = range;
        if from < to {
            merged.start = merged.start.min(self.runs[from].start);
            merged.end = merged.end.max(self.runs[to - 1].end);
        }
        self.runs.splice(from..to, [merged]);
    }

    /// Removes one piece; whether it was there.
    pub fn remove(&mut self, piece: u32) -> bool {
        let there = self.contains(piece);
        if there {
            self.remove_range(piece..piece + 1);
        }
        there
    }

    /// Removes a run.
    pub fn remove_range(&mut self, range: Range<u32>) {
        if range.start >= range.end {
            return;
        }
        let from = self.runs.partition_point(|run| run.end <= range.start);
        let to = self.runs.partition_point(|run| run.start < range.end);
        if from >= to {
            return;
        }
        let left = self.runs[from].start..range.start;
        let right = range.end..self.runs[to - 1].end;
        let rest = [left, right].into_iter().filter(|run| run.start < run.end);
        self.runs.splice(from..to, rest);
    }

    /// Adds all of `other`.
    pub fn union_with(&mut self, other: &Self) {
        if other.runs.len() <= FEW {
            for run in &other.runs {
                self.insert_range(run.clone());
            }
            return;
        }
        let mut union = Self {
            runs: Vec::with_capacity(self.runs.len() + other.runs.len()),
        };
        let mut others = other.runs.iter().peekable();
        for run in &self.runs {
            while let Some(earlier) = others.next_if(|other| other.start < run.start) {
                union.append(earlier.clone());
            }
            union.append(run.clone());
        }
        others.for_each(|run| union.append(run.clone()));
        *self = union;
    }

    /// Adds a run that begins with or after the last one.
    fn append(&mut self, run: Range<u32>) {
        match self.runs.last_mut() {
            Some(last) if last.end >= run.start => last.end = last.end.max(run.end),
            _ => self.runs.push(run),
        }
    }

    /// Removes all of `other`.
    pub fn subtract(&mut self, other: &Self) {
        if other.runs.len() <= FEW {
            for run in &other.runs {
                self.remove_range(run.clone());
            }
            return;
        }
        let mut rest = Self::new();
        let mut others = other.runs.iter().peekable();
        for run in &self.runs {
            let mut start = run.start;
            while others.next_if(|other| other.end <= start).is_some() {}
            while let Some(other) = others.peek().filter(|other| other.start < run.end) {
                if start < other.start {
                    rest.runs.push(start..other.start);
                }
                start = other.end;
                if others.next_if(|other| other.end <= run.end).is_none() {
                    break;
                }
            }
            if start < run.end {
                rest.runs.push(start..run.end);
            }
        }
        *self = rest;
    }

    /// Whether all of it is in `other`.
    pub fn is_within(&self, other: &Self) -> bool {
        let mut runs = other.runs.iter();
        let mut around = runs.next();
        self.runs.iter().all(|run| {
            while around.is_some_and(|other| other.end < run.end) {
                around = runs.next();
            }
            around.is_some_and(|other| other.start <= run.start)
        })
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self::new();
        let (mut left, mut right) = (self.runs.iter().peekable(), other.runs.iter().peekable());
        while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
            both.insert_range(a.start.max(b.start)..a.end.min(b.end));
            if a.end <= b.end {
                left.next();
            } else {
                right.next();
            }
        }
        both
    }

    /// What of `0..pieces` is not in the set.
    #[must_use]
    pub fn missing(&self, pieces: u32) -> Self {
        let mut rest = Self::full(pieces);
        rest.subtract(self);
        rest
    }
}

impl FromIterator<u32> for PieceSet {
    fn from_iter<I: IntoIterator<Item = u32>>(pieces: I) -> Self {
        let mut set = Self::new();
        for piece in pieces {
            set.insert_range(piece..piece.saturating_add(1));
        }
        set
    }
}

impl fmt::Debug for PieceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.runs).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn canonical(set: &PieceSet) -> bool {
        set.runs.iter().all(|run| run.start < run.end)
            && set.runs.windows(2).all(|pair| pair[0].end < pair[1].start)
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(steps in prop::collection::vec((any::<bool>(), 0u32..80, 0u32..12), 0..60)) {
            let (mut set, mut model) = (PieceSet::new(), BTreeSet::new());
            for (add, start, length) in steps {
                let range = start..start + length;
                if add {
                    set.insert_range(range.clone());
                    model.extend(range);
                } else {
                    set.remove_range(range.clone());
                    model.retain(|piece| !range.contains(piece));
                }
                prop_assert!(canonical(&set));
                for from in [0, 1, 17, 63, 64, 90] {
                    let bits = (0..64).filter(|bit| model.contains(&(from + bit)));
                    prop_assert_eq!(set.bits(from), bits.fold(0, |all, bit| all | 1 << bit));
                }
                prop_assert_eq!(set.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
                for piece in 0..100 {
                    prop_assert_eq!(set.contains(piece), model.contains(&piece));
                    let gap = (piece..).find(|at| !model.contains(at));
                    prop_assert_eq!(Some(set.first_gap(piece)), gap);
                }
            }
        }

        #[test]
        fn intersects_and_contains(a in prop::collection::btree_set(0u32..60, 0..40), b in prop::collection::btree_set(0u32..60, 0..40)) {
            let (left, right): (PieceSet, PieceSet) = (a.iter().copied().collect(), b.iter().copied().collect());
            let both = left.intersection(&right);
            prop_assert!(canonical(&both));
            prop_assert_eq!(both.iter().collect::<Vec<_>>(), a.intersection(&b).copied().collect::<Vec<_>>());
            prop_assert!(both.is_within(&left) && both.is_within(&right));
            prop_assert_eq!(left.is_within(&right), a.is_subset(&b));
        }

        /// Few runs are taken one by one, many in one pass.
        #[test]
        fn unites_and_subtracts(a in prop::collection::btree_set(0u32..90, 0..60), b in prop::collection::btree_set(0u32..90, 0..60)) {
            let (left, right): (PieceSet, PieceSet) = (a.iter().copied().collect(), b.iter().copied().collect());
            let (mut union, mut rest) = (left.clone(), left);
            union.union_with(&right);
            rest.subtract(&right);
            prop_assert!(canonical(&union) && canonical(&rest));
            prop_assert_eq!(union.iter().collect::<Vec<_>>(), a.union(&b).copied().collect::<Vec<_>>());
            prop_assert_eq!(rest.iter().collect::<Vec<_>>(), a.difference(&b).copied().collect::<Vec<_>>());
        }
    }
}
