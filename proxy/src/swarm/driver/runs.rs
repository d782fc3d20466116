//! Which bytes of a growing content can be read: sorted, disjoint runs.

use std::{collections::BTreeMap, ops::Range};

/// A set of byte offsets as runs that neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ByteRuns {
    /// Start to end.
    runs: BTreeMap<u64, u64>,
}

impl ByteRuns {
    /// Adds a run; whether any of it was new.
    pub(super) fn insert(&mut self, range: Range<u64>) -> bool {
        if range.start >= range.end {
            return false;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&before, &before_end)) = self.runs.range(..=start).next_back()
            && before_end >= start
        {
            if before_end >= end {
                return false;
            }
            start = before;
        }
        while let Some((&next, &next_end)) = self.runs.range(start..=end).next() {
            self.runs.remove(&next);
            end = end.max(next_end);
        }
        self.runs.insert(start, end);
        true
    }

    /// Removes a run.
    pub(super) fn remove(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        let touched: Vec<(u64, u64)> = self
            .runs
            .range(..range.end)
            .rev()
            .take_while(|(_, end)| **end > range.start)
            .map(|(start, end)| (*start, *end))
            .collect();
        for (start, end) in touched {
            self.runs.remove(&start);
            if start < range.start {
                self.runs.insert(start, range.start);
            }
            if end > range.end {
                self.runs.insert(range.end, end);
            }
        }
    }

    /// One past the last byte that can be read.
    pub(super) fn end(&self) -> u64 {
        self.runs.last_key_value().map_or(0, |(_, end)| *end)
    }

    /// One past the last byte that can be read without a gap from `from` on; `from`
    /// itself where it can't be read.
    pub(super) fn end_of_run(&self, from: u64) -> u64 {
        match self.runs.range(..=from).next_back() {
            Some((_, end)) if *end > from => *end,
            _ => from,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_set(steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..12), 0..60)) {
            let (mut runs, mut model) = (ByteRuns::default(), BTreeSet::new());
            for (add, start, length) in steps {
                let range = start..start + length;
                if add {
                    runs.insert(range.clone());
                    model.extend(range);
                } else {
                    runs.remove(range.clone());
                    model.retain(|offset| !range.contains(offset));
                }
                prop_assert_eq!(runs.end(), model.last().map_or(0, |last| last + 1));
                let pairs: Vec<_> = runs.runs.iter().collect();
                prop_assert!(pairs.iter().all(|(start, end)| start < end));
                prop_assert!(pairs.windows(2).all(|two| two[0].1 < two[1].0));
                for offset in 0..80 {
                    let end = (offset..).find(|at| !model.contains(at)).unwrap();
                    prop_assert_eq!(runs.end_of_run(offset), end);
                }
            }
        }
    }
}
