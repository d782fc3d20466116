//! `darter task`: what all schedulers know of a task or an image, and having it dropped
//! everywhere; asked of a manager's REST.
//!
//! Exit code 0 when everybody could be asked and did it; 1 when not, which is said by name.

use std::process::ExitCode;

use anyhow::Result;
use bytes::Bytes;
use clap::{Args, Subcommand};
use darter_api::ClusterName;
use hyper::Method;
use indicatif::HumanBytes;
use serde::Deserialize;
use serde_json::Value;

use crate::rest::{Manager, Place};

/// Tasks of a page.
const PAGE: usize = 1000;

/// Look at tasks and images, and have them dropped.
#[derive(Debug, Args)]
pub(crate) struct Task {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    place: Place,
    /// Only in this cluster.
    #[arg(long, global = true, value_name = "NAME")]
    cluster: Option<ClusterName>,
    /// Print what the manager answers and nothing else.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the tasks that hosts hold or want.
    #[command(after_help = "\
Examples:
  darter task ls
  darter task ls --json | jq .tasks")]
    Ls,
    /// Show a task's swarm, or what an image is made of and who has it.
    #[command(after_help = "\
Examples:
  darter task show library/app:1
  darter task show library/app:1 --json")]
    Show {
        /// A digest, `sha256:..`, or an image, `library/app:1`.
        name: String,
    },
    /// Drop a task or an image from all hosts. Of an image stays what other images need that
    /// are pinned; what is being downloaded stays.
    #[command(after_help = "\
Examples:
  darter task rm library/app:1")]
    Rm {
        /// A digest, `sha256:..`, or an image, `library/app:1`.
        name: String,
    },
    /// Have all hosts ask the registry what a tag stands for, the next time.
    #[command(after_help = "\
Examples:
  darter task invalidate library/app:latest")]
    Invalidate {
        /// An image with a tag, `library/app:1`.
        image: String,
    },
}

#[derive(Debug, Deserialize)]
struct Tasks {
    tasks: Vec<Summary>,
    silent: Vec<Silent>,
}

#[derive(Debug, Deserialize)]
struct Summary {
    task: String,
    size: Option<u64>,
    hosts: u64,
    waiting: u64,
    whole: u64,
    readers: u64,
}

fn shown(size: Option<u64>) -> String {
    size.map_or_else(
        || "of unknown size".to_owned(),
        |size| HumanBytes(size).to_string(),
    )
}

#[derive(Debug, Deserialize)]
struct Silent {
    scheduler: String,
    why: String,
}

#[derive(Debug, Deserialize)]
struct Graph {
    task: String,
    size: Option<u64>,
    pieces: Option<u64>,
    hosts: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    host: String,
    name: String,
    held: u64,
    wants: bool,
    reads: Vec<[u64; 2]>,
    neighbours: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Outcome {
    schedulers: u64,
    hosts: Vec<Host>,
    silent: Vec<Silent>,
}

#[derive(Debug, Deserialize)]
struct Host {
    name: String,
    ip: String,
    #[serde(default)]
    dropped: Vec<String>,
    #[serde(default)]
    in_use: Vec<String>,
    #[serde(default)]
    needed: Vec<String>,
    failed: Option<String>,
}

pub(crate) async fn run(options: Task) -> Result<ExitCode> {
    let asked = Asked {
        manager: Manager::new(&options.place)?,
        cluster: options.cluster,
        json: options.json,
    };
    let is_whole = match options.what {
        What::Ls => asked.list().await?,
        What::Show { name } if is_task(&name) => asked.graph(&name).await?,
        What::Show { name } => asked.image(&name).await?,
        What::Rm { name } => asked.remove(&name).await?,
        What::Invalidate { image } => asked.invalidate(&image).await?,
    };
    Ok(if is_whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A task, and no image: an image's digest follows an `@`.
fn is_task(name: &str) -> bool {
    let digest = name.split_once(':');
    digest.is_some_and(|(algorithm, hex)| {
        matches!(algorithm, "sha256" | "sha512" | "file")
            && hex.len() >= 64
            && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// What may stand in a query as it is (RFC 3986, section 2.3); all else is escaped.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

/// A manager, and how its answers are shown. Each says whether all could be asked.
struct Asked {
    manager: Manager,
    cluster: Option<ClusterName>,
    json: bool,
}

impl Asked {
    /// The answer, printed as it is where that was asked for.
    async fn ask(&self, method: Method, path: &str) -> Result<Value> {
        let within = self.cluster.as_ref().map(|cluster| {
            let mark = if path.contains('?') { '&' } else { '?' };
            format!("{path}{mark}cluster={cluster}")
        });
        let path = within.as_deref().unwrap_or(path);
        let answer: Value = self.manager.ask(method, path, Bytes::new()).await?;
        if self.json {
            println!("{answer}");
        }
        Ok(answer)
    }

    async fn list(&self) -> Result<bool> {
        let (mut after, mut is_whole) = (String::new(), true);
        loop {
            let path = format!("/api/v1/tasks?limit={PAGE}{after}");
            let answer = self.ask(Method::GET, &path).await?;
            let page: Tasks = serde_json::from_value(answer)?;
            self.show_tasks(&page.tasks);
            is_whole &= self.is_whole(&page.silent);
            match page.tasks.last() {
                Some(last) if page.tasks.len() == PAGE => {
                    after = format!("&after={}", last.task);
                }
                _ => return Ok(is_whole),
            }
        }
    }

    fn show_tasks(&self, tasks: &[Summary]) {
        if self.json {
            return;
        }
        for task in tasks {
            println!(
                "{} {}: {} of {} hosts have all, {} want it, {} read it",
                task.task,
                shown(task.size),
                task.whole,
                task.hosts,
                task.waiting,
                task.readers
            );
        }
    }

    async fn graph(&self, task: &str) -> Result<bool> {
        let path = format!("/api/v1/tasks/{task}");
        let answer = self.ask(Method::GET, &path).await?;
        if self.json {
            return Ok(true);
        }
        let graph: Graph = serde_json::from_value(answer)?;
        let pieces = graph.pieces.map(|pieces| format!(", {pieces} pieces"));
        let (size, pieces) = (shown(graph.size), pieces.unwrap_or_default());
        println!("{} {size}{pieces}", graph.task);
        for node in graph.hosts {
            let read: u64 = node
                .reads
                .iter()
                .map(|[from, to]| to.saturating_sub(*from))
                .sum();
            let wants = if node.wants { ", wants it" } else { "" };
            println!(
                "  {} ({}): {} held, {read} read, {} neighbours{wants}",
                node.name,
                node.host.get(..8).unwrap_or(&node.host),
                node.held,
                node.neighbours.len()
            );
        }
        Ok(true)
    }

    async fn image(&self, image: &str) -> Result<bool> {
        let path = format!("/api/v1/images?image={}", escaped(image));
        let answer = self.ask(Method::GET, &path).await?;
        let page: Tasks = serde_json::from_value(answer)?;
        self.show_tasks(&page.tasks);
        Ok(self.is_whole(&page.silent))
    }

    async fn remove(&self, name: &str) -> Result<bool> {
        let path = if is_task(name) {
            format!("/api/v1/tasks/{name}")
        } else {
            format!("/api/v1/images?image={}", escaped(name))
        };
        let answer = self.ask(Method::DELETE, &path).await?;
        self.outcome(answer)
    }

    async fn invalidate(&self, image: &str) -> Result<bool> {
        let path = format!("/api/v1/tags/invalidate?image={}", escaped(image));
        let answer = self.ask(Method::POST, &path).await?;
        self.outcome(answer)
    }

    /// What hosts did; whether all that are there did it.
    fn outcome(&self, answer: Value) -> Result<bool> {
        let outcome: Outcome = serde_json::from_value(answer)?;
        let mut is_done = self.is_whole(&outcome.silent);
        if outcome.schedulers == 0 && outcome.silent.is_empty() {
            eprintln!("darter: no scheduler is there");
            is_done = false;
        }
        for host in &outcome.hosts {
            is_done &= host.failed.is_none() && host.in_use.is_empty();
            if self.json {
                continue;
            }
            let (name, ip) = (&host.name, &host.ip);
            match &host.failed {
                Some(why) => println!("{name} ({ip}): {why}"),
                None => {
                    let dropped = host.dropped.len();
                    println!("{name} ({ip}): done, {dropped} dropped");
                }
            }
            for task in &host.in_use {
                println!("  {task} is being downloaded, and stays");
            }
            for task in &host.needed {
                println!("  {task} is needed by another image that is pinned");
            }
        }
        Ok(is_done)
    }

    fn is_whole(&self, silent: &[Silent]) -> bool {
        for one in silent {
            eprintln!("darter: {} could not be asked: {}", one.scheduler, one.why);
        }
        silent.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_a_task_and_anything_else_an_image() {
        let digest = format!("sha256:{}", "0".repeat(64));
        assert!(is_task(&digest) && is_task(&digest.replace("sha256", "file")));
        assert!(!is_task(&format!("library/app@{digest}")));
        for image in ["sha256:1", "library/app:1", "localhost:5000/app"] {
            assert!(!is_task(image), "{image}");
        }
        assert_eq!(escaped("a/b:1@x&y"), "a%2Fb%3A1%40x%26y");
    }
}
