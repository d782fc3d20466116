//! Everything in one process, on embedded defaults.

use std::{net::SocketAddr, path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Result;
use axum::Router;
use darter_proxy::upstream::UpstreamOptions;
use darter_runtime::{
    Tasks, identity,
    tls::{
        Authority, Certificate, Credentials, DEFAULT_LIFE, Security,
        renewal::{self, Source},
    },
};
use prometheus_client::registry::Registry;

use crate::{
    cli::Common,
    config::Config,
    parts::{
        follow_limits, serve_operations, start_manager, start_proxy, start_scheduler, until_signal,
    },
    setup::Client,
};

pub(crate) async fn run(mut config: Config, common: &Common) -> Result<ExitCode> {
    let tasks = Tasks::new();
    let mut registry = Registry::default();
    // Nobody was there before: there is nothing to wait for.
    config.scheduler.settle = Duration::ZERO;
    config.scheduler.preheat_settle = Duration::ZERO;
    config.scheduler.data = config.proxy.data.join("scheduler");
    config.scheduler.listen = free_or_any("the scheduler", config.scheduler.listen);
    config.proxy.peer = free_or_any("peers", config.proxy.peer);
    config.operations.listen = free_or_any("health and metrics", config.operations.listen);
    config.manager.data = config.proxy.data.join("manager");
    config.manager.listen = free_or_any("the manager", config.manager.listen);
    config.manager.grpc = free_or_any("the manager's members", config.manager.grpc);
    let authority = Arc::new(Authority::load_or_create(&config.proxy.data.join("ca"))?);
    let member = |data: &Path| member(&authority, data, &tasks);
    let security = member(&config.manager.data)?;
    let manager = start_manager(&config, &security, &tasks, &mut registry).await?;
    let manager_url = Some(format!("https://{}", manager.grpc()));
    config.scheduler.manager.clone_from(&manager_url);
    config.proxy.manager = manager_url;
    let security = member(&config.scheduler.data)?;
    let scheduler = start_scheduler(&config, &security, &tasks, &mut registry).await?;
    config.proxy.schedulers = vec![format!("https://{}", scheduler.address())];
    let security = member(&config.proxy.data)?;
    let proxy = start_proxy(&config, &security, Router::new(), &tasks, &mut registry).await?;
    let more = proxy.operations().merge(scheduler.router());
    let operations = serve_operations(&config.operations, registry, more, &tasks).await?;
    follow_limits(&proxy, common, &tasks)?;
    println!(
        "ready mirror={} peer={} operations={operations} scheduler={} manager={}",
        proxy.listen(),
        proxy.peer(),
        scheduler.address(),
        manager.rest()
    );
    println!(
        "\nto point a client at it:\n{}",
        setup_lines(&config.proxy.upstreams, proxy.listen())
    );
    until_signal(&tasks, common.exit_with_stdin).await
}

/// Makes the part whose key is in `data` a member of this process's own cluster, so that
/// nobody else on the machine is one.
fn member(authority: &Arc<Authority>, data: &Path, tasks: &Tasks) -> Result<Security> {
    let key = identity::load_or_create(data)?;
    let pem = authority.issue(&key.id(), DEFAULT_LIFE)?;
    let certificate = Certificate::from_pem(pem.as_bytes())?;
    let credentials = Credentials::new(&key, &certificate, authority.pem().as_bytes())?;
    let source = Source::Authority(Arc::clone(authority), DEFAULT_LIFE);
    renewal::keep(&credentials, certificate, source, tasks);
    Ok(Security::Tls(credentials))
}

/// A default port that somebody else has is no reason not to start.
fn free_or_any(what: &str, wanted: SocketAddr) -> SocketAddr {
    match std::net::TcpListener::bind(wanted) {
        Ok(_) => wanted,
        Err(cause) => {
            eprintln!("darter: {wanted} for {what} can't be had ({cause}); taking a free port");
            SocketAddr::new(wanted.ip(), 0)
        }
    }
}

/// The commands that point clients at the mirror.
fn setup_lines(upstreams: &[UpstreamOptions], mirror: SocketAddr) -> String {
    let mut registries = String::new();
    for upstream in upstreams {
        registries += " --registry ";
        registries += &upstream.name;
        if let Some(url) = &upstream.url {
            registries += "=";
            registries += url;
        }
    }
    let line = |client, registries| {
        format!("  darter setup {client} --mirror http://{mirror}{registries} --write")
    };
    let mut lines = vec![line("containerd", registries.as_str())];
    // Docker has mirrors for its own registry alone.
    if upstreams
        .iter()
        .any(|one| Client::Docker.mirrors(&one.name))
    {
        lines.push(line("docker", ""));
    }
    lines.push(line("podman", &registries));
    lines.join("\n")
}
