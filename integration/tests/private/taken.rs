//! What was given and is taken away: a token, a public repository, a password.

use anyhow::{Context as _, Result, ensure};
use darter_integration::{
    guarded::{Authority, ask, basic},
    image::{Blob, Flavour, Image},
    process::eventually,
    registry::{Guard, Registry, Setup},
    report::can_use,
};
use hyper::Method;

use crate::company::{ALICE, ALLOWED, Company, TOO_LONG, no_secret_in, node, said, upstream};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_away_is_gone_in_the_configured_time() -> Result<()> {
    let test = "what_is_taken_away_is_gone_in_the_configured_time";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let company = Company::found(ALLOWED).await?;
    let private = company.paths("team/app", &company.private);
    let alice = company.bearer(ALICE, "team/app").await?;
    for path in &private {
        let (mirror, _) = company.both(&Method::GET, path, Some(&alice)).await?;
        ensure!(mirror.status() == 200, "{path}: {}", mirror.status());
    }
    company.tokens.forbid(Some("alice"), "team/app");
    let later = company.bearer(ALICE, "team/app").await?;
    for path in &private {
        let (mirror, _) = company.both(&Method::GET, path, Some(&later)).await?;
        ensure!(mirror.status() == 401, "{path}: {}", mirror.status());
        let took = company.until_refused(path, Some(&alice)).await?;
        println!("revoked: {path} was refused after {took:?}");
    }

    let public = company.paths("library/app", &company.public);
    for path in &public {
        let (mirror, _) = company.both(&Method::GET, path, None).await?;
        ensure!(mirror.status() == 200, "{path}: {}", mirror.status());
    }
    company.tokens.forbid(None, "library/app");
    for path in &public {
        let took = company.until_refused(path, None).await?;
        println!("made private: {path} was refused after {took:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_credentials_are_the_registrys_to_judge() -> Result<()> {
    if !can_use(
        "basic_credentials_are_the_registrys_to_judge",
        &["docker-registry"],
        false,
    ) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let root = dir.path();
    let authority = Authority::new(&root.join("authority"))?;
    let file = root.join("htpasswd");
    let (name, password) = ALICE.context("a user")?;
    let line = format!("{name}:{}\n", bcrypt::hash(password, 4)?);
    std::fs::write(&file, &line)?;
    let back_door = Registry::start(root).await?;
    let layers = vec![Blob::layer(1, 500_000)];
    let image = Image::push(&back_door, "team/app", "1", Flavour::Schema2, layers).await?;
    let identity = authority.issue("registry")?;
    let guarded = Setup {
        name: "guarded",
        guard: Guard::Htpasswd(&file),
        identity: Some(&identity),
        clients: None,
    };
    let registry = Registry::start_as(root, guarded).await?;
    let node = node(root, &upstream(&registry.url(), &authority, ""), ALLOWED).await?;
    let alice = basic(name, password);
    let paths = [
        "/v2/team/app/manifests/1".to_owned(),
        format!("/v2/team/app/blobs/{}", image.layers[0].digest),
    ];
    for path in &paths {
        let mirror = format!("{}{path}?ns=corp.test", node.mirror());
        let reply = ask(&authority, Method::GET, &mirror, Some(&alice)).await?;
        ensure!(reply.status() == 200, "{path}: {}", reply.status());
        for other in [
            None,
            Some(basic("alice", "guess")),
            Some(basic("bob", "guess")),
        ] {
            let reply = ask(&authority, Method::GET, &mirror, other.as_deref()).await?;
            let (status, challenge, body) = said(&reply);
            ensure!(
                status == 401 && challenge == "Basic realm=\"guarded\"",
                "{status} {challenge}"
            );
            ensure!(body.contains("UNAUTHORIZED"), "{body}");
        }
    }
    // The registry reads its file anew when it has changed.
    std::fs::write(&file, line.replace("alice:", "eve:"))?;
    let mirror = format!("{}{}?ns=corp.test", node.mirror(), paths[1]);
    let refused = eventually("she is refused", TOO_LONG, || async {
        let asked = ask(&authority, Method::GET, &mirror, Some(&alice)).await;
        (asked.ok()?.status() == 401).then_some(())
    });
    refused.await?;
    let secrets = [password.to_owned(), alice.replace("Basic ", "")];
    no_secret_in(&node, &secrets)
}
