//! What a manager sets while nodes run, over what their own files say.

use serde::{Deserialize, Serialize};

/// Bytes a second; a lower rate is one that peers would take for a stall.
pub const LEAST_RATE: u64 = 256 * 1024;

/// A configuration by its version; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Configuration {
    /// Grows with each change, a roll-back being one.
    pub version: u64,
    /// What may be moved a second.
    pub rates: RateSettings,
}

/// Bytes a second by direction; 0 is no limit, and what is not set is as the node's own file
/// has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateSettings {
    /// To other peers and clients.
    pub upload: Option<u64>,
    /// From other peers.
    pub download: Option<u64>,
    /// From registries.
    pub source: Option<u64>,
    /// To the disk.
    pub disk: Option<u64>,
}

impl RateSettings {
    /// Whether each is no limit or one that can be lived with.
    pub fn is_valid(&self) -> bool {
        let all = [self.upload, self.download, self.source, self.disk];
        let mut set = all.into_iter().flatten();
        set.all(|rate| rate == 0 || rate >= LEAST_RATE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_that_stall_are_not_valid() {
        let upload = |rate| RateSettings {
            upload: rate,
            ..RateSettings::default()
        };
        for (rate, valid) in [
            (None, true),
            (Some(0), true),
            (Some(1), false),
            (Some(LEAST_RATE - 1), false),
            (Some(LEAST_RATE), true),
        ] {
            assert_eq!(upload(rate).is_valid(), valid, "{rate:?}");
        }
    }
}
