//! Private images: what signs in goes to few, and the others have the image all the same.

use std::time::Duration;

use anyhow::{Result, ensure};
use darter_integration::{
    guarded::{Authority, Tokens},
    image::{Blob, Flavour, Image},
    registry::{Guard, Registry, Setup},
    report::can_use,
    secrets,
    stand::{Stand, has, text},
};
use serde_json::json;

const PASSWORD: &str = "s3cret-of-alice";

#[tokio::test(flavor = "multi_thread")]
async fn where_a_registry_gives_no_tokens_the_seed_reads_for_all() -> Result<()> {
    let test = "where_a_registry_gives_no_tokens_the_seed_reads_for_all";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let (users, kept) = (dir.path().join("htpasswd"), dir.path().join("password"));
    let password = "only the seed knows this one";
    secrets::keep(password);
    std::fs::write(&users, format!("bob:{}\n", bcrypt::hash(password, 4)?))?;
    std::fs::write(&kept, password)?;
    let back_door = Registry::start(dir.path()).await?;
    let layers = vec![Blob::layer(1, 3_000_000), Blob::layer(2, 1000)];
    let image = Image::push(&back_door, "library/app", "1", Flavour::Oci, layers).await?;
    let guarded = Setup {
        name: "guarded",
        guard: Guard::Htpasswd(&users),
        identity: None,
        clients: None,
    };
    let guarded = Registry::start_as(dir.path(), guarded).await?;
    let mut stand = Stand::start_for(dir, guarded, 2, &[]).await?;
    stand.add_peer(&["--seed"]).await?;
    let file = kept.display().to_string();
    let signed_in = ["--username", "bob", "--password-file", &file];
    let wish = ["library/app:1", "--scope", "all_peers"];
    let output = stand.preheat(&[&wish[..], &signed_in].concat()).await?;
    let said = text(&output);
    ensure!(said.contains("SUCCESS: 3 of 3 hosts"), "{said}");
    for (at, peer) in stand.peers.iter().enumerate() {
        ensure!(has(&stand.data(at), &image), "n{at} lacks it");
        let read = "darter_proxy_swarm_content_bytes_total";
        let read = peer.metric(read, "from=\"Source\"").await?;
        ensure!((read > 0.0) == (at == 2), "n{at} has read {read} bytes");
    }
    let biggest = image.layers[0].digest.to_string();
    let copies = stand.registry.sent_of(&biggest);
    ensure!(copies == image.layers[0].bytes.len() as u64, "{copies}");
    // What is there is not for everybody.
    let (status, _) = stand
        .get(&stand.peers[0], &format!("blobs/{biggest}"))
        .await?;
    ensure!(status == 401, "{status}");
    Ok(())
}

/// A stand before a registry that asks for tokens, which live for `life`; `library/app` is
/// Alice's.
async fn tokened(life: Duration) -> Result<(Stand, Tokens, Image)> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new(&dir.path().join("authority"))?;
    let tokens = Tokens::start(&authority, life).await?;
    tokens.user("alice", PASSWORD);
    tokens.allow(Some("alice"), "library/app");
    let back_door = Registry::start(dir.path()).await?;
    let layers = (1..=4).map(|seed| Blob::layer(seed, 1_000_000)).collect();
    let image = Image::push(&back_door, "library/app", "1", Flavour::Oci, layers).await?;
    let identity = authority.issue("registry")?;
    let guarded = Setup {
        name: "guarded",
        guard: Guard::Tokens(&tokens),
        identity: Some(&identity),
        clients: None,
    };
    let registry = Registry::start_as(dir.path(), guarded).await?;
    let (ca, url, realm) = (authority.file(), registry.url(), tokens.authority());
    let upstream = format!(
        "proxy.upstreams=[{{name = \"docker.io\", url = \"{url}\", ca = \"{}\", realms = [\"{realm}\"]}}]",
        ca.display()
    );
    let mut stand = Stand::start_for(dir, registry, 0, &[]).await?;
    stand.upstream = upstream;
    Ok((stand, tokens, image))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_becomes_a_token_for_others() -> Result<()> {
    let test = "a_password_becomes_a_token_for_others";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let (mut stand, tokens, image) = tokened(Duration::from_secs(300)).await?;
    for _ in 0..5 {
        stand.add_peer(&[]).await?;
    }
    let wish = json!({"image": "library/app:1", "scope": "all_peers",
        "username": "alice", "password": PASSWORD});
    let posted = stand.post("/api/v1/jobs", wish).await?;
    let job = stand.ended(&posted["id"]).await?;
    ensure!(job["state"] == "SUCCESS", "{job}");
    ensure!(job["summary"]["hosts_done"] == 5, "{job}");
    for at in 0..5 {
        ensure!(has(&stand.data(at), &image), "n{at} lacks it");
    }
    // The one that finds out what the image is, and three readers: with a password each asks the
    // token server for itself, and the two others never do.
    let asked = tokens.issued(Some("alice"));
    ensure!((2..=4).contains(&asked), "{asked} tokens for a password");
    for layer in &image.layers {
        let copies = stand.registry.sent_of(&layer.digest.to_string());
        ensure!(copies == layer.bytes.len() as u64, "{copies}");
    }
    // What is there is not for everybody.
    let blob = format!("blobs/{}", image.layers[0].digest);
    let (status, _) = stand.get(&stand.peers[4], &blob).await?;
    ensure!(status == 401, "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preheat_takes_longer_than_a_token_lives() -> Result<()> {
    let test = "a_preheat_takes_longer_than_a_token_lives";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    // Distribution takes one for a minute past its expiry, which this one is made with in mind.
    let (mut stand, tokens, image) = tokened(Duration::from_secs(2)).await?;
    let slow = ["--seed", "--set", "proxy.limits.source=\"500KB\""];
    stand.add_peer(&slow).await?;
    stand.add_peer(&[]).await?;
    let wish = json!({"image": "library/app:1", "scope": "all_peers", "concurrent_contents": 1,
        "username": "alice", "password": PASSWORD});
    let posted = stand.post("/api/v1/jobs", wish).await?;
    let job = stand.ended(&posted["id"]).await?;
    ensure!(job["state"] == "SUCCESS", "{job}");
    let asked = tokens.issued(Some("alice"));
    ensure!(
        asked > 2,
        "{asked} tokens: the preheat was too fast to need another"
    );
    for at in 0..2 {
        ensure!(has(&stand.data(at), &image), "n{at} lacks it");
    }
    Ok(())
}
