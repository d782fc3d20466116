//! Contents that are read in small parts.

use std::{ops::Range, sync::Arc};

use darter_api::{
    GROUP_BYTES, Grant, Lengths, TaskId,
    session::{ExcerptSeed, PeerMessage, SchedulerMessage},
};
use tempfile::tempdir;

use super::{
    host::{Host, Scheduler, until},
    origin::{Fault, TestSource, content, origin, task_of},
    peers::{scheduler, welcome},
};

const SIZE: usize = 5_000_001;
/// Inside the group from 1,310,720 to 1,376,256.
const PART: Range<u64> = 1_320_000..1_330_000;

fn group(bytes: &Range<u64>) -> Option<Range<u64>> {
    let start = bytes.start / GROUP_BYTES * GROUP_BYTES;
    Some(start..bytes.end.next_multiple_of(GROUP_BYTES).min(SIZE as u64))
}

fn part(bytes: &[u8], range: &Range<u64>) -> Vec<u8> {
    bytes[range.start as usize..range.end as usize].to_vec()
}

#[tokio::test]
async fn only_the_groups_that_are_read_leave_the_source_and_each_once() {
    let bytes = content(SIZE, 30);
    let (source, dir) = (
        Arc::new(TestSource::new([bytes.clone()])),
        tempdir().unwrap(),
    );
    let host = Host::alone(dir.path(), &source).await;
    let task = task_of(&bytes);
    let reads = (0..8).map(|_| host.excerpt(task, PART));
    for read in futures::future::join_all(reads).await {
        assert!(read.unwrap() == part(&bytes, &PART));
    }
    assert_eq!(source.reads(), [group(&PART)]);
    // Over a group's border one more is read, and none that is here; the end is as good.
    let over = PART.start..PART.end + GROUP_BYTES;
    assert!(host.excerpt(task, over.clone()).await.unwrap() == part(&bytes, &over));
    let end = SIZE as u64 - 10..SIZE as u64;
    assert!(host.excerpt(task, end.clone()).await.unwrap() == part(&bytes, &end));
    let next = group(&PART).unwrap().end;
    let reads = [group(&PART), Some(next..next + GROUP_BYTES), group(&end)];
    assert_eq!(source.reads(), reads);
    assert!(
        host.store.lengths(&task).is_none(),
        "nothing of it is stored as a piece"
    );

    assert!(host.pull(task).await.unwrap() == bytes);
    until("it is committed", || host.store.whole(&task).is_some()).await;
    let reads = source.reads().len();
    assert!(host.excerpt(task, 7..9).await.unwrap() == part(&bytes, &(7..9)));
    assert_eq!(source.reads().len(), reads);
    host.stop().await;
}

#[tokio::test]
async fn a_source_that_breaks_is_asked_again_and_one_without_ranges_is_read_whole() {
    let bytes = content(SIZE, 31);
    let (source, dir) = (
        Arc::new(TestSource::new([bytes.clone()])),
        tempdir().unwrap(),
    );
    let host = Host::alone(dir.path(), &source).await;
    let task = task_of(&bytes);
    let long = 0..3 * GROUP_BYTES;
    source.fault(Fault::Cut(GROUP_BYTES + 5));
    assert!(host.excerpt(task, long.clone()).await.unwrap() == part(&bytes, &long));
    let rest = GROUP_BYTES..3 * GROUP_BYTES;
    assert_eq!(source.reads(), [Some(long), Some(rest)]);
    source.fault(Fault::NoRanges);
    assert!(host.excerpt(task, PART).await.unwrap() == part(&bytes, &PART));
    assert_eq!(source.reads().last(), Some(&None), "a download");
    host.stop().await;
}

#[tokio::test]
async fn a_reader_that_leaves_gives_its_groups_back() {
    let bytes = content(SIZE, 32);
    let (source, dir) = (
        Arc::new(TestSource::new([bytes.clone()])),
        tempdir().unwrap(),
    );
    let host = Host::alone(dir.path(), &source).await;
    let task = task_of(&bytes);
    source.fault(Fault::Stall(0));
    {
        let mut leaves = std::pin::pin!(host.excerpt(task, PART));
        let begun = async {
            while source.reads().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = &mut leaves => panic!("the source stalls"),
            () = begun => {}
        }
    }
    assert!(host.excerpt(task, PART).await.unwrap() == part(&bytes, &PART));
    assert_eq!(source.reads(), [group(&PART), group(&PART)]);
    host.stop().await;
}

#[tokio::test]
async fn more_than_a_quarter_is_a_download() {
    let bytes = content(SIZE, 33);
    let (source, dir) = (
        Arc::new(TestSource::new([bytes.clone()])),
        tempdir().unwrap(),
    );
    let host = Host::alone(dir.path(), &source).await;
    let task = task_of(&bytes);
    for start in (0..SIZE as u64 - 1000).step_by(2 * GROUP_BYTES as usize) {
        let range = start..start + 1000;
        assert!(host.excerpt(task, range.clone()).await.unwrap() == part(&bytes, &range));
    }
    let reads = source.reads();
    let in_part = reads.iter().take_while(|read| read.is_some());
    // A quarter of 77 groups, one more, and then all.
    assert_eq!(in_part.count(), 20);
    host.stop().await;
}

#[tokio::test]
async fn the_first_range_begins_a_prefetch_where_that_is_wanted() {
    let bytes = content(SIZE, 34);
    let (source, dir) = (
        Arc::new(TestSource::new([bytes.clone()])),
        tempdir().unwrap(),
    );
    let host = Host::prefetching(dir.path(), &source).await;
    let task = task_of(&bytes);
    assert!(host.excerpt(task, PART).await.unwrap() == part(&bytes, &PART));
    until("it is committed", || host.store.whole(&task).is_some()).await;
    let reads = source.reads().len();
    assert!(host.pull(task).await.unwrap() == bytes);
    assert_eq!(source.reads().len(), reads);
    host.stop().await;
}

/// Answers one question of this host.
async fn name_seed(host: &Host, task: TaskId, seed: Option<ExcerptSeed>) {
    let lengths = Lengths::of(SIZE as u64).unwrap();
    let origin = origin();
    host.has_said(&PeerMessage::ExcerptsWanted {
        task,
        lengths,
        origin,
    })
    .await;
    let source = true;
    host.hears(SchedulerMessage::ExcerptsFrom { task, seed, source })
        .await;
}

fn seed(host: &Host, holder: &Host, task: TaskId) -> ExcerptSeed {
    let lengths = Lengths::of(SIZE as u64).unwrap();
    let pieces = 0..lengths.pieces();
    ExcerptSeed {
        neighbour: host.as_neighbour(),
        grant: Grant::sign(&scheduler(), holder.id(), task, lengths, pieces, 1),
    }
}

#[tokio::test]
async fn a_seed_reads_for_all() {
    let bytes = content(SIZE, 35);
    let task = task_of(&bytes);
    let source = Arc::new(TestSource::new([bytes.clone()]));
    let dirs = [tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap()];
    let mut hosts = Vec::new();
    for (number, dir) in dirs.iter().enumerate() {
        let host = Host::start(dir.path(), &source, number as u8 + 1, Scheduler::Test).await;
        welcome(&host).await;
        hosts.push(host);
    }
    let [first, one, two] = &hosts[..] else {
        panic!("three hosts")
    };
    for host in [one, two] {
        let named = Some(seed(first, first, task));
        let (read, ()) = tokio::join!(host.excerpt(task, PART), name_seed(host, task, named));
        assert!(read.unwrap() == part(&bytes, &PART));
    }
    assert_eq!(source.reads(), [group(&PART)], "the seed's");
    // It is remembered who reads; more than a request's worth comes in several.
    let long = 0..4_000_000;
    assert!(one.excerpt(task, long.clone()).await.unwrap() == part(&bytes, &long));
    assert_eq!(one.swarm.totals().0, 0, "of the source");
    let groups = long.end.div_ceil(GROUP_BYTES);
    assert_eq!(one.swarm.totals().1, groups * GROUP_BYTES, "of the seed");
    for host in hosts {
        host.stop().await;
    }
}

#[tokio::test]
async fn a_seed_without_a_right_or_that_is_gone_costs_a_read_of_the_source() {
    let bytes = content(SIZE, 36);
    let task = task_of(&bytes);
    let source = Arc::new(TestSource::new([bytes.clone()]));
    let dirs = [tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap()];
    let mut hosts = Vec::new();
    for (number, dir) in dirs.iter().enumerate() {
        let host = Host::start(dir.path(), &source, number as u8 + 1, Scheduler::Test).await;
        welcome(&host).await;
        hosts.push(host);
    }
    let gone = hosts.remove(2);
    let (of_other, of_gone) = (seed(&hosts[0], &hosts[1], task), seed(&gone, &gone, task));
    gone.stop().await;
    for (host, named) in hosts.iter().zip([of_other, of_gone]) {
        let (read, ()) = tokio::join!(host.excerpt(task, PART), name_seed(host, task, Some(named)));
        assert!(read.unwrap() == part(&bytes, &PART));
        assert_eq!(host.swarm.totals().0, GROUP_BYTES);
    }
    // Nobody answers at all.
    let other = 0..5;
    let dir = tempdir().unwrap();
    let host = Host::start(dir.path(), &source, 9, Scheduler::Test).await;
    welcome(&host).await;
    assert!(host.excerpt(task, other.clone()).await.unwrap() == part(&bytes, &other));
    host.stop().await;
    for host in hosts {
        host.stop().await;
    }
}
