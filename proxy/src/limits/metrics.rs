//! What is counted of the limits.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{Class, Direction};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabel {
    direction: DirectionValue,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    direction: DirectionValue,
    class: ClassValue,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelValue)]
enum DirectionValue {
    Upload,
    Download,
    Source,
    Disk,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelValue)]
enum ClassValue {
    Foreground,
    Background,
}

/// Counts of a direction and class; clones count together.
#[derive(Debug, Clone)]
pub(super) struct Passed {
    pub(super) bytes: Counter,
    pub(super) waits: Counter,
    pub(super) waited_seconds: Counter<f64, AtomicU64>,
}

/// Rates set and used, and who waited. Cheap to clone; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    set: Family<DirectionLabel, Gauge<i64, AtomicI64>>,
    used: Family<ClassLabels, Gauge<i64, AtomicI64>>,
    bytes: Family<ClassLabels, Counter>,
    waits: Family<ClassLabels, Counter>,
    waited_seconds: Family<ClassLabels, Counter<f64, AtomicU64>>,
}

impl Metrics {
    /// Shows them as `limits_...`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("limits");
        registry.register(
            "rate_set_bytes_per_second",
            "The rate that holds now, 0 for none",
            self.set.clone(),
        );
        registry.register(
            "rate_used_bytes_per_second",
            "What passed in the last second",
            self.used.clone(),
        );
        registry.register("bytes", "Bytes that passed", self.bytes.clone());
        registry.register(
            "waits",
            "Portions that had to wait for their turn",
            self.waits.clone(),
        );
        registry.register_with_unit(
            "waited",
            "Time that portions waited, summed",
            Unit::Seconds,
            self.waited_seconds.clone(),
        );
    }

    pub(super) fn passed(&self, direction: Direction, class: Class) -> Passed {
        let labels = labels(direction, class);
        Passed {
            bytes: self.bytes.get_or_create(&labels).clone(),
            waits: self.waits.get_or_create(&labels).clone(),
            waited_seconds: self.waited_seconds.get_or_create(&labels).clone(),
        }
    }

    pub(super) fn set(&self, direction: Direction, rate: u64) {
        let direction = direction.into();
        let gauge = self
            .set
            .get_or_create(&DirectionLabel { direction })
            .clone();
        gauge.set(i64::try_from(rate).unwrap_or(i64::MAX));
    }

    pub(super) fn used(&self, direction: Direction, class: Class, rate: u64) {
        let gauge = self.used.get_or_create(&labels(direction, class)).clone();
        gauge.set(i64::try_from(rate).unwrap_or(i64::MAX));
    }
}

fn labels(direction: Direction, class: Class) -> ClassLabels {
    ClassLabels {
        direction: direction.into(),
        class: match class {
            Class::Foreground => ClassValue::Foreground,
            Class::Background => ClassValue::Background,
        },
    }
}

impl From<Direction> for DirectionValue {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Upload => Self::Upload,
            Direction::Download => Self::Download,
            Direction::Source => Self::Source,
            Direction::Disk => Self::Disk,
        }
    }
}
