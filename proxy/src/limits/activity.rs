//! Whether the foreground is busy, told from what it has moved: pure, `now` is an argument.
//!
//! Nothing is noted on the foreground's own way: who is in the background looks at its
//! byte counter now and then.

use std::time::Duration;

/// The foreground rests when it has moved nothing for so long: pieces come in bursts.
const QUIET: Duration = Duration::from_millis(500);
/// Its rate is told from intervals of at least this.
const INTERVAL: Duration = Duration::from_millis(100);

/// What is known of one direction's foreground.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Where the interval began, and the counter there.
    since: Duration,
    base: u64,
    /// The counter when it was last looked at.
    seen: u64,
    moved: Option<Duration>,
    rate: u64,
}

impl Activity {
    /// The counter stands at `total` bytes: what the foreground moves, in bytes a second,
    /// or `None` if it rests.
    pub(super) fn observe(&mut self, now: Duration, total: u64) -> Option<u64> {
        if total != self.seen {
            self.seen = total;
            self.moved = Some(now);
        }
        let span = now.saturating_sub(self.since);
        if span >= INTERVAL {
            let bytes = u128::from(total.saturating_sub(self.base));
            let rate = bytes * 1_000_000_000 / span.as_nanos();
            self.rate = u64::try_from(rate).unwrap_or(u64::MAX);
            (self.since, self.base) = (now, total);
        }
        let busy = self
            .moved
            .is_some_and(|moved| now.saturating_sub(moved) < QUIET);
        busy.then_some(self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_while_bytes_move_and_half_a_second_longer() {
        let at = Duration::from_millis;
        let mut activity = Activity::default();
        assert_eq!(activity.observe(at(0), 0), None);
        assert_eq!(activity.observe(at(1000), 0), None);
        assert_eq!(activity.observe(at(1200), 1_000_000), Some(5_000_000));
        assert_eq!(activity.observe(at(1250), 1_000_000), Some(5_000_000));
        assert_eq!(activity.observe(at(1650), 1_000_000), Some(0));
        assert_eq!(activity.observe(at(1700), 1_000_000), None);
        assert_eq!(activity.observe(at(1710), 1_000_001), Some(0));
    }
}
