//! Heartbeats: each session hears from its scheduler once a second.
//!
//! Each at its own moment, that of its hello: ten thousand at the same one would keep the
//! processors busy for a part of a second, and every decision would wait for them.
//!
//! Owner of state: [`Beats`], one entry a session, and those of sessions that ended within the
//! last second.

use std::{collections::BTreeSet, time::Duration};

use darter_api::{HostId, Timestamp};

/// Between two of a session; peers take three seconds of silence for the end.
const EVERY: Duration = Duration::from_secs(1);
/// Those that are due within this are sent together.
const TOGETHER: Duration = Duration::from_millis(5);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Beats {
    /// When it is whose turn; sessions by host and epoch.
    turns: BTreeSet<(Timestamp, HostId, u64)>,
}

impl Beats {
    /// A session begins.
    pub(crate) fn begin(&mut self, now: Timestamp, host: HostId, epoch: u64) {
        self.turns.insert((now + EVERY, host, epoch));
    }

    /// When [`Beats::take`] is due.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.turns.first().map(|(due, ..)| *due + TOGETHER)
    }

    /// Whose turn it is, of the sessions that still stand.
    pub(crate) fn take(
        &mut self,
        now: Timestamp,
        stands: impl Fn(&HostId, u64) -> bool,
    ) -> Vec<HostId> {
        let mut all = Vec::new();
        while let Some((due, host, epoch)) = self.turns.first().copied()
            && due <= now
        {
            self.turns.pop_first();
            if stands(&host, epoch) {
                // Who waited because this process was held up keeps its moment, once it is back.
                let missed = now.since(due).as_micros() / EVERY.as_micros();
                let next = due + EVERY * (1 + u32::try_from(missed).unwrap_or(u32::MAX - 1));
                self.turns.insert((next, host, epoch));
                all.push(host);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: u8) -> HostId {
        HostId::from_bytes([number; 32])
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn each_has_its_moment_every_second() {
        let mut beats = Beats::default();
        assert_eq!(beats.due(), None);
        beats.begin(at(0), host(1), 1);
        beats.begin(at(300), host(2), 1);
        assert_eq!(beats.due(), Some(at(1005)));
        let all = |_: &HostId, _| true;
        assert_eq!(beats.take(at(1005), all), [host(1)]);
        assert_eq!(beats.take(at(1305), all), [host(2)]);
        assert_eq!(beats.take(at(1999), all), []);
        assert_eq!(beats.take(at(2005), all), [host(1)]);
        // Held up for five seconds.
        assert_eq!(beats.take(at(7100), all), [host(2), host(1)]);
        assert_eq!(beats.due(), Some(at(7305)));
        assert_eq!(beats.take(at(7305), all), [host(2)]);
        assert_eq!(beats.take(at(8005), all), [host(1)]);
    }

    #[test]
    fn a_session_that_ended_is_forgotten() {
        let mut beats = Beats::default();
        beats.begin(at(0), host(1), 1);
        beats.begin(at(10), host(1), 2);
        let second = |_: &HostId, epoch| epoch == 2;
        assert_eq!(beats.take(at(1100), second), [host(1)]);
        assert_eq!(beats.take(at(2200), |_: &HostId, _| false), []);
        assert_eq!(beats.due(), None);
    }
}
