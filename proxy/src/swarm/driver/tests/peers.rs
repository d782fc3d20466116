//! Several hosts; the test speaks for the scheduler.

use std::sync::Arc;

use darter_api::{
    Grant, Lengths, NodeKey, TaskId,
    session::{PeerMessage, Purpose, SchedulerMessage},
};
use tempfile::tempdir;

use super::{
    host::{Host, Scheduler, read, scheduler_name, until},
    origin::{Fault, TestSource, content, origin, task_of},
};
use crate::session::SessionEvent;

const SIZE: usize = 5_000_000;

pub(super) fn scheduler() -> NodeKey {
    NodeKey::from_seed([200; 32])
}

pub(super) async fn welcome(host: &Host) {
    let id = scheduler().id();
    let trusted = vec![id];
    host.hears(SchedulerMessage::Welcome {
        scheduler: id,
        trusted,
    })
    .await;
    host.says(SessionEvent::Up(scheduler_name())).await;
}

pub(super) async fn introduce(host: &Host, task: TaskId, others: &[&Host]) {
    let add = others.iter().map(|other| other.as_neighbour()).collect();
    let remove = Vec::new();
    host.hears(SchedulerMessage::Neighbours { task, add, remove })
        .await;
}

async fn grant(host: &Host, task: TaskId) {
    let lengths = Lengths::of(SIZE as u64).unwrap();
    let pieces = 0..lengths.pieces();
    let grant = Grant::sign(&scheduler(), host.id(), task, lengths, pieces, 1);
    host.hears(SchedulerMessage::Grant(grant)).await;
}

#[tokio::test]
async fn one_copy_for_three() {
    let bytes = content(SIZE, 20);
    let task = task_of(&bytes);
    let source = Arc::new(TestSource::new([bytes.clone()]));
    let dirs = [tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap()];
    let mut hosts = Vec::new();
    for (number, dir) in dirs.iter().enumerate() {
        let seed = number as u8 + 1;
        let host = Host::start(dir.path(), &source, seed, Scheduler::Test).await;
        welcome(&host).await;
        hosts.push(host);
    }
    let [one, two, three] = &hosts[..] else {
        panic!("three hosts")
    };
    let plays = async {
        introduce(one, task, &[two, three]).await;
        introduce(two, task, &[one, three]).await;
        introduce(three, task, &[one, two]).await;
        grant(one, task).await;
    };
    let pulls = async { tokio::join!(one.pull(task), two.pull(task), three.pull(task)) };
    let ((), (a, b, c)) = tokio::join!(plays, pulls);
    assert!(a.unwrap() == bytes && b.unwrap() == bytes && c.unwrap() == bytes);
    assert_eq!(source.sent(), SIZE as u64);
    for host in &hosts {
        until("it is committed", || host.store.whole(&task).is_some()).await;
    }
    assert_eq!(one.swarm.totals().0, SIZE as u64);
    assert!(two.swarm.totals().1 >= SIZE as u64);
    for host in hosts {
        host.stop().await;
    }
}

#[tokio::test]
async fn a_seed_fetches_because_it_was_asked_to() {
    let bytes = content(SIZE, 21);
    let task = task_of(&bytes);
    let source = Arc::new(TestSource::new([bytes.clone()]));
    let dir = tempdir().unwrap();
    let seed = Host::start(dir.path(), &source, 1, Scheduler::Test).await;
    welcome(&seed).await;
    seed.hears(SchedulerMessage::Fetch {
        task,
        lengths: Lengths::of(SIZE as u64).unwrap(),
        origin: origin(),
        purpose: Purpose::Seed,
    })
    .await;
    grant(&seed, task).await;
    until("it has it", || seed.store.whole(&task).is_some()).await;
    assert_eq!(source.reads(), [None]);
    seed.stop().await;
}

#[tokio::test]
async fn what_a_dead_holder_left_is_read_by_another() {
    let bytes = content(SIZE, 22);
    let task = task_of(&bytes);
    let source = Arc::new(TestSource::new([bytes.clone()]));
    source.fault(Fault::Stall(2_700_000));
    let dirs = [tempdir().unwrap(), tempdir().unwrap()];
    let holder = Host::start(dirs[0].path(), &source, 1, Scheduler::Test).await;
    let child = Host::start(dirs[1].path(), &source, 2, Scheduler::Test).await;
    for host in [&holder, &child] {
        welcome(host).await;
    }
    let content = child.open(task).await.unwrap();
    let held = holder.open(task).await.unwrap();
    introduce(&holder, task, &[&child]).await;
    introduce(&child, task, &[&holder]).await;
    grant(&holder, task).await;
    let pull = read(&content);
    let fault = async {
        let came = 10 * 256 * 1024;
        until("ten pieces came", || child.swarm.totals().1 >= came).await;
        drop(held);
        let gone = holder.id();
        holder.stop().await;
        child
            .hears(SchedulerMessage::Neighbours {
                task,
                add: Vec::new(),
                remove: vec![gone],
            })
            .await;
        grant(&child, task).await;
    };
    let ((pulled, _), ()) = tokio::join!(pull, fault);
    assert!(pulled.unwrap() == bytes);
    let reads = source.reads();
    assert_eq!(reads[0], None);
    assert_eq!(
        reads[1],
        Some(10 * 256 * 1024..SIZE as u64),
        "only the rest"
    );
    drop(content);
    child.stop().await;
}

#[tokio::test]
async fn what_was_stored_is_given_after_a_restart_without_a_source() {
    let bytes = content(SIZE, 23);
    let task = task_of(&bytes);
    let source = Arc::new(TestSource::new([bytes.clone()]));
    let nothing = Arc::new(TestSource::new([]));
    let dirs = [tempdir().unwrap(), tempdir().unwrap()];
    let first = Host::start(dirs[0].path(), &source, 1, Scheduler::None).await;
    assert!(first.pull(task).await.unwrap() == bytes);
    until("it is committed", || first.store.whole(&task).is_some()).await;
    first.stop().await;

    let first = Host::start(dirs[0].path(), &nothing, 1, Scheduler::Test).await;
    let second = Host::start(dirs[1].path(), &nothing, 2, Scheduler::Test).await;
    for host in [&first, &second] {
        welcome(host).await;
    }
    let want = second.open_sized(task, SIZE as u64);
    introduce(&second, task, &[&first]).await;
    let content = want.await.unwrap();
    // The join's answer may have come before the join.
    introduce(&second, task, &[&first]).await;
    assert!(read(&content).await.0.unwrap() == bytes);
    drop(content);
    for host in [first, second] {
        host.stop().await;
    }
}

#[tokio::test]
async fn rot_is_told_to_the_scheduler_and_healed_by_the_next_pull() {
    let bytes = content(SIZE, 24);
    let task = task_of(&bytes);
    let source = Arc::new(TestSource::new([bytes.clone()]));
    let dir = tempdir().unwrap();
    let host = Host::start(dir.path(), &source, 1, Scheduler::Test).await;
    welcome(&host).await;
    let (pulled, ()) = tokio::join!(host.pull(task), grant(&host, task));
    assert!(pulled.unwrap() == bytes);
    host.has_said(&PeerMessage::Done { task }).await;
    let path = dir.path().join("store/blobs/sha256");
    let path = path.join(task.digest().hex());
    let mut rotten = bytes.to_vec();
    rotten[1_234_567] ^= 1;
    std::fs::write(path, rotten).unwrap();
    assert!(!host.store.scrub(&task));

    let tasks = vec![task];
    host.has_said(&PeerMessage::Evicted { tasks }).await;
    let (pulled, ()) = tokio::join!(host.pull(task), grant(&host, task));
    assert!(pulled.unwrap() == bytes);
    assert_eq!(source.reads(), [None, None]);
    host.has_said(&PeerMessage::Done { task }).await;
    host.stop().await;
}
