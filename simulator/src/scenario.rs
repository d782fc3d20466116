//! What there is and what happens.

use std::time::Duration;

use darter_proxy::{swarm::core, transfer};

use crate::{Report, world::World};

/// A rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Megabits(
    /// Megabits (10^6) a second.
    pub u64,
);

impl Megabits {
    /// In bytes a second.
    pub const fn bytes(self) -> u64 {
        self.0 * 125_000
    }
}

/// A host of the scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The seed with this number, from zero.
    Seed(usize),
    /// The peer with this number, from zero.
    Peer(usize),
    /// Whoever reads the source of the first content then.
    Reader,
}

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Reads all of every content from its beginning.
    Whole,
    /// The same, and leaves after so long.
    Leaves(Duration),
    /// Reads in ranges of so many pieces, four at a time, and begins a range anew that is
    /// not through after `patience`.
    Chunks {
        /// Pieces of a range.
        pieces: u32,
        /// When it aborts a range.
        patience: Duration,
    },
}

/// Something that happens at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The host is killed and does not come back.
    Kill(Who),
    /// The scheduler is killed.
    KillScheduler,
    /// A new scheduler with the same key and no memory.
    StartScheduler,
}

/// See the module. Times of actions count from the first client's start.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Of all randomness.
    pub seed: u64,
    /// Bytes of each content; all clients want all of them.
    pub contents: Vec<u64>,
    /// Hosts with a client.
    pub peers: usize,
    /// Seed peers.
    pub seeds: usize,
    /// Peers' rates, up and down.
    pub peer_rate: (Megabits, Megabits),
    /// Seeds' rates, up and down.
    pub seed_rate: (Megabits, Megabits),
    /// All that the source can send.
    pub source_rate: Megabits,
    /// From a request to the source until it begins to send.
    pub source_delay: Duration,
    /// Whether the source serves ranges.
    pub source_ranges: bool,
    /// One way, between any two places.
    pub latency: Duration,
    /// Bytes that a link sends at once; larger ones are faster to simulate.
    pub quantum: u64,
    /// Whether there is a scheduler, at first.
    pub scheduler: bool,
    /// How long it takes the scheduler to look at a message.
    pub scheduler_delay: Duration,
    /// The clients start within this, evenly.
    pub spread: Duration,
    /// What clients do, by peer; the last one stands for all further peers.
    pub clients: Vec<Client>,
    /// What happens when.
    pub actions: Vec<(Duration, Action)>,
    /// The run is given up after this.
    pub limit: Duration,
    /// Of every download core.
    pub swarm: core::Options,
    /// Of every host's uploads.
    pub transfer: transfer::Options,
    /// Of the scheduling core.
    pub cluster: darter_scheduler::Options,
}

impl Default for Scenario {
    /// Ten peers and a seed at 100 Mbit/s, a source at 200, one content of 100 MB.
    fn default() -> Self {
        Self {
            seed: 1,
            contents: vec![100_000_000],
            peers: 10,
            seeds: 1,
            peer_rate: (Megabits(100), Megabits(100)),
            seed_rate: (Megabits(100), Megabits(100)),
            source_rate: Megabits(200),
            source_delay: Duration::from_millis(20),
            source_ranges: true,
            latency: Duration::from_micros(500),
            quantum: 64 * 1024,
            scheduler: true,
            scheduler_delay: Duration::ZERO,
            spread: Duration::ZERO,
            clients: vec![Client::Whole],
            actions: Vec::new(),
            limit: Duration::from_secs(600),
            swarm: core::Options::default(),
            transfer: transfer::Options::default(),
            cluster: darter_scheduler::Options::default(),
        }
    }
}

impl Scenario {
    /// Plays it.
    pub fn run(&self) -> Report {
        World::new(self).run()
    }

    /// What the client of a peer does.
    pub(crate) fn client(&self, peer: usize) -> Client {
        let last = self.clients.last().copied().unwrap_or(Client::Whole);
        self.clients.get(peer).copied().unwrap_or(last)
    }

    /// `max(S / source, S / slowest downlink, n S / (source + all uplinks))`
    pub(crate) fn bound(&self) -> Duration {
        let bytes: u64 = self.contents.iter().sum();
        let seconds = |bytes: f64, rate: u64| bytes / rate.max(1) as f64;
        let source = self.source_rate.bytes();
        let up = self.peer_rate.0.bytes() * self.peers as u64
            + self.seed_rate.0.bytes() * self.seeds as u64;
        let size = bytes as f64;
        let bound = seconds(size, source)
            .max(seconds(size, self.peer_rate.1.bytes()))
            .max(seconds(size * self.peers as f64, source + up));
        Duration::from_secs_f64(bound)
    }
}
