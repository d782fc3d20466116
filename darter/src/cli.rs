//! The command line.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    bench::Bench, ca::Ca, config::Setting, doctor::Doctor, preheat::Preheat, setup::Setup,
    simulate::Simulate, task::Task,
};

/// Peer-to-peer container image distribution: N nodes pull for the price of one.
#[derive(Debug, Parser)]
#[command(
    name = "darter",
    version,
    about,
    long_about = None,
    arg_required_else_help = true,
    after_help = "\
Examples:
  darter demo                              see it work: no network, no root
  darter standalone                        run everything in one process
  darter setup containerd --write          point containerd at it
  darter doctor                            see whether all is well

Exit codes: 0 done, or ended by a signal in good order; 1 it failed, or doctor found something
wrong; 2 a command line or a configuration that makes no sense.

Each command has examples of its own: darter COMMAND --help"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run mirror, scheduler, manager and everything else in one process.
    #[command(after_help = "\
Examples:
  darter standalone
  darter standalone --upstream docker.io --upstream reg.example:5000=http://10.0.0.5:5000
  darter standalone --data ./data --listen 127.0.0.1:5001")]
    Standalone(Common),
    /// Run a node's mirror and peer.
    #[command(after_help = "\
Examples:
  darter proxy --scheduler https://10.0.0.2:8002 --join 10.0.0.2:8003 --token-file token \\
      --set proxy.peer=10.0.0.7:4000
  darter proxy --config /etc/darter.toml --seed
  darter proxy                             alone, as a pull-through mirror")]
    Proxy(Common),
    /// Run a scheduler.
    #[command(after_help = "\
Examples:
  darter scheduler --listen 10.0.0.2:8002 --join 10.0.0.2:8003 --token-file token
  darter scheduler --listen 10.0.0.2:8002 --insecure      plain text")]
    Scheduler(Common),
    /// Run a manager: who is a scheduler, who is a seed peer.
    #[command(after_help = "\
Examples:
  darter manager --listen 10.0.0.2:8080 --set manager.grpc=10.0.0.2:65003 --insecure
  curl http://10.0.0.2:8080/api/v1/schedulers")]
    Manager(Common),
    /// Point containerd, Docker, podman or CRI-O at the mirror, or take that back.
    Setup(Setup),
    /// See whether a node's proxy and its clients are well, and what to do.
    Doctor(Box<Doctor>),
    /// Certificate authorities: the cluster's, and that of the interception.
    #[command(subcommand)]
    Ca(Ca),
    /// Play a swarm of any size in virtual time.
    #[command(after_help = "\
Examples:
  darter simulate --hosts 1000 --size 500MB
  darter simulate --scenario simulator/scenarios/churn.toml --json")]
    Simulate(Box<Simulate>),
    /// Measure what a scheduler takes.
    #[command(subcommand)]
    Bench(Bench),
    /// Have hosts fetch images and files before anybody pulls them.
    #[command(after_help = "\
Examples:
  darter preheat library/app:1 --scope all_peers --wait
  darter preheat http://dl.example.com/a.iso --scope all_seed_peers
  darter preheat app:1 app:2 --platform linux/amd64 --percentage 10 --scope all_peers
  darter preheat harbor.example/team/app:1 --manager http://10.0.0.2:8080 --token-file token")]
    Preheat(Preheat),
    /// Look at tasks and images on all hosts, and have them dropped.
    #[command(after_help = "\
Examples:
  darter task ls
  darter task show library/app:1           what it is made of, and who has it
  darter task show sha256:..               who has what of it, and from whom
  darter task rm library/app:1 --manager http://10.0.0.2:8080 --token-file token
  darter task invalidate library/app:latest")]
    Task(Task),
    /// Give a manager's administrator another password, as the user that the manager runs as.
    #[command(after_help = "\
Examples:
  darter passwd                            one that is made up, and said
  darter passwd --config /etc/darter.toml --password-file new")]
    Passwd(Passwd),
    /// See it work: an image, a registry, a swarm of processes, a table.
    #[command(after_help = "\
Examples:
  darter demo
  darter demo --peers 8 --size 1GiB --json")]
    Demo(Demo),
    /// Print what makes a shell complete darter's commands and flags.
    #[command(after_help = "\
Examples:
  darter completions bash > /etc/bash_completion.d/darter
  darter completions zsh > ~/.zfunc/_darter
  darter completions fish > ~/.config/fish/completions/darter.fish")]
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Print the manual page, or write one for each command.
    #[command(after_help = "\
Examples:
  darter man | man -l -
  darter man --dir /usr/local/share/man/man1")]
    Man {
        /// Write darter.1, darter-setup.1 and so on there, instead of printing.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// The registry of the demo.
    #[command(hide = true)]
    DemoRegistry(DemoRegistry),
}

/// Every key of the configuration file is also a variable (`[scheduler] degree` is
/// `DARTER_SCHEDULER_DEGREE`) and `--set scheduler.degree=30`; the flags here are the
/// common ones. Flags win over variables, variables over the file.
#[derive(Debug, Args, Default)]
pub(crate) struct Common {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where it listens: the mirror's port, the scheduler's, or that of the manager's REST.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Its data directory.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A registry to mirror: `docker.io`, or `NAME=URL`. May be repeated; the first is the default.
    #[arg(long, value_name = "NAME[=URL]")]
    upstream: Vec<String>,
    /// A scheduler's URL. May be repeated.
    #[arg(long, value_name = "URL")]
    scheduler: Vec<String>,
    /// The URL of a manager's gRPC, in whose list this part is shown and schedulers are found.
    #[arg(long, value_name = "URL")]
    manager: Option<String>,
    /// Be a seed peer, which reads registries first so that others need not.
    #[arg(long)]
    seed: bool,
    /// Where the cluster's authority gives certificates: mutual TLS with all other nodes.
    #[arg(long, value_name = "HOST:PORT")]
    join: Option<String>,
    /// A file with what `darter ca token` printed; needed for the first start.
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
    /// Speak plain text to other nodes beyond loopback.
    #[arg(long)]
    insecure: bool,
    /// Where health and metrics are.
    #[arg(long, value_name = "ADDRESS")]
    operations_listen: Option<String>,
    /// `error`, `warn`, `info`, `debug`, `trace`, or `info,darter_proxy=debug`.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// `text` or `json`.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Any key of the configuration file.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// End when standard input does.
    #[arg(long, hide = true)]
    pub(crate) exit_with_stdin: bool,
}

/// A part that not every flag says something to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// It is a cluster of its own.
    Standalone,
    Scheduler,
    Manager,
}

impl Common {
    /// Flags that were given and say nothing to this part.
    pub(crate) fn useless(&self, part: Part) -> Vec<&'static str> {
        use Part::{Manager, Scheduler, Standalone};
        let flags: [(&str, bool, &[Part]); 6] = [
            (
                "--upstream",
                !self.upstream.is_empty(),
                &[Scheduler, Manager],
            ),
            (
                "--scheduler",
                !self.scheduler.is_empty(),
                &[Standalone, Scheduler, Manager],
            ),
            ("--manager", self.manager.is_some(), &[Standalone, Manager]),
            ("--seed", self.seed, &[Scheduler, Manager]),
            ("--join", self.join.is_some(), &[Standalone]),
            ("--token-file", self.token_file.is_some(), &[Standalone]),
        ];
        let useless = flags
            .iter()
            .filter(|(_, given, parts)| *given && parts.contains(&part));
        useless.map(|(flag, ..)| *flag).collect()
    }

    fn shared(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        for text in &self.set {
            settings.push(Setting::parse("--set", text));
        }
        let cluster = [
            ("--join", "cluster.join", &self.join),
            ("--token-file", "cluster.token_file", &self.token_file),
        ];
        for (flag, key, text) in cluster {
            settings.extend(text.as_ref().map(|text| Setting::text(flag, key, text)));
        }
        settings.extend(
            self.operations_listen
                .as_ref()
                .map(|text| Setting::text("--operations-listen", "operations.listen", text)),
        );
        settings.extend(
            self.log_level
                .as_ref()
                .map(|text| Setting::text("--log-level", "log.level", text)),
        );
        settings.extend(
            self.log_format
                .as_ref()
                .map(|text| Setting::text("--log-format", "log.format", text)),
        );
        settings
    }

    fn data(&self, key: &str) -> Option<Setting> {
        let data = self.data.as_ref()?;
        Some(Setting::text("--data", key, &data.display().to_string()))
    }

    fn manager(&self, key: &str) -> Option<Setting> {
        let url = self.manager.as_ref()?;
        Some(Setting::text("--manager", key, url))
    }

    /// What the flags say to a proxy.
    pub(crate) fn proxy_settings(&self, standalone: bool) -> Vec<Setting> {
        let mut settings = self.shared();
        settings.extend(
            self.listen
                .as_ref()
                .map(|text| Setting::text("--listen", "proxy.listen", text)),
        );
        settings.extend(self.data("proxy.data"));
        if !self.upstream.is_empty() {
            settings.push(Setting::upstreams("--upstream", &self.upstream));
        }
        if !self.scheduler.is_empty() {
            settings.push(Setting::list(
                "--scheduler",
                "proxy.schedulers",
                &self.scheduler,
            ));
        }
        settings.extend(self.manager("proxy.manager"));
        if self.seed || standalone {
            settings.push(Setting::flag("--seed", "proxy.seed"));
        }
        if self.insecure {
            settings.push(Setting::flag("--insecure", "proxy.insecure"));
        }
        settings
    }

    /// What the flags say to a scheduler.
    pub(crate) fn scheduler_settings(&self) -> Vec<Setting> {
        let mut settings = self.shared();
        settings.extend(
            self.listen
                .as_ref()
                .map(|text| Setting::text("--listen", "scheduler.listen", text)),
        );
        settings.extend(self.data("scheduler.data"));
        settings.extend(self.manager("scheduler.manager"));
        if self.insecure {
            settings.push(Setting::flag("--insecure", "scheduler.insecure"));
        }
        settings
    }

    /// What the flags say to a manager.
    pub(crate) fn manager_settings(&self) -> Vec<Setting> {
        let mut settings = self.shared();
        settings.extend(
            self.listen
                .as_ref()
                .map(|text| Setting::text("--listen", "manager.listen", text)),
        );
        settings.extend(self.data("manager.data"));
        if self.insecure {
            settings.push(Setting::flag("--insecure", "manager.insecure"));
        }
        settings
    }
}

/// The database is opened as the manager does it, which may be running.
#[derive(Debug, Args)]
pub(crate) struct Passwd {
    /// The manager's configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The manager's data directory.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Any key of the configuration file.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// A file with the password, of 12 bytes or more; without one it is made up.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
}

impl Passwd {
    /// What a manager would be started with.
    pub(crate) fn common(&self) -> Common {
        Common {
            config: self.config.clone(),
            data: self.data.clone(),
            set: self.set.clone(),
            ..Common::default()
        }
    }
}

/// Needs no network, no root and no other software.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Peers that pull at the same moment.
    #[arg(long, default_value_t = 4)]
    pub(crate) peers: usize,
    /// Size of the image.
    #[arg(long, default_value = "256MiB")]
    pub(crate) size: ByteSize,
    /// Layers of the image.
    #[arg(long, default_value_t = 3)]
    pub(crate) layers: usize,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoRegistry {
    /// The image's directory.
    #[arg(long)]
    pub(crate) image: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_say_nothing_to_a_part_are_told() {
        let told = |arguments: &[&str]| {
            let cli = Cli::parse_from([&["darter"], arguments].concat());
            match cli.command {
                Command::Standalone(common) => common.useless(Part::Standalone),
                Command::Scheduler(common) => common.useless(Part::Scheduler),
                Command::Manager(common) => common.useless(Part::Manager),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(told(&["standalone", "--join", "a:1", "--seed"]), ["--join"]);
        assert!(told(&["scheduler", "--join", "a:1", "--manager", "http://a"]).is_empty());
        assert_eq!(told(&["scheduler", "--seed"]), ["--seed"]);
        let manager = [
            "manager",
            "--scheduler",
            "http://a",
            "--upstream",
            "docker.io",
        ];
        assert_eq!(told(&manager), ["--upstream", "--scheduler"]);
    }
}
