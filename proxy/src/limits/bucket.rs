//! A token bucket with two classes of waiters: pure, `now` is an argument.
//!
//! Owner of state: a [`Bucket`] owns its tokens and who waits for them. Invariants: over any
//! interval of `T` seconds at most `rate * T + burst` bytes pass; nobody who fits waits;
//! within a class who came first passes first, so that transfers which ask for a portion at
//! a time take turns; the foreground goes first, but for a floor of [`FLOOR_PERCENT`] that
//! the background always gets.
//!
//! Without a rate the foreground never waits. The background does while somebody says that
//! the foreground is busy ([`Bucket::grant`]'s `busy`): what is left of a link whose capacity
//! nobody knows can't be told, so it gets the floor alone until the foreground rests.

use std::{collections::VecDeque, num::NonZeroU64, time::Duration};

/// What a transfer asks for at once, at most; a group.
pub(super) const PORTION: u64 = 64 * 1024;
/// And at least, at low rates.
const LEAST_PORTION: u64 = 4 * 1024;
/// A portion is at most what passes in a 32nd of a second, so that four uploads at the
/// lowest rate still give each child bytes well within its patience.
const PORTIONS_A_SECOND: u64 = 32;
/// A burst is what passes in 50 ms: longer than a timer is late.
const BURSTS_A_SECOND: u64 = 20;
/// What the background gets of a rate whatever the foreground takes, in per cent.
pub(super) const FLOOR_PERCENT: u64 = 5;
/// What it gets at least beside a busy foreground without a rate, in bytes a second: a tenth
/// of 10 Mbit/s.
pub(super) const LEAST_FLOOR: u64 = 128 * 1024;
/// Whether the foreground is still busy is asked again after so long.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Tokens are counted in bytes times this, so that no fraction is ever lost.
const UNIT: u128 = 1_000_000_000;

/// Whose bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Somebody waits for them.
    #[default]
    Foreground,
    /// They were asked for ahead of time.
    Background,
}

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: Option<NonZeroU64>,
    tokens: u128,
    /// What the background may take although the foreground waits.
    floor: u128,
    /// Until when tokens are counted.
    at: Duration,
    foreground: VecDeque<Waiting>,
    background: VecDeque<Waiting>,
    tickets: u64,
}

/// Bytes that may pass at once at a rate.
pub(super) fn burst(rate: NonZeroU64) -> u64 {
    (rate.get() / BURSTS_A_SECOND).max(PORTION)
}

impl Bucket {
    /// A full bucket; `None` is no limit.
    pub(super) fn new(now: Duration, rate: Option<NonZeroU64>) -> Self {
        Self {
            rate,
            tokens: rate.map_or(0, |rate| u128::from(burst(rate)) * UNIT),
            floor: 0,
            at: now,
            foreground: VecDeque::new(),
            background: VecDeque::new(),
            tickets: 0,
        }
    }

    /// Another rate from now on. Whoever waits has to ask for a grant again.
    pub(super) fn set_rate(&mut self, now: Duration, rate: Option<NonZeroU64>) {
        self.refill(now, None);
        if self.rate.is_none() {
            self.tokens = u128::MAX;
        }
        self.rate = rate;
        let most = rate.map_or(0, |rate| u128::from(burst(rate)) * UNIT);
        self.tokens = self.tokens.min(most);
    }

    /// What a transfer should ask for at once.
    pub(super) fn portion(&self) -> u64 {
        self.rate.map_or(PORTION, |rate| {
            (rate.get() / PORTIONS_A_SECOND).clamp(LEAST_PORTION, PORTION)
        })
    }

    /// Waits for `bytes`, at most [`PORTION`].
    pub(super) fn enqueue(&mut self, class: Class, bytes: u64) -> Ticket {
        debug_assert!(bytes <= PORTION, "a portion fits into every burst");
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let bytes = bytes.min(PORTION);
        self.queue(class).push_back(Waiting { ticket, bytes });
        ticket
    }

    /// Gives up a place; whether it still was one.
    pub(super) fn cancel(&mut self, class: Class, ticket: Ticket) -> bool {
        let queue = self.queue(class);
        let place = queue.binary_search_by_key(&ticket, |waiting| waiting.ticket);
        place.is_ok_and(|place| queue.remove(place).is_some())
    }

    /// Whether this one has not passed yet.
    pub(super) fn is_waiting(&mut self, class: Class, ticket: Ticket) -> bool {
        let queue = self.queue(class);
        queue
            .binary_search_by_key(&ticket, |waiting| waiting.ticket)
            .is_ok()
    }

    /// Lets pass who may, and says who. `busy` is what the foreground moves elsewhere, in
    /// bytes a second, `None` if it rests; it counts without a rate only.
    pub(super) fn grant(&mut self, now: Duration, busy: Option<u64>) -> Vec<Ticket> {
        self.refill(now, busy);
        let mut granted = Vec::new();
        while let Some(class) = self.next_class(busy.is_some()) {
            let Some(first) = self.queue(class).pop_front() else {
                break;
            };
            let price = u128::from(first.bytes) * UNIT;
            if self.rate.is_some() {
                self.tokens = self.tokens.saturating_sub(price);
            }
            if class == Class::Background {
                self.floor = self.floor.saturating_sub(price);
            }
            granted.push(first.ticket);
        }
        granted
    }

    /// When to ask again, after [`Self::grant`] at `now`; `None` when nobody waits.
    pub(super) fn deadline(&self, now: Duration, busy: Option<u64>) -> Option<Duration> {
        let tokens = |waiting: &Waiting| {
            self.rate
                .map_or(Duration::ZERO, |rate| until(waiting, self.tokens, rate))
        };
        let floor = |waiting: &Waiting| {
            self.floor_rate(busy)
                .map_or(Duration::ZERO, |rate| until(waiting, self.floor, rate))
        };
        let wait = match (self.foreground.front(), self.background.front()) {
            (None, None) => return None,
            (None, Some(second)) if self.rate.is_some() => tokens(second),
            (None, Some(second)) => floor(second).min(LOOK_AGAIN),
            (Some(_), Some(second)) if floor(second).is_zero() => tokens(second),
            (Some(first), Some(second)) => tokens(first).min(floor(second)),
            (Some(first), None) => tokens(first),
        };
        Some(now + wait.max(Duration::from_nanos(1)))
    }

    fn queue(&mut self, class: Class) -> &mut VecDeque<Waiting> {
        match class {
            Class::Foreground => &mut self.foreground,
            Class::Background => &mut self.background,
        }
    }

    fn refill(&mut self, now: Duration, busy: Option<u64>) {
        let passed = now.saturating_sub(self.at).as_nanos();
        self.at = self.at.max(now);
        if let Some(rate) = self.rate {
            let most = u128::from(burst(rate)) * UNIT;
            self.tokens = (self.tokens + u128::from(rate.get()) * passed).min(most);
        }
        if let Some(rate) = self.floor_rate(busy) {
            let most = u128::from(PORTION) * UNIT;
            self.floor = (self.floor + u128::from(rate.get()) * passed).min(most);
        }
    }

    fn floor_rate(&self, busy: Option<u64>) -> Option<NonZeroU64> {
        let share = |rate: u64| rate.saturating_mul(FLOOR_PERCENT) / 100;
        let floor = match (self.rate, busy) {
            (Some(rate), _) => share(rate.get()).max(1),
            (None, Some(busy)) => share(busy).max(LEAST_FLOOR),
            (None, None) => return None,
        };
        NonZeroU64::new(floor)
    }

    /// Whose turn it is, if the one in front fits.
    fn next_class(&self, busy: bool) -> Option<Class> {
        let price = |waiting: &Waiting| u128::from(waiting.bytes) * UNIT;
        let fits = |waiting: &Waiting| self.rate.is_none() || self.tokens >= price(waiting);
        let (foreground, background) = (self.foreground.front(), self.background.front());
        let contended = foreground.is_some() || (self.rate.is_none() && busy);
        match (foreground, background) {
            // What the floor owes comes first, and is waited for: else small portions of the
            // foreground would never let the tokens for it gather.
            (_, Some(due)) if contended && self.floor >= price(due) => {
                fits(due).then_some(Class::Background)
            }
            (Some(first), _) => fits(first).then_some(Class::Foreground),
            (None, Some(first)) if !contended => fits(first).then_some(Class::Background),
            (None, _) => None,
        }
    }
}

/// Until there are tokens for it.
fn until(waiting: &Waiting, tokens: u128, rate: NonZeroU64) -> Duration {
    let missing = (u128::from(waiting.bytes) * UNIT).saturating_sub(tokens);
    let nanos = missing.div_ceil(u128::from(rate.get()));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
