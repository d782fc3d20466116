//! `darter demo`: the main job on one machine, with nothing else installed.
//!
//! An image of incompressible layers, a registry that counts what leaves it, a scheduler,
//! a seed and some peers, each a process of its own on free ports and a member of a cluster
//! made for them; then the image is
//! pulled through every peer at the same moment, every digest is checked, and a table
//! says what came from where. All of it ends with this process.

mod image;
pub(crate) mod processes;
mod pull;
pub(crate) mod registry;
mod report;

use std::{
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use darter_runtime::{
    Tasks,
    identity::write_private,
    tls::{self, Authority, DEFAULT_LIFE},
};
use futures::future::try_join_all;

use crate::cli::Demo;
use image::Image;
use processes::Part;
use pull::{Progress, Pulled};
use report::{PeerReport, Report};

pub(crate) async fn run(options: Demo) -> Result<ExitCode> {
    let work = demo(&options);
    let report = tokio::select! {
        report = work => report?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    };
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.table());
    }
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn demo(options: &Demo) -> Result<Report> {
    anyhow::ensure!(
        options.peers > 0 && options.layers > 0,
        "a demo needs at least one peer and one layer"
    );
    let dir = tempfile::Builder::new().prefix("darter-demo-").tempdir()?;
    let image = Image::make(
        &dir.path().join("image"),
        options.size.as_u64(),
        options.layers,
    )
    .await?;
    let registry = Part::start(
        dir.path(),
        "registry",
        &["demo-registry", "--image", &image.dir()],
    )
    .await?;
    let registry_url = format!("http://{}", registry.address("registry")?);
    let plain = plain_pull(&registry_url, &image).await?;

    let tasks = Tasks::new();
    let (authority, token) = authority(&dir.path().join("ca"), options.peers, &tasks).await?;
    let scheduler = Part::start(
        dir.path(),
        "scheduler",
        &[
            "scheduler",
            "--join",
            &authority,
            "--token-file",
            &token,
            "--listen",
            "127.0.0.1:0",
            "--set",
            "scheduler.settle=0s",
            "--set",
            "scheduler.preheat_settle=0s",
        ],
    )
    .await?;
    let scheduler_url = format!("https://{}", scheduler.address("scheduler")?);
    let upstream = format!("demo.local={registry_url}");
    let proxy = |name: String, seed: bool| {
        let mut arguments = vec![
            "proxy",
            "--join",
            &authority,
            "--token-file",
            &token,
            "--listen",
            "127.0.0.1:0",
            "--set",
            "proxy.peer=127.0.0.1:0",
            "--upstream",
            &upstream,
            "--scheduler",
            &scheduler_url,
        ];
        if seed {
            arguments.push("--seed");
        }
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        let dir = dir.path().to_owned();
        async move {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            Part::start(&dir, &name, &arguments).await
        }
    };
    let _seed = proxy("seed".to_owned(), true).await?;
    let peers =
        try_join_all((1..=options.peers).map(|number| proxy(format!("peer-{number}"), false)))
            .await?;

    let before = registry::sent(&registry_url).await?;
    let bars = Progress::new(!options.json, image.size());
    let began = Instant::now();
    let pulls = peers.iter().enumerate().map(|(number, peer)| {
        let bar = bars.bar(&format!("peer-{}", number + 1));
        let (peer, image) = (peer, &image);
        async move {
            pull::pull(
                &format!("http://{}", peer.address("mirror")?),
                "demo.local",
                image,
                bar,
            )
            .await
        }
    });
    let pulled: Vec<Pulled> = try_join_all(pulls).await?;
    let seconds = began.elapsed().as_secs_f64();
    bars.finish();
    let sent = registry::sent(&registry_url).await? - before;

    let mut rows = Vec::new();
    for (number, (peer, pulled)) in peers.iter().zip(&pulled).enumerate() {
        let bytes = peer.content_bytes().await.context("a peer's metrics")?;
        rows.push(PeerReport::new(
            format!("peer-{}", number + 1),
            pulled,
            image.size(),
            bytes,
        ));
    }
    tasks.stop(Duration::from_secs(1)).await;
    Ok(Report::new(seconds, plain, sent, image.size(), rows))
}

/// The demo's own cluster: where its authority is, and the file of a token for all parts.
async fn authority(dir: &Path, peers: usize, tasks: &Tasks) -> Result<(String, String)> {
    let authority = Arc::new(Authority::create(dir)?);
    // A scheduler and a seed beside the peers.
    let parts = u32::try_from(peers + 2)?;
    let token = crate::ca::token(&authority, Duration::from_secs(3600), parts)?;
    let file = dir.join("token");
    write_private(&file, token.reveal().as_bytes())?;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let address = tls::serve(authority, DEFAULT_LIFE, any, tasks).await?;
    Ok((address.to_string(), file.display().to_string()))
}

/// Seconds of one pull straight from the registry: what the source can do here.
async fn plain_pull(url: &str, image: &Image) -> Result<f64> {
    let began = Instant::now();
    pull::pull(url, "demo.local", image, None)
        .await
        .context("a plain pull")?;
    Ok(began.elapsed().as_secs_f64())
}
