//! The numbers that shape a swarm.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Settings of the download core; see docs/swarm.md for how they were settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Whether other peers are given what this host has. Default true. Without it others
    /// read more from the registry.
    pub share: bool,
    /// Pieces ahead of the contiguous prefix that are asked for. Larger ones mix better,
    /// smaller ones give readers a smoother flow. Default 256.
    pub window: u32,
    /// Of these, so many from the prefix on are asked for first; those beyond them only while a
    /// quarter of the requests that may be under way is not. Default 64.
    pub near: u32,
    /// Requests in flight to one parent, while few are under way in all; else one.
    /// Default 4.
    pub pipeline: u32,
    /// Requests in flight in all. More only wait in parents' queues. Default 16.
    pub in_flight: u32,
    /// The same while this host reads a source, whose bytes must not wait behind others. Default 4;
    /// with 2, hosts that read beside slow or rotten ones starved in the simulator.
    pub in_flight_reading: u32,
    /// Readings of one upstream that begin within a second. More drown each other where an
    /// image has hundreds of small layers; fewer cost a round trip each. Default 16.
    pub source_begins: u32,
    /// Readings of all upstreams under way at the same time, half of them at most for what
    /// nobody waits for. Each keeps a thread that writes, of the 512 that the runtime has. Default 256.
    pub source_readings: u32,
    /// So many contents after the one that a client reads, by its manifest, are looked at for
    /// small ones, of one piece, that are got before it asks for them: a client asks for a few
    /// at a time, which is not enough of them to keep links busy. Default 128; 0 for none, so
    /// that nothing is read which no client asked for.
    pub ahead: u32,
    /// Pieces gained are announced together so often; at once to who gave them, and to who
    /// has all that it was told of. Shorter is more work for no gain. Default 60 ms.
    #[serde(with = "humantime_serde")]
    pub have_interval: Duration,
    /// A piece that only this host has, and that the one it was offered to has not taken
    /// for so long, and for three times what offers usually take, is offered to another.
    /// Default 500 ms.
    #[serde(with = "humantime_serde")]
    pub reveal_after: Duration,
    /// A join that a live scheduler has not answered for so long, plus up to half of it by
    /// chance, is answered by the host itself. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub join_timeout: Duration,
    /// How long a lost session may take to come back before the host reads the source on
    /// its own. Default 100 ms.
    #[serde(with = "humantime_serde")]
    pub session_grace: Duration,
    /// A download that gains nothing for so long, with a scheduler that has no answer,
    /// reads the source on its own. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub starved_timeout: Duration,
    /// Give a parent up when it sends nothing for so long. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    /// A holder whose clients left goes on so long without children that wait. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            share: true,
            window: 256,
            near: 64,
            pipeline: 4,
            in_flight: 16,
            in_flight_reading: 4,
            source_begins: 16,
            source_readings: 256,
            ahead: 128,
            have_interval: Duration::from_millis(60),
            reveal_after: Duration::from_millis(500),
            join_timeout: Duration::from_secs(1),
            session_grace: Duration::from_millis(100),
            starved_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(5),
            linger: Duration::from_secs(2),
        }
    }
}
