//! A cluster with several schedulers, of which each knows some of the hosts.

use anyhow::{Result, ensure};
use darter_integration::{
    darter::{Part, start_proxy, start_scheduler},
    http as client,
    process::eventually,
    report::can_use,
    stand::{LIMIT, Stand, has},
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_all_schedulers_are_all_peers() -> Result<()> {
    let test = "hosts_of_all_schedulers_are_all_peers";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let (stand, _second) = two_schedulers().await?;
    let image = stand.push("1", &[300_000]).await?;
    let wish = json!({"image": "library/app:1", "scope": "all_peers"});
    let posted = stand.post("/api/v1/jobs", wish).await?;
    let job = stand.ended(&posted["id"]).await?;
    assert_eq!(job["state"], "SUCCESS", "{job}");
    assert_eq!(job["summary"]["hosts_done"], 2, "{job}");
    for peer in 0..2 {
        ensure!(has(&stand.data(peer), &image), "n{peer} lacks it");
    }
    Ok(())
}

/// Two schedulers, each of which one host can reach alone: `n0` the stand's own, `n1` the other.
async fn two_schedulers() -> Result<(Stand, Part)> {
    let mut stand = Stand::start(0).await?;
    let settled = ["--set", "scheduler.preheat_settle=0s"];
    let second = start_scheduler(stand.dir.path(), "second", &stand.grpc, &settled).await?;
    // Each can reach one of them alone.
    for (name, scheduler) in [("n0", &stand.scheduler), ("n1", &second)] {
        let url = format!("http://{}", scheduler.address("scheduler"));
        let set = format!("proxy.name={name}");
        let (dir, more) = (stand.dir.path(), ["--set", set.as_str()]);
        let peer = start_proxy(dir, name, &stand.upstream, Some(&url), &more).await?;
        eventually("a session", LIMIT, || async {
            let sessions = scheduler.metric("darter_scheduler_sessions", "").await;
            sessions.is_ok_and(|count| count == 1.0).then_some(())
        })
        .await?;
        stand.peers.push(peer);
    }
    let active = format!("{}/api/v1/schedulers?active=true", stand.rest());
    eventually("both schedulers", LIMIT, || async {
        let list = client::get(&active).await.ok()?;
        let list: Value = serde_json::from_slice(list.body()).ok()?;
        (list.as_array()?.len() == 2).then_some(())
    })
    .await?;
    Ok((stand, second))
}

#[tokio::test(flavor = "multi_thread")]
async fn some_hosts_are_some_of_all_schedulers() -> Result<()> {
    let test = "some_hosts_are_some_of_all_schedulers";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let (stand, _second) = two_schedulers().await?;
    let ended = async |run: usize, choice: Value| {
        let tag = run.to_string();
        let image = stand.push(&tag, &[300_000 + run]).await?;
        let mut wish = json!({"image": format!("library/app:{tag}"), "scope": "all_peers"});
        for (key, value) in choice.as_object().into_iter().flatten() {
            wish[key] = value.clone();
        }
        let posted = stand.post("/api/v1/jobs", wish).await?;
        let job = stand.ended(&posted["id"]).await?;
        let holders = (0..2).filter(|peer| has(&stand.data(*peer), &image));
        anyhow::Ok((job, holders.count()))
    };
    for (run, (choice, wanted)) in [
        (json!({"count": 2}), 2),
        (json!({"count": 1}), 1),
        (json!({"percentage": 100}), 2),
        // Half of two, and not a half, rounded up, of each scheduler's one.
        (json!({"percentage": 50}), 1),
        (json!({"scope": "single_seed_peer"}), 1),
    ]
    .into_iter()
    .enumerate()
    {
        let (job, holders) = ended(run, choice).await?;
        assert_eq!(job["state"], "SUCCESS", "{job}");
        assert_eq!(job["summary"]["hosts"], wanted, "{job}");
        assert_eq!(holders, wanted, "{job}");
    }
    // All of them have one address here.
    let (job, holders) = ended(10, json!({"ips": ["127.0.0.1"]})).await?;
    assert_eq!((&job["state"], holders), (&json!("SUCCESS"), 2), "{job}");
    let (job, _) = ended(11, json!({"ips": ["127.0.0.1", "192.0.2.9"]})).await?;
    assert_eq!(job["state"], "FAILURE", "{job}");
    assert_eq!(job["summary"]["hosts_done"], 2, "{job}");
    assert_eq!(
        job["failures"][0]["why"], "no host is at 192.0.2.9",
        "{job}"
    );
    let (job, _) = ended(12, json!({"count": 3})).await?;
    assert_eq!(job["state"], "FAILURE", "{job}");
    let why = "3 hosts are wanted, and 2 are here: 1 are missing";
    assert_eq!(job["failures"][0]["why"], why, "{job}");
    let (job, holders) = ended(13, json!({"ips": ["192.0.2.9"]})).await?;
    assert_eq!((&job["state"], holders), (&json!("FAILURE"), 0), "{job}");
    Ok(())
}
