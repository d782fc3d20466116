//! What a manager sets while nodes run, over what their own files say.
//!
//! One form everywhere: people write it as JSON, the manager keeps it so, nodes get it and keep it
//! so. What is not set is as the node's own file has it. A node leaves alone what it does not
//! know, so that managers can be newer than nodes; a rule that it does not understand it
//! refuses, with all that came with it.

mod rules;
mod weights;

use serde::{Deserialize, Serialize};

pub use rules::{Priority, Rule};
pub use weights::Weights;

/// Bytes a second; a lower rate is one that peers would take for a stall.
pub const LEAST_RATE: u64 = 256 * 1024;
/// Rules of one configuration.
pub const MOST_RULES: usize = 1000;
/// Patterns in one list of a rule.
const MOST_PATTERNS: usize = 1000;
/// Bytes of a pattern: a repository's name (OCI distribution, "Pulling manifests").
const MOST_PATTERN: usize = 255;
/// What a weight may be: far more than the others together.
const MOST_WEIGHT: u32 = 1_000_000;

/// What is set for one node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Configuration {
    /// Grows with each change of what is set for the cluster, a roll-back being one; 0 is nothing.
    pub version: u64,
    /// The cluster that the node belongs to.
    pub cluster: String,
    /// Whether a peer is a seed, whatever it says itself.
    pub seed: Option<bool>,
    /// For a peer or a seed.
    pub peer: PeerSettings,
    /// For a scheduler.
    pub scheduler: SchedulerSettings,
}

/// Something that is set makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {what}")]
pub struct SettingsError {
    /// Which.
    pub field: &'static str,
    /// What it may be.
    pub what: String,
}

fn within(
    field: &'static str,
    value: Option<u32>,
    least: u32,
    most: u32,
) -> Result<(), SettingsError> {
    match value {
        Some(value) if value < least || value > most => Err(SettingsError {
            field,
            what: format!("is from {least} to {most}"),
        }),
        _ => Ok(()),
    }
}

/// What becomes of a content of which clients read small parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prefetch {
    /// Nothing more of it is got than is read, until that is a quarter of it.
    #[default]
    Off,
    /// All of it is got in the background, as for a preheat.
    AfterFirstRange,
}

/// Of a peer or a seed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerSettings {
    /// What may be moved a second.
    #[serde(flatten)]
    pub rates: RateSettings,
    /// Pieces sent to other peers at the same time, 1 to 1024. Pieces under way end.
    pub upload_slots: Option<u32>,
    /// Requests that wait for a slot, at most 4096.
    pub upload_queue: Option<u32>,
    /// What becomes of contents that are read in small parts. What was begun is ended.
    pub prefetch: Option<Prefetch>,
    /// Of the registries in a node's own file only these are spoken to, by the names that they
    /// have there; at most 1000. None is added: what a node dials is its own host's to say.
    pub upstreams: Option<Vec<String>>,
}

impl PeerSettings {
    /// # Errors
    /// For the first that makes no sense.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.rates.check()?;
        within("upload_slots", self.upload_slots, 1, 1024)?;
        within("upload_queue", self.upload_queue, 0, 4096)?;
        let names = self.upstreams.as_deref().unwrap_or_default();
        let fits = |name: &String| (1..=MOST_PATTERN).contains(&name.len());
        if names.len() > MOST_PATTERNS || !names.iter().all(fits) {
            let what = format!("are at most {MOST_PATTERNS} names of 1 to {MOST_PATTERN} bytes");
            let field = "upstreams";
            return Err(SettingsError { field, what });
        }
        Ok(())
    }
}

/// Bytes a second by direction; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
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
    /// # Errors
    /// For the first that is neither no limit nor one that can be lived with.
    pub fn check(&self) -> Result<(), SettingsError> {
        for (field, rate) in [
            ("upload", self.upload),
            ("download", self.download),
            ("source", self.source),
            ("disk", self.disk),
        ] {
            if rate.is_some_and(|rate| rate != 0 && rate < LEAST_RATE) {
                let what = format!("is 0, for no limit, or at least {LEAST_RATE} bytes a second");
                return Err(SettingsError { field, what });
            }
        }
        Ok(())
    }
}

/// Of a scheduler.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SchedulerSettings {
    /// Neighbours of a host for one task, 1 to 256. Who are neighbours already stay so.
    pub degree: Option<u32>,
    /// Members of a task in each data centre that get neighbours in others, at most 64; 0 is a
    /// mesh across all borders.
    pub gateways: Option<u32>,
    /// Hosts that may read one content's source at the same time, 1 to 1024.
    pub source_budget: Option<u32>,
    /// Hosts that are granted disjoint parts of one content's source, 1 to 64.
    pub source_holders: Option<u32>,
    /// What counts how much when neighbours are chosen; all of it, a weight that is not named is
    /// the usual one.
    pub weights: Option<Weights>,
    /// Who may what, and who is a seed; the first rule that fits decides. A download under way
    /// goes on.
    pub rules: Option<Vec<Rule>>,
}

impl SchedulerSettings {
    /// # Errors
    /// For the first that makes no sense.
    pub fn check(&self) -> Result<(), SettingsError> {
        within("degree", self.degree, 1, 256)?;
        within("gateways", self.gateways, 0, 64)?;
        within("source_budget", self.source_budget, 1, 1024)?;
        within("source_holders", self.source_holders, 1, 64)?;
        let weights = self.weights.iter().flat_map(Weights::all);
        within("weights", weights.max(), 0, MOST_WEIGHT)?;
        let rules = self.rules.as_deref().unwrap_or_default();
        let wrong = |what: String| SettingsError {
            field: "rules",
            what,
        };
        if rules.len() > MOST_RULES {
            return Err(wrong(format!("are at most {MOST_RULES}")));
        }
        for list in rules.iter().flat_map(Rule::lists) {
            let fits = |pattern: &String| (1..=MOST_PATTERN).contains(&pattern.len());
            if list.len() > MOST_PATTERNS || !list.iter().all(fits) {
                let what = format!(
                    "have lists of at most {MOST_PATTERNS} patterns of 1 to {MOST_PATTERN} bytes"
                );
                return Err(wrong(what));
            }
        }
        let useless = |rule: &Rule| rule.seed.is_some() && rule.is_of_contents();
        if rules.iter().any(useless) {
            let what = "with `seed` name no registries and repositories";
            return Err(wrong(what.to_owned()));
        }
        Ok(())
    }
}

impl Configuration {
    /// # Errors
    /// For the first that makes no sense.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.peer.check()?;
        self.scheduler.check()
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
            assert_eq!(upload(rate).check().is_ok(), valid, "{rate:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let set = SchedulerSettings::default;
        let rule = |rule: Rule| SchedulerSettings {
            rules: Some(vec![rule]),
            ..set()
        };
        let text = |settings: SchedulerSettings| settings.check().unwrap_err().to_string();
        let degree = SchedulerSettings {
            degree: Some(0),
            ..set()
        };
        assert_eq!(text(degree), "`degree` is from 1 to 256");
        let weights = SchedulerSettings {
            weights: Some(Weights {
                load: MOST_WEIGHT + 1,
                ..Weights::default()
            }),
            ..set()
        };
        assert!(text(weights).starts_with("`weights`"));
        let empty = rule(Rule {
            hosts: vec![String::new()],
            ..Rule::default()
        });
        assert!(text(empty).starts_with("`rules` have lists"));
        let useless = rule(Rule {
            seed: Some(true),
            upstreams: vec!["docker.io".to_owned()],
            ..Rule::default()
        });
        assert!(text(useless).contains("`seed`"));
        let slots = PeerSettings {
            upload_slots: Some(0),
            ..PeerSettings::default()
        };
        assert!(slots.check().is_err());
        let upstreams = |name: &str| PeerSettings {
            upstreams: Some(vec![name.to_owned()]),
            ..PeerSettings::default()
        };
        assert!(upstreams("").check().is_err());
        assert!(upstreams(&"x".repeat(256)).check().is_err());
        assert_eq!(upstreams("docker.io").check(), Ok(()));
        assert_eq!(set().check(), Ok(()));
    }
}
