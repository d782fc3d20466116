//! What is the cluster's own: a credential that the manager keeps, a certificate, a way out.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use darter_integration::{
    guarded::{Authority, Tunnel, basic},
    http::{get, send},
    image::{Blob, Flavour, Image},
    process::eventually,
    registry::{Guard, Registry, Setup},
    report::can_use,
};
use hyper::Method;
use serde_json::{Value, json};

use crate::company::{ALICE, ALLOWED, TOO_LONG, no_secret_in, node, node_with, upstream};

#[tokio::test(flavor = "multi_thread")]
async fn a_preheat_signs_in_with_what_the_manager_keeps() -> Result<()> {
    let test = "a_preheat_signs_in_with_what_the_manager_keeps";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let root = dir.path();
    let authority = Authority::new(&root.join("authority"))?;
    let (users, kept) = (root.join("htpasswd"), root.join("password"));
    let (name, password) = ALICE.context("a user")?;
    std::fs::write(&users, format!("{name}:{}\n", bcrypt::hash(password, 4)?))?;
    std::fs::write(&kept, "guess\n")?;
    let back_door = Registry::start(root).await?;
    let layers = vec![Blob::layer(1, 500_000)];
    Image::push(&back_door, "team/app", "1", Flavour::Oci, layers).await?;
    let identity = authority.issue("registry")?;
    let guarded = Setup {
        name: "guarded",
        guard: Guard::Htpasswd(&users),
        identity: Some(&identity),
        clients: None,
    };
    let registry = Registry::start_as(root, guarded).await?;
    let file = kept.display();
    let credential = format!(
        "manager.credentials=[{{name = \"corp\", registry = \"corp.test\", username = \"{name}\", password_file = \"{file}\"}}]"
    );
    let more = [
        credential.as_str(),
        "scheduler.preheat_settle=\"0s\"",
        "log.level=\"trace\"",
    ];
    let upstream = upstream(&registry.url(), &authority, "");
    let node = node_with(root, &upstream, ALLOWED, &more).await?;

    let rest = format!("http://{}/api/v1", node.address("manager"));
    let post = async |image: &str| {
        let wish = json!({"image": image, "credential": "corp"}).to_string();
        let headers = [("content-type", "application/json")];
        send(Method::POST, &format!("{rest}/jobs"), &headers, wish.into()).await
    };
    let ended = async |reply: hyper::Response<Bytes>| {
        ensure!(reply.status() == 201, "{reply:?}");
        let posted: Value = serde_json::from_slice(reply.body())?;
        let url = format!("{rest}/jobs/{}", posted["id"]);
        eventually("the job's end", 4 * TOO_LONG, || async {
            let job = get(&url).await.ok()?;
            let job: Value = serde_json::from_slice(job.body()).ok()?;
            let goes_on = job["state"] == "PENDING" || job["state"] == "RUNNING";
            (!goes_on).then_some(job)
        })
        .await
    };
    let job = ended(post("corp.test/team/app:1").await?).await?;
    ensure!(job["state"] == "FAILURE", "{job}");
    // The file is read when it is needed.
    std::fs::write(&kept, format!("{password}\n"))?;
    let job = ended(post("corp.test/team/app:1").await?).await?;
    ensure!(job["state"] == "SUCCESS", "{job}");
    ensure!(job["credential"] == "corp", "{job}");
    let elsewhere = post("other.test/team/app:1").await?;
    ensure!(elsewhere.status() == 400, "{elsewhere:?}");
    let kept = get(&format!("{rest}/credentials")).await?;
    let kept: Value = serde_json::from_slice(kept.body())?;
    let shown = json!([{"name": "corp", "registry": "corp.test", "username": name}]);
    assert_eq!(kept, shown);
    let pair = basic(name, password).replace("Basic ", "");
    let secrets = [password.to_owned(), pair];
    ensure!(
        !secrets
            .iter()
            .any(|secret| job.to_string().contains(secret))
    );
    no_secret_in(&node, &secrets)
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_and_an_http_proxy_on_the_way() -> Result<()> {
    let test = "client_certificates_and_an_http_proxy_on_the_way";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let root = dir.path();
    let authority = Authority::new(&root.join("authority"))?;
    let (identity, own) = (authority.issue("registry")?, authority.issue("own")?);
    let back_door = Registry::start(root).await?;
    let layers = vec![Blob::layer(1, 2_000_000)];
    let image = Image::push(&back_door, "library/app", "1", Flavour::Oci, layers).await?;
    let clients = authority.file();
    let guarded = Setup {
        name: "guarded",
        guard: Guard::Nobody,
        identity: Some(&identity),
        clients: Some(&clients),
    };
    let registry = Registry::start_as(root, guarded).await?;
    let tunnel = Tunnel::start("node", "s3cret-of-the-tunnel", None).await?;
    // The same over TLS, and one whose certificate nobody trusts.
    let mut over_tls = Vec::new();
    let stranger = Authority::new(&root.join("stranger"))?;
    for signs in [&authority, &stranger] {
        let tls = signs.server(&signs.issue("tunnel")?, false)?;
        over_tls.push(Tunnel::start("node", "s3cret-of-the-tunnel", Some(tls)).await?);
    }
    let certificate = format!(
        ", client_certificate = \"{}\", client_key = \"{}\"",
        own.certificate.display(),
        own.key.display()
    );
    let proxy = |pair: &str| format!(", proxy = \"http://{pair}@{}\"", tunnel.address());
    let right = proxy("node:s3cret-of-the-tunnel");
    let plain = tunnel.address();
    let [trusted, untrusted] = &over_tls[..] else {
        anyhow::bail!("two of them");
    };
    let by_tls = |tunnel: &Tunnel| {
        let right = right.replace("http://", "https://");
        right.replace(&plain, &tunnel.address())
    };
    let path = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
    for (at, (more, wanted)) in [
        (String::new(), 502),
        (right.clone(), 502),
        (format!("{certificate}{}", proxy("node:guess")), 502),
        (certificate.clone(), 200),
        (format!("{certificate}{right}"), 200),
        (format!("{certificate}{}", by_tls(trusted)), 200),
        (format!("{certificate}{}", by_tls(untrusted)), 502),
    ]
    .into_iter()
    .enumerate()
    {
        let root = root.join(at.to_string());
        std::fs::create_dir_all(&root)?;
        let node = node(
            &root,
            &upstream(&registry.url(), &authority, &more),
            ALLOWED,
        )
        .await?;
        let reply = get(&format!("{}{path}?ns=corp.test", node.mirror())).await?;
        ensure!(reply.status() == wanted, "{at}: {}", reply.status());
        if wanted == 200 {
            ensure!(reply.body() == &image.layers[0].bytes, "other bytes");
        }
        no_secret_in(&node, &["s3cret-of-the-tunnel".to_owned()])?;
    }
    let (opened, refused) = tunnel.ended();
    ensure!(opened >= 2 && refused >= 1, "{opened} {refused}");
    // Nothing was asked of the one that shows a stranger's certificate.
    let opened = over_tls.iter().map(|tunnel| tunnel.ended().0);
    let opened: Vec<usize> = opened.collect();
    ensure!(opened[0] >= 1 && opened[1] == 0, "{opened:?}");
    Ok(())
}
