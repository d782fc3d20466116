//! Mutual TLS between real processes: joining, renewal, and who is kept out.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use darter_integration::{
    darter::{Part, binary, start_proxy},
    http,
    image::{Blob, Flavour, Image},
    process::{eventually, run},
    registry::Registry,
    repetitions,
    report::can_use,
    secrets,
};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(120);
const ANY: &str = "127.0.0.1:0";
/// Seconds of a certificate's life, or of a minute with `hack/test.sh --long`; it is renewed after
/// two thirds of it.
fn life() -> usize {
    repetitions(10, 60)
}

/// Seconds of pulls: several lives.
fn pulls() -> Duration {
    Duration::from_secs(repetitions(20, 300) as u64)
}

struct Cluster {
    authority: Part,
    token: PathBuf,
}

impl Cluster {
    async fn start(dir: &Path, uses: usize) -> Result<Self> {
        let data = dir.join("ca").display().to_string();
        let life = format!("{}s", life());
        let arguments = [
            "ca", "serve", "--data", &data, "--listen", ANY, "--life", &life,
        ];
        let authority = Part::start("ca", dir, &arguments).await?;
        let mut command = Command::new(binary());
        command.args(["ca", "token", "--data", &data, "--uses", &uses.to_string()]);
        let token = dir.join("token");
        let said = run(&mut command).await?;
        secrets::keep(&said);
        std::fs::write(&token, said)?;
        Ok(Self { authority, token })
    }

    /// The flags that make a part a member.
    fn flags(&self) -> [String; 4] {
        [
            "--join".to_owned(),
            self.authority.address("authority").to_owned(),
            "--token-file".to_owned(),
            self.token.display().to_string(),
        ]
    }

    async fn scheduler(&self, dir: &Path) -> Result<Part> {
        let (data, flags) = (dir.join("scheduler").display().to_string(), self.flags());
        let mut arguments = vec!["scheduler", "--listen", ANY, "--operations-listen", ANY];
        arguments.extend(["--data", &data]);
        arguments.extend(flags.iter().map(String::as_str));
        Part::start("scheduler", dir, &arguments).await
    }

    async fn proxy(
        &self,
        dir: &Path,
        name: &str,
        upstream: &str,
        scheduler: &Part,
        more: &[&str],
    ) -> Result<Part> {
        let url = format!("https://{}", scheduler.address("scheduler"));
        let flags = self.flags();
        let mut more = more.to_vec();
        more.extend(flags.iter().map(String::as_str));
        let proxy = start_proxy(dir, name, upstream, Some(&url), &more).await?;
        eventually("a session", LIMIT, || async {
            let sessions = proxy.metric("darter_proxy_peer_sessions", "").await;
            sessions.is_ok_and(|count| count == 1.0).then_some(())
        })
        .await?;
        Ok(proxy)
    }
}

async fn pull(part: &Part, blob: &Blob) -> Result<()> {
    let mirror = part.mirror();
    let url = format!("{mirror}/v2/library/app/blobs/{}?ns=docker.io", blob.digest);
    let reply = tokio::time::timeout(LIMIT, http::get(&url)).await??;
    ensure!(reply.status() == 200, "{}", reply.status());
    ensure!(reply.body() == &blob.bytes, "other bytes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_go_on_over_renewals_of_certificates_of_seconds() -> Result<()> {
    let test = "pulls_go_on_over_renewals_of_certificates_of_seconds";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let registry = Registry::start(dir).await?;
    let layers: Vec<Blob> = (1..=20).map(|seed| Blob::layer(seed, 1_000_000)).collect();
    Image::push(&registry, "library/app", "1", Flavour::Oci, layers.clone()).await?;
    let upstream = format!("docker.io={}", registry.url());

    let cluster = Cluster::start(dir, 4).await?;
    let scheduler = cluster.scheduler(dir).await?;
    let _seed = cluster
        .proxy(dir, "seed", &upstream, &scheduler, &["--seed"])
        .await?;
    let peer = cluster
        .proxy(dir, "peer", &upstream, &scheduler, &[])
        .await?;
    let (began, mut pulled) = (Instant::now(), 0);
    while began.elapsed() < pulls() {
        pull(&peer, &layers[pulled % layers.len()]).await?;
        pulled += 1;
        tokio::time::sleep(pulls() / 20).await;
    }
    let renewals = peer
        .process
        .log()
        .matches("certificate was renewed")
        .count();
    println!(
        "{pulled} pulls, {renewals} renewals within {:?}",
        began.elapsed()
    );
    ensure!(renewals >= repetitions(2, 6), "{renewals} renewals");
    let from_peers = "darter_proxy_swarm_content_bytes_total";
    let bytes = peer.metric(from_peers, "from=\"Peer\"").await?;
    ensure!(bytes > 0.0, "nothing came over TLS");

    // New connections between all of them, with the certificates of the moment.
    let late = cluster
        .proxy(dir, "late", &upstream, &scheduler, &[])
        .await?;
    pull(&late, &layers[0]).await?;
    let bytes = late.metric(from_peers, "from=\"Peer\"").await?;
    let size = layers[0].bytes.len();
    ensure!(bytes == size as f64, "{bytes} of {size} from peers");

    // The token is used up, and who has none gets nothing from the peer port.
    let refused = cluster
        .proxy(dir, "fifth", &upstream, &scheduler, &[])
        .await;
    ensure!(refused.is_err(), "a fifth member by a token for four");
    let port = late.address("peer");
    let path = format!("/v1/tasks/{}/pieces/0?size={size}", layers[0].digest);
    ensure!(http::get(&format!("http://{port}{path}")).await.is_err());
    Ok(())
}
