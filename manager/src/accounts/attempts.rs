//! Failed sign-ins of each address, so that nobody guesses for long.
//!
//! Owner of state: [`Attempts`]: a bounded map; where it is full the oldest are forgotten.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use parking_lot::Mutex;
use time::OffsetDateTime;

/// Failures within [`WINDOW`] after which an address has to wait.
const MOST_FAILURES: u32 = 10;
/// How long failures are held against an address.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered.
const MOST_ADDRESSES: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    failures: Mutex<HashMap<IpAddr, (u32, OffsetDateTime)>>,
}

impl Attempts {
    /// Whether an address has to wait.
    pub(super) fn is_over(&self, from: IpAddr, now: OffsetDateTime) -> bool {
        let failures = self.failures.lock();
        let known = failures.get(&from);
        known.is_some_and(|(count, since)| *count >= MOST_FAILURES && now - *since < WINDOW)
    }

    pub(super) fn failed(&self, from: IpAddr, now: OffsetDateTime) {
        let mut failures = self.failures.lock();
        if failures.len() >= MOST_ADDRESSES {
            failures.retain(|_, (_, since)| now - *since < WINDOW);
        }
        if failures.len() >= MOST_ADDRESSES {
            failures.clear();
        }
        let (count, since) = failures.entry(from).or_insert((0, now));
        if now - *since >= WINDOW {
            (*count, *since) = (0, now);
        }
        *count += 1;
    }
}
