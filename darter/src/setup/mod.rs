//! `darter setup`: points this machine's clients at the mirror, and takes it back.
//!
//! A client's planner ([`containerd`], [`docker`], [`containers`]) says what its files are
//! to hold, merged with what stands there; [`record`] keeps what there was before the first
//! byte is changed, and [`files`] writes whole files or nothing. Owner of state: the record,
//! one file under the root. Failure: a write that breaks off is taken back by `--undo`, and
//! a file that somebody else has changed since is left as it is, and said.

mod containerd;
mod containers;
mod docker;
mod files;
mod hosts;
mod plan;
mod record;
mod report;
mod target;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::config::{self, Config};
pub(crate) use files::Root;
pub(crate) use plan::{Plan, Standing};
pub(crate) use record::Record;
pub(crate) use target::{Mirror, Registry, reachable};

/// What is pointed at the mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Client {
    /// containerd: Kubernetes, crictl, nerdctl, ctr (`certs.d/<registry>/hosts.toml`).
    Containerd,
    /// dockerd, for Docker Hub (`daemon.json`).
    Docker,
    /// podman, and skopeo and buildah beside it (`registries.conf.d`).
    Podman,
    /// CRI-O, which reads the same file as podman.
    Crio,
}

impl Client {
    /// The client by whose name the record knows it: podman and CRI-O share one file.
    const fn recorded(self) -> Self {
        match self {
            Self::Crio => Self::Podman,
            other => other,
        }
    }

    /// Whether it can have a mirror for a registry of that name.
    pub(crate) fn mirrors(self, name: &str) -> bool {
        self != Self::Docker || name == "docker.io"
    }

    /// As the command line names it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Crio => "crio",
        }
    }
}

/// Without `--write` or `--undo`, shows what would be written.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  darter setup containerd                                what it would write
  darter setup containerd --registry docker.io --registry ghcr.io --write
  darter setup docker --write                            Docker Hub; that is Docker's rule
  darter setup podman --registry reg.example:5000=http://10.0.0.5:5000 --write
  darter setup containerd --config /etc/darter.toml --write    what that proxy mirrors
  darter setup containerd --undo                         everything as it was

Exit codes: 0 done, or nothing to do; 1 it failed, or --undo left a file that was changed
since; 2 a command line that makes no sense.")]
pub(crate) struct Setup {
    /// The client.
    #[arg(value_enum)]
    client: Client,
    /// Where the mirror is: http://127.0.0.1:4001 unless said.
    #[arg(long, value_name = "URL")]
    mirror: Option<Mirror>,
    /// A registry to pull through the mirror, with its URL where that is not https://NAME:
    /// docker.io unless said. May be repeated. `_default` is all of them (containerd).
    #[arg(long, value_name = "NAME[=URL]")]
    registry: Vec<Registry>,
    /// The proxy's configuration file: the mirror and the registries are what it says.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Show what would be written (the default).
    #[arg(long, group = "way")]
    print: bool,
    /// Write it, and keep what there was.
    #[arg(long, group = "way")]
    write: bool,
    /// Give back byte for byte what there was before `--write`.
    #[arg(long, group = "way")]
    undo: bool,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
    /// The root directory of the system that is set up.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

impl Setup {
    /// The mirror and the registries: as the flags say, else as the proxy's file, else as
    /// everything is by default.
    fn targets(&self) -> Result<(Mirror, Vec<Registry>)> {
        let config = match &self.config {
            None => Config::default(),
            Some(file) => config::load(Some(file), std::env::vars(), Vec::new())
                .map_err(|mistakes| config::as_error(&mistakes))?,
        };
        let mirror = match &self.mirror {
            Some(mirror) => mirror.clone(),
            None => Mirror::at(config.proxy.listen),
        };
        let mut registries = self.registry.clone();
        if registries.is_empty() {
            let upstreams = config.proxy.upstreams.iter();
            let upstreams = upstreams.filter(|upstream| self.client.mirrors(&upstream.name));
            registries = upstreams.filter_map(Registry::of).collect();
        }
        ensure!(
            !registries.is_empty(),
            "{} has mirrors for docker.io alone, which that file does not list",
            self.client.name()
        );
        Ok((mirror, registries))
    }
}

pub(crate) fn run(options: &Setup) -> Result<ExitCode> {
    let root = Root::open(&options.root)?;
    let changes_files = options.write || options.undo;
    let _others_wait = changes_files.then(|| root.lock()).transpose()?;
    let mut record = Record::load(&root)?;
    if options.undo {
        let undone = record.undo(&root, options.client.recorded())?;
        return report::undone(&undone, &root, options);
    }
    let (mirror, registries) = options.targets()?;
    let standing = Standing::new(&root, &record);
    let plan = plan(&standing, options.client, &mirror, &registries)?;
    if options.write && !plan.changes.is_empty() {
        record.write(&root, options.client.recorded(), &plan.changes)?;
    }
    report::planned(&plan, &mirror, &root, options)
}

/// What `client`'s files lack, to use `mirror` for `registries`. No changes: it does already.
pub(crate) fn plan(
    standing: &Standing<'_>,
    client: Client,
    mirror: &Mirror,
    registries: &[Registry],
) -> Result<Plan> {
    let plan = match client {
        Client::Containerd => containerd::plan(standing, mirror, registries),
        Client::Docker => docker::plan(standing, mirror, registries),
        Client::Podman => containers::plan(standing, mirror, registries, None),
        Client::Crio => containers::plan(standing, mirror, registries, Some(RELOAD_CRIO)),
    };
    plan?.pending(standing)
}

const RELOAD_CRIO: &str = "systemctl reload crio";

#[cfg(test)]
mod tests;
