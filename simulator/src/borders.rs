//! Costly links between zones.
//!
//! Each zone has one way out and one way in, both FIFOs of the same rate; what stays inside
//! a zone never sees them.

use std::time::Duration;

use darter_api::Timestamp;

use crate::network::time_for;

/// See the module.
#[derive(Debug)]
pub(crate) struct Borders {
    rate: u64,
    latency: Duration,
    ways_out: Vec<Timestamp>,
    ways_in: Vec<Timestamp>,
    crossed: u64,
}

impl Borders {
    /// Borders of so many zones, with a rate in bytes a second.
    pub(crate) fn new(zones: usize, rate: u64, latency: Duration) -> Self {
        Self {
            rate,
            latency,
            ways_out: vec![Timestamp::ZERO; zones],
            ways_in: vec![Timestamp::ZERO; zones],
            crossed: 0,
        }
    }

    /// Bytes that went from one zone to another.
    pub(crate) const fn crossed(&self) -> u64 {
        self.crossed
    }

    /// From one zone to another, one way.
    pub(crate) const fn latency(&self) -> Duration {
        self.latency
    }

    /// Sends bytes over; when they are there.
    pub(crate) fn cross(
        &mut self,
        now: Timestamp,
        from: usize,
        to: usize,
        bytes: u64,
    ) -> Timestamp {
        let takes = time_for(bytes, self.rate);
        self.crossed += bytes;
        let out = now.max(self.ways_out[from]) + takes;
        self.ways_out[from] = out;
        let there = (out + self.latency).max(self.ways_in[to] + takes);
        self.ways_in[to] = there;
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_a_zone_or_comes_into_one_queues() {
        let mut borders = Borders::new(3, 1_000_000, Duration::from_millis(10));
        let at = Timestamp::from_micros;
        assert_eq!(borders.cross(at(0), 0, 1, 100_000), at(110_000));
        assert_eq!(borders.cross(at(0), 0, 2, 100_000), at(210_000));
        assert_eq!(borders.cross(at(0), 2, 1, 100_000), at(210_000));
        assert_eq!(borders.crossed(), 300_000);
    }
}
