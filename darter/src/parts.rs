//! Running the parts: each on its own, with health and metrics, until a signal.

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use darter_manager::Manager;
use darter_proxy::app::Proxy;
use darter_runtime::{
    Tasks,
    operations::{self, Readiness},
    server::{Server, ServerOptions},
};
use darter_scheduler::Scheduler;
use prometheus_client::registry::Registry;
use tokio::{
    io::AsyncReadExt as _,
    signal::unix::{SignalKind, signal},
};

use crate::{
    cli::Common,
    config::{Config, Operations},
};

/// For running bodies to end after a signal.
const DRAIN: Duration = Duration::from_secs(15);

pub(crate) async fn run_proxy(config: Config, common: &Common) -> Result<ExitCode> {
    let tasks = Tasks::new();
    let mut registry = Registry::default();
    let proxy = start_proxy(&config, &tasks, &mut registry).await?;
    let operations = serve_operations(&config.operations, registry, &tasks).await?;
    println!(
        "ready mirror={} peer={} operations={operations}",
        proxy.listen(),
        proxy.peer()
    );
    until_signal(&tasks, common.exit_with_stdin).await
}

pub(crate) async fn run_scheduler(config: Config, common: &Common) -> Result<ExitCode> {
    let tasks = Tasks::new();
    let mut registry = Registry::default();
    let scheduler = start_scheduler(&config, &tasks, &mut registry).await?;
    let operations = serve_operations(&config.operations, registry, &tasks).await?;
    println!(
        "ready scheduler={} operations={operations}",
        scheduler.address()
    );
    until_signal(&tasks, common.exit_with_stdin).await
}

pub(crate) async fn run_manager(config: Config, common: &Common) -> Result<ExitCode> {
    let tasks = Tasks::new();
    let mut registry = Registry::default();
    let manager = start_manager(&config, &tasks, &mut registry).await?;
    let operations = serve_operations(&config.operations, registry, &tasks).await?;
    println!(
        "ready manager={} grpc={} operations={operations}",
        manager.rest(),
        manager.grpc()
    );
    until_signal(&tasks, common.exit_with_stdin).await
}

pub(crate) async fn start_proxy(
    config: &Config,
    tasks: &Tasks,
    registry: &mut Registry,
) -> Result<Proxy> {
    let registry = registry.sub_registry_with_prefix("darter_proxy");
    Ok(Proxy::start(config.proxy.clone(), tasks, registry).await?)
}

pub(crate) async fn start_scheduler(
    config: &Config,
    tasks: &Tasks,
    registry: &mut Registry,
) -> Result<Scheduler> {
    let registry = registry.sub_registry_with_prefix("darter_scheduler");
    Ok(Scheduler::start(config.scheduler.clone(), tasks, registry).await?)
}

pub(crate) async fn start_manager(
    config: &Config,
    tasks: &Tasks,
    registry: &mut Registry,
) -> Result<Manager> {
    let registry = registry.sub_registry_with_prefix("darter_manager");
    Ok(Manager::start(config.manager.clone(), tasks, registry).await?)
}

/// Opens the port of health and metrics; everything else is ready by then.
pub(crate) async fn serve_operations(
    options: &Operations,
    registry: Registry,
    tasks: &Tasks,
) -> Result<SocketAddr> {
    let server = Server::bind(options.listen)
        .await
        .context("the port of health and metrics")?;
    let address = server.local_addr();
    let router = operations::router(Arc::new(registry), Readiness::default());
    server.serve("operations", router, tasks, ServerOptions::default());
    Ok(address)
}

/// Waits for Ctrl-C or SIGTERM, then drains. A second signal ends at once.
pub(crate) async fn until_signal(tasks: &Tasks, exit_with_stdin: bool) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = stdin_end(exit_with_stdin) => {}
    }
    tracing::info!("stopping");
    tokio::select! {
        _ = tasks.stop(DRAIN) => Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::FAILURE),
        _ = terminate.recv() => Ok(ExitCode::FAILURE),
    }
}

async fn stdin_end(wanted: bool) {
    if !wanted {
        std::future::pending::<()>().await;
    }
    let mut rest = [0; 64];
    while tokio::io::stdin()
        .read(&mut rest)
        .await
        .is_ok_and(|got| got > 0)
    {}
}
