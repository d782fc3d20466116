//! What makes a good neighbour.

use serde::{Deserialize, Serialize};

/// What counts how much when neighbours are chosen, in points; chance counts for one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// A step of distance: host group, data centre, parts of the location. Default 100,
    /// so that a nearer host is always better.
    pub locality: u32,
    /// The measured rate to the child's data centre, against what is usual. Default 2.
    pub rate: u32,
    /// Free upload slots. Default 1.
    pub load: u32,
    /// The share of the content that it holds. Default 0: hosts that are all introduced
    /// to those ahead of them make long chains behind few.
    pub progress: u32,
    /// The share of requests that it fulfilled. Default 2.
    pub history: u32,
    /// Free places: who has few neighbours. Default 4: who has twice as many as others is
    /// done long before them, and they are done later than they would be.
    pub places: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            locality: 100,
            rate: 2,
            load: 1,
            progress: 0,
            history: 2,
            places: 4,
        }
    }
}

impl Weights {
    pub(super) const fn all(&self) -> [u32; 6] {
        [
            self.locality,
            self.rate,
            self.load,
            self.progress,
            self.history,
            self.places,
        ]
    }
}
