//! Sign-ins of each address that failed or are under way, so that nobody guesses for long,
//! or much at a time.
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
    /// An attempt begins and counts as failed until it is taken back; false where the address
    /// has to wait.
    pub(super) fn begin(&self, from: IpAddr, now: OffsetDateTime) -> bool {
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
        if *count >= MOST_FAILURES {
            return false;
        }
        *count += 1;
        true
    }

    /// An attempt did not fail.
    pub(super) fn take_back(&self, from: IpAddr) {
        if let Some((count, _)) = self.failures.lock().get_mut(&from) {
            *count = count.saturating_sub(1);
        }
    }
}
