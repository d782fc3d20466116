//! Images are with everybody before anybody pulls them; and what is not, is said.

#[path = "../../../proxy/tests/front/clock.rs"]
mod clock;
mod schedulers;
mod signed_in;

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use darter_integration::{
    darter::{Part, binary},
    http as client,
    image::{Blob, Flavour, Image},
    process::{eventually, output},
    report::can_use,
    stand::{LIMIT, Stand, has, text},
};
use darter_runtime::Tasks;
use futures::future::{try_join, try_join_all};
use http::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use clock::Clock;

const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json";

/// What a client does, but for its unpacking.
async fn pull(peer: &Part, image: &Image, tag: &str) -> Result<()> {
    let url = |rest: &str| format!("{}/v2/library/app/{rest}?ns=docker.io", peer.mirror());
    let get = async |rest: String| -> Result<Bytes> {
        let accept = [("accept", MANIFESTS)];
        let url = url(&rest);
        let reply = client::send(Method::GET, &url, &accept, Bytes::new());
        let reply = tokio::time::timeout(LIMIT, reply).await??;
        ensure!(reply.status() == 200, "{rest}: {reply:?}");
        Ok(reply.into_body())
    };
    ensure!(get(format!("manifests/{tag}")).await? == image.manifest_bytes);
    ensure!(get(format!("manifests/{}", image.manifest)).await? == image.manifest_bytes);
    for blob in image.layers.iter().chain([&image.config]) {
        ensure!(get(format!("blobs/{}", blob.digest)).await? == blob.bytes);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_everywhere_and_pulled_with_its_registry_gone() -> Result<()> {
    let test = "an_image_is_everywhere_and_pulled_with_its_registry_gone";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let mut stand = Stand::start(5).await?;
    let image = stand.push("1", &[3_000_000, 700_000, 1000]).await?;
    let output = stand
        .preheat(&["library/app:1", "--scope", "all_peers"])
        .await?;
    ensure!(output.status.success(), "{}", text(&output));
    ensure!(
        text(&output).contains("SUCCESS: 5 of 5 hosts"),
        "{}",
        text(&output)
    );
    let biggest = &image.layers[0];
    let copies = stand.registry.sent_of(&biggest.digest.to_string());
    assert_eq!(copies, biggest.bytes.len() as u64, "one copy for all");

    let again = ["library/app:1", "--scope", "all_peers", "--json"];
    let again: Value = serde_json::from_slice(&stand.preheat(&again).await?.stdout)?;
    ensure!(
        again["state"] == "SUCCESS" && again["summary"]["hosts_done"] == 5,
        "{again}"
    );

    let job = stand.job(&json!(1)).await?;
    assert_eq!(job["summary"]["hosts_done"], 5, "{job}");
    assert_eq!(job["contents"].as_array().map(Vec::len), Some(5), "{job}");
    stand.registry.stop().await?;
    try_join_all(stand.peers.iter().map(|peer| pull(peer, &image, "1"))).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_layer_is_named_soon() -> Result<()> {
    if !can_use("a_missing_layer_is_named_soon", &["docker-registry"], false) {
        return Ok(());
    }
    let stand = Stand::start(5).await?;
    let image = stand.push("1", &[100_000, 200_000]).await?;
    let missing = image.layers[1].digest.to_string();
    let url = format!("{}/v2/library/app/blobs/{missing}", stand.registry.url());
    let deleted = client::send(Method::DELETE, &url, &[], Bytes::new()).await?;
    ensure!(deleted.status() == 202, "{deleted:?}");
    let tasks = Tasks::new();
    let clock = Clock::start(&tasks);
    let output = stand
        .preheat(&["library/app:1", "--scope", "all_peers"])
        .await?;
    let took = clock.now();
    let said = text(&output);
    ensure!(
        output.status.code() == Some(1) && said.contains("FAILURE"),
        "{said}"
    );
    ensure!(said.contains(&format!("has no blob {missing}")), "{said}");
    ensure!(took < Duration::from_secs(5), "{took:?}");
    let output = stand.preheat(&["library/other:1"]).await?;
    ensure!(output.status.code() == Some(1), "{}", text(&output));
    ensure!(text(&output).contains("no manifest 1"), "{}", text(&output));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_could_not_store_it_is_named_and_tried_again() -> Result<()> {
    let test = "a_peer_that_could_not_store_it_is_named_and_tried_again";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let mut stand = Stand::start(4).await?;
    stand
        .add_peer(&["--set", "proxy.store.capacity=1MB"])
        .await?;
    let image = stand.push("1", &[3_000_000, 1000]).await?;
    let wish = json!({"image": "library/app:1", "scope": "all_peers"});
    let posted = stand.post("/api/v1/jobs", wish).await?;
    let job = stand.ended(&posted["id"]).await?;
    assert_eq!(job["state"], "FAILURE", "{job}");
    assert_eq!(job["summary"]["hosts_done"], 4, "{job}");
    let failures = job["failures"].as_array().context("a list")?;
    assert_eq!(failures.len(), 1, "{job}");
    assert_eq!(failures[0]["host"], "n4", "{job}");
    assert_eq!(
        failures[0]["digest"],
        image.layers[0].digest.to_string(),
        "{job}"
    );

    // Its events are one: it is over.
    let url = format!("{}/api/v1/jobs/{}/events", stand.rest(), posted["id"]);
    let events = String::from_utf8(client::get(&url).await?.into_body().to_vec())?;
    ensure!(events.matches("event: job").count() == 1, "{events}");
    ensure!(events.contains("FAILURE"), "{events}");

    // The host leaves; what is left is enough, and is not fetched again.
    let before = stand.registry.sent_of(&image.layers[0].digest.to_string());
    if let Some(mut full) = stand.peers.pop() {
        full.process.kill().await?;
    }
    let path = format!("/api/v1/jobs/{}/retry", posted["id"]);
    let job = eventually("success without the host", LIMIT, || async {
        let job = stand.ended(&posted["id"]).await.ok()?;
        if job["state"] == "SUCCESS" {
            return Some(job);
        }
        let _ = stand.post(&path, json!({})).await;
        None
    })
    .await?;
    assert_eq!(job["summary"]["hosts_done"], 4, "{job}");
    let after = stand.registry.sent_of(&image.layers[0].digest.to_string());
    assert_eq!(after, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_managers_job_goes_on() -> Result<()> {
    if !can_use("a_killed_managers_job_goes_on", &["docker-registry"], false) {
        return Ok(());
    }
    let mut stand = Stand::start(2).await?;
    let image = stand.push("1", &[3_000_000, 200_000]).await?;
    for peer in &stand.peers {
        // Slow enough to be killed in the middle.
        let url = format!("http://{}/limits", peer.address("operations"));
        let slow = json!({"download": "500KB", "source": "500KB"}).to_string();
        let headers = [("content-type", "application/json")];
        client::send(Method::PUT, &url, &headers, slow.into()).await?;
    }
    // Who waits for it sees it through.
    let mut waits = Command::new(binary());
    waits.args(["preheat", "library/app:1", "--scope", "all_peers", "--wait"]);
    waits
        .args(["--manager", &stand.rest()])
        .stdin(Stdio::null());
    let killed = async {
        let id = json!(1);
        eventually("bytes", LIMIT, || async {
            let job = stand.job(&id).await.ok()?;
            (job["summary"]["bytes_held"].as_u64()? > 0).then_some(())
        })
        .await?;
        stand.manager.restart().await?;
        stand.ended(&id).await
    };
    let (said, job) = try_join(output(&mut waits), killed).await?;
    assert_eq!(job["state"], "SUCCESS", "{job}");
    ensure!(said.status.success(), "{}", text(&said));
    stand.registry.stop().await?;
    try_join_all(stand.peers.iter().map(|peer| pull(peer, &image, "1"))).await?;
    Ok(())
}

/// Runs of which each kills a peer: a hundred where there is time.
fn runs() -> u64 {
    if std::env::var_os("DARTER_TEST_LONG").is_some() {
        100
    } else {
        4
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_called_a_success_that_is_none() -> Result<()> {
    let test = "nothing_is_called_a_success_that_is_none";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let mut stand = Stand::start(3).await?;
    let (mut good, mut bad) = (0, 0);
    for run in 0..runs() {
        let layers = vec![
            Blob::layer(1000 + run, 600_000),
            Blob::layer(5000 + run, 90_000),
        ];
        let tag = format!("run-{run}");
        let image = Image::push(&stand.registry, "library/app", &tag, Flavour::Oci, layers).await?;
        let wish = json!({"image": format!("library/app:{tag}"), "scope": "all_peers"});
        let posted = stand.post("/api/v1/jobs", wish).await?;
        let victim = (run % 3) as usize;
        // Anywhere between before the first word and after the last.
        tokio::time::sleep(Duration::from_millis(run * 97 % 500)).await;
        stand.peers[victim].process.kill().await?;
        let job = stand.ended(&posted["id"]).await?;
        if job["state"] == "SUCCESS" {
            good += 1;
            let all = job["summary"]["hosts"].as_u64().context("a number")?;
            ensure!(all >= 2, "{job}");
            let who = job["hosts"].as_array().context("a list")?;
            for host in who.iter().filter_map(|host| host["name"].as_str()) {
                let peer: usize = host.trim_start_matches('n').parse()?;
                ensure!(has(&stand.data(peer), &image), "{host} lacks it: {job}");
            }
        } else {
            bad += 1;
            let failures = job["failures"].as_array().context("a list")?;
            let is_victim = |failure: &Value| failure["host"] == format!("n{victim}");
            ensure!(
                !failures.is_empty() && failures.iter().all(is_victim),
                "{job}"
            );
        }
        stand.peers[victim].start_again().await?;
        eventually("all sessions", LIMIT, || async {
            let sessions = stand
                .scheduler
                .metric("darter_scheduler_sessions", "")
                .await;
            sessions.is_ok_and(|count| count == 3.0).then_some(())
        })
        .await?;
    }
    println!("{good} successes, {bad} failures");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn harbors_own_flow_ends_well() -> Result<()> {
    if !can_use("harbors_own_flow_ends_well", &["docker-registry"], false) {
        return Ok(());
    }
    let stand = Stand::start(2).await?;
    let image = stand.push("1", &[300_000]).await?;
    // Harbor names a registry by where it is.
    let registry = stand.registry.address();
    let wish = json!({"type": "preheat", "args": {
        "type": "image", "url": format!("http://{registry}/v2/library/app/manifests/1"),
        "tag": "", "filtered_query_params": "", "headers": null, "scope": "all_peers",
        "concurrent_count": 0, "timeout": 0,
    }, "scheduler_cluster_ids": null});
    let healthy = client::get(&format!("{}/healthy", stand.rest())).await?;
    assert_eq!(healthy.status(), 200);
    let posted = stand.post("/oapi/v1/jobs", wish).await?;
    let url = format!("{}/oapi/v1/jobs/{}", stand.rest(), posted["id"]);
    let job: Value = eventually("Harbor's answer", LIMIT, || async {
        let reply = client::get(&url).await.ok()?;
        let job: Value = serde_json::from_slice(reply.body()).ok()?;
        (job["state"] != "PENDING").then_some(job)
    })
    .await?;
    assert_eq!(job["state"], "SUCCESS", "{job}");
    let results = &job["result"]["job_states"][0]["results"][0];
    let tasks = results["success_tasks"].as_array().context("a list")?;
    assert_eq!(tasks.len(), 2 * 3, "{job}");
    let layer = image.layers[0].digest.to_string();
    let of_layer = tasks.iter().filter(|task| {
        task["url"]
            .as_str()
            .is_some_and(|url| url.ends_with(&layer))
    });
    assert_eq!(of_layer.count(), 2, "{job}");
    Ok(())
}
