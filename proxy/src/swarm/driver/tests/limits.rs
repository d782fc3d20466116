//! Limits, and who goes first, over real sockets.

use std::{
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use darter_api::{
    Lengths, Origin, OriginKind, TaskId,
    session::{Purpose, SchedulerMessage},
};
use prometheus_client::registry::Registry;
use tempfile::tempdir;

use super::{
    clock::Clock,
    host::{Host, PATIENCE, Scheduler, read, scheduler_name, until},
    origin::{TestSource, content, origin, task_of},
    peers::{introduce, welcome},
};
use crate::{
    content::{Contents as _, OpenError, Sizing, Want},
    limits::{LEAST_RATE, Limits, Metrics, Options, Rates},
    swarm::driver::solo::MOST_HELD,
};

fn rate(bytes: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(bytes)
}

/// Limits whose metrics can be read.
struct Shown {
    limits: Limits,
    registry: Registry,
}

impl Shown {
    fn new(rates: Rates) -> Self {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let limits = Limits::new(rates, metrics);
        Self { limits, registry }
    }

    /// A sample, summed over its labels that contain `labels`.
    fn metric(&self, name: &str, labels: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let samples = text.lines().filter_map(|line| line.rsplit_once(' '));
        let samples = samples.filter(|(key, _)| key.starts_with(name) && key.contains(labels));
        samples
            .map(|(_, value)| value.parse::<f64>().unwrap())
            .sum()
    }
}

/// The rate of what `moved` counts comes near `wanted`; how long it took by this clock.
async fn comes_near(wanted: f64, moved: impl Fn() -> f64, clock: &Clock) -> Duration {
    let (begin, began) = (Instant::now(), clock.now());
    loop {
        let (from, since) = (moved(), Instant::now());
        tokio::time::sleep(Duration::from_millis(400)).await;
        let seen = (moved() - from) / since.elapsed().as_secs_f64();
        if (seen / wanted - 1.0).abs() < 0.2 {
            return clock.now() - began;
        }
        assert!(begin.elapsed() < PATIENCE, "{seen} of {wanted}");
    }
}

/// A host that has it all, and one that pulls it from there.
async fn follow(direction: &str, rates: fn(u64) -> Rates) {
    let (parents, childs) = (Shown::new(Rates::default()), Shown::new(Rates::default()));
    let changed = if direction == "Upload" {
        &parents
    } else {
        &childs
    };
    let bytes = content(40_000_000, 30);
    let task = task_of(&bytes);
    let source = Arc::new(TestSource::new([bytes.clone()]));
    let dirs = [tempdir().unwrap(), tempdir().unwrap()];
    let start = |dir: usize, limits: &Limits| {
        let (path, limits) = (dirs[dir].path().to_owned(), limits.clone());
        let source = Arc::clone(&source);
        async move {
            let seed = dir as u8 + 1;
            Host::limited(&path, &source, seed, Scheduler::Test, limits).await
        }
    };
    let parent = start(0, &Limits::default()).await;
    parent
        .says(crate::session::SessionEvent::Down(scheduler_name()))
        .await;
    assert!(parent.pull(task).await.unwrap() == bytes);
    until("it is committed", || parent.store.whole(&task).is_some()).await;
    parent.stop().await;

    let (parent, child) = (
        start(0, &parents.limits).await,
        start(1, &childs.limits).await,
    );
    for host in [&parent, &child] {
        welcome(host).await;
    }
    changed.limits.set(rates(1_000_000));
    let want = child.open_sized(task, bytes.len() as u64);
    introduce(&child, task, &[&parent]).await;
    let content = want.await.unwrap();
    introduce(&child, task, &[&parent]).await;
    let pull = super::host::read(&content);
    let moved = || changed.metric("limits_bytes_total", direction);
    let clock = child.clock();
    let changes = async {
        until("bytes come", || moved() > 0.0).await;
        for rate in [1_000_000, 4_000_000, 2_000_000] {
            changed.limits.set(rates(rate));
            let took = comes_near(rate as f64, moved, &clock).await;
            println!("{rate} bytes a second after {took:?}");
            assert!(took < Duration::from_secs(2), "{took:?}");
            assert_eq!(changed.metric("limits_rate_set", ""), rate as f64);
        }
        changed.limits.set(Rates::default());
    };
    let ((pulled, _), ()) = tokio::join!(pull, changes);
    assert!(pulled.unwrap() == bytes);
    drop(content);
    parent.stop().await;
    child.stop().await;
    assert!(changed.metric("limits_waits_total", direction) > 0.0);
    assert!(changed.metric("limits_waited_seconds_total", direction) > 0.0);
}

#[tokio::test]
async fn a_changed_upload_rate_is_followed_within_two_seconds() {
    let upload = |bytes| Rates {
        upload: rate(bytes),
        ..Rates::default()
    };
    follow("Upload", upload).await;
}

#[tokio::test]
async fn a_changed_download_rate_is_followed_within_two_seconds() {
    let download = |bytes| Rates {
        download: rate(bytes),
        ..Rates::default()
    };
    follow("Download", download).await;
}

#[tokio::test]
async fn a_changed_disk_rate_is_followed_within_two_seconds() {
    let disk = |bytes| Rates {
        disk: rate(bytes),
        ..Rates::default()
    };
    follow("Disk", disk).await;
}

#[tokio::test]
async fn a_source_is_read_at_its_rate_and_the_lowest_rate_is_enough() {
    let bytes = content(700_000, 31);
    let task = task_of(&bytes);
    for without_sizes in [false, true] {
        let source = TestSource::new([bytes.clone()]);
        let source = if without_sizes {
            source.without_sizes()
        } else {
            source
        };
        let dir = tempdir().unwrap();
        let shown = Shown::new(Rates {
            source: rate(LEAST_RATE.as_u64()),
            ..Rates::default()
        });
        let (source, limits) = (Arc::new(source), shown.limits.clone());
        let host = Host::limited(dir.path(), &source, 1, Scheduler::None, limits).await;
        let begin = Instant::now();
        assert!(host.pull(task).await.unwrap() == bytes);
        let least = (700_000.0 - 65_536.0) / LEAST_RATE.as_u64() as f64;
        let took = begin.elapsed().as_secs_f64();
        assert!(took >= least, "{took} of {least} s");
        assert_eq!(shown.metric("limits_bytes_total", "Source"), 700_000.0);
        host.stop().await;
    }
}

/// What nobody tells the size of.
fn untold(task: TaskId, kind: OriginKind) -> Want {
    Want {
        task,
        origin: Origin { kind, ..origin() },
        size: None,
        credential: None,
        purpose: Purpose::Pull,
        excerpt: None,
        sizing: match kind {
            OriginKind::Manifest => Sizing::Needed,
            OriginKind::Blob => Sizing::Unneeded,
        },
    }
}

#[tokio::test]
async fn what_is_not_written_does_not_count_for_the_disk() {
    let bytes = content(700_000, 32);
    let task = task_of(&bytes);
    for kind in [OriginKind::Blob, OriginKind::Manifest] {
        for (is_full, written) in [(true, 0.0), (false, 700_000.0)] {
            let source = Arc::new(TestSource::new([bytes.clone()]).without_sizes());
            let dir = tempdir().unwrap();
            let shown = Shown::new(Rates {
                disk: rate(1_000_000_000),
                ..Rates::default()
            });
            let limits = shown.limits.clone();
            let host = Host::limited(dir.path(), &source, 1, Scheduler::None, limits).await;
            if is_full {
                host.swarm.pretend_full();
            }
            let content = host.swarm.open(untold(task, kind)).await.unwrap();
            let (ended, came) = read(&content).await;
            ended.unwrap();
            assert_eq!(came, bytes.len());
            let disk = shown.metric("limits_bytes_total", "Disk");
            assert_eq!(disk, written, "{kind:?}");
            drop(content);
            host.stop().await;
        }
    }
}

#[tokio::test]
async fn manifests_that_the_store_does_not_take_are_few() {
    let all: Vec<Bytes> = (0..=MOST_HELD as u64)
        .map(|seed| content(1000, 100 + seed))
        .collect();
    let source = Arc::new(TestSource::new(all.clone()).without_sizes());
    let dir = tempdir().unwrap();
    let host = Host::alone(dir.path(), &source).await;
    host.swarm.pretend_full();
    let open = |bytes| {
        host.swarm
            .open(untold(task_of(bytes), OriginKind::Manifest))
    };
    let mut held = Vec::new();
    for bytes in &all[1..] {
        held.push(open(bytes).await.unwrap());
    }
    let free = || host.swarm.0.manifests.available_permits();
    assert_eq!(free(), 0);
    // Nobody gives its place up.
    let refused = open(&all[0]).await;
    assert!(matches!(refused, Err(OpenError::Store(_))));
    held.pop();
    until("its place is free", || free() == 1).await;
    held.push(open(&all[0]).await.unwrap());
    assert_eq!(free(), 0);
    drop(held);
    until("all places are free", || free() == MOST_HELD).await;
    host.stop().await;
}

/// A host with a preheat under way, of a source with a narrow link.
async fn preheating(host: &Host, ahead: &Bytes) -> TaskId {
    let task = task_of(ahead);
    host.hears(SchedulerMessage::Fetch {
        task,
        lengths: Lengths::of(ahead.len() as u64).unwrap(),
        origin: origin(),
        purpose: Purpose::Preheat,
    })
    .await;
    task
}

#[tokio::test]
async fn a_preheat_beside_a_pull_costs_it_at_most_a_tenth() {
    let (ahead, wanted) = (content(20_000_000, 32), content(10_000_000, 33));
    let contents = [ahead.clone(), wanted.clone()];
    let source = Arc::new(TestSource::new(contents).at_pace(8e6));
    let shown = Shown::new(Rates::default());
    let dir = tempdir().unwrap();
    let limits = shown.limits.clone();
    let host = Host::limited(dir.path(), &source, 1, Scheduler::Test, limits).await;
    host.says(crate::session::SessionEvent::Down(scheduler_name()))
        .await;
    let task = preheating(&host, &ahead).await;
    let source_bytes = |class: &str| {
        let labels = format!("direction=\"Source\",class=\"{class}\"");
        shown.metric("limits_bytes_total", &labels)
    };
    let behind = || source_bytes("Background");
    until("the preheat runs", || behind() > 1_000_000.0).await;
    let pull = host.pull(task_of(&wanted));
    let noted = async {
        until("the pull runs", || source_bytes("Foreground") > 0.0).await;
        (Instant::now(), behind())
    };
    let (pulled, (begin, before)) = tokio::join!(pull, noted);
    assert!(pulled.unwrap() == wanted);
    // The link is shared in turn, so that what went to the preheat is what the pull lost.
    let (took, cost) = (begin.elapsed(), (behind() - before) / wanted.len() as f64);
    println!("{cost:.3} of the pull's bytes went to the preheat in {took:?}");
    assert!(cost <= 0.1, "{cost}");
    assert!(cost > 0.01, "{cost}: it has its floor");
    // Who wants what is preheated waits no longer than for any other pull.
    let begin = Instant::now();
    assert!(host.pull(task).await.unwrap() == ahead);
    println!("the rest came in {:?}", begin.elapsed());
    assert!(
        behind() < ahead.len() as f64 / 2.0,
        "the pull made it urgent"
    );
    host.stop().await;
}

#[tokio::test]
async fn the_used_rate_is_shown() {
    // More than is read until it is seen.
    let bytes = content(40_000_000, 34);
    let source = Arc::new(TestSource::new([bytes.clone()]).at_pace(2e6));
    let shown = Shown::new(Rates::default());
    let dir = tempdir().unwrap();
    let limits = shown.limits.clone();
    let host = Host::limited(dir.path(), &source, 1, Scheduler::None, limits).await;
    let used = || shown.metric("limits_rate_used_bytes_per_second", "Source");
    let seen = async {
        until("the rate is near", || (used() / 2e6 - 1.0).abs() < 0.2).await;
    };
    let watch = shown.limits.clone().watch(Options::default());
    tokio::select! {
        () = watch => unreachable!("it goes on"),
        pulled = host.pull(task_of(&bytes)) => panic!("{:?} before it was seen", pulled.map(|all| all.len())),
        () = seen => {}
    }
    host.stop().await;
}

#[tokio::test]
async fn a_preheat_from_a_peer_costs_a_pull_from_it_at_most_a_tenth() {
    let (ahead, wanted) = (content(20_000_000, 35), content(10_000_000, 36));
    let source = Arc::new(TestSource::new([ahead.clone(), wanted.clone()]));
    let (uplink, shown) = (Shown::new(Rates::default()), Shown::new(Rates::default()));
    let dirs = [tempdir().unwrap(), tempdir().unwrap()];
    let limits = uplink.limits.clone();
    let parent = Host::limited(dirs[0].path(), &source, 1, Scheduler::Test, limits).await;
    parent
        .says(crate::session::SessionEvent::Down(scheduler_name()))
        .await;
    for bytes in [&ahead, &wanted] {
        assert!(parent.pull(task_of(bytes)).await.unwrap() == *bytes);
    }
    let limits = shown.limits.clone();
    let child = Host::limited(dirs[1].path(), &source, 2, Scheduler::Test, limits).await;
    for host in [&parent, &child] {
        welcome(host).await;
    }
    uplink.limits.set(Rates {
        upload: rate(8_000_000),
        ..Rates::default()
    });
    let task = preheating(&child, &ahead).await;
    introduce(&child, task, &[&parent]).await;
    let came = |class: &str| {
        let labels = format!("direction=\"Download\",class=\"{class}\"");
        shown.metric("limits_bytes_total", &labels)
    };
    until("the preheat runs", || came("Background") > 1_000_000.0).await;
    let pulled = task_of(&wanted);
    let want = child.open_sized(pulled, wanted.len() as u64);
    introduce(&child, pulled, &[&parent]).await;
    let content = want.await.unwrap();
    introduce(&child, pulled, &[&parent]).await;
    let noted = async {
        until("the pull runs", || came("Foreground") > 0.0).await;
        (Instant::now(), came("Background"))
    };
    let ((pulled, _), (begin, before)) = tokio::join!(read(&content), noted);
    assert!(pulled.unwrap() == wanted);
    let (took, cost) = (begin.elapsed(), (came("Background") - before) / 10e6);
    println!("{cost:.3} of the pull's bytes went to the preheat in {took:?} (alone: 1.25 s)");
    assert!(cost <= 0.1, "{cost}");
    drop(content);
    child.stop().await;
    parent.stop().await;
}
