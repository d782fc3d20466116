//! A scenario as it is written in a file, checked before it is played.
//!
//! Rates are Mbit/s (10^6 bits a second), shares percent. Every key has a default:
//! that of [`Scenario`].

use std::{fmt, time::Duration};

use bytesize::ByteSize;
use darter_api::lengths::MAX_SIZE;
use darter_proxy::{swarm::core, transfer};
use serde::Deserialize;

use crate::{Action, Arrival, Megabits, Scenario};

/// Hosts of a scenario: more than has ever been affordable.
const MAX_HOSTS: usize = 1_000_000;
/// Layers of an image.
const MAX_LAYERS: u64 = 10_000;
/// Mbit/s of a link.
const MAX_RATE: u64 = 10_000_000;

/// See the module.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spec {
    /// For people. Default `a swarm`.
    pub title: String,
    /// Of all randomness. Default 1.
    pub seed: u64,
    /// Peers with a client. Default 10.
    pub hosts: usize,
    /// What each client pulls, all layers together. Default 100 MB.
    pub size: ByteSize,
    /// Layers of equal size. Default 1.
    pub layers: u64,
    /// Layers that a client pulls at the same time. Default all.
    pub parallel: Option<usize>,
    /// Whether each client pulls the layers in an order of its own, as containerd does. Default
    /// false.
    pub shuffled: bool,
    /// A peer's uplink. Default 100 Mbit/s.
    pub up: Megabits,
    /// A peer's downlink. Default 100 Mbit/s.
    pub down: Megabits,
    /// What a client takes of what its host has in order. Default all at once.
    pub client: Option<Megabits>,
    /// Seed peers. Default 1.
    pub seeds: usize,
    /// A seed's uplink. Default: a peer's.
    pub seed_up: Option<Megabits>,
    /// A seed's downlink. Default: a peer's.
    pub seed_down: Option<Megabits>,
    /// All that the source can send. Default 200 Mbit/s.
    pub source: Megabits,
    /// From a request to the source until it begins to send. Default 20 ms.
    #[serde(with = "humantime_serde")]
    pub source_delay: Duration,
    /// One way between two hosts. Default 0.5 ms.
    #[serde(with = "humantime_serde")]
    pub latency: Duration,
    /// When clients come. Default `at once`.
    pub arrival: Arrival,
    /// Percent of the hosts that leave for good each minute. Default 0.
    pub churn: f64,
    /// Percent of the hosts that are slow. Default 0.
    pub slow: f64,
    /// How much smaller a slow host's rates are. Default 10.
    pub slow_factor: u64,
    /// Percent of the hosts that turn slow, by the same factor. Default 0.
    pub turns_slow: f64,
    /// When they do, from the first client's start. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub turns_at: Duration,
    /// When they recover. Default never.
    #[serde(with = "humantime_serde")]
    pub recovers_at: Option<Duration>,
    /// Percent of the hosts that send rot. Default 0.
    pub rot: f64,
    /// The host that reads the source, the seed at first, dies once so many percent of the
    /// contents have left it. Default never.
    pub seed_dies: Option<f64>,
    /// Nothing but its silence tells of a host that died, as where a machine loses its power, before so
    /// long: its sessions and links stand. Default 0.
    #[serde(with = "humantime_serde")]
    pub unseen: Duration,
    /// Zones. Default 1.
    pub zones: usize,
    /// All that can leave a zone, and come into one. Default 10 Gbit/s.
    pub zone_rate: Megabits,
    /// One way between two zones. Default 5 ms.
    #[serde(with = "humantime_serde")]
    pub zone_latency: Duration,
    /// Whether there is a scheduler. Default true.
    pub scheduler: bool,
    /// How many there are. Default 1.
    pub schedulers: usize,
    /// Without one: whether each host is the scheduler of its share of the contents, as with a
    /// list of peers. Default false.
    pub homes: bool,
    /// How long it takes the scheduler to look at a message. Default 0.
    #[serde(with = "humantime_serde")]
    pub scheduler_delay: Duration,
    /// The scheduler dies then. Default never.
    #[serde(with = "humantime_serde")]
    pub scheduler_dies: Option<Duration>,
    /// A new one begins then. Default never.
    #[serde(with = "humantime_serde")]
    pub scheduler_back: Option<Duration>,
    /// The run is given up then. Default 10 min.
    #[serde(with = "humantime_serde")]
    pub limit: Duration,
    /// It is noted so often what hosts wait for. Default never.
    #[serde(with = "humantime_serde")]
    pub trace: Option<Duration>,
    /// Bytes that a link sends at once. Default 64 KiB up to 30 hosts, 256 KiB up to 300,
    /// else whole pieces.
    pub quantum: Option<ByteSize>,
    /// Of every download core.
    pub swarm: core::Options,
    /// Of every host's uploads.
    pub transfer: transfer::Options,
    /// Of the scheduling core.
    pub cluster: darter_scheduler::Options,
}

/// What is wrong with a scenario.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// It is not written in TOML, or has keys or values that mean nothing.
    #[error("not a scenario")]
    Syntax(#[from] toml::de::Error),
    /// Its values make no sense: all that do not.
    #[error("the scenario makes no sense: {}", .0.join("; "))]
    Values(Vec<String>),
}

impl Default for Spec {
    fn default() -> Self {
        let scenario = Scenario::default();
        Self {
            title: "a swarm".to_owned(),
            seed: scenario.seed,
            hosts: scenario.peers,
            size: ByteSize::mb(100),
            layers: 1,
            parallel: None,
            shuffled: false,
            up: scenario.peer_rate.0,
            down: scenario.peer_rate.1,
            client: None,
            seeds: scenario.seeds,
            seed_up: None,
            seed_down: None,
            source: scenario.source_rate,
            source_delay: scenario.source_delay,
            latency: scenario.latency,
            arrival: scenario.arrival,
            churn: scenario.churn,
            slow: scenario.slow,
            slow_factor: scenario.slow_factor,
            turns_slow: scenario.turns_slow,
            turns_at: Duration::from_secs(10),
            recovers_at: None,
            rot: scenario.rot,
            seed_dies: None,
            unseen: Duration::ZERO,
            zones: scenario.zones,
            zone_rate: scenario.zone_rate,
            zone_latency: scenario.zone_latency,
            scheduler: scenario.scheduler,
            schedulers: scenario.schedulers,
            homes: scenario.homes,
            scheduler_delay: scenario.scheduler_delay,
            scheduler_dies: None,
            scheduler_back: None,
            limit: scenario.limit,
            trace: None,
            quantum: None,
            swarm: scenario.swarm,
            transfer: scenario.transfer,
            cluster: scenario.cluster,
        }
    }
}

impl Spec {
    /// Reads a scenario, its values not yet looked at.
    ///
    /// # Errors
    /// When it can't be parsed, or has keys that mean nothing.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        Ok(toml::from_str(text)?)
    }

    /// The same of a table, into which flags were written.
    ///
    /// # Errors
    /// As [`Spec::parse`].
    pub fn from_table(table: toml::Table) -> Result<Self, SpecError> {
        Ok(table.try_into()?)
    }

    /// What is to be played.
    ///
    /// # Errors
    /// When values make no sense; all of them are named.
    pub fn scenario(&self) -> Result<Scenario, SpecError> {
        let mistakes = self.mistakes();
        if !mistakes.is_empty() {
            return Err(SpecError::Values(mistakes));
        }
        let each = self.size.as_u64() / self.layers;
        let rest = self.size.as_u64() % self.layers;
        let mut contents = vec![each; self.layers as usize];
        contents[0] += rest;
        Ok(Scenario {
            seed: self.seed,
            contents,
            parallel: self.parallel,
            shuffled: self.shuffled,
            peers: self.hosts,
            client_rate: self.client,
            seeds: self.seeds,
            peer_rate: (self.up, self.down),
            seed_rate: (
                self.seed_up.unwrap_or(self.up),
                self.seed_down.unwrap_or(self.down),
            ),
            source_rate: self.source,
            source_delay: self.source_delay,
            latency: self.latency,
            quantum: self.quantum(),
            scheduler: self.scheduler,
            schedulers: self.schedulers,
            homes: self.homes,
            scheduler_delay: self.scheduler_delay,
            arrival: self.arrival,
            churn: self.churn,
            slow: self.slow,
            slow_factor: self.slow_factor,
            rot: self.rot,
            turns_slow: self.turns_slow,
            turns_at: self.turns_at,
            recovers_at: self.recovers_at,
            reader_dies: self.seed_dies.map(|percent| percent / 100.0),
            unseen: self.unseen,
            zones: self.zones,
            zone_rate: self.zone_rate,
            zone_latency: self.zone_latency,
            actions: self.actions(),
            limit: self.limit,
            trace: self.trace,
            swarm: self.swarm.clone(),
            transfer: self.transfer.clone(),
            cluster: self.cluster.clone(),
            ..Scenario::default()
        })
    }

    fn actions(&self) -> Vec<(Duration, Action)> {
        let dies = self.scheduler_dies.map(|at| (at, Action::KillScheduler));
        let back = self.scheduler_back.map(|at| (at, Action::StartScheduler));
        dies.into_iter().chain(back).collect()
    }

    fn quantum(&self) -> u64 {
        let usual = match self.hosts {
            0..=30 => 64 << 10,
            31..=300 => 256 << 10,
            _ => 16 << 20,
        };
        self.quantum.map_or(usual, |quantum| quantum.as_u64())
    }

    fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let rates = [
            ("up", Some(self.up)),
            ("down", Some(self.down)),
            ("client", self.client),
            ("seed_up", self.seed_up),
            ("seed_down", self.seed_down),
            ("source", Some(self.source)),
            ("zone_rate", Some(self.zone_rate)),
        ];
        for (key, rate) in rates {
            let rate = rate.map_or(1, |rate| rate.0);
            within(&mut mistakes, key, rate, 1, MAX_RATE);
        }
        let shares = [
            ("slow", self.slow),
            ("rot", self.rot),
            ("turns_slow", self.turns_slow),
            (
                "slow, turns_slow and rot together",
                self.slow + self.turns_slow + self.rot,
            ),
            ("seed_dies", self.seed_dies.unwrap_or(0.0)),
        ];
        for (key, percent) in shares {
            within(&mut mistakes, key, percent, 0.0, 100.0);
        }
        within(&mut mistakes, "churn", self.churn, 0.0, 10_000.0);
        within(&mut mistakes, "hosts", self.hosts, 1, MAX_HOSTS);
        within(&mut mistakes, "seeds", self.seeds, 0, MAX_HOSTS);
        within(&mut mistakes, "schedulers", self.schedulers, 1, 1024);
        within(&mut mistakes, "zones", self.zones, 1, MAX_HOSTS);
        within(&mut mistakes, "layers", self.layers, 1, MAX_LAYERS);
        within(
            &mut mistakes,
            "parallel",
            self.parallel.unwrap_or(1),
            1,
            usize::MAX,
        );
        within(&mut mistakes, "slow_factor", self.slow_factor, 1, 1_000_000);
        within(
            &mut mistakes,
            "size",
            self.size.as_u64(),
            self.layers,
            MAX_SIZE,
        );
        within(&mut mistakes, "quantum", self.quantum(), 1024, MAX_SIZE);
        let hour = Duration::from_secs(3600);
        let spans = [
            ("source_delay", self.source_delay, hour),
            ("latency", self.latency, hour),
            ("zone_latency", self.zone_latency, hour),
            ("scheduler_delay", self.scheduler_delay, hour),
            ("turns_at", self.turns_at, hour),
            ("unseen", self.unseen, hour),
            ("limit", self.limit, hour * 24 * 365),
        ];
        for (key, span, most) in spans {
            let (span, most) = (span.as_secs_f64(), most.as_secs_f64());
            within(&mut mistakes, key, span, 0.0, most);
        }
        if let Some(trace) = self.trace {
            let most = hour.as_secs_f64();
            within(&mut mistakes, "trace", trace.as_secs_f64(), 1e-3, most);
        }
        if let Some(recovers) = self.recovers_at {
            let turns = self.turns_at.as_secs_f64();
            let (recovers, most) = (recovers.as_secs_f64(), hour.as_secs_f64());
            within(&mut mistakes, "recovers_at", recovers, turns, most);
        }
        mistakes
    }
}

/// Notes a value that is out of bounds.
fn within<T: PartialOrd + fmt::Display>(
    mistakes: &mut Vec<String>,
    key: &str,
    value: T,
    least: T,
    most: T,
) {
    // Negated, so that a NaN is a mistake.
    let fine = value >= least && value <= most;
    if !fine {
        mistakes.push(format!("{key} is {value}, not within {least} and {most}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default_scenario() {
        let spec = Spec::parse("").expect("nothing is a scenario");
        assert_eq!(spec, Spec::default());
        let scenario = spec.scenario().expect("the default makes sense");
        assert_eq!(scenario.contents, vec![100_000_000]);
    }

    #[test]
    fn layers_share_the_size() {
        let spec = Spec::parse("size = \"10 B\"\nlayers = 3").expect("parses");
        assert_eq!(spec.scenario().expect("sense").contents, vec![4, 3, 3]);
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let spec = Spec::parse("hosts = 0\nslow = 60.0\nrot = 60.0\nup = 0\nchurn = nan");
        let error = spec
            .expect("parses")
            .scenario()
            .expect_err("makes no sense");
        let text = error.to_string();
        for key in ["hosts", "slow, turns_slow and rot", "up", "churn"] {
            assert!(text.contains(key), "{text}");
        }
        assert!(Spec::parse("host = 3").is_err());
    }

    #[test]
    fn nobody_recovers_before_turning_slow() {
        for (text, fine) in [
            ("turns_at = \"5s\"\nrecovers_at = \"4s\"", false),
            ("turns_at = \"5s\"\nrecovers_at = \"6s\"", true),
            ("recovers_at = \"2h\"", false),
            ("trace = \"0s\"", false),
        ] {
            let spec = Spec::parse(text).expect("parses");
            assert_eq!(spec.scenario().is_ok(), fine, "{text}");
        }
    }
}
