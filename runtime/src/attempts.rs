//! Sign-ins of each address that failed or are under way, so that nobody guesses for long,
//! or much at a time.
//!
//! Owner of state: [`Attempts`]: a bounded map; where it is full of fresh ones, that address is
//! forgotten that failed least, so that nobody's many addresses free one that has to wait. Who
//! has one address of IPv6 has the other 2^64 of its network, too, so that those count as one.
//! This host's own addresses are as any other: whoever runs here may guess as well.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use parking_lot::Mutex;

/// How long failures are held against an address.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Bits of an IPv6 address that a host does not choose itself (RFC 4291, section 2.5.4).
const NETWORK_BITS: u32 = 64;
/// Addresses remembered.
const MOST_ADDRESSES: usize = 10_000;

/// See the module. Times are of any one clock that does not stand still, since its beginning.
#[derive(Debug)]
pub struct Attempts {
    most: u32,
    failures: Mutex<Failures>,
}

/// How many of each address, and since when they are counted.
type Failures = HashMap<IpAddr, (u32, Duration)>;

impl Attempts {
    /// After `most` failures within [`WINDOW`] an address has to wait for its end.
    pub fn new(most: u32) -> Self {
        Self {
            most,
            failures: Mutex::default(),
        }
    }

    /// An attempt begins and counts as failed until it is taken back; false where the address
    /// has to wait.
    pub fn begin(&self, from: IpAddr, now: Duration) -> bool {
        let from = network(from);
        let mut failures = self.failures.lock();
        if failures.len() >= MOST_ADDRESSES && !failures.contains_key(&from) {
            failures.retain(|_, (_, since)| now.saturating_sub(*since) < WINDOW);
            if failures.len() >= MOST_ADDRESSES {
                forget_one(&mut failures);
            }
        }
        let (count, since) = failures.entry(from).or_insert((0, now));
        if now.saturating_sub(*since) >= WINDOW {
            (*count, *since) = (0, now);
        }
        if *count >= self.most {
            return false;
        }
        *count += 1;
        true
    }

    /// Whether an address has to wait. Nothing is counted.
    pub fn are_spent(&self, from: IpAddr, now: Duration) -> bool {
        let failures = self.failures.lock();
        let known = failures.get(&network(from));
        known.is_some_and(|(count, since)| {
            *count >= self.most && now.saturating_sub(*since) < WINDOW
        })
    }

    /// An attempt did not fail.
    pub fn take_back(&self, from: IpAddr) {
        if let Some((count, _)) = self.failures.lock().get_mut(&network(from)) {
            *count = count.saturating_sub(1);
        }
    }
}

/// The one that failed least, of several the one that did so first.
fn forget_one(failures: &mut Failures) {
    let least = failures.iter().min_by_key(|(_, failed)| **failed);
    if let Some(address) = least.map(|(address, _)| *address) {
        failures.remove(&address);
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            let network = v6.to_bits() & !(u128::MAX >> NETWORK_BITS);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST_FAILURES: u32 = 10;

    #[test]
    fn who_waited_may_go_on() {
        let attempts = Attempts::new(MOST_FAILURES);
        let (one, began) = (IpAddr::from([127, 0, 0, 1]), Duration::from_secs(7));
        for _ in 0..MOST_FAILURES {
            assert!(!attempts.are_spent(one, began));
            assert!(attempts.begin(one, began));
        }
        let last = began + WINDOW - Duration::from_millis(1);
        assert!(attempts.are_spent(one, last) && !attempts.begin(one, last));
        assert!(!attempts.are_spent(one, began + WINDOW));
        assert!(attempts.begin(one, began + WINDOW));
    }

    #[test]
    fn addresses_of_one_network_count_together() {
        let (attempts, now) = (Attempts::new(MOST_FAILURES), Duration::ZERO);
        let host = |number: u128| IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | number));
        for number in 0..u128::from(MOST_FAILURES) {
            assert!(attempts.begin(host(number), now));
        }
        assert!(!attempts.begin(host(1 << 63), now));
        assert!(attempts.begin(host(1 << 64), now), "another network");
        attempts.take_back(host(7));
        assert!(attempts.begin(host(8), now));
        for last in 0..=u8::MAX {
            let one = IpAddr::from([10, 0, 0, last]);
            let mapped = IpAddr::from(std::net::Ipv4Addr::from([10, 0, 0, last]).to_ipv6_mapped());
            for address in [one, mapped]
                .into_iter()
                .cycle()
                .take(MOST_FAILURES as usize)
            {
                assert!(attempts.begin(address, now), "{address}");
            }
            assert!(!attempts.begin(mapped, now));
        }
    }

    #[test]
    fn who_has_to_wait_is_not_forgotten_for_others() {
        let (attempts, now) = (Attempts::new(MOST_FAILURES), Duration::ZERO);
        let guesser = IpAddr::from([192, 0, 2, 1]);
        for _ in 0..MOST_FAILURES {
            assert!(attempts.begin(guesser, now));
        }
        let many = u32::try_from(MOST_ADDRESSES + 100).unwrap();
        for number in 0..many {
            let other = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
            assert!(attempts.begin(other, now));
        }
        assert!(!attempts.begin(guesser, now));
        assert_eq!(attempts.failures.lock().len(), MOST_ADDRESSES);
        assert!(attempts.begin(guesser, now + WINDOW));
    }
}
