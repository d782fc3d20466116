//! Private images by the names of real clients: each shows its credentials in its own way, and
//! each gets what the registry lets it have.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use darter_integration::{
    clients::{Containerd, Dockerd, skopeo_copy_as},
    darter::Part,
    guarded::{Authority, Tokens},
    image::{Blob, Flavour, Image},
    registry::{Guard, Registry, Setup},
    report::can_use,
};

const ALICE: &str = "alice:s3cret-of-alice";
const BOB: &str = "bob:s3cret-of-bob";
const COMMANDS: &[&str] = &[
    "docker-registry",
    "containerd",
    "ctr",
    "dockerd",
    "skopeo",
    "curl",
];

/// A mirror of a registry behind TLS and tokens, that asks for names at `/v2/`.
async fn mirror(
    dir: &Path,
    registry: &Registry,
    authority: &Authority,
    tokens: &Tokens,
) -> Result<Part> {
    let (url, ca, realm) = (registry.url(), authority.file(), tokens.authority());
    let upstream = format!(
        "proxy.upstreams=[{{name = \"docker.io\", url = \"{url}\", ca = \"{}\", realms = [\"{realm}\"]}}]",
        ca.display()
    );
    let data = dir.join("node").display().to_string();
    let any = "127.0.0.1:0";
    let mut arguments = vec![
        "proxy",
        "--listen",
        any,
        "--operations-listen",
        any,
        "--data",
        &data,
    ];
    for setting in [
        &upstream,
        "proxy.peer=\"127.0.0.1:0\"",
        "proxy.mirror.login=true",
    ] {
        arguments.extend(["--set", setting]);
    }
    Part::start("node", dir, &arguments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn real_clients_pull_what_their_names_may_read() -> Result<()> {
    if !can_use(
        "real_clients_pull_what_their_names_may_read",
        COMMANDS,
        true,
    ) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let root = dir.path();
    let authority = Authority::new(&root.join("authority"))?;
    let tokens = Tokens::start(&authority, Duration::from_secs(120)).await?;
    for (name, password) in [ALICE, BOB]
        .into_iter()
        .filter_map(|pair| pair.split_once(':'))
    {
        tokens.user(name, password);
    }
    tokens.allow(Some("alice"), "team/app");
    tokens.allow(None, "library/app");
    let back_door = Registry::start(root).await?;
    let layers = |seed| vec![Blob::layer(seed, 2_000_000)];
    for (repository, seed) in [("team/app", 1), ("library/app", 2)] {
        Image::push(&back_door, repository, "1", Flavour::Schema2, layers(seed)).await?;
    }
    let identity = authority.issue("registry")?;
    let guarded = Setup {
        name: "guarded",
        guard: Guard::Tokens(&tokens),
        identity: Some(&identity),
        clients: None,
    };
    let registry = Registry::start_as(root, guarded).await?;
    let node = mirror(root, &registry, &authority, &tokens).await?;
    let mirror = node.mirror();

    let skopeo = async |name: &str, as_whom| skopeo_copy_as(root, &mirror, name, as_whom).await;
    let log = || node.process.tail();
    skopeo("docker.io/team/app:1", Some(ALICE))
        .await
        .with_context(log)?;
    ensure!(
        skopeo("docker.io/team/app:1", Some(BOB)).await.is_err(),
        "skopeo: Bob"
    );
    ensure!(
        skopeo("docker.io/team/app:1", None).await.is_err(),
        "skopeo: nobody"
    );
    skopeo("docker.io/library/app:1", None).await?;

    let dockerd = Dockerd::start(root, &mirror).await?;
    ensure!(
        dockerd.pull_as("team/app", "1", Some(BOB)).await.is_err(),
        "dockerd: Bob"
    );
    ensure!(
        dockerd.pull_as("team/app", "1", None).await.is_err(),
        "dockerd: nobody"
    );
    dockerd.pull_as("team/app", "1", Some(ALICE)).await?;
    dockerd.pull_as("library/app", "1", None).await?;

    let containerd = Containerd::start(root, &mirror).await?;
    let ctr = async |name: &str, as_whom| {
        containerd
            .ctr_fetch_as(name, as_whom, &authority.file())
            .await
    };
    ensure!(
        ctr("docker.io/team/app:1", Some(BOB)).await.is_err(),
        "ctr: Bob"
    );
    ensure!(
        ctr("docker.io/team/app:1", None).await.is_err(),
        "ctr: nobody"
    );
    ctr("docker.io/team/app:1", Some(ALICE)).await?;
    ctr("docker.io/library/app:1", None).await?;

    let layer = Blob::layer(1, 2_000_000);
    let sent = registry.sent_of(&layer.digest.to_string());
    let size = layer.bytes.len() as u64;
    // Refusals have bodies, too.
    ensure!(
        (size..size + 100_000).contains(&sent),
        "{sent} of {size} left the registry"
    );
    Ok(())
}
