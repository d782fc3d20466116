//! Who gets what from a warm cache: the registry's own words, for each his own.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use bytes::Bytes;
use darter_integration::{
    guarded::ask,
    http::{get, send},
    image::Blob,
    report::can_use,
};
use hyper::Method;

use crate::{
    company::{ALICE, BOB, Company, no_secret_in, said},
    cost::remembered_within,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_stays_private_in_a_warm_cache() -> Result<()> {
    if !can_use(
        "a_private_image_stays_private_in_a_warm_cache",
        &["docker-registry"],
        false,
    ) {
        return Ok(());
    }
    let company = Company::found(Duration::from_secs(120)).await?;
    let private = company.paths("team/app", &company.private);
    let alice = company.bearer(ALICE, "team/app").await?;
    for path in &private {
        let (mirror, own) = company.both(&Method::GET, path, Some(&alice)).await?;
        ensure!(
            mirror.status() == 200 && mirror.body() == own.body(),
            "{path}"
        );
    }
    for path in company.paths("library/app", &company.public) {
        let (mirror, own) = company.both(&Method::GET, &path, None).await?;
        let said = (mirror.status().as_u16(), own.status().as_u16());
        ensure!(
            said == (200, 401),
            "{path}: {said:?}: the mirror has a token of its own"
        );
    }

    others_are_refused(&company, &private).await?;
    other_names_lead_nowhere(&company).await?;
    the_peer_port_gives_nothing(&company).await?;

    what_is_remembered_costs_nothing(&company).await?;
    let refused = "darter_proxy_rights_answers_total";
    let refused = company.node.metric(refused, "answer=\"refused\"").await?;
    ensure!(refused > 0.0, "refusals are counted");
    for answer in ["\"own\"", "\"refused\""] {
        let said = company.node.process.log().lines().any(|line| {
            let parts = ["right to read", "team/app", answer];
            parts.iter().all(|part| line.contains(part))
        });
        ensure!(said, "{answer} is in the log");
    }
    no_secret_in(&company.node, &company.tokens.secrets())
}

/// Bob, nobody, and a forger get the registry's own words, and no byte of Alice's.
async fn others_are_refused(company: &Company, paths: &[String]) -> Result<()> {
    let bob = company.bearer(BOB, "team/app").await?;
    let nobody = company.bearer(None, "team/app").await?;
    let sent = company.registry.sent();
    let callers = [
        None,
        Some(bob.as_str()),
        Some(&nobody),
        Some("Bearer forged"),
    ];
    for path in paths {
        for method in [Method::GET, Method::HEAD] {
            for caller in callers {
                let (mirror, own) = company.both(&method, path, caller).await?;
                ensure!(own.status() == 401, "{method} {path}: {}", own.status());
                let (mirror, own) = (said(&mirror), said(&own));
                ensure!(mirror == own, "{method} {path}:\n{mirror:?}\n{own:?}");
            }
        }
    }
    // The mirror read nothing for them, and the registry gave nothing of Alice's to either.
    let digests = company
        .private
        .layers
        .iter()
        .map(|layer| layer.digest.to_string());
    for digest in digests {
        let of = |sent: &BTreeMap<String, u64>| {
            sent.get(&format!("/v2/team/app/blobs/{digest}")).copied()
        };
        let (before, after) = (of(&sent), of(&company.registry.sent()));
        // Refusals have bodies.
        let more = after.unwrap_or(0) - before.unwrap_or(0);
        ensure!(more < 100_000, "{digest}: {more} bytes for others");
    }
    Ok(())
}

/// Alice's layer by the name of a repository that Bob may read.
async fn other_names_lead_nowhere(company: &Company) -> Result<()> {
    let [shared, own] = &company.private.layers[..] else {
        anyhow::bail!("two layers");
    };
    let blob = |repository: &str, blob: &Blob| format!("/v2/{repository}/blobs/{}", blob.digest);
    // What is public somewhere is so only there.
    let (there, _) = company
        .both(&Method::GET, &blob("library/app", shared), None)
        .await?;
    ensure!(there.status() == 200, "{}", there.status());
    let (here, _) = company
        .both(&Method::GET, &blob("team/app", shared), None)
        .await?;
    ensure!(here.status() == 401, "{}", here.status());
    // Bob's manifest is public, and what it names is not there.
    for path in ["/v2/thief/app/manifests/1", "/v2/thief/app/manifests/"] {
        let digest = path
            .ends_with('/')
            .then(|| company.private.manifest.to_string());
        let path = format!("{path}{}", digest.unwrap_or_default());
        let (mirror, _) = company.both(&Method::GET, &path, None).await?;
        ensure!(mirror.status() == 200, "{path}: {}", mirror.status());
    }
    let bob = company.bearer(BOB, "thief/app").await?;
    for repository in ["thief/app", "library/app"] {
        for caller in [None, Some(bob.as_str())] {
            let path = blob(repository, own);
            let (mirror, _) = company.both(&Method::GET, &path, caller).await?;
            let code = String::from_utf8_lossy(mirror.body()).into_owned();
            // A token for one repository is no good in another: the registry says so.
            let status = mirror.status().as_u16();
            ensure!(matches!(status, 401 | 404), "{path} {status}: {code}");
            ensure!(mirror.body().len() < 1000, "{path}: {status}");
        }
        let (mirror, _) = company
            .both(&Method::GET, &blob(repository, own), None)
            .await?;
        ensure!(mirror.status() == 404, "{repository}: {}", mirror.status());
    }
    Ok(())
}

/// The right of a warm private blob, asked often.
async fn what_is_remembered_costs_nothing(company: &Company) -> Result<()> {
    let path = format!("/v2/team/app/blobs/{}", company.private.config.digest);
    let url = format!("{}{path}?ns=corp.test", company.node.mirror());
    let alice = company.bearer(ALICE, "team/app").await?;
    for _ in 0..200 {
        let headers = [("authorization", alice.as_str())];
        let reply = send(Method::GET, &url, &headers, Bytes::new()).await?;
        ensure!(reply.status() == 200, "{}", reply.status());
    }
    let all = remembered_within(company, "+Inf").await?;
    ensure!(all >= 199.0, "{all} answers from memory");
    let most = remembered_within(company, "0.0003").await?;
    ensure!(
        most >= all / 2.0,
        "half of them take no 0.3 ms: {most} of {all}"
    );
    Ok(())
}

/// The port that other members read from.
async fn the_peer_port_gives_nothing(company: &Company) -> Result<()> {
    let layer = &company.private.layers[1];
    let (port, size) = (company.node.address("peer"), layer.bytes.len());
    let path = format!("/v1/tasks/{}/pieces/0?size={size}", layer.digest);
    ensure!(
        get(&format!("http://{port}{path}")).await.is_err(),
        "in plain text"
    );
    let url = format!("https://{port}{path}");
    let by_tls = ask(&company.authority, Method::GET, &url, None);
    ensure!(by_tls.await.is_err(), "without a certificate");
    Ok(())
}
