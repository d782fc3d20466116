//! What is to happen, in order of time and then of being put in.
//!
//! What happens lies in slots beside the heap, so that the heap moves a few words only.

use std::{cmp::Reverse, collections::BinaryHeap};

use darter_api::Timestamp;

/// Events that are due.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    heap: BinaryHeap<Reverse<(Timestamp, u64, usize)>>,
    sequence: u64,
    slots: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            sequence: 0,
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(crate) fn put(&mut self, at: Timestamp, what: T) {
        self.sequence += 1;
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(Some(what));
        } else {
            self.slots[slot] = Some(what);
        }
        self.heap.push(Reverse((at, self.sequence, slot)));
    }

    pub(crate) fn take(&mut self) -> Option<(Timestamp, T)> {
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        Some((at, self.slots[slot].take()?))
    }
}
