//! What can be tuned about decisions.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How swarms are knit and how the source is shared out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Neighbours of a host in one task, at most; default 20. More shorten the way of a
    /// piece through the swarm, each costs a link and its announcements.
    pub degree: u32,
    /// How long after a start no lease is given while hosts come back and tell what they
    /// hold; default 1s. Longer is safer after a restart and slower for the first pull.
    #[serde(with = "humantime_serde")]
    pub settle: Duration,
    /// A holder that has not accepted its lease for so long loses it; default 500ms.
    #[serde(with = "humantime_serde")]
    pub lease_accept: Duration,
    /// A holder that has accepted and seen no first byte for so long loses its lease, or
    /// after three times what the upstream usually takes; default 5s.
    #[serde(with = "humantime_serde")]
    pub lease_first_byte: Duration,
    /// A lease that is not renewed by progress or load for so long ends; default 10s.
    #[serde(with = "humantime_serde")]
    pub lease_expiry: Duration,
    /// How long a host that was refused by a repository is not asked to read it again;
    /// default 1m. Any other failure is remembered for a sixth of it.
    #[serde(with = "humantime_serde")]
    pub refusal_memory: Duration,
    /// How long a host that announced interest and never joined stays in a swarm;
    /// default 5m.
    #[serde(with = "humantime_serde")]
    pub interest_memory: Duration,
    /// Tasks remembered of one host, at most; default 20000. What is over is not known to
    /// others, about 300 bytes each.
    pub max_tasks_per_host: usize,
    /// Tasks remembered in all, at most; default 1000000, about 500 bytes each. What is
    /// over gets no neighbours and no lease.
    pub max_tasks: usize,
    /// References whose digests are remembered, at most; default 100000, about 500 bytes
    /// each.
    pub max_observations: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            degree: 20,
            settle: Duration::from_secs(1),
            lease_accept: Duration::from_millis(500),
            lease_first_byte: Duration::from_secs(5),
            lease_expiry: Duration::from_secs(10),
            refusal_memory: Duration::from_secs(60),
            interest_memory: Duration::from_secs(300),
            max_tasks_per_host: 20_000,
            max_tasks: 1_000_000,
            max_observations: 100_000,
        }
    }
}
