//! `darter simulate`: a swarm in virtual time, from a file or from flags.
//!
//! Flags are written into the file's table, so that both are checked by the same code.
//! The same scenario gives the same JSON and SVG to the byte; how long it took here and how
//! much memory it needed are told to people, and in JSON only when asked for.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use darter_simulator::{Spec, Summary, svg};
use serde::Serialize;

use crate::progress::Turning;

/// Plays a swarm with the real scheduler and download cores over modelled links, in virtual
/// time. Rates are Mbit/s, shares percent; flags win over the file.
#[derive(Debug, Args, Serialize, Default)]
pub(crate) struct Simulate {
    /// A scenario (TOML); simulator/scenarios has examples.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    scenario: Option<PathBuf>,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    #[serde(skip)]
    json: bool,
    /// Draw completion and the source's traffic over time.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    svg: Option<PathBuf>,
    /// Put time and memory of this process into the JSON as well.
    #[arg(long)]
    #[serde(skip)]
    timing: bool,
    /// Any key of a scenario, as TOML: `--set swarm.window=32`. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    #[serde(skip)]
    set: Vec<String>,
    /// Run without a scheduler.
    #[arg(long)]
    #[serde(skip)]
    no_scheduler: bool,
    /// Peers with a client.
    #[arg(long)]
    hosts: Option<usize>,
    /// What each client pulls, all layers together: `500MB`.
    #[arg(long)]
    size: Option<String>,
    /// Layers of equal size.
    #[arg(long)]
    layers: Option<u64>,
    /// A peer's uplink.
    #[arg(long, value_name = "MBIT")]
    up: Option<u64>,
    /// A peer's downlink.
    #[arg(long, value_name = "MBIT")]
    down: Option<u64>,
    /// All that the source can send.
    #[arg(long, value_name = "MBIT")]
    source: Option<u64>,
    /// One way between two hosts: `500us`.
    #[arg(long, value_name = "TIME")]
    latency: Option<String>,
    /// `at once`, `within 4s`, `waves of 20%` or `poisson 50/s`.
    #[arg(long)]
    arrival: Option<String>,
    /// Percent of the hosts that leave for good each minute.
    #[arg(long, value_name = "PERCENT")]
    churn: Option<f64>,
    /// Percent of the hosts that are slow.
    #[arg(long, value_name = "PERCENT")]
    slow: Option<f64>,
    /// How much smaller a slow host's rates are.
    #[arg(long, value_name = "TIMES")]
    slow_factor: Option<u64>,
    /// Percent of the hosts that send rot.
    #[arg(long, value_name = "PERCENT")]
    rot: Option<f64>,
    /// Seed peers.
    #[arg(long)]
    seeds: Option<usize>,
    /// The host that reads the source dies once so much of the contents has left it.
    #[arg(long, value_name = "PERCENT")]
    seed_dies: Option<f64>,
    /// Zones with costlier links between them.
    #[arg(long)]
    zones: Option<usize>,
    /// All that can leave a zone, and come into one.
    #[arg(long, value_name = "MBIT")]
    zone_rate: Option<u64>,
    /// One way between two zones.
    #[arg(long, value_name = "TIME")]
    zone_latency: Option<String>,
    /// How long it takes the scheduler to look at a message.
    #[arg(long, value_name = "TIME")]
    scheduler_delay: Option<String>,
    /// The scheduler dies then.
    #[arg(long, value_name = "TIME")]
    scheduler_dies: Option<String>,
    /// A new scheduler, without memory, begins then.
    #[arg(long, value_name = "TIME")]
    scheduler_back: Option<String>,
    /// Note so often, of virtual time, what hosts wait for; on standard error.
    #[arg(long, value_name = "TIME")]
    trace: Option<String>,
    /// Of all randomness: the same one gives the same run.
    #[arg(long)]
    seed: Option<u64>,
}

/// What the run cost here.
#[derive(Debug, Clone, Copy, Serialize)]
struct Timing {
    wall_seconds: f64,
    /// Where the system tells it.
    peak_rss_bytes: Option<u64>,
}

/// Plays and prints; fails when a host that lived did not get everything.
pub(crate) async fn run(options: Simulate) -> anyhow::Result<ExitCode> {
    let spec = match options.spec() {
        Ok(spec) => spec,
        Err(error) => {
            eprintln!("darter: {error:#}");
            return Ok(ExitCode::from(2));
        }
    };
    let turning = Turning::new("simulating");
    let played = tokio::task::spawn_blocking(move || play(&spec)).await;
    drop(turning);
    let Played {
        summary,
        trace,
        wall,
    } = played??;
    for line in trace {
        eprintln!("{line}");
    }
    let timing = Timing {
        wall_seconds: wall.as_secs_f64(),
        peak_rss_bytes: peak_rss(),
    };
    if let Some(file) = &options.svg {
        let wrote = std::fs::write(file, svg(&summary));
        wrote.with_context(|| format!("can't write {}", file.display()))?;
    }
    if options.json {
        println!("{}", json(&summary, options.timing.then_some(timing))?);
    } else {
        println!("{summary}\n{}", timing.text());
    }
    Ok(if summary.all_completed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What came of a run.
struct Played {
    summary: Summary,
    trace: Vec<String>,
    wall: Duration,
}

fn play(spec: &Spec) -> anyhow::Result<Played> {
    let begin = Instant::now();
    let report = spec.scenario()?.run();
    Ok(Played {
        summary: Summary::new(spec, &report),
        trace: report.trace,
        wall: begin.elapsed(),
    })
}

fn json(summary: &Summary, timing: Option<Timing>) -> anyhow::Result<String> {
    let mut value = serde_json::to_value(summary)?;
    if let Some(timing) = timing {
        value["timing"] = serde_json::to_value(timing)?;
    }
    Ok(serde_json::to_string_pretty(&value)?)
}

impl Simulate {
    /// The file's scenario, with the flags in it.
    fn spec(&self) -> anyhow::Result<Spec> {
        let mut table = match &self.scenario {
            Some(file) => std::fs::read_to_string(file)
                .map_err(anyhow::Error::from)
                .and_then(|text| Ok(text.parse::<toml::Table>()?))
                .with_context(|| format!("can't read {}", file.display()))?,
            None => toml::Table::new(),
        };
        table.extend(toml::Table::try_from(self)?);
        if self.no_scheduler {
            table.insert("scheduler".to_owned(), false.into());
        }
        for text in &self.set {
            let settings = text.parse::<toml::Table>();
            merge(
                &mut table,
                settings.with_context(|| format!("--set {text}"))?,
            );
        }
        let spec = Spec::from_table(table)?;
        spec.scenario()?;
        Ok(spec)
    }
}

/// Writes all of `from` into a table, and into the tables in it.
fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

impl Timing {
    fn text(&self) -> String {
        let memory = self.peak_rss_bytes.map_or_else(String::new, |bytes| {
            format!(
                ", {:.0} MiB of memory at most",
                bytes as f64 / f64::from(1 << 20)
            )
        });
        format!("  this process  {:.1} s{memory}", self.wall_seconds)
    }
}

/// The most memory that this process has had (Linux: `proc_pid_status(5)`).
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Simulate {
        Simulate {
            hosts: Some(8),
            size: Some("4MB".to_owned()),
            layers: Some(2),
            slow: Some(12.5),
            rot: Some(12.5),
            churn: Some(600.0),
            arrival: Some("poisson 20/s".to_owned()),
            ..Simulate::default()
        }
    }

    fn rendered(options: &Simulate) -> (String, String) {
        let played = play(&options.spec().expect("makes sense")).expect("plays");
        let summary = played.summary;
        (json(&summary, None).expect("prints"), svg(&summary))
    }

    #[test]
    fn same_seed_same_output_to_the_byte() {
        let other = Simulate {
            seed: Some(2),
            ..options()
        };
        assert_eq!(rendered(&options()), rendered(&options()));
        assert_ne!(rendered(&options()), rendered(&other));
    }

    #[test]
    fn flags_win_over_the_file_and_set_over_both() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, "hosts = 3\nup = 7\n[swarm]\nwindow = 5\n").expect("written");
        let options = Simulate {
            scenario: Some(file.path().to_owned()),
            hosts: Some(4),
            set: vec!["swarm.in_flight=9".to_owned()],
            no_scheduler: true,
            ..Simulate::default()
        };
        let spec = options.spec().expect("makes sense");
        assert_eq!((spec.hosts, spec.up.0, spec.scheduler), (4, 7, false));
        assert_eq!((spec.swarm.window, spec.swarm.in_flight), (5, 9));
    }

    #[test]
    fn what_makes_no_sense_is_not_played() {
        let set = |text: &str| Simulate {
            set: vec![text.to_owned()],
            ..Simulate::default()
        };
        for wrong in ["hosts=0", "hots=1", "arrival='soon'", "nothing"] {
            assert!(set(wrong).spec().is_err(), "{wrong}");
        }
    }
}
