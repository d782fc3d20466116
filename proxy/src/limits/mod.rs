//! What this host may move a second, and who goes first.
//!
//! Owner of state: [`Limits`] owns one [`gate::Gate`] a [`Direction`] and what passed there.
//! Whoever moves content asks [`Limits::pass`] before it goes on: an upload before the bytes
//! are read from disk, a download and a source before more is read from the network (so
//! that TCP holds the sender back and nothing is buffered here), a write before it is
//! handed to the disk. Invariants: those of [`bucket`]; the rate that holds is the
//! configured one or, if less, the one that [`adaptive`] control allows; without a rate the
//! foreground pays for one atomic addition and one load. Failure: there is none; a rate
//! too low for peers' patience is refused where it is set ([`Rates::check`]).
//!
//! Why not a crate: `governor` and `tower`'s limits count requests and refuse more than a
//! burst; `leaky-bucket` counts bytes and is fair, but fixes its rate when built and knows
//! no classes. What is here instead is a pure bucket of 200 lines.

mod activity;
mod adaptive;
mod bucket;
mod endpoint;
mod gate;
mod metrics;
mod sampler;
#[cfg(test)]
mod tests;

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytesize::ByteSize;
use darter_api::configuration::RateSettings;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};

use activity::Activity;
use gate::Gate;
use metrics::Passed;

pub use bucket::Class;
pub use endpoint::router;
pub use metrics::Metrics;

/// Below this a child's patience with its parent (`swarm.stall_timeout`) would run out between
/// two portions, once four uploads and the background's floor share it.
pub const LEAST_RATE: ByteSize = ByteSize(darter_api::configuration::LEAST_RATE);

/// Limits of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Content bytes a second to other peers. Default 0: no limit. All four rates are
    /// followed within a burst of 50 ms, and may be changed at run time.
    pub upload: ByteSize,
    /// Content bytes a second from other peers. Default 0: no limit.
    pub download: ByteSize,
    /// Bytes a second from registries. Default 0: no limit.
    pub source: ByteSize,
    /// Bytes a second written to the store. Default 0: no limit. Costs: pulls are no faster
    /// than this.
    pub disk: ByteSize,
    /// Whether rates follow what the node can bear beside its workload. Default false:
    /// it reacts to what others do on the machine, so that pulls vary with it.
    pub adaptive: bool,
    /// Each rate is left at least this, in bytes a second. Default 8 MiB.
    pub adaptive_floor: ByteSize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            upload: ByteSize(0),
            download: ByteSize(0),
            source: ByteSize(0),
            disk: ByteSize(0),
            adaptive: false,
            adaptive_floor: ByteSize::mib(8),
        }
    }
}

impl Options {
    /// # Errors
    /// For the first of rates and floor that is below [`LEAST_RATE`].
    pub fn check(&self) -> Result<(), TooLow> {
        self.rates().check()?;
        if self.adaptive_floor < LEAST_RATE {
            return Err(TooLow {
                direction: "adaptive_floor",
                rate: self.adaptive_floor,
            });
        }
        Ok(())
    }

    /// The configured rates.
    pub fn rates(&self) -> Rates {
        let rate = |bytes: ByteSize| NonZeroU64::new(bytes.as_u64());
        Rates {
            upload: rate(self.upload),
            download: rate(self.download),
            source: rate(self.source),
            disk: rate(self.disk),
        }
    }
}

/// What moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Content to other peers.
    Upload,
    /// Content from other peers.
    Download,
    /// Content from registries.
    Source,
    /// Writes to the store.
    Disk,
}

impl Direction {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Upload, Self::Download, Self::Source, Self::Disk];

    /// Its name in JSON.
    const fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
            Self::Source => "source",
            Self::Disk => "disk",
        }
    }
}

/// Bytes a second by direction; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// See [`Direction::Upload`].
    pub upload: Option<NonZeroU64>,
    /// See [`Direction::Download`].
    pub download: Option<NonZeroU64>,
    /// See [`Direction::Source`].
    pub source: Option<NonZeroU64>,
    /// See [`Direction::Disk`].
    pub disk: Option<NonZeroU64>,
}

/// A rate that peers would take for a stall.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{direction}: {rate} a second is less than {LEAST_RATE} (a rate of 0 is no limit)")]
pub struct TooLow {
    /// Of which direction, or key.
    pub direction: &'static str,
    /// What was asked for.
    pub rate: ByteSize,
}

impl Rates {
    /// These, but for what a manager has set.
    pub fn overlaid(mut self, set: &RateSettings) -> Self {
        let settings = [
            (Direction::Upload, set.upload),
            (Direction::Download, set.download),
            (Direction::Source, set.source),
            (Direction::Disk, set.disk),
        ];
        for (direction, rate) in settings {
            if let Some(rate) = rate {
                *self.of_mut(direction) = NonZeroU64::new(rate);
            }
        }
        self
    }

    /// The rate of one direction.
    pub const fn of(&self, direction: Direction) -> Option<NonZeroU64> {
        match direction {
            Direction::Upload => self.upload,
            Direction::Download => self.download,
            Direction::Source => self.source,
            Direction::Disk => self.disk,
        }
    }

    const fn of_mut(&mut self, direction: Direction) -> &mut Option<NonZeroU64> {
        match direction {
            Direction::Upload => &mut self.upload,
            Direction::Download => &mut self.download,
            Direction::Source => &mut self.source,
            Direction::Disk => &mut self.disk,
        }
    }

    /// # Errors
    /// For the first rate below [`LEAST_RATE`].
    pub fn check(&self) -> Result<(), TooLow> {
        for direction in Direction::ALL {
            if let Some(rate) = self.of(direction)
                && rate.get() < LEAST_RATE.as_u64()
            {
                return Err(TooLow {
                    direction: direction.name(),
                    rate: ByteSize(rate.get()),
                });
            }
        }
        Ok(())
    }

    /// Of each direction the lower rate.
    fn lower(&self, other: &Self) -> Self {
        let mut lower = Self::default();
        for direction in Direction::ALL {
            let rates = [self.of(direction), other.of(direction)];
            *lower.of_mut(direction) = rates.into_iter().flatten().min();
        }
        lower
    }
}

/// All limits of a host. Cheap to clone; clones are the same limits.
#[derive(Debug, Clone)]
pub struct Limits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lanes: [Lane; 4],
    /// Who is in the background yields to the foreground of the same way of the link.
    inbound: Mutex<Activity>,
    outbound: Mutex<Activity>,
    configured: watch::Sender<Rates>,
    /// What adaptive control allows. Held while gates are set, so that the last word stays.
    allowed: Mutex<Rates>,
    writes: AtomicU64,
    write_nanos: AtomicU64,
    metrics: Metrics,
}

/// One direction.
#[derive(Debug)]
struct Lane {
    direction: Direction,
    gate: Gate,
    foreground: Lot,
    background: Lot,
}

/// One class in one direction.
#[derive(Debug)]
struct Lot {
    passed: Passed,
    /// In the last second.
    used: AtomicU64,
}

impl Limits {
    /// With these rates.
    pub fn new(rates: Rates, metrics: Metrics) -> Self {
        let began = Instant::now();
        let lot = |direction, class| Lot {
            passed: metrics.passed(direction, class),
            used: AtomicU64::new(0),
        };
        let lanes = Direction::ALL.map(|direction| Lane {
            direction,
            gate: Gate::new(began, None),
            foreground: lot(direction, Class::Foreground),
            background: lot(direction, Class::Background),
        });
        let limits = Self(Arc::new(Inner {
            lanes,
            inbound: Mutex::default(),
            outbound: Mutex::default(),
            configured: watch::Sender::new(rates),
            allowed: Mutex::default(),
            writes: AtomicU64::new(0),
            write_nanos: AtomicU64::new(0),
            metrics,
        }));
        limits.set(rates);
        limits
    }

    /// Returns when `bytes` may be moved. Cancel-safe: what has passed counts, the rest is
    /// given up.
    pub async fn pass(&self, direction: Direction, class: Class, bytes: u64) {
        let lane = &self.0.lanes[direction as usize];
        // What is read slowly is written slowly: on the disk nobody yields without a rate.
        let yields = class == Class::Background && direction != Direction::Disk;
        let passed = &lane.lot(class).passed;
        let mut left = bytes;
        while left > 0 && (lane.gate.is_limited() || yields) {
            let portion = left.min(lane.gate.portion());
            let begin = Instant::now();
            let busy = |now| self.busy(direction, now);
            if lane.gate.pass(class, portion, &busy).await {
                passed.waits.inc();
                passed.waited_seconds.inc_by(begin.elapsed().as_secs_f64());
            }
            passed.bytes.inc_by(portion);
            left -= portion;
        }
        passed.bytes.inc_by(left);
    }

    /// What is best moved at once: not more, so that rates are followed smoothly.
    pub fn portion(&self, direction: Direction) -> Option<u64> {
        let gate = &self.0.lanes[direction as usize].gate;
        gate.is_limited().then(|| gate.portion())
    }

    /// Other rates from now on, for what is under way as well.
    pub fn set(&self, rates: Rates) {
        let allowed = self.0.allowed.lock();
        self.0.configured.send_replace(rates);
        self.apply(&rates.lower(&allowed));
    }

    /// The configured rates, and every change of them.
    pub fn configured(&self) -> watch::Receiver<Rates> {
        self.0.configured.subscribe()
    }

    /// A write to the store took so long.
    pub fn wrote(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.0.write_nanos.fetch_add(nanos, Ordering::Relaxed);
        self.0.writes.fetch_add(1, Ordering::Relaxed);
    }

    /// Not more than this, whatever is configured.
    fn allow(&self, rates: Rates) {
        let mut allowed = self.0.allowed.lock();
        if *allowed != rates {
            *allowed = rates;
            self.apply(&self.0.configured.borrow().lower(&rates));
        }
    }

    /// The rates that hold.
    fn holding(&self) -> Rates {
        let allowed = self.0.allowed.lock();
        self.0.configured.borrow().lower(&allowed)
    }

    fn apply(&self, rates: &Rates) {
        for lane in &self.0.lanes {
            let rate = rates.of(lane.direction);
            lane.gate.set_rate(rate);
            let shown = rate.map_or(0, NonZeroU64::get);
            self.0.metrics.set(lane.direction, shown);
        }
    }

    /// What the foreground moves on the same way of the link, if it is busy.
    fn busy(&self, direction: Direction, now: Duration) -> Option<u64> {
        let moved = |direction: Direction| {
            let lane = &self.0.lanes[direction as usize];
            lane.foreground.passed.bytes.get()
        };
        match direction {
            Direction::Upload => {
                let total = moved(Direction::Upload);
                self.0.outbound.lock().observe(now, total)
            }
            Direction::Download | Direction::Source => {
                let total = moved(Direction::Download) + moved(Direction::Source);
                self.0.inbound.lock().observe(now, total)
            }
            Direction::Disk => None,
        }
    }
}

impl Default for Limits {
    /// None at all.
    fn default() -> Self {
        Self::new(Rates::default(), Metrics::default())
    }
}

impl Lane {
    const fn lot(&self, class: Class) -> &Lot {
        match class {
            Class::Foreground => &self.foreground,
            Class::Background => &self.background,
        }
    }
}
