//! Downloads that are no images, by rules: one copy leaves their source for all nodes, none is
//! made of two versions, and what is private is shared with nobody.

mod web;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use darter_integration::{
    darter::{Part, start_proxy},
    guarded::Authority,
    process::eventually,
    repetitions,
    report::can_use,
};
use futures::future::try_join_all;
use tokio::process::Command;

use web::Web;

/// A scheduler, a seed that knows no rules, and nodes that do.
struct Cluster {
    scheduler: Part,
    _seed: Part,
    nodes: Vec<Part>,
}

impl Cluster {
    async fn start(dir: &Path, web: &Web, nodes: usize) -> Result<Self> {
        let (any, data) = ("127.0.0.1:0", dir.join("scheduler").display().to_string());
        let scheduler = [
            "scheduler",
            "--listen",
            any,
            "--operations-listen",
            any,
            "--data",
            &data,
        ];
        let scheduler = Part::start("scheduler", dir, &scheduler).await?;
        let url = format!("http://{}", scheduler.address("scheduler"));
        let upstream = "docker.io=http://127.0.0.1:1";
        let seed = start_proxy(dir, "seed", upstream, Some(&url), &["--seed"]).await?;
        let rule = web.rule();
        let more = ["--set", &rule];
        let mut all = Vec::new();
        for node in 0..nodes {
            let name = format!("node-{node}");
            all.push(start_proxy(dir, &name, upstream, Some(&url), &more).await?);
        }
        Ok(Self {
            scheduler,
            _seed: seed,
            nodes: all,
        })
    }

    /// Who read the source, and what became of leases: where bytes were read twice, and why.
    async fn readings(&self) -> Result<String> {
        let mut text = "leases".to_owned();
        for what in ["granted", "expired", "returned", "moved"] {
            let name = format!("darter_scheduler_leases_{what}_total");
            write!(text, " {what} {}", self.scheduler.metric(&name, "").await?)?;
        }
        for (at, node) in self.nodes.iter().enumerate() {
            write!(text, "; node {at}")?;
            for what in ["source_reads", "source_cuts", "source_resumes"] {
                let name = format!("darter_proxy_swarm_{what}_total");
                write!(text, " {what} {}", node.metric(&name, "").await?)?;
            }
            let bytes = "darter_proxy_swarm_content_bytes_total";
            let bytes = node.metric(bytes, "Source").await?;
            let pieces = node.metric("darter_proxy_swarm_pieces_total", "Source");
            write!(text, " source bytes {bytes} pieces {}", pieces.await?)?;
        }
        Ok(text)
    }
}

/// Where the interception's CA of a cluster's node is.
fn node_ca(dir: &Path, node: usize) -> String {
    dir.join(format!("node-{node}/ca.crt"))
        .display()
        .to_string()
}

/// `curl -x`: its exit code and what it wrote.
async fn curl(node: &Part, url: &str, to: PathBuf, more: &[&str]) -> Result<(i32, Vec<u8>)> {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "170",
        "--proxy",
    ]);
    curl.arg(node.mirror()).arg("--output").arg(&to).args(more);
    curl.env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .kill_on_drop(true);
    let status = curl.arg(url).status().await?;
    let wrote = std::fs::read(&to).unwrap_or_default();
    Ok((status.code().unwrap_or(-1), wrote))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_copy_of_a_file_leaves_its_source_for_four_nodes() -> Result<()> {
    if !can_use(
        "one_copy_of_a_file_leaves_its_source_for_four_nodes",
        &["curl"],
        false,
    ) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let web = Web::start(repetitions(24_000_000, (1 << 30) - 2048)).await?;
    let cluster = Cluster::start(dir.path(), &web, 4).await?;
    let url = web.url("/dist/file.bin");
    let pulls = cluster.nodes.iter().enumerate().map(|(at, node)| {
        let to = dir.path().join(format!("got-{at}"));
        curl(node, &url, to, &[])
    });
    for (code, got) in try_join_all(pulls).await? {
        ensure!(
            code == 0 && got == web.state.versions[0],
            "{code}: {} bytes",
            got.len()
        );
    }
    let copies = web.sent() as f64 / web.size() as f64;
    println!(
        "{} bytes, four nodes: {copies:.4} copies left the source; {}",
        web.size(),
        cluster.readings().await?
    );
    ensure!(web.sent() == web.size(), "{copies} copies");

    // Once more, and a part of it: from the store.
    let node = &cluster.nodes[0];
    let to = dir.path().join("part");
    let (code, got) = curl(node, &url, to, &["--range", "1000000-1999999"]).await?;
    let part = &web.state.versions[0][1_000_000..2_000_000];
    ensure!(code == 0 && got == part, "{code}: {} bytes", got.len());
    ensure!(
        web.sent() == web.size(),
        "the part was read from the source"
    );
    Ok(())
}

/// Of one piece, and over TLS: both as any other.
#[tokio::test(flavor = "multi_thread")]
async fn small_files_and_those_behind_tls_are_read_once() -> Result<()> {
    let test = "small_files_and_those_behind_tls_are_read_once";
    if !can_use(test, &["curl"], false) {
        return Ok(());
    }
    for (size, tls) in [(100_000, false), (8_000_000, true), (1, true)] {
        let dir = tempfile::tempdir()?;
        let authority = Authority::new(&dir.path().join("authority"))?;
        let web = Web::start_behind(tls.then_some(&authority), size).await?;
        let cluster = Cluster::start(dir.path(), &web, 3).await?;
        let url = &web.url("/dist/file.bin");
        let pulls = cluster.nodes.iter().enumerate().map(|(at, node)| {
            let (to, ca) = (
                dir.path().join(format!("got-{at}")),
                node_ca(dir.path(), at),
            );
            async move { curl(node, url, to, &["--cacert", &ca]).await }
        });
        for (code, got) in try_join_all(pulls).await? {
            ensure!(code == 0, "{size} bytes, TLS {tls}: {code}");
            ensure!(got == web.state.versions[0], "{size} bytes, TLS {tls}");
        }
        let copies = web.sent() as f64 / web.size() as f64;
        println!(
            "{} bytes, TLS {tls}, three nodes: {copies:.4} copies left the source",
            web.size()
        );
        ensure!(web.sent() == web.size(), "{copies} copies");
        // Another version is another file.
        web.state.at.store(1, Ordering::SeqCst);
        let (to, ca) = (dir.path().join("new"), node_ca(dir.path(), 0));
        let (code, got) = curl(&cluster.nodes[0], url, to, &["--cacert", &ca]).await?;
        ensure!(
            code == 0 && got == web.state.versions[1],
            "the new one: {code}"
        );
        // What no rule shares goes through the same tunnel.
        let (to, secret) = (
            dir.path().join("private"),
            "Authorization: Basic YTpzM2NyZXQ=",
        );
        let more = ["--cacert", &ca, "--header", secret];
        let (code, _) = curl(&cluster.nodes[0], url, to, &more).await?;
        ensure!(
            code == 0 && web.sent() == 3 * web.size(),
            "{code}: {}",
            web.sent()
        );
    }
    Ok(())
}

/// A rule that does not say `https` leaves the tunnels of its hosts alone.
#[tokio::test(flavor = "multi_thread")]
async fn tls_is_opened_only_where_a_rule_says_so() -> Result<()> {
    if !can_use("tls_is_opened_only_where_a_rule_says_so", &["curl"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let authority = Authority::new(&dir.path().join("authority"))?;
    let web = Web::start_behind(Some(&authority), 100_000).await?;
    let rule = web.rule().replace("https = true", "https = false");
    let upstream = "docker.io=http://127.0.0.1:1";
    let node = start_proxy(dir.path(), "node", upstream, None, &["--set", &rule]).await?;
    let (code, _) = curl(&node, &web.url("/dist/a"), dir.path().join("got"), &[]).await?;
    // It is refused as any CONNECT to an unlisted host at another port than 443.
    ensure!(code == 22 && web.sent() == 0, "{code}: {}", web.sent());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_gives_nothing_holds_nobody_up() -> Result<()> {
    let test = "a_reading_that_gives_nothing_holds_nobody_up";
    if !can_use(test, &["curl"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let web = Web::start(4_000_000).await?;
    let (rule, upstream) = (web.rule(), "docker.io=http://127.0.0.1:1");
    let node = start_proxy(dir.path(), "node", upstream, None, &["--set", &rule]).await?;
    web.state.stuck.store(true, Ordering::SeqCst);
    let (to, began) = (dir.path().join("got"), Instant::now());
    let (code, got) = curl(&node, &web.url("/dist/file.bin"), to, &[]).await?;
    let took = began.elapsed();
    ensure!(code == 0 && got == web.state.versions[0], "{code}");
    ensure!(
        !web.state.stuck.load(Ordering::SeqCst),
        "a reading was stuck"
    );
    println!("{took:?} with a source whose first body gives nothing");
    ensure!(took < Duration::from_secs(15), "{took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_is_made_of_two_versions() -> Result<()> {
    if !can_use("no_file_is_made_of_two_versions", &["curl"], false) {
        return Ok(());
    }
    for cut in [false, true] {
        let dir = tempfile::tempdir()?;
        let web = Web::start(8_000_000).await?;
        let cluster = Cluster::start(dir.path(), &web, 2).await?;
        let (state, url) = (&web.state, web.url("/dist/file.bin"));
        state.held.send_replace(true);
        state.cut.store(cut, Ordering::SeqCst);
        let pulls = cluster.nodes.iter().enumerate().map(|(at, node)| {
            let to = dir.path().join(format!("got-{at}"));
            curl(node, &url, to, &[])
        });
        let change = async {
            eventually("half of the file", Duration::from_secs(60), || async {
                (web.sent() * 2 >= web.size()).then_some(())
            })
            .await?;
            state.at.store(1, Ordering::SeqCst);
            state.held.send_replace(false);
            Ok(())
        };
        let (pulls, changed) = tokio::join!(try_join_all(pulls), change);
        changed.and_then(|()| {
            for (code, got) in pulls? {
                let whole = got.len() as u64 == web.size();
                let new = got == state.versions[1];
                // Who came late may have got the new one, and nobody anything else.
                ensure!(
                    code == 0 && new || code != 0 && !whole,
                    "cut {cut}, {code}: {}",
                    got.len()
                );
            }
            Ok(())
        })?;
        for (at, node) in cluster.nodes.iter().enumerate() {
            let to = dir.path().join(format!("again-{at}"));
            let (code, got) = curl(node, &url, to, &[]).await?;
            ensure!(
                code == 0 && got == state.versions[1],
                "cut {cut}, again: {code}"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_private_or_no_rules_is_passed_on() -> Result<()> {
    if !can_use("what_is_private_or_no_rules_is_passed_on", &["curl"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let (web, other) = (Web::start(4_000_000).await?, Web::start(4_000_000).await?);
    let rule = web.rule();
    let upstream = "docker.io=http://127.0.0.1:1";
    let node = start_proxy(dir.path(), "node", upstream, None, &["--set", &rule]).await?;
    let to = || dir.path().join("got");
    let secret = ["--header", "Authorization: Basic YTpzM2NyZXQ="];
    for (path, more) in [
        ("/dist/a", &secret[..]),
        ("/dist/a", &secret),
        ("/else/a", &[]),
    ] {
        let (code, got) = curl(&node, &web.url(path), to(), more).await?;
        ensure!(code == 0 && got == web.state.versions[0], "{path}: {code}");
    }
    ensure!(
        web.sent() == 3 * web.size(),
        "each was read for itself: {}",
        web.sent()
    );
    ensure!(
        web.state.secrets.load(Ordering::SeqCst) == 2,
        "credentials arrive"
    );
    // Shared, and asked for anew with credentials: not from the store.
    let (code, _) = curl(&node, &web.url("/dist/a"), to(), &[]).await?;
    ensure!(
        code == 0 && web.sent() == 4 * web.size(),
        "{code}: {}",
        web.sent()
    );
    let (code, _) = curl(&node, &web.url("/dist/a"), to(), &secret).await?;
    ensure!(
        code == 0 && web.sent() == 5 * web.size(),
        "{code}: {}",
        web.sent()
    );
    // curl's code for what --fail makes of a 403.
    let (code, _) = curl(&node, &other.url("/dist/a"), to(), &[]).await?;
    ensure!(code == 22 && other.sent() == 0, "{code}");
    Ok(())
}
