//! What there is and what happens.

use std::time::Duration;

use darter_proxy::{swarm::core, transfer};
use serde::Deserialize;

use crate::{
    Report,
    arrival::{Arrival, share},
    world::World,
};

/// A rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
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
    /// The scheduler is killed; of several the one that the first content belongs to.
    KillScheduler,
    /// The schedulers that were killed are back, with the same keys and no memory.
    StartScheduler,
}

/// See the module. Times of actions count from the first client's start.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Of all randomness.
    pub seed: u64,
    /// Bytes of each content; all clients want all of them.
    pub contents: Vec<u64>,
    /// Contents that a client pulls at the same time; none means all.
    pub parallel: Option<usize>,
    /// Each client has an order of its own.
    pub shuffled: bool,
    /// Hosts with a client.
    pub peers: usize,
    /// What a client takes of what its host has; `None` for all at once.
    pub client_rate: Option<Megabits>,
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
    /// How many there are, if any.
    pub schedulers: usize,
    /// Without one: whether all hosts know each other from a list, and each is the scheduler
    /// of its share of the contents.
    pub homes: bool,
    /// How long it takes the scheduler to look at a message.
    pub scheduler_delay: Duration,
    /// When the clients come.
    pub arrival: Arrival,
    /// Percent of the peers, as many as there are at first, that leave for good each minute.
    pub churn: f64,
    /// Percent of the peers that are slow.
    pub slow: f64,
    /// A slow peer's rates are this much smaller.
    pub slow_factor: u64,
    /// Percent of the peers that turn slow at `turns_at`, by the same factor.
    pub turns_slow: f64,
    /// When, from the first client's start.
    pub turns_at: Duration,
    /// When they are as they were; `None` for never.
    pub recovers_at: Option<Duration>,
    /// Percent of the peers that send rot: other ones than the slow ones.
    pub rot: f64,
    /// Whoever reads the source dies once this share of the contents (0 to 1) has left it.
    pub reader_dies: Option<f64>,
    /// Nothing but silence tells of a host that died before so long: its sessions and links stand.
    pub unseen: Duration,
    /// Zones, between which hosts are dealt out in turn.
    pub zones: usize,
    /// Out of a zone in all, and into it.
    pub zone_rate: Megabits,
    /// One way, between two zones.
    pub zone_latency: Duration,
    /// What clients do, by peer; the last one stands for all further peers.
    pub clients: Vec<Client>,
    /// What happens when.
    pub actions: Vec<(Duration, Action)>,
    /// How often it is noted what hosts wait for; `None` for never.
    pub trace: Option<Duration>,
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
            parallel: None,
            shuffled: false,
            peers: 10,
            client_rate: None,
            seeds: 1,
            peer_rate: (Megabits(100), Megabits(100)),
            seed_rate: (Megabits(100), Megabits(100)),
            source_rate: Megabits(200),
            source_delay: Duration::from_millis(20),
            source_ranges: true,
            latency: Duration::from_micros(500),
            quantum: 64 * 1024,
            scheduler: true,
            schedulers: 1,
            homes: false,
            scheduler_delay: Duration::ZERO,
            arrival: Arrival::AtOnce,
            churn: 0.0,
            slow: 0.0,
            slow_factor: 10,
            rot: 0.0,
            turns_slow: 0.0,
            turns_at: Duration::ZERO,
            recovers_at: None,
            reader_dies: None,
            unseen: Duration::ZERO,
            zones: 1,
            zone_rate: Megabits(10_000),
            zone_latency: Duration::from_millis(5),
            clients: vec![Client::Whole],
            actions: Vec::new(),
            trace: None,
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

    /// Peers that are slow, and peers that send rot.
    pub(crate) fn unhealthy(&self) -> (usize, usize) {
        let slow = share(self.peers, self.slow);
        let rotten = share(self.peers, self.rot).min(self.peers - slow);
        (slow, rotten)
    }

    /// Peers that turn slow.
    pub(crate) fn turning(&self) -> usize {
        let (slow, rotten) = self.unhealthy();
        share(self.peers, self.turns_slow).min(self.peers - slow - rotten)
    }

    /// Bytes of all contents.
    pub(crate) fn bytes(&self) -> u64 {
        self.contents.iter().sum()
    }

    /// What no swarm can be faster than, for healthy hosts: `max(S / source, S / downlink,
    /// n S / (source + all uplinks))` when they come at once. Of hosts that come later only
    /// `S / downlink` is sure: others may have it by then.
    pub(crate) fn bound(&self) -> Duration {
        let size = self.bytes() as f64;
        let link = seconds(size, self.peer_rate.1.bytes());
        if self.arrival != Arrival::AtOnce {
            return Duration::from_secs_f64(link);
        }
        let (slow, rotten) = self.unhealthy();
        let source = self.source_rate.bytes();
        let full = self.peer_rate.0.bytes() * (self.peers - slow) as u64;
        let weak = self.peer_rate.0.bytes() / self.slow_factor.max(1) * slow as u64;
        let up = full + weak + self.seed_rate.0.bytes() * self.seeds as u64;
        let wanted = size * (self.peers - slow - rotten) as f64;
        let bound = seconds(size, source)
            .max(link)
            .max(seconds(wanted, source + up));
        Duration::from_secs_f64(bound)
    }

    /// How long plain pulls would take, all at the source and none slow: only where clients
    /// come at once, or in waves.
    pub(crate) fn plain(&self) -> Option<Duration> {
        let size = self.bytes() as f64;
        let wave = match self.arrival {
            Arrival::AtOnce | Arrival::Waves(_) => self.arrival.wave(self.peers),
            Arrival::Within(_) | Arrival::Poisson(_) => return None,
        };
        let link = seconds(size, self.peer_rate.1.bytes());
        let one = link.max(seconds(size * wave as f64, self.source_rate.bytes()));
        let waves = self.peers.div_ceil(wave) as u32;
        Some((Duration::from_secs_f64(one) + self.source_delay) * waves)
    }
}

fn seconds(bytes: f64, rate: u64) -> f64 {
    bytes / rate.max(1) as f64
}
