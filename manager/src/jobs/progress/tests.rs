//! What hosts say, and what comes of it.

use super::*;

fn host(seed: u8) -> v1::PreheatHost {
    v1::PreheatHost {
        host: vec![seed; 32].into(),
        name: format!("n{seed}"),
        ip: format!("10.0.0.{seed}"),
    }
}

fn say(progress: &mut Progress, kind: Kind) -> bool {
    progress.take(v1::PreheatEvent { kind: Some(kind) }, Whose::First)
}

fn begin(progress: &mut Progress, hosts: &[u8]) {
    let hosts = hosts.iter().map(|seed| host(*seed)).collect();
    say(progress, Kind::Hosts(v1::preheat_event::Hosts { hosts }));
    let content = |digest: &str| v1::PreheatContent {
        digest: digest.to_owned(),
        size: 10,
        manifest: false,
        url: String::new(),
    };
    let contents = vec![content("a"), content("b")];
    say(
        progress,
        Kind::Contents(v1::preheat_event::Contents { contents }),
    );
}

fn held(progress: &mut Progress, seed: u8, digests: &[&str]) {
    let host = vec![seed; 32].into();
    let digests = digests.iter().map(ToString::to_string).collect();
    say(
        progress,
        Kind::Held(v1::preheat_event::Held { host, digests }),
    );
}

#[test]
fn success_is_everybodys_own_word() {
    let mut progress = Progress::default();
    assert!(!progress.is_success());
    begin(&mut progress, &[1, 2]);
    held(&mut progress, 1, &["a", "b", "b", "other"]);
    held(&mut progress, 2, &["b"]);
    assert!(!progress.is_success());
    let summary = progress.summary();
    assert_eq!((summary.hosts_done, summary.bytes_held), (1, 30));
    let kept: Progress = serde_json::from_str(&serde_json::to_string(&progress).unwrap()).unwrap();
    assert_eq!(
        (&kept.hosts, &kept.contents),
        (&progress.hosts, &progress.contents)
    );
    held(&mut progress, 2, &["a"]);
    assert!(progress.is_success());
}

#[test]
fn who_was_there_before_and_is_not_now_has_left() {
    let mut progress = Progress::default();
    begin(&mut progress, &[1, 2]);
    held(&mut progress, 2, &["a", "b"]);
    begin(&mut progress, &[1]);
    held(&mut progress, 1, &["a", "b"]);
    assert!(!progress.is_success());
    assert_eq!(progress.hosts[1].name, "n2");
    assert_eq!(progress.hosts[1].failures[0].why, "the host has left");
}

#[test]
fn hosts_of_further_schedulers_are_added() {
    let further = |progress: &mut Progress, digests: [&str; 2]| {
        let mut say = |kind| progress.take(v1::PreheatEvent { kind: Some(kind) }, Whose::Further);
        let hosts = vec![host(1), host(3)];
        say(Kind::Hosts(v1::preheat_event::Hosts { hosts }));
        let content = |digest: &str| v1::PreheatContent {
            digest: digest.to_owned(),
            size: 10,
            manifest: false,
            url: String::new(),
        };
        let contents = digests.map(content).to_vec();
        say(Kind::Contents(v1::preheat_event::Contents { contents }));
    };
    let mut progress = Progress::default();
    begin(&mut progress, &[1, 2]);
    held(&mut progress, 1, &["a", "b"]);
    held(&mut progress, 2, &["a", "b"]);
    assert!(progress.is_success());
    let mut moved = progress.clone();
    further(&mut progress, ["a", "b"]);
    assert!(!progress.is_success(), "n3 has not said it");
    assert_eq!(progress.hosts.len(), 3);
    held(&mut progress, 3, &["a", "b"]);
    assert!(progress.is_success());
    // The tag was moved in between.
    further(&mut moved, ["a", "c"]);
    held(&mut moved, 3, &["a", "b"]);
    assert!(!moved.is_success());
}

#[test]
fn failures_are_bounded_over_all_hosts_and_counted() {
    let mut progress = Progress::default();
    begin(&mut progress, &[1, 2]);
    for seed in [1, 2] {
        for _ in 0..MOST_FAILURES {
            let failed = v1::preheat_event::Failed {
                host: vec![seed; 32].into(),
                digest: "a".to_owned(),
                why: "full".to_owned(),
            };
            say(&mut progress, Kind::Failed(failed));
        }
    }
    let kept: Vec<usize> = progress
        .hosts
        .iter()
        .map(|host| host.failures.len())
        .collect();
    assert_eq!(kept, [MOST_FAILURES, 0]);
    let summary = progress.summary();
    assert_eq!((summary.hosts_failed, summary.failures_further), (2, 1000));
    assert!(!progress.is_success());
    begin(&mut progress, &[1, 2]);
    assert_eq!(progress.summary().failures_further, 0);
}

#[test]
fn silence_is_a_failure() {
    let mut progress = Progress::default();
    begin(&mut progress, &[1, 2]);
    held(&mut progress, 1, &["a", "b"]);
    progress.give_up("timeout");
    let reasons: Vec<usize> = progress
        .hosts
        .iter()
        .map(|host| host.failures.len())
        .collect();
    assert_eq!(reasons, [0, 1]);
    assert!(!progress.is_success());
    let mut nobody = Progress::default();
    nobody.give_up("no scheduler");
    assert_eq!(nobody.failures.len(), 1);
}
