//! `darter`: all parts of Darter in one binary.
//!
//! Exit codes: 0 for a clean end, 1 when something failed or `doctor` found something wrong,
//! 2 for a command line or configuration that makes no sense.

mod bench;
mod ca;
mod cli;
mod colour;
mod config;
mod demo;
mod doctor;
mod http;
mod logs;
mod manual;
mod parts;
mod passwd;
mod preheat;
mod progress;
mod rest;
mod setup;
mod simulate;
mod standalone;
mod task;

use std::process::ExitCode;

use clap::Parser as _;
use rustix::process::{Resource, getrlimit, setrlimit};

use cli::{Cli, Command, Part};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Buffers come and go; cleared two megabytes at a time they cost more than they hold.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // A connection is a descriptor, and the usual limit is of another age.
    let mut descriptors = getrlimit(Resource::Nofile);
    descriptors.current = descriptors.maximum;
    let _ = setrlimit(Resource::Nofile, descriptors);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("darter: no threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(cli));
    // What still blocks (a disk that hangs) does not hold the exit up.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}

async fn run(cli: Cli) -> ExitCode {
    let is_node = matches!(cli.command, Command::Proxy(_) | Command::Standalone(_));
    let result = match cli.command {
        Command::Demo(options) => demo::run(options).await,
        Command::Ca(command) => ca::run(command).await,
        Command::Setup(options) => setup::run(&options),
        Command::Doctor(options) => doctor::run(*options).await,
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { dir } => manual::man(dir.as_deref()),
        Command::Preheat(options) => preheat::run(options).await,
        Command::Task(options) => task::run(options).await,
        Command::Bench(options) => bench::run(options).await,
        Command::Simulate(options) => simulate::run(*options).await,
        Command::DemoRegistry(options) => demo::registry::run(options).await,
        Command::Standalone(common) => match settle_part(&common, Part::Standalone) {
            Ok(config) => standalone::run(config, &common).await,
            Err(code) => return code,
        },
        Command::Proxy(common) => match settled(common.proxy_settings(false), &common) {
            Ok(config) => parts::run_proxy(config, &common).await,
            Err(code) => return code,
        },
        Command::Passwd(options) => {
            let common = options.common();
            match settled(common.manager_settings(), &common) {
                Ok(config) => passwd::run(&config.manager, options.password_file.as_ref()).await,
                Err(code) => return code,
            }
        }
        Command::Manager(common) => match settle_part(&common, Part::Manager) {
            Ok(config) => parts::run_manager(config, &common).await,
            Err(code) => return code,
        },
        Command::Scheduler(common) => match settle_part(&common, Part::Scheduler) {
            Ok(config) => parts::run_scheduler(config, &common).await,
            Err(code) => return code,
        },
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("darter: {error:#}");
            if is_node {
                eprintln!("darter: what to do: darter doctor, with the same flags");
            }
            ExitCode::FAILURE
        }
    }
}

/// The same for a part that not every flag says something to: one that is ignored is a mistake.
fn settle_part(common: &cli::Common, part: Part) -> Result<config::Config, ExitCode> {
    let useless = common.useless(part);
    if !useless.is_empty() {
        let part = format!("{part:?}").to_lowercase();
        for flag in useless {
            eprintln!("darter: {flag} says nothing to `darter {part}`");
        }
        return Err(ExitCode::from(2));
    }
    let settings = match part {
        Part::Standalone => common.proxy_settings(true),
        Part::Scheduler => common.scheduler_settings(),
        Part::Manager => common.manager_settings(),
    };
    settled(settings, common)
}

/// The configuration, or all that is wrong with it, said and exit code 2.
fn settled(
    settings: Vec<config::Setting>,
    common: &cli::Common,
) -> Result<config::Config, ExitCode> {
    match config::load(common.config.as_deref(), std::env::vars(), settings) {
        Ok(config) => {
            logs::start(&config.log);
            Ok(config)
        }
        Err(mistakes) => {
            eprintln!(
                "darter: the configuration has {} mistake(s):",
                mistakes.len()
            );
            for mistake in mistakes {
                eprintln!("  {mistake}");
            }
            Err(ExitCode::from(2))
        }
    }
}
