//! What the node can bear: pure, one [`Controller::step`] a second.
//!
//! Additive increase, multiplicative decrease, as TCP does it, for each direction: while
//! something that a direction uses is strained, its cap falls to [`FALL`] of what it used;
//! each calm second raises it by a quarter of the floor; a cap that has not been in the way
//! for [`LIFT_AFTER`] calm seconds is lifted. Strained are: the disk when our own writes
//! take long; the network when the workload moves a part worth naming and all together come
//! near the interface's speed; the CPU when it is busy and others have a good part of it.
//! What only we use is nobody's loss. Invariant: no cap is below the floor.

use std::{num::NonZeroU64, time::Duration};

use super::{Direction, Rates};

/// Writes are at most a few hundred KiB into the page cache: microseconds, but for a disk
/// that can't keep up.
const SLOW_WRITE: Duration = Duration::from_millis(50);
/// The interface counts as full, in per cent of its speed.
const FULL_LINK: u64 = 85;
/// The workload's traffic counts from here on, in per cent of the speed.
const OTHERS_ON_LINK: u64 = 5;
/// The CPUs count as full, as a share of all of them.
const FULL_CPU: f64 = 0.9;
/// The workload's part counts from here on.
const OTHERS_ON_CPU: f64 = 0.25;
/// In per cent.
const FALL: u64 = 70;
/// Calm seconds in a row.
const LIFT_AFTER: u32 = 30;

/// What was seen in the last second. `None` where the system does not tell.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// Bytes that passed, by [`Direction`].
    pub(super) used: [u64; 4],
    /// The mean of our own writes.
    pub(super) write: Option<Duration>,
    pub(super) cpu: Option<Cpu>,
    pub(super) link: Option<Link>,
}

/// Shares of all CPUs, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cpu {
    pub(super) busy: f64,
    /// This process's part of it.
    pub(super) own: f64,
}

/// Bytes a second of the interface, ours among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) received: u64,
    pub(super) sent: u64,
    /// Of each way.
    pub(super) speed: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Controller {
    floor: NonZeroU64,
    caps: [Option<Cap>; 4],
}

#[derive(Debug, Clone, Copy)]
struct Cap {
    rate: u64,
    calm: u32,
}

impl Controller {
    pub(super) const fn new(floor: NonZeroU64) -> Self {
        Self {
            floor,
            caps: [None; 4],
        }
    }

    /// What each direction is allowed from now on.
    pub(super) fn step(&mut self, sample: &Sample) -> Rates {
        let mut rates = Rates::default();
        for direction in Direction::ALL {
            let used = sample.used[direction as usize];
            let cap = &mut self.caps[direction as usize];
            *cap = if sample.strains(direction) {
                Some(fall(*cap, used, self.floor))
            } else {
                cap.and_then(|cap| rise(cap, used, self.floor))
            };
            *rates.of_mut(direction) = cap.and_then(|cap| NonZeroU64::new(cap.rate));
        }
        rates
    }
}

fn fall(cap: Option<Cap>, used: u64, floor: NonZeroU64) -> Cap {
    let before = cap.map_or(used, |cap| cap.rate.min(used));
    let rate = u128::from(before) * u128::from(FALL) / 100;
    let rate = u64::try_from(rate).unwrap_or(u64::MAX).max(floor.get());
    // One that was lower already is not raised by a second in which nothing moved.
    let rate = cap.map_or(rate, |cap| rate.min(cap.rate));
    Cap { rate, calm: 0 }
}

fn rise(cap: Cap, used: u64, floor: NonZeroU64) -> Option<Cap> {
    let rate = cap.rate.saturating_add((floor.get() / 4).max(1));
    let in_the_way = used >= cap.rate / 2;
    let calm = if in_the_way { 0 } else { cap.calm + 1 };
    (calm < LIFT_AFTER).then_some(Cap { rate, calm })
}

impl Sample {
    fn strains(&self, direction: Direction) -> bool {
        if self.cpu.is_some_and(|cpu| cpu.strained()) {
            return true;
        }
        let used = |direction: Direction| self.used[direction as usize];
        let full = |all: u64, own: u64, speed: u64| {
            all >= percent(speed, FULL_LINK)
                && all.saturating_sub(own) >= percent(speed, OTHERS_ON_LINK)
        };
        match direction {
            Direction::Disk => self.write.is_some_and(|write| write >= SLOW_WRITE),
            Direction::Upload => self
                .link
                .is_some_and(|link| full(link.sent, used(Direction::Upload), link.speed)),
            Direction::Download | Direction::Source => {
                let own = used(Direction::Download).saturating_add(used(Direction::Source));
                self.link
                    .is_some_and(|link| full(link.received, own, link.speed))
            }
        }
    }
}

impl Cpu {
    fn strained(self) -> bool {
        self.busy >= FULL_CPU && self.busy - self.own >= OTHERS_ON_CPU
    }
}

fn percent(whole: u64, part: u64) -> u64 {
    u64::try_from(u128::from(whole) * u128::from(part) / 100).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FLOOR: u64 = 8 << 20;

    fn controller() -> Controller {
        Controller::new(NonZeroU64::new(FLOOR).unwrap())
    }

    fn slow_disk(used: u64) -> Sample {
        Sample {
            used: [0, 0, 0, used],
            write: Some(Duration::from_millis(200)),
            ..Sample::default()
        }
    }

    fn disk(rates: &Rates) -> Option<u64> {
        rates.disk.map(NonZeroU64::get)
    }

    fn sample() -> impl Strategy<Value = Sample> {
        let link = (
            0..4_000_000_000_u64,
            0..4_000_000_000_u64,
            1..2_000_000_000_u64,
        );
        let parts = (
            any::<[u64; 4]>(),
            prop::option::of(0..200_u64),
            prop::option::of((0.0..1.0_f64, 0.0..1.0_f64)),
            prop::option::of(link),
        );
        parts.prop_map(|(used, write, cpu, link)| Sample {
            used,
            write: write.map(Duration::from_millis),
            cpu: cpu.map(|(busy, own)| Cpu { busy, own }),
            link: link.map(|(received, sent, speed)| Link {
                received,
                sent,
                speed,
            }),
        })
    }

    proptest! {
        #[test]
        fn no_cap_is_below_the_floor_or_falls_without_strain(
            samples in prop::collection::vec(sample(), 1..200),
        ) {
            let mut controller = controller();
            let mut before = Rates::default();
            for sample in samples {
                let rates = controller.step(&sample);
                for direction in Direction::ALL {
                    let (old, new) = (before.of(direction), rates.of(direction));
                    prop_assert!(new.is_none_or(|rate| rate.get() >= FLOOR));
                    let fell = new.is_some_and(|new| old.is_none_or(|old| new < old));
                    prop_assert!(!fell || sample.strains(direction));
                    prop_assert!(old.is_none() || new <= old || !sample.strains(direction));
                }
                before = rates;
            }
        }

        #[test]
        fn strain_that_stays_ends_at_the_floor_and_calm_lifts_the_cap(start in FLOOR..10 << 30_u64) {
            let mut controller = controller();
            let mut used = start;
            for _ in 0..25 {
                used = disk(&controller.step(&slow_disk(used))).unwrap();
            }
            prop_assert_eq!(used, FLOOR);
            let calm = (0..u64::from(LIFT_AFTER)).map(|_| controller.step(&Sample::default()));
            prop_assert_eq!(calm.last().unwrap(), Rates::default());
        }
    }

    #[test]
    fn a_cap_that_is_in_the_way_rises_and_stays() {
        let mut controller = controller();
        let mut used = disk(&controller.step(&slow_disk(100 << 20))).unwrap();
        assert_eq!(used, 70 << 20);
        for _ in 0..60 {
            let calm = Sample {
                used: [0, 0, 0, used],
                ..Sample::default()
            };
            used = disk(&controller.step(&calm)).unwrap();
        }
        assert_eq!(used, (70 << 20) + 60 * FLOOR / 4);
    }

    #[test]
    fn what_only_we_use_is_no_strain() {
        let link = Link {
            received: 120_000_000,
            sent: 0,
            speed: 125_000_000,
        };
        let alone = Sample {
            used: [0, 100_000_000, 18_000_000, 118_000_000],
            cpu: Some(Cpu {
                busy: 1.0,
                own: 0.9,
            }),
            link: Some(link),
            ..Sample::default()
        };
        assert_eq!(controller().step(&alone), Rates::default());
        let beside = Sample {
            used: [0, 60_000_000, 0, 0],
            ..alone
        };
        let rates = controller().step(&beside);
        assert_eq!(rates.download.map(NonZeroU64::get), Some(42_000_000));
        assert_eq!((rates.upload, rates.disk), (None, None));
    }
}
