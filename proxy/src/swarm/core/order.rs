//! Whether a host asks for pieces in the order of their content, and not for rare ones first.
//!
//! With few neighbours everybody can ask everybody: no piece is far from anybody, and what comes in
//! order reaches clients in order.

use super::state::Subscriber;

/// With so many neighbours or fewer.
const FEW_NEIGHBOURS: usize = 12;
/// Who asks in order wants what lies so few pieces beyond its first gap: all before that is under
/// way to it.
const WANTED_WITHIN: u32 = 8;

/// Whether who has so many subscribers asks so. Whoever gives pieces out takes its own count for
/// theirs: in a mesh they are alike.
pub(super) const fn asks_in_order(subscribers: usize) -> bool {
    subscribers <= FEW_NEIGHBOURS
}

/// Whether a subscriber that asks in order has come so far that it waits for this piece.
pub(super) fn wants_soon(other: &Subscriber, piece: u32) -> bool {
    piece <= other.known.first_gap() + WANTED_WITHIN
}
