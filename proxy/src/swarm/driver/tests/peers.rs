//! Several hosts; the test speaks for the scheduler.

use std::sync::Arc;

use darter_api::{Grant, Lengths, NodeKey, TaskId, session::SchedulerMessage};
use tempfile::tempdir;

use super::{
    host::{Host, Scheduler, until},
    origin::{TestSource, content, task_of},
};
use crate::session::SessionEvent;

const SIZE: usize = 5_000_000;

fn scheduler() -> NodeKey {
    NodeKey::from_seed([200; 32])
}

async fn welcome(host: &Host) {
    let id = scheduler().id();
    let trusted = vec![id];
    host.hears(SchedulerMessage::Welcome {
        scheduler: id,
        trusted,
    })
    .await;
    host.says(SessionEvent::Up).await;
}

async fn introduce(host: &Host, task: TaskId, others: &[&Host]) {
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
