//! `darter preheat`: images and files that hosts are to have before anybody pulls them, asked of a
//! manager's REST.
//!
//! Exit code 0 when every host has everything (or, without `--wait`, when the jobs are taken),
//! 1 when something is missing; what and where is said.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use hyper::Method;
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::rest::{Manager, Place, read};

/// Between looks at a job.
const LOOK: Duration = Duration::from_millis(200);
/// A manager that does not answer for so long is given up; its jobs may go on. Another one, or
/// its restart, takes less.
const AWAY: Duration = Duration::from_secs(30);
/// Reasons that are printed of one job.
const MOST_REASONS: usize = 20;

/// Have hosts fetch images and files before anybody pulls them.
#[derive(Debug, Args)]
pub(crate) struct Preheat {
    /// Images: `library/app:1`, `registry.example.com/app@sha256:..`; or files that the hosts'
    /// rules share: `http://dl.example.com/a.iso`.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    #[command(flatten)]
    place: Place,
    /// Who is to have them.
    #[arg(long, value_enum, default_value_t = Scope::SingleSeedPeer)]
    scope: Scope,
    /// `os/architecture[/variant]`; may be repeated. All platforms unless said.
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<String>,
    /// Hosts of this cluster.
    #[arg(long, value_name = "NAME", default_value = "default")]
    cluster: String,
    /// Only hosts with this address; may be repeated.
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<String>,
    /// So many hosts.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    count: u32,
    /// So many of a hundred hosts.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    percentage: u32,
    /// A user of the registry.
    #[arg(long, requires = "password_file")]
    username: Option<String>,
    /// A file with the user's password.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// What signs in at the registry, where the manager keeps it: its name.
    #[arg(long, value_name = "NAME", conflicts_with = "username")]
    credential: Option<String>,
    /// Seconds after which what is not there has failed.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Seconds for which nobody evicts them.
    #[arg(long, value_name = "SECONDS")]
    pin: Option<u64>,
    /// Wait for the end, and say how it goes.
    #[arg(long)]
    wait: bool,
    /// Print one JSON object a job: as it was taken, or with `--wait` as it ended.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Scope {
    SingleSeedPeer,
    AllSeedPeers,
    AllPeers,
}

impl Scope {
    const fn as_str(self) -> &'static str {
        match self {
            Self::SingleSeedPeer => "single_seed_peer",
            Self::AllSeedPeers => "all_seed_peers",
            Self::AllPeers => "all_peers",
        }
    }
}

/// What is read of a job.
#[derive(Debug, Deserialize, Serialize)]
struct Job {
    id: i64,
    state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    files: Vec<String>,
    summary: Summary,
    failures: Vec<Failure>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Summary {
    hosts: u64,
    hosts_done: u64,
    bytes: u64,
    bytes_held: u64,
}

#[derive(Debug, Deserialize, Serialize)]
struct Failure {
    host: Option<String>,
    digest: Option<String>,
    why: String,
}

impl Job {
    /// What it is for.
    fn name(&self) -> String {
        self.image.clone().unwrap_or_else(|| self.files.join(" "))
    }

    fn is_over(&self) -> bool {
        !matches!(self.state.as_str(), "PENDING" | "RUNNING")
    }
}

pub(crate) async fn run(options: Preheat) -> Result<ExitCode> {
    let manager = Manager::new(&options.place)?;
    let password = read(options.password_file.as_ref())?;
    let mut jobs = Vec::new();
    for image in &options.images {
        let job = manager.post(&options, image, password.as_deref()).await;
        let job = job.with_context(|| format!("preheating {image}"))?;
        match (options.wait, options.json) {
            (true, _) => {}
            (false, true) => println!("{}", serde_json::to_string(&job)?),
            (false, false) => println!("{} {} {}", job.id, job.name(), job.state),
        }
        jobs.push(job.id);
    }
    if options.wait {
        return wait(&manager, &jobs, options.json).await;
    }
    Ok(ExitCode::SUCCESS)
}

async fn wait(manager: &Manager, jobs: &[i64], json: bool) -> Result<ExitCode> {
    let bars = Bars::new();
    let mut open: Vec<i64> = jobs.to_vec();
    let mut code = ExitCode::SUCCESS;
    let mut heard = Instant::now();
    while !open.is_empty() {
        let mut left = Vec::new();
        for id in open {
            let job = match manager.job(id).await {
                Err(_) if heard.elapsed() < AWAY => {
                    left.push(id);
                    continue;
                }
                looked => looked?,
            };
            heard = Instant::now();
            if !job.is_over() {
                bars.show(&job);
                left.push(id);
                continue;
            }
            bars.end(&job);
            match json {
                true => println!("{}", serde_json::to_string(&job)?),
                false => say(&job),
            }
            if job.state != "SUCCESS" {
                code = ExitCode::FAILURE;
            }
        }
        open = left;
        if !open.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(code)
}

/// One line a job; nothing moves where standard error is no terminal.
struct Bars {
    all: MultiProgress,
    by_job: std::cell::RefCell<BTreeMap<i64, ProgressBar>>,
}

impl Bars {
    fn new() -> Self {
        Self {
            all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            by_job: std::cell::RefCell::default(),
        }
    }

    fn show(&self, job: &Job) {
        let mut bars = self.by_job.borrow_mut();
        let bar = bars.entry(job.id).or_insert_with(|| {
            let form = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}";
            let style = ProgressStyle::with_template(form);
            let bar = ProgressBar::new(0).with_message(job.name());
            self.all
                .add(style.map_or(bar.clone(), |style| bar.with_style(style)))
        });
        bar.set_length(job.summary.bytes * job.summary.hosts);
        bar.set_position(job.summary.bytes_held);
    }

    fn end(&self, job: &Job) {
        if let Some(bar) = self.by_job.borrow_mut().remove(&job.id) {
            bar.finish_and_clear();
        }
    }
}

/// How a job ended.
fn say(job: &Job) {
    let Summary {
        hosts,
        hosts_done,
        bytes,
        ..
    } = job.summary;
    println!(
        "{} {} {}: {hosts_done} of {hosts} hosts have all {}",
        job.id,
        job.name(),
        job.state,
        HumanBytes(bytes)
    );
    for failure in job.failures.iter().take(MOST_REASONS) {
        let host = failure.host.as_deref().unwrap_or("no host in particular");
        match &failure.digest {
            Some(digest) => println!("  {host}: {digest}: {}", failure.why),
            None => println!("  {host}: {}", failure.why),
        }
    }
    if let Some(more) = job.failures.len().checked_sub(MOST_REASONS + 1) {
        println!("  and {} more", more + 1);
    }
}

/// No image is called so.
fn is_file(name: &str) -> bool {
    ["http://", "https://"]
        .iter()
        .any(|scheme| name.starts_with(scheme))
}

impl Manager {
    async fn post(&self, options: &Preheat, image: &str, password: Option<&str>) -> Result<Job> {
        let mut wish = json!({
            "scope": options.scope.as_str(),
            "cluster": options.cluster,
            "platforms": options.platform,
            "ips": options.ip,
            "count": options.count,
            "percentage": options.percentage,
        });
        match is_file(image) {
            true => wish["files"] = json!([image]),
            false => wish["image"] = json!(image),
        }
        if let (Some(user), Some(password)) = (&options.username, password) {
            wish["username"] = json!(user);
            wish["password"] = json!(password);
        }
        if let Some(name) = &options.credential {
            wish["credential"] = json!(name);
        }
        for (key, seconds) in [
            ("timeout_seconds", options.timeout),
            ("pin_seconds", options.pin),
        ] {
            if let Some(seconds) = seconds {
                wish[key] = json!(seconds);
            }
        }
        let body = wish.to_string().into();
        self.ask(Method::POST, "/api/v1/jobs", body).await
    }

    async fn job(&self, id: i64) -> Result<Job> {
        self.ask(Method::GET, &format!("/api/v1/jobs/{id}"), Bytes::new())
            .await
    }
}
