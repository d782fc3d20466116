//! `darter doctor`: what is found on a node, and what to do about it.
//!
//! A check looks at one thing and yields findings; it changes nothing and holds nothing
//! after it. A check that can't be made is said as well: nothing is well by silence. All that
//! crosses the network has a limit in time.

mod certificates;
mod clients;
mod finding;
mod network;
mod ports;
mod pull;
mod storage;
mod vitals;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;

use crate::{
    cli::Common,
    config::{self, Config},
    progress::Turning,
    setup::Root,
};
use finding::{Finding, Report};
use vitals::Vitals;

/// Give it the flags, variables and file that the proxy is started with.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darter doctor                                the proxy on this machine, as it is by default
  darter doctor --config /etc/darter.toml      as that file has it
  darter doctor --image ghcr.io/you/app:1      with a test pull of that image
  darter doctor --json | jq '.findings[] | select(.level == \"wrong\")'

Exit codes: 0 nothing is wrong (there may be warnings), 1 something is wrong, 2 a command line
that makes no sense.")]
pub(crate) struct Doctor {
    #[command(flatten)]
    common: Common,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
    /// What the test pull pulls, by the mirror. Docker Hub's hello-world where that is listed.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// The root directory of the clients' files.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// What checks look at.
struct Patient {
    config: Config,
    root: Root,
    vitals: Vitals,
    image: Option<String>,
}

pub(crate) async fn run(options: Doctor) -> Result<ExitCode> {
    let root = Root::open(&options.root)?;
    let mut report = Report::new(options.json);
    let file = options.common.config.as_deref();
    let settings = options.common.proxy_settings(false);
    match config::load(file, std::env::vars(), settings) {
        Err(mistakes) => {
            for mistake in mistakes {
                let todo = "mend it: config.toml.example has every key";
                report.add(Finding::wrong("configuration", mistake.to_string(), todo));
            }
            report.add(Finding::skipped(
                "everything else",
                "needs a configuration that makes sense",
            ));
        }
        Ok(config) => {
            let from = file.map_or_else(
                || "the built-in defaults, variables and flags make sense".to_owned(),
                |file| format!("{} makes sense", file.display()),
            );
            report.add(Finding::ok("configuration", from));
            let patient = Patient {
                vitals: Vitals::take(&config).await,
                config,
                root,
                image: options.image,
            };
            examine(&patient, &mut report).await;
        }
    }
    Ok(report.finish()?)
}

async fn examine(patient: &Patient, report: &mut Report) {
    report.add(patient.vitals.finding(&patient.config));
    report.extend(ports::check(patient).await);
    report.extend(storage::check(&patient.config));
    report.extend(certificates::check(&patient.config));
    let turning = Turning::new("asking the registries");
    let (upstreams, skews) = network::upstreams(&patient.config).await;
    drop(turning);
    report.extend(upstreams);
    report.add(network::clock(&skews));
    let turning = Turning::new("asking the cluster");
    let cluster = network::cluster(patient).await;
    drop(turning);
    report.extend(cluster);
    report.extend(clients::check(patient));
    let turning = Turning::new("pulling an image");
    let pulled = pull::check(patient).await;
    drop(turning);
    report.add(pulled);
}
