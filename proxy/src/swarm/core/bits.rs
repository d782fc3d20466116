//! A set of pieces as bits.
//!
//! What neighbours hold is asked for 64 pieces at a time at every event of a swarm, and is full
//! of holes: as runs ([`PieceSet`]) each question would be a search, and each new piece a shift
//! of all that come after it. A set takes an eighth of a byte for each piece up to its highest
//! one, which its owner keeps within the task.

use std::ops::Range;

use darter_api::PieceSet;

/// Pieces of a word.
const WORD: u32 = u64::BITS;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
    count: u32,
}

impl Bits {
    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many pieces are in it.
    pub(super) const fn len(&self) -> u32 {
        self.count
    }

    pub(super) fn contains(&self, piece: u32) -> bool {
        let word = self.word((piece / WORD) as usize);
        word >> (piece % WORD) & 1 == 1
    }

    /// Which of the 64 pieces from `start` on are in it, the first one in the lowest bit.
    pub(super) fn next_64(&self, start: u32) -> u64 {
        let (at, shift) = ((start / WORD) as usize, start % WORD);
        let low = self.word(at) >> shift;
        match shift {
            0 => low,
            _ => low | self.word(at + 1) << (WORD - shift),
        }
    }

    /// The first piece that is not in it.
    pub(super) fn first_gap(&self) -> u32 {
        let full = self.words.iter().take_while(|word| **word == u64::MAX);
        let full = full.count();
        full as u32 * WORD + self.word(full).trailing_ones()
    }

    /// Adds a piece; whether it was new.
    pub(super) fn insert(&mut self, piece: u32) -> bool {
        let new = !self.contains(piece);
        if new {
            self.set((piece / WORD) as usize, 1 << (piece % WORD));
        }
        new
    }

    /// Removes a piece.
    pub(super) fn remove(&mut self, piece: u32) {
        self.clear((piece / WORD) as usize, 1 << (piece % WORD));
    }

    /// Adds all of `pieces`, which lie within the task.
    pub(super) fn union_with(&mut self, pieces: &PieceSet) {
        for (at, mask) in pieces.runs().iter().flat_map(masks) {
            self.set(at, mask);
        }
    }

    /// The same; those that were not in it are added to `new` too.
    pub(super) fn add_new(&mut self, pieces: &PieceSet, new: &mut Self) {
        for (at, mask) in pieces.runs().iter().flat_map(masks) {
            new.set(at, mask & !self.word(at));
            self.set(at, mask);
        }
    }

    /// Removes all of `pieces`, which may be another host's word and of any length.
    pub(super) fn subtract(&mut self, pieces: &PieceSet) {
        let end = self.words.len() as u32 * WORD;
        let runs = pieces.runs().iter().take_while(|run| run.start < end);
        for (at, mask) in runs.flat_map(|run| masks(&(run.start..run.end.min(end)))) {
            self.clear(at, mask);
        }
    }

    /// Removes what is in `other`.
    pub(super) fn subtract_bits(&mut self, other: &Self) {
        for (at, mask) in other.words.iter().enumerate() {
            self.clear(at, *mask);
        }
    }

    /// Whether all of it is in `other`.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        let mut words = self.words.iter().enumerate();
        words.all(|(at, word)| word & !other.word(at) == 0)
    }

    /// Removes from `pieces` what is in this set.
    pub(super) fn remove_from(&self, pieces: &mut PieceSet) {
        let mut rest = Self::from(&*pieces);
        rest.subtract_bits(self);
        *pieces = rest.to_pieces();
    }

    /// The same as runs.
    pub(super) fn to_pieces(&self) -> PieceSet {
        let mut pieces = PieceSet::new();
        for (at, word) in self.words.iter().enumerate() {
            let (mut rest, mut start) = (*word, at as u32 * WORD);
            while rest != 0 {
                let (zeros, ones) = (
                    rest.trailing_zeros(),
                    (rest >> rest.trailing_zeros()).trailing_ones(),
                );
                start += zeros;
                pieces.insert_range(start..start + ones);
                start += ones;
                rest = rest.checked_shr(zeros + ones).unwrap_or(0);
            }
        }
        pieces
    }

    fn word(&self, at: usize) -> u64 {
        self.words.get(at).copied().unwrap_or(0)
    }

    fn set(&mut self, at: usize, mask: u64) {
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        self.count += (mask & !self.words[at]).count_ones();
        self.words[at] |= mask;
    }

    fn clear(&mut self, at: usize, mask: u64) {
        if let Some(word) = self.words.get_mut(at) {
            self.count -= (mask & *word).count_ones();
            *word &= !mask;
        }
    }
}

impl From<&PieceSet> for Bits {
    fn from(pieces: &PieceSet) -> Self {
        let mut bits = Self::default();
        bits.union_with(pieces);
        bits
    }
}

/// Words, and which of their bits lie in a run.
fn masks(run: &Range<u32>) -> impl Iterator<Item = (usize, u64)> + use<> {
    let (start, end) = (run.start, run.end);
    let words = start / WORD..end.div_ceil(WORD);
    words.map(move |at| {
        let first = at * WORD;
        let from = start.max(first) - first;
        let count = (end - first).min(WORD) - from;
        (at as usize, (u64::MAX >> (WORD - count)) << from)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_what_the_runs_are(
            steps in prop::collection::vec((0..4u8, 0u32..300, 0u32..150), 0..40),
            other in prop::collection::vec((0u32..300, 0u32..100), 0..4),
        ) {
            let (mut bits, mut runs) = (Bits::default(), PieceSet::new());
            let mut beside = PieceSet::new();
            for (start, length) in other {
                beside.insert_range(start..start + length);
            }
            let words = Bits::from(&beside);
            for (what, start, length) in steps {
                let range = PieceSet::from_range(start..start + length);
                match what {
                    0 => {
                        let (mut twice, mut new) = (bits.clone(), Bits::default());
                        twice.add_new(&range, &mut new);
                        bits.union_with(&range);
                        prop_assert_eq!(twice.to_pieces(), bits.to_pieces());
                        let mut added = range.clone();
                        added.subtract(&runs);
                        prop_assert_eq!(new.to_pieces(), added);
                        runs.union_with(&range);
                    }
                    1 => {
                        // Every other one without an end.
                        let end = if length % 2 == 0 { u32::MAX } else { start + length };
                        let range = PieceSet::from_range(start..end);
                        bits.subtract(&range);
                        runs.subtract(&range);
                    }
                    2 => prop_assert_eq!(bits.insert(start), runs.insert(start)),
                    _ => {
                        bits.remove(start);
                        runs.remove(start);
                    }
                }
                prop_assert_eq!(bits.to_pieces(), runs.clone());
                prop_assert_eq!(bits.count, runs.len());
                prop_assert_eq!(bits.is_empty(), runs.is_empty());
                prop_assert_eq!(bits.first_gap(), runs.first_gap(0));
                for from in [0, 1, 63, 64, 65, 200, 700] {
                    prop_assert_eq!(bits.next_64(from), runs.bits(from));
                    prop_assert_eq!(bits.contains(from), runs.contains(from));
                }
                prop_assert_eq!(bits.is_within(&words), runs.is_within(&beside));
                let (mut less, mut rest) = (runs.clone(), beside.clone());
                less.subtract(&beside);
                let mut fewer = bits.clone();
                fewer.subtract_bits(&words);
                prop_assert_eq!(fewer.to_pieces(), less);
                bits.remove_from(&mut rest);
                let mut left = beside.clone();
                left.subtract(&runs);
                prop_assert_eq!(rest, left);
            }
        }
    }
}
