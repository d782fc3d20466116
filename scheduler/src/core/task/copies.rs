//! How many hold each piece of a task.
//!
//! Pieces are counted in blocks of 64, one by one only where somebody holds a part of a block: most
//! hold long runs, and whoever knows where a content of unknown size ends holds all of the
//! tens of thousands that lie past it.

use std::ops::Range;

/// Pieces of a block.
const BLOCK: u32 = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Copies(Vec<Block>);

#[derive(Debug, Default, Clone)]
struct Block {
    /// Who holds all of it, as far as `each` does not count them.
    all: u32,
    /// Who holds which piece.
    each: Option<Box<[u32; BLOCK as usize]>>,
}

impl Copies {
    /// How many hold this piece.
    pub(super) fn of(&self, piece: u32) -> u32 {
        let block = self.0.get((piece / BLOCK) as usize);
        block.map_or(0, |block| block.of((piece % BLOCK) as usize))
    }

    /// One more holds these.
    pub(super) fn add(&mut self, run: &Range<u32>) {
        for (at, within) in parts(run) {
            if at >= self.0.len() {
                self.0.resize(at + 1, Block::default());
            }
            self.0[at].add(within);
        }
    }

    /// One of those that hold these, all of which are counted, does not any more; `gone` is told
    /// which of them nobody holds then.
    pub(super) fn remove(&mut self, run: &Range<u32>, mut gone: impl FnMut(Range<u32>)) {
        for (at, within) in parts(run) {
            let start = at as u32 * BLOCK;
            self.0[at].remove(within, |part| {
                gone(start + part.start as u32..start + part.end as u32);
            });
        }
    }
}

impl Block {
    fn of(&self, at: usize) -> u32 {
        self.all + self.each.as_ref().map_or(0, |each| each[at])
    }

    fn add(&mut self, within: Range<usize>) {
        if within.len() == BLOCK as usize {
            self.all += 1;
            return;
        }
        let each = self
            .each
            .get_or_insert_with(|| Box::new([0; BLOCK as usize]));
        each[within].iter_mut().for_each(|count| *count += 1);
    }

    fn remove(&mut self, within: Range<usize>, mut gone: impl FnMut(Range<usize>)) {
        if within.len() == BLOCK as usize && self.all > 0 {
            self.all -= 1;
        } else {
            self.count_each(&within);
        }
        if self.all > 0 {
            return;
        }
        if self.each.is_none() {
            return gone(within);
        }
        within
            .filter(|at| self.of(*at) == 0)
            .for_each(|at| gone(at..at + 1));
    }

    /// Takes one off each of these, where those who hold all of the block may be among those who
    /// held them.
    fn count_each(&mut self, within: &Range<usize>) {
        let each = self
            .each
            .get_or_insert_with(|| Box::new([0; BLOCK as usize]));
        if each[within.clone()].contains(&0) {
            let all = std::mem::take(&mut self.all);
            each.iter_mut().for_each(|count| *count += all);
        }
        each[within.clone()]
            .iter_mut()
            .for_each(|count| *count -= 1);
    }
}

/// Blocks, and what of each lies in the run.
fn parts(run: &Range<u32>) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
    let (start, end) = (run.start, run.end);
    let blocks = start / BLOCK..end.div_ceil(BLOCK);
    blocks.map(move |at| {
        let first = at * BLOCK;
        let within = start.max(first) - first..(end - first).min(BLOCK);
        (at as usize, within.start as usize..within.end as usize)
    })
}

#[cfg(test)]
mod tests {
    use darter_api::PieceSet;
    use proptest::prelude::*;

    use super::*;

    const PIECES: u32 = 300;

    proptest! {
        #[test]
        fn is_what_counting_each_piece_says(
            steps in prop::collection::vec((0..4usize, 0..PIECES, 0..PIECES), 0..60),
        ) {
            let (mut copies, mut somewhere) = (Copies::default(), PieceSet::new());
            let mut members = vec![PieceSet::new(); 4];
            for (member, start, length) in steps {
                // Every other one is a run to the end.
                let end = if length % 2 == 0 { PIECES } else { PIECES.min(start + length) };
                let run = start..end.max(start);
                let (mut gained, mut lost) = (PieceSet::from_range(run.clone()), PieceSet::new());
                if length % 3 == 0 {
                    std::mem::swap(&mut gained, &mut lost);
                }
                let held = &mut members[member];
                gained.subtract(held);
                let lost = lost.intersection(held);
                held.union_with(&gained);
                held.subtract(&lost);
                somewhere.union_with(&gained);
                gained.runs().iter().for_each(|run| copies.add(run));
                for run in lost.runs() {
                    copies.remove(run, |gone| somewhere.remove_range(gone));
                }
                for piece in 0..PIECES {
                    let holders = members.iter().filter(|held| held.contains(piece)).count();
                    prop_assert_eq!(copies.of(piece) as usize, holders);
                    prop_assert_eq!(somewhere.contains(piece), holders > 0);
                }
            }
        }
    }

    #[test]
    fn a_long_run_is_counted_by_blocks() {
        let mut copies = Copies::default();
        copies.add(&(5..65_536));
        assert!(copies.0.len() == 1024 && copies.0.capacity() <= 2048);
        let by_piece = copies.0.iter().filter(|block| block.each.is_some());
        assert_eq!(by_piece.count(), 1);
    }
}
