//! `darter bench scheduler`: thousands of peers in this process against a scheduler in
//! another one, over real gRPC sessions.
//!
//! First all peers come with nothing, then the scheduler is killed and started again and
//! they come back with all that they hold; then some join fresh contents, as fast as they are
//! answered and at a fixed rate. What the peers cost is counted apart from the scheduler.

mod joins;
mod measure;
mod peer;
mod report;

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use darter_api::NodeKey;
use darter_runtime::{
    Tasks, identity,
    tls::{Authority, Certificate, Credentials, DEFAULT_LIFE, Security},
};

use crate::{demo::processes::Part, progress::Turning};
use joins::Joins;
use measure::{Usage, usage};
use peer::{Crowd, Peer};
use report::{Phase, Report};

/// For all peers to be known; then the bench fails.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long sessions that say nothing are watched.
const IDLE: Duration = Duration::from_secs(5);

/// What is measured.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  darter bench scheduler --sessions 2000 --tasks 100 --json")]
pub(crate) enum Bench {
    /// A scheduler, by peers that hold and join contents without moving a byte.
    #[command(after_help = "\
Examples:
  darter bench scheduler                   a thousand peers, over mutual TLS
  darter bench scheduler --sessions 2000 --tasks 100 --json")]
    Scheduler(Scheduler),
}

#[derive(Debug, Args)]
pub(crate) struct Scheduler {
    /// Peers, each with a session of its own.
    #[arg(long, default_value_t = 1000)]
    sessions: usize,
    /// Contents that each of them holds.
    #[arg(long, default_value_t = 200)]
    tasks: usize,
    /// Joins of fresh contents as fast as they are answered; as many again at `--rate`.
    #[arg(long, default_value_t = 20_000)]
    joins: usize,
    /// Joins that wait for their answer at the same time.
    #[arg(long, default_value_t = 32)]
    at_once: usize,
    /// Joins a second whose delay is measured.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Sessions that are made at the same time.
    #[arg(long, default_value_t = 64)]
    opening: usize,
    /// Plain text instead of mutual TLS.
    #[arg(long)]
    plain: bool,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(bench: Bench) -> Result<ExitCode> {
    let Bench::Scheduler(options) = bench;
    let tasks = Tasks::new();
    let work = scheduler(&options, &tasks);
    let turning = Turning::new("measuring");
    let report = tokio::select! {
        report = work => report?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    };
    drop(turning);
    tasks.stop(Duration::from_secs(5)).await;
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.table());
    }
    Ok(ExitCode::SUCCESS)
}

async fn scheduler(options: &Scheduler, tasks: &Tasks) -> Result<Report> {
    anyhow::ensure!(options.sessions > 0, "a bench needs at least one session");
    let dir = tempfile::Builder::new().prefix("darter-bench-").tempdir()?;
    let cluster = Cluster::new(dir.path(), options.plain)?;
    let peers = (0..options.sessions)
        .map(|number| cluster.peer(number))
        .collect::<Result<Vec<Peer>>>()?;

    let process = cluster.start(dir.path(), "127.0.0.1:0").await?;
    let address = process.address("scheduler")?.to_owned();
    let mut phases = Vec::new();
    let alone = usage(process.pid()?)?;
    let crowd = Arc::new(Crowd::new(peers, options.tasks, options.opening));
    crowd.come(&format!("{}://{address}", cluster.scheme()), tasks);
    phases.push(all_known("sessions with nothing", &crowd, &process).await?);
    phases.push(idle(&process).await?);

    crowd.fill();
    process.kill().await?;
    crowd.lost().await;
    let process = cluster.start(dir.path(), &address).await?;
    phases.push(all_known("after kill -9, with all they hold", &crowd, &process).await?);
    phases.push(idle(&process).await?);

    let joins = Joins::new(Arc::clone(&crowd), options.joins);
    let (before, own) = (usage(process.pid()?)?, usage(std::process::id())?);
    let fast = joins.fast(options.at_once, tasks).await?;
    phases.push(Phase::between(
        "joins, as fast as answered",
        fast.seconds,
        (before, usage(process.pid()?)?),
        (own, usage(std::process::id())?),
    ));
    let steady = joins.steady(options.rate, tasks).await?;
    Ok(Report {
        sessions: options.sessions,
        tasks_each: options.tasks,
        tls: !options.plain,
        resident_alone: alone.resident,
        phases,
        fast,
        steady,
        decisions: process.decisions().await?,
        peak: usage(process.pid()?)?.peak,
    })
}

/// Until every peer was welcomed and what it holds was read.
async fn all_known(what: &'static str, crowd: &Crowd, process: &Part) -> Result<Phase> {
    let (before, own) = (usage(process.pid()?)?, usage(std::process::id())?);
    let began = std::time::Instant::now();
    tokio::time::timeout(PATIENCE, crowd.all_known())
        .await
        .with_context(|| format!("{} of the peers are known", crowd.known()))?;
    Ok(Phase::between(
        what,
        began.elapsed().as_secs_f64(),
        (before, usage(process.pid()?)?),
        (own, usage(std::process::id())?),
    ))
}

async fn idle(process: &Part) -> Result<Phase> {
    let (before, own): (Usage, Usage) = (usage(process.pid()?)?, usage(std::process::id())?);
    tokio::time::sleep(IDLE).await;
    Ok(Phase::between(
        "idle",
        IDLE.as_secs_f64(),
        (before, usage(process.pid()?)?),
        (own, usage(std::process::id())?),
    ))
}

/// What makes the bench's nodes members of one cluster.
struct Cluster {
    authority: Option<Authority>,
}

impl Cluster {
    fn new(dir: &Path, plain: bool) -> Result<Self> {
        let authority = match plain {
            true => None,
            false => Some(Authority::create(&dir.join("authority"))?),
        };
        let cluster = Self { authority };
        if let Some(authority) = &cluster.authority {
            let host = identity::load_or_create(&dir.join("scheduler"))?.id();
            let pem = authority.issue(&host, DEFAULT_LIFE)?;
            std::fs::write(dir.join("scheduler.crt"), pem)?;
        }
        Ok(cluster)
    }

    const fn scheme(&self) -> &'static str {
        if self.authority.is_some() {
            "https"
        } else {
            "http"
        }
    }

    fn peer(&self, number: usize) -> Result<Peer> {
        let key = NodeKey::generate()?;
        let security = match &self.authority {
            None => Security::Plain,
            Some(authority) => {
                let pem = authority.issue(&key.id(), DEFAULT_LIFE)?;
                let certificate = Certificate::from_pem(pem.as_bytes())?;
                let roots = authority.pem().as_bytes();
                Security::Tls(Credentials::new(&key, &certificate, roots)?)
            }
        };
        Ok(Peer::new(number, key, security.connector()))
    }

    async fn start(&self, dir: &Path, listen: &str) -> Result<Part> {
        let mut arguments = vec![
            "scheduler".to_owned(),
            "--listen".to_owned(),
            listen.to_owned(),
        ];
        if self.authority.is_some() {
            for (key, file) in [
                ("cluster.ca", "authority/ca.crt"),
                ("cluster.certificate", "scheduler.crt"),
            ] {
                arguments.push("--set".to_owned());
                arguments.push(format!("{key}={}", dir.join(file).display()));
            }
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Part::start(dir, "scheduler", &arguments).await
    }
}
