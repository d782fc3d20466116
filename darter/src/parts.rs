//! Running the parts: each on its own, with health and metrics, until a signal.

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use axum::Router;
use darter_manager::Manager;
use darter_proxy::app::Proxy;
use darter_runtime::{
    Tasks, identity, operations,
    server::{Server, ServerOptions},
    tls::Security,
};
use darter_scheduler::{Home, Scheduler};
use prometheus_client::registry::Registry;
use tokio::{
    io::AsyncReadExt as _,
    signal::unix::{SignalKind, signal},
};

use crate::{
    cli::Common,
    config::{self, Config, Operations},
};

/// For running bodies to end after a signal.
const DRAIN: Duration = Duration::from_secs(15);

pub(crate) async fn run_proxy(config: Config, common: &Common) -> Result<ExitCode> {
    let tasks = Tasks::new();
    let mut registry = Registry::default();
    let security = config.cluster.obtain(&config.proxy.data, &tasks).await?;
    let home = start_home(&config, &tasks, &mut registry)?;
    let beside = home.as_ref().map(Home::sessions).unwrap_or_default();
    let proxy = start_proxy(&config, &security, beside, &tasks, &mut registry).await?;
    let limits = proxy.operations();
    let more = limits.merge(home.as_ref().map(Home::router).unwrap_or_default());
    let operations = serve_operations(&config.operations, registry, more, &tasks).await?;
    follow_limits(&proxy, common, &tasks)?;
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
    let security = config
        .cluster
        .obtain(&config.scheduler.data, &tasks)
        .await?;
    let scheduler = start_scheduler(&config, &security, &tasks, &mut registry).await?;
    let more = scheduler.router();
    let operations = serve_operations(&config.operations, registry, more, &tasks).await?;
    println!(
        "ready scheduler={} operations={operations}",
        scheduler.address()
    );
    until_signal(&tasks, common.exit_with_stdin).await
}

pub(crate) async fn run_manager(config: Config, common: &Common) -> Result<ExitCode> {
    let tasks = Tasks::new();
    let mut registry = Registry::default();
    let security = config.cluster.obtain(&config.manager.data, &tasks).await?;
    let manager = start_manager(&config, &security, &tasks, &mut registry).await?;
    let more = Router::new();
    let operations = serve_operations(&config.operations, registry, more, &tasks).await?;
    println!(
        "ready manager={} grpc={} operations={operations}",
        manager.rest(),
        manager.grpc()
    );
    until_signal(&tasks, common.exit_with_stdin).await
}

/// Where every peer is a scheduler, this one's share of it; it signs with the node's key.
fn start_home(config: &Config, tasks: &Tasks, registry: &mut Registry) -> Result<Option<Home>> {
    if !config.proxy.is_home() {
        return Ok(None);
    }
    let key = identity::load_or_create(&config.proxy.data)?;
    let registry = registry.sub_registry_with_prefix("darter_scheduler");
    let home = Home::start(config.scheduler.clone(), key, tasks, registry);
    Ok(Some(home))
}

pub(crate) async fn start_proxy(
    config: &Config,
    security: &Security,
    beside: Router,
    tasks: &Tasks,
    registry: &mut Registry,
) -> Result<Proxy> {
    let registry = registry.sub_registry_with_prefix("darter_proxy");
    Ok(Proxy::start(config.proxy.clone(), security, beside, tasks, registry).await?)
}

pub(crate) async fn start_scheduler(
    config: &Config,
    security: &Security,
    tasks: &Tasks,
    registry: &mut Registry,
) -> Result<Scheduler> {
    let registry = registry.sub_registry_with_prefix("darter_scheduler");
    Ok(Scheduler::start(config.scheduler.clone(), security, tasks, registry).await?)
}

pub(crate) async fn start_manager(
    config: &Config,
    security: &Security,
    tasks: &Tasks,
    registry: &mut Registry,
) -> Result<Manager> {
    let registry = registry.sub_registry_with_prefix("darter_manager");
    let manager = Manager::start(config.manager.clone(), security, tasks, registry).await?;
    if let Some(password) = manager.first_password() {
        println!("the manager's administrator is root, password {password} (said this once)");
    }
    Ok(manager)
}

/// On SIGHUP the proxy's limits are read again; all else stays as it was at the start.
pub(crate) fn follow_limits(proxy: &Proxy, common: &Common, tasks: &Tasks) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let (running, file) = (proxy.settings().clone(), common.config.clone());
    let settings = common.proxy_settings(false);
    tasks.spawn("limits by signal", async move {
        while hangup.recv().await.is_some() {
            match config::load(file.as_deref(), std::env::vars(), settings.clone()) {
                Ok(config) => {
                    let rates = running.reread(config.proxy.limits.rates());
                    tracing::info!(?rates, "limits were read again");
                }
                Err(mistakes) => {
                    for mistake in mistakes {
                        tracing::error!(%mistake, "limits stay as they are");
                    }
                }
            }
        }
    });
    Ok(())
}

/// Opens the port of health and metrics, and of `more`; everything else is ready by then.
pub(crate) async fn serve_operations(
    options: &Operations,
    registry: Registry,
    more: Router,
    tasks: &Tasks,
) -> Result<SocketAddr> {
    let server = Server::bind(options.listen)
        .await
        .context(
            "the port of health and metrics, of which each part on a host has its own (--operations-listen)",
        )?;
    let address = server.local_addr();
    let router = operations::router(Arc::new(registry), tasks.clone()).merge(more);
    server.serve("operations", router, tasks, ServerOptions::default());
    Ok(address)
}

/// Waits for Ctrl-C or SIGTERM, then drains; what has not ended in time is a failure. A second
/// signal ends at once.
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
        in_time = tasks.stop(DRAIN) => Ok(if in_time {
            ExitCode::SUCCESS
        } else {
            tracing::error!(after = ?DRAIN, "not all had ended in time");
            ExitCode::FAILURE
        }),
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
