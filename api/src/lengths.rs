//! The geometry of a task: its size, its pieces, their groups.

use std::{fmt, ops::Range};

/// Bytes of a group, the unit that is verified.
pub const GROUP_BYTES: u64 = 64 * 1024;
/// The smallest piece.
pub const MIN_PIECE_BYTES: u64 = 256 * 1024;
/// The largest piece. A swarm is under way once pieces have made a few hops, which large ones
/// take long for: with twice as many pieces a hundred
/// hosts used 95 instead of 93 % of their links (simulated).
pub const MAX_PIECE_BYTES: u64 = 8 * 1024 * 1024;
/// Whoever reads a source reads over so many bytes that it does not want, rather than ask anew.
/// Parts of a source that several hosts read lie further apart.
pub const READ_OVER_BYTES: u64 = 1024 * 1024;
/// The largest content, 8 TiB: what keeps sets of its pieces within a message.
pub const MAX_SIZE: u64 = 1 << 43;
/// No task has more pieces.
pub const MAX_PIECES: u32 = (MAX_SIZE / MAX_PIECE_BYTES) as u32;
/// Bytes of every piece of a content whose size nobody has told: as many as of one of 600 MB.
pub const OPEN_PIECE_BYTES: u64 = 1024 * 1024;
/// Pieces that such a content has room for, the one that says where it ends among them: 64 GiB.
/// More would make what is told of it larger, for no image.
pub const OPEN_PIECES: u32 = 64 * 1024;
/// Pieces a task aims at, at most, until they are [`MAX_PIECE_BYTES`] long (so 400 to 800 of large
/// contents, as pieces are powers of two). With half as many a
/// thousand hosts took 6 % longer for 500 MB (simulated).
const TARGET_PIECES: u64 = 800;

/// Index of a piece in its task, from zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PieceIndex(pub u32);

impl fmt::Display for PieceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Size and piece length of a task; every piece but the last is of the same length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lengths {
    size: u64,
    piece_length: u32,
}

/// Why a geometry is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LengthsError {
    /// The content is larger than [`MAX_SIZE`].
    #[error("a size of {0} bytes is over the limit of {MAX_SIZE}")]
    Size(u64),
    /// The piece length is not the one that follows from the size.
    #[error("a piece length of {given} bytes where the size asks for {expected}")]
    PieceLength {
        /// What came over the wire.
        given: u32,
        /// What [`Lengths::of`] computes.
        expected: u32,
    },
}

impl Lengths {
    /// The geometry of a content of `size` bytes. A pure function of the size, and
    /// part of the wire version: all hosts must agree on it.
    ///
    /// # Errors
    /// When the size is over [`MAX_SIZE`].
    pub fn of(size: u64) -> Result<Self, LengthsError> {
        if size > MAX_SIZE {
            return Err(LengthsError::Size(size));
        }
        let piece = size
            .div_ceil(TARGET_PIECES)
            .next_power_of_two()
            .clamp(MIN_PIECE_BYTES, MAX_PIECE_BYTES);
        Ok(Self {
            size,
            piece_length: piece as u32,
        })
    }

    /// The geometry of a content whose size nobody has told: as if it went on for as long as such
    /// a content may. Where it ends is told by who reads it to its end ([`crate::proof::End`]);
    /// the pieces from there on are empty.
    pub const fn open() -> Self {
        Self {
            size: OPEN_PIECES as u64 * OPEN_PIECE_BYTES,
            piece_length: OPEN_PIECE_BYTES as u32,
        }
    }

    /// Whether it is [`Lengths::open`]. No size has the same piece length.
    pub const fn is_open(&self) -> bool {
        let open = Self::open();
        self.size == open.size && self.piece_length == open.piece_length
    }

    /// Bytes of the content, where they are known.
    pub const fn known_size(&self) -> Option<u64> {
        if self.is_open() {
            return None;
        }
        Some(self.size)
    }

    /// A geometry that came over the wire.
    ///
    /// # Errors
    /// When it is neither [`Lengths::open`] nor the one that [`Lengths::of`] gives for the size.
    pub fn checked(size: u64, piece_length: u32) -> Result<Self, LengthsError> {
        let open = Self::open();
        if (size, piece_length) == (open.size, open.piece_length) {
            return Ok(open);
        }
        let expected = Self::of(size)?;
        if expected.piece_length != piece_length {
            return Err(LengthsError::PieceLength {
                given: piece_length,
                expected: expected.piece_length,
            });
        }
        Ok(expected)
    }

    /// Bytes of the whole content.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of every piece but the last.
    pub const fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// Number of pieces; zero for empty content.
    pub const fn pieces(&self) -> u32 {
        self.size.div_ceil(self.piece_length as u64) as u32
    }

    /// Whether the whole content is at most one piece.
    pub const fn is_small(&self) -> bool {
        self.pieces() <= 1
    }

    /// The bytes of the content that a piece covers.
    pub fn piece_range(&self, piece: PieceIndex) -> Range<u64> {
        let start = u64::from(piece.0) * u64::from(self.piece_length);
        start.min(self.size)..(start + u64::from(self.piece_length)).min(self.size)
    }

    /// Bytes of a piece.
    pub fn piece_bytes(&self, piece: PieceIndex) -> u64 {
        let range = self.piece_range(piece);
        range.end - range.start
    }

    /// Number of groups in a piece.
    pub fn groups(&self, piece: PieceIndex) -> u32 {
        self.piece_bytes(piece).div_ceil(GROUP_BYTES) as u32
    }

    /// The bytes of the content that group `group` of a piece covers.
    pub fn group_range(&self, piece: PieceIndex, group: u32) -> Range<u64> {
        let whole = self.piece_range(piece);
        let start = whole.start + u64::from(group) * GROUP_BYTES;
        start.min(whole.end)..(start + GROUP_BYTES).min(whole.end)
    }

    /// The groups that a range of bytes touches, counted from the content's beginning.
    pub fn groups_of(&self, bytes: Range<u64>) -> Range<u32> {
        let end = bytes.end.min(self.size);
        if bytes.start >= end {
            return 0..0;
        }
        (bytes.start / GROUP_BYTES) as u32..end.div_ceil(GROUP_BYTES) as u32
    }

    /// The bytes of a run of groups, counted from the content's beginning.
    pub fn bytes_of_groups(&self, groups: Range<u32>) -> Range<u64> {
        let at = |group: u32| (u64::from(group) * GROUP_BYTES).min(self.size);
        at(groups.start)..at(groups.end)
    }

    /// The piece that holds the byte at `offset`; `None` at or past the end.
    pub fn piece_at(&self, offset: u64) -> Option<PieceIndex> {
        (offset < self.size).then(|| PieceIndex((offset / u64::from(self.piece_length)) as u32))
    }

    /// The pieces that a range of bytes touches.
    pub fn pieces_of(&self, bytes: Range<u64>) -> Range<u32> {
        if bytes.start >= bytes.end || bytes.start >= self.size {
            return 0..0;
        }
        let length = u64::from(self.piece_length);
        let first = bytes.start / length;
        let last = bytes.end.min(self.size).div_ceil(length);
        first as u32..last as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aims_at_400_to_800_pieces() {
        let mib = 1 << 20;
        for (size, piece, pieces) in [
            (0, 256 * 1024, 0),
            (1, 256 * 1024, 1),
            (256 * 1024, 256 * 1024, 1),
            (256 * 1024 + 1, 256 * 1024, 2),
            (100_000_000, 256 * 1024, 382),
            (1024 * mib, 2 * mib, 512),
            (6 * 1024 * mib, 8 * mib, 768),
            (6401 * mib, 8 * mib, 801),
            (40 * 1024 * mib, 8 * mib, 5120),
        ] {
            let lengths = Lengths::of(size).expect("under the limit");
            assert_eq!(u64::from(lengths.piece_length()), piece, "{size}");
            assert_eq!(lengths.pieces(), pieces, "{size}");
        }
        assert!(Lengths::of(u64::MAX).is_err());
        let largest = Lengths::of(MAX_SIZE).expect("just within the limit");
        assert_eq!(largest.pieces(), MAX_PIECES);
        assert!(Lengths::of(MAX_SIZE + 1).is_err());
        assert!(Lengths::checked(100, 4096).is_err());
        let (open, sized) = (
            Lengths::open(),
            Lengths::of(Lengths::open().size()).unwrap(),
        );
        assert!(open.is_open() && !sized.is_open());
        assert_eq!(open.pieces(), OPEN_PIECES);
        for lengths in [open, sized] {
            let again = Lengths::checked(lengths.size(), lengths.piece_length());
            assert_eq!(again, Ok(lengths));
        }
        assert!(Lengths::checked(open.size() - 1, open.piece_length()).is_err());
    }

    #[test]
    fn pieces_and_groups_tile_the_content() {
        let lengths = Lengths::of(100_000_000).expect("under the limit");
        let mut at = 0;
        for piece in (0..lengths.pieces()).map(PieceIndex) {
            for group in 0..lengths.groups(piece) {
                let range = lengths.group_range(piece, group);
                assert_eq!(range.start, at);
                assert_eq!(lengths.piece_at(range.start), Some(piece));
                at = range.end;
            }
            assert_eq!(lengths.piece_range(piece).end, at);
        }
        assert_eq!(at, lengths.size());
        assert_eq!(lengths.groups_of(65_535..65_537), 0..2);
        assert_eq!(lengths.groups_of(99_999_999..u64::MAX), 1525..1526);
        assert_eq!(lengths.groups_of(100_000_000..u64::MAX), 0..0);
        assert_eq!(lengths.bytes_of_groups(1..2), 65_536..131_072);
        assert_eq!(lengths.bytes_of_groups(1525..1526), 99_942_400..100_000_000);
        assert_eq!(lengths.pieces_of(0..1), 0..1);
        assert_eq!(lengths.pieces_of(262_143..262_145), 0..2);
        assert_eq!(lengths.pieces_of(99_999_999..u64::MAX), 381..382);
    }
}
