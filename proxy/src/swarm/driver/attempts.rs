//! How often, and how soon, a source is asked again.
//!
//! Owner of state: one [`Attempts`] a download, however many readings it takes. Invariant:
//! only growth of the content is a reason for new patience, so that a source that always
//! breaks off at the same byte is given up, although every lease begins at its piece's
//! first byte again.

use std::time::{Duration, Instant};

/// Pauses between attempts that brought nothing, before the content's first byte: a client
/// waits for its status line, for 5 s at most.
const PAUSES_BEFORE: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];
/// And once a body has begun: it ends short only if the source stays away. In all they are
/// less than a scheduler's `lease_timeout`, so that a failure is told before it is assumed.
const PAUSES_WITHIN: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
/// After an attempt that took so long there is no time for another one before a client
/// gives up; another host may still have it.
const NO_TIME: Duration = Duration::from_secs(2);

/// Attempts since bytes came that had not come before.
#[derive(Debug)]
pub(super) struct Attempts {
    made: usize,
    since: Instant,
    /// The content's growths at the last attempt.
    growths: u64,
}

impl Attempts {
    pub(super) fn new() -> Self {
        Self {
            made: 0,
            since: Instant::now(),
            growths: 0,
        }
    }

    /// A reading begins.
    pub(super) fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// How long to wait before the next attempt, after the content grew `growths` times in
    /// all and with what the source `asked` for; `None` when it is enough.
    pub(super) fn next_pause(&mut self, growths: u64, asked: Option<Duration>) -> Option<Duration> {
        if growths > self.growths {
            self.growths = growths;
            self.made = 0;
        }
        let pauses: &[Duration] = if growths > 0 {
            &PAUSES_WITHIN
        } else {
            &PAUSES_BEFORE
        };
        if growths == 0 && self.since.elapsed() > NO_TIME {
            return None;
        }
        let pause = *pauses.get(self.made)?;
        self.made += 1;
        let longest = *pauses.last()?;
        match asked {
            Some(asked) if asked > longest => None,
            Some(asked) => Some(asked.max(pause)),
            None => Some(pause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(attempts: &mut Attempts, growths: u64) -> usize {
        std::iter::from_fn(|| attempts.next_pause(growths, None)).count()
    }

    #[test]
    fn a_new_reading_is_no_new_patience() {
        let mut attempts = Attempts::new();
        assert_eq!(pauses(&mut attempts, 3), PAUSES_WITHIN.len());
        attempts.begin();
        assert_eq!(attempts.next_pause(3, None), None);
        assert_eq!(pauses(&mut attempts, 4), PAUSES_WITHIN.len());
    }

    #[test]
    fn a_source_that_asks_for_more_than_there_is_patience_gets_none() {
        let mut attempts = Attempts::new();
        let minute = Some(Duration::from_secs(60));
        assert_eq!(attempts.next_pause(1, minute), None);
        let three = Some(Duration::from_secs(3));
        assert_eq!(attempts.next_pause(1, three), three);
    }
}
