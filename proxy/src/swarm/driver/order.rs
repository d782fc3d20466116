//! What one reading of a source is to bring, and by whose word.

use std::{ops::Range, sync::Arc};

use darter_api::{Grant, Lengths, PieceIndex, PieceSet, READ_OVER_BYTES};
use parking_lot::Mutex;

/// Grants remembered by one reading.
const MOST_GRANTS: usize = 16;

/// What is to be read, and whose word makes it count; may change while it is read, and
/// the stream goes on if it can.
#[derive(Debug)]
pub(super) struct Order(Mutex<Ordered>);

#[derive(Debug)]
struct Ordered {
    pieces: PieceSet,
    /// The newest first.
    grants: Vec<Arc<Grant>>,
}

impl Order {
    pub(super) fn new(pieces: PieceSet, grant: Arc<Grant>) -> Self {
        let grants = vec![grant];
        Self(Mutex::new(Ordered { pieces, grants }))
    }

    /// From now on these, by this word. Earlier grants stay for what they covered.
    pub(super) fn change(&self, pieces: PieceSet, grant: Arc<Grant>) {
        let mut ordered = self.0.lock();
        ordered.pieces = pieces;
        ordered.grants.insert(0, grant);
        ordered.grants.truncate(MOST_GRANTS);
    }

    /// The grant that covers a piece.
    pub(super) fn grant(&self, piece: PieceIndex) -> Option<Arc<Grant>> {
        let ordered = self.0.lock();
        let mut grants = ordered.grants.iter();
        grants
            .find(|grant| grant.pieces.contains(&piece.0))
            .cloned()
    }

    pub(super) fn wants(&self, piece: PieceIndex) -> bool {
        self.0.lock().pieces.contains(piece.0)
    }

    pub(super) fn read(&self, piece: PieceIndex) {
        self.0.lock().pieces.remove(piece.0);
    }

    /// There is nothing from this piece on.
    pub(super) fn ends(&self, past: PieceIndex) {
        self.0.lock().pieces.remove_range(past.0..u32::MAX);
    }

    /// The lowest piece still to be read, from `from` on.
    pub(super) fn next(&self, from: u32) -> Option<u32> {
        let ordered = self.0.lock();
        let run = ordered.pieces.runs().iter().find(|run| run.end > from)?;
        Some(run.start.max(from))
    }

    /// The next bytes to ask for: from the first piece on, over small gaps.
    pub(super) fn next_range(&self, lengths: &Lengths) -> Option<Range<u64>> {
        let ordered = self.0.lock();
        let mut runs = ordered.pieces.runs().iter();
        let first = runs.next()?;
        let (start, mut end) = (first.start, first.end);
        for run in runs {
            let gap = u64::from(run.start - end) * u64::from(lengths.piece_length());
            if gap > READ_OVER_BYTES {
                break;
            }
            end = run.end;
        }
        let start = lengths.piece_range(PieceIndex(start)).start;
        Some(start..lengths.piece_range(PieceIndex(end - 1)).end)
    }
}
