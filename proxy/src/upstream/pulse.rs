//! Whether an upstream lives, so that the second question to a silent one needs not
//! wait as long as the first.
//!
//! Owner of state: one [`Pulse`] an upstream. Invariant: an upstream that has replied to
//! anybody since a question began is not silent, however long that question waits: one slow
//! endpoint does not take the others with it. Failure: a wrong verdict costs the
//! questions of [`QUIET`]; then one of them finds out.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Questions are not asked for so long after an upstream was found silent.
const QUIET: Duration = Duration::from_secs(2);

/// So many replies within [`BUSY_WITHIN`] are those of an upstream that is at work.
const BUSY_REPLIES: usize = 8;
const BUSY_WITHIN: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pulse(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    heard: Option<Instant>,
    /// When the last [`BUSY_REPLIES`] of use came.
    replies: VecDeque<Instant>,
    /// Nothing is asked until then; afterwards one question finds out how it is.
    silent_until: Option<Instant>,
}

impl Pulse {
    /// Whether a question may be asked, by what is known at `now`. The first one after a
    /// silence keeps the others waiting off for `probing`.
    pub(super) fn may_ask(&self, now: Instant, probing: Duration) -> bool {
        let mut state = self.0.lock();
        match state.silent_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                state.silent_until = Some(now + probing);
                true
            }
        }
    }

    /// Whether it is at work on many questions, so that one that waits is behind others and
    /// not lost. A few replies say nothing: some registries answer some questions only.
    pub(super) fn is_busy(&self, now: Instant) -> bool {
        let state = self.0.lock();
        let first = state.replies.front().copied();
        let recent = first.is_some_and(|first| now - first < BUSY_WITHIN);
        recent && state.replies.len() == BUSY_REPLIES
    }

    /// A reply came, whatever it says.
    pub(super) fn heard(&self, now: Instant) {
        let mut state = self.0.lock();
        state.heard = Some(now);
        state.silent_until = None;
    }

    /// The reply was of use: no failure of the upstream's own.
    pub(super) fn worked(&self, now: Instant) {
        let mut state = self.0.lock();
        if state.replies.len() == BUSY_REPLIES {
            state.replies.pop_front();
        }
        state.replies.push_back(now);
    }

    /// What was asked at `asked` got no reply.
    pub(super) fn silent(&self, asked: Instant, now: Instant) {
        let mut state = self.0.lock();
        if state.heard.is_none_or(|heard| heard < asked) {
            state.silent_until = Some(now + QUIET);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_spares_questions_and_any_reply_ends_it() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let probing = Duration::from_secs(4);
        assert!(pulse.may_ask(at(0), probing));
        pulse.silent(at(0), at(4));
        assert!(!pulse.may_ask(at(5), probing));
        assert!(pulse.may_ask(at(6), probing), "one finds out");
        assert!(!pulse.may_ask(at(7), probing), "only one");
        pulse.heard(at(8));
        assert!(pulse.may_ask(at(8), probing));
        // Another question was answered meanwhile.
        pulse.silent(at(7), at(11));
        assert!(pulse.may_ask(at(11), probing));
    }
    #[test]
    fn many_replies_within_a_moment_are_those_of_a_busy_upstream() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        for reply in 0..7 {
            pulse.worked(at(reply * 200));
            assert!(!pulse.is_busy(at(reply * 200)));
        }
        pulse.worked(at(1400));
        assert!(pulse.is_busy(at(1999)));
        assert!(!pulse.is_busy(at(2000)));
    }
}
