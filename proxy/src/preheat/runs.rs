//! Orders under way.
//!
//! Invariant: a run that has ended, in whatever way, takes no place: its token is cancelled when
//! it is dropped.

use std::collections::HashMap;

use darter_api::SchedulerName;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Orders under way; further ones are refused.
const MOST_RUNS: usize = 32;

/// One order of one scheduler.
pub(super) type Key = (SchedulerName, u64);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Runs(HashMap<Key, CancellationToken>);

/// A run's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    stop: CancellationToken,
    _end: DropGuard,
}

impl Place {
    /// Somebody wants it to end. Whoever waits has all of the place: a closure that names one of
    /// its fields would take that alone, and give the place up.
    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }
}

impl Runs {
    /// Ends a run, if there is one.
    pub(super) fn stop(&mut self, key: &Key) {
        if let Some(run) = self.0.remove(key) {
            run.cancel();
        }
    }

    /// A place for a run, instead of an earlier one of the same order; none if there are too
    /// many.
    pub(super) fn begin(&mut self, key: Key) -> Option<Place> {
        self.stop(&key);
        self.0.retain(|_, run| !run.is_cancelled());
        if self.0.len() >= MOST_RUNS {
            return None;
        }
        let stop = CancellationToken::new();
        self.0.insert(key, stop.clone());
        let _end = stop.clone().drop_guard();
        Some(Place { stop, _end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_until_runs_end_in_whatever_way() {
        let name = SchedulerName::new("http://s:1");
        let key = |run: usize| (name.clone(), run as u64);
        let mut runs = Runs::default();
        let mut places: Vec<Place> = (0..MOST_RUNS)
            .map(|run| runs.begin(key(run)).unwrap())
            .collect();
        assert!(runs.begin(key(99)).is_none(), "they are bounded");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe({
            let place = places.pop();
            move || {
                let _place = place;
                std::panic::resume_unwind(Box::new("a bug"));
            }
        }));
        assert!(panicked.is_err());
        let late = runs.begin(key(99)).expect("the place is free");
        assert!(runs.begin(key(100)).is_none());
        // The same order again is instead of the first, and that one's end is not its own.
        let again = runs.begin(key(99)).expect("its own place");
        assert!(late.stop.is_cancelled());
        drop(late);
        assert!(!again.stop.is_cancelled());
        runs.stop(&key(99));
        assert!(again.stop.is_cancelled());
        assert!(runs.begin(key(100)).is_some());
    }
}
