//! Contents whose size no source tells.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use darter_api::{
    Grant, Lengths, PieceIndex, TaskId,
    lengths::OPEN_PIECE_BYTES,
    session::{PeerMessage, SchedulerMessage},
};
use futures::StreamExt as _;
use tempfile::{TempDir, tempdir};

use super::{
    host::{Host, Scheduler, read, until},
    origin::{Fault, TestSource, content, task_of},
    peers::{introduce, scheduler, welcome},
};
use crate::{
    content::{Content, ReadError, Sizing},
    store::tests::disk::SmallDisk,
};

pub(super) const PIECE: usize = OPEN_PIECE_BYTES as usize;
/// Its last piece is short.
pub(super) const SIZE: usize = 5 * PIECE + 123_456;

pub(super) fn source(contents: impl IntoIterator<Item = Bytes>) -> Arc<TestSource> {
    Arc::new(TestSource::new(contents).without_sizes())
}

/// Hosts whose scheduler knows no size.
pub(super) struct Lab {
    pub(super) task: TaskId,
    pub(super) hosts: Vec<Host>,
    _dirs: Vec<TempDir>,
}

impl Lab {
    pub(super) async fn new(task: TaskId, source: &Arc<TestSource>, hosts: u8) -> Self {
        let mut lab = Self {
            task,
            hosts: Vec::new(),
            _dirs: Vec::new(),
        };
        for seed in 1..=hosts {
            let dir = tempdir().unwrap();
            let host = Host::start(dir.path(), source, seed, Scheduler::Test).await;
            welcome(&host).await;
            lab.hosts.push(host);
            lab._dirs.push(dir);
        }
        lab
    }

    /// A client's content, of which the scheduler knows no size.
    pub(super) async fn open(&self, host: usize) -> Content {
        let (host, task) = (&self.hosts[host], self.task);
        let asked = async {
            host.has_said(&PeerMessage::SizeWanted { task }).await;
            let size = None;
            host.hears(SchedulerMessage::Size { task, size }).await;
        };
        let (content, ()) = tokio::join!(host.open(task), asked);
        content.unwrap()
    }

    /// Another one's, while the first one is there.
    pub(super) async fn open_joined(&self, host: usize) -> Content {
        self.hosts[host].open(self.task.opened()).await.unwrap()
    }

    pub(super) async fn introduce_all(&self) {
        for host in &self.hosts {
            let others = self.hosts.iter().filter(|other| other.id() != host.id());
            introduce(host, self.task.opened(), &others.collect::<Vec<_>>()).await;
        }
    }

    /// The right to read all that is still to come.
    pub(super) async fn grant(&self, host: usize) {
        let (host, lengths) = (&self.hosts[host], Lengths::open());
        let (task, pieces) = (self.task.opened(), 0..lengths.pieces());
        let grant = Grant::sign(&scheduler(), host.id(), task, lengths, pieces, 1);
        host.hears(SchedulerMessage::Grant(grant)).await;
    }

    pub(super) async fn is_stored(&self, host: usize) {
        let store = &self.hosts[host].store;
        until("it is committed", || store.whole(&self.task).is_some()).await;
    }

    pub(super) async fn stop(self) {
        for host in self.hosts {
            host.stop().await;
        }
    }
}

#[tokio::test]
async fn it_is_stored_like_any_other() {
    let sizes = [1, 65_537, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, SIZE];
    let contents = sizes.map(|size| content(size, size as u64));
    let (source, dir) = (source(contents.clone()), tempdir().unwrap());
    let host = Host::alone(dir.path(), &source).await;
    for bytes in &contents {
        let task = task_of(bytes);
        assert!(host.pull(task).await.unwrap() == bytes, "{}", bytes.len());
        until("it is committed", || host.store.whole(&task).is_some()).await;
        let lengths = Lengths::of(bytes.len() as u64).unwrap();
        let last = PieceIndex(lengths.pieces() - 1);
        let piece = host.store.piece(&task, last).unwrap().unwrap();
        assert!(task.proves_itself(&lengths) || piece.proof().is_some());
        assert!(host.pull(task).await.unwrap() == bytes, "from the store");
    }
    assert_eq!(source.reads(), vec![None; 7]);
    let all: usize = sizes.iter().sum();
    // What was asked for and not needed is given back behind the commit.
    let used = || host.store.usage().0 == all as u64;
    until("no more room is taken", used).await;
    host.stop().await;
    // Whole contents last; what they were before is gone.
    let nothing = Arc::new(TestSource::new([]));
    let host = Host::alone(dir.path(), &nothing).await;
    assert!(host.store.scrub(&task_of(&contents[6])));
    assert!(host.pull(task_of(&contents[6])).await.unwrap() == contents[6]);
    host.stop().await;
}

#[tokio::test]
async fn a_client_has_it_as_it_comes_but_for_the_end() {
    let bytes = content(SIZE, 40);
    let (source, dir) = (source([bytes.clone()]), tempdir().unwrap());
    source.fault(Fault::Stall(2_000_000));
    let host = Host::alone(dir.path(), &source).await;
    let content = host.open(task_of(&bytes)).await.unwrap();
    assert_eq!(content.size, None);
    let mut stream = content.reader.read(content.all());
    let mut got = Vec::new();
    while got.len() < 1_900_000 {
        got.extend_from_slice(&stream.next().await.unwrap().unwrap());
    }
    assert!(got.len() <= 2_000_000 - 65_536, "{}", got.len());
    let soon = Sizing::Within(Duration::from_millis(10));
    let unsized_yet = host.open_for_size(task_of(&bytes), soon).await.unwrap();
    assert_eq!(unsized_yet.size, None, "who can do without goes on");
    let sized = host.open_for_size(task_of(&bytes), Sizing::Needed);
    let rest = async {
        source.flowing.send_replace(true);
        while let Some(item) = stream.next().await {
            got.extend_from_slice(&item.unwrap());
        }
    };
    let (sized, ()) = tokio::join!(sized, rest);
    assert!(got == bytes);
    assert_eq!(sized.unwrap().size, Some(SIZE as u64), "who waits for it");
    assert_eq!(source.reads(), [None]);
    drop((content, unsized_yet, stream));
    host.stop().await;
}

#[tokio::test]
async fn pieces_spread_while_one_host_still_reads() {
    let bytes = content(SIZE, 41);
    let source = source([bytes.clone()]);
    let half = 3 * PIECE + 100_000;
    source.fault(Fault::Stall(half as u64));
    let lab = Lab::new(task_of(&bytes), &source, 3).await;
    let contents = tokio::join!(lab.open(0), lab.open(1), lab.open(2));
    lab.introduce_all().await;
    lab.grant(0).await;
    let spread = async {
        for child in [1, 2] {
            let came = || lab.hosts[child].swarm.totals().1 >= 3 * PIECE as u64;
            until("all pieces that there are have come", came).await;
        }
        assert!(source.sent() <= half as u64, "the reader is not at the end");
        source.flowing.send_replace(true);
    };
    let (a, b, c) = (read(&contents.0), read(&contents.1), read(&contents.2));
    let ((a, _), (b, _), (c, _), ()) = tokio::join!(a, b, c, spread);
    for got in [a, b, c] {
        assert!(got.unwrap() == bytes);
    }
    assert_eq!(source.reads(), [None], "one copy");
    assert_eq!(source.sent(), SIZE as u64);
    for host in 0..3 {
        lab.is_stored(host).await;
        let task = lab.task.opened();
        lab.hosts[host].has_said(&PeerMessage::Done { task }).await;
    }
    assert_eq!(lab.hosts[0].swarm.totals().0, SIZE as u64);
    drop(contents);
    lab.stop().await;
}

#[tokio::test]
async fn who_is_behind_gets_it_from_those_who_have_all_of_it() {
    let bytes = content(SIZE, 42);
    let source = source([bytes.clone()]);
    let lab = Lab::new(task_of(&bytes), &source, 2).await;
    let contents = tokio::join!(lab.open(0), lab.open(1));
    lab.grant(0).await;
    assert!(read(&contents.0).await.0.unwrap() == bytes);
    lab.is_stored(0).await;
    // The other one has not heard that it has a size by now.
    lab.introduce_all().await;
    assert!(read(&contents.1).await.0.unwrap() == bytes);
    assert_eq!(source.reads(), [None]);
    drop(contents);
    lab.stop().await;
}

#[tokio::test]
async fn another_host_goes_on_for_a_reader_that_dies() {
    let bytes = content(SIZE, 43);
    let source = source([bytes.clone()]);
    source.fault(Fault::Stall(3 * PIECE as u64 + 100_000));
    let mut lab = Lab::new(task_of(&bytes), &source, 3).await;
    let (held, one, two) = tokio::join!(lab.open(0), lab.open(1), lab.open(2));
    lab.introduce_all().await;
    lab.grant(0).await;
    let came = |child: &Host| child.swarm.totals().1 >= 3 * PIECE as u64;
    let (mut first, mut second) = (one.reader.read(one.all()), two.reader.read(two.all()));
    let (mut a, mut b) = (Vec::new(), Vec::new());
    a.extend_from_slice(&first.next().await.unwrap().unwrap());
    b.extend_from_slice(&second.next().await.unwrap().unwrap());
    until("three pieces came", || {
        came(&lab.hosts[1]) && came(&lab.hosts[2])
    })
    .await;
    drop(held);
    let reader = lab.hosts.remove(0);
    let gone = vec![reader.id()];
    reader.stop().await;
    for host in &lab.hosts {
        host.hears(SchedulerMessage::Neighbours {
            task: lab.task.opened(),
            add: Vec::new(),
            remove: gone.clone(),
        })
        .await;
    }
    lab.grant(0).await;
    let rest = |mut stream: futures::stream::BoxStream<'static, _>| async move {
        let mut rest = Vec::new();
        while let Some(item) = stream.next().await {
            let item: Result<Bytes, ReadError> = item;
            rest.extend_from_slice(&item.unwrap());
        }
        rest
    };
    let (rest_a, rest_b) = tokio::join!(rest(first), rest(second));
    assert!([a, rest_a].concat() == bytes && [b, rest_b].concat() == bytes);
    let reads = source.reads();
    let [None, Some(range)] = &reads[..] else {
        panic!("read once more: {reads:?}");
    };
    assert_eq!(range.start, 3 * OPEN_PIECE_BYTES - 1, "only the rest");
    drop((one, two));
    lab.stop().await;
}

#[tokio::test]
async fn a_body_that_is_cut_is_not_taken_for_its_end() {
    // In the middle of a piece, and where one ends.
    for (cut, seed) in [(2_345_678, 44), (2 * PIECE as u64, 45)] {
        let bytes = content(SIZE, seed);
        let (source, dir) = (source([bytes.clone()]), tempdir().unwrap());
        source.fault(Fault::Cut(cut));
        let host = Host::alone(dir.path(), &source).await;
        assert!(host.pull(task_of(&bytes)).await.unwrap() == bytes);
        let reads = source.reads();
        let [None, Some(rest)] = &reads[..] else {
            panic!("it is gone on with: {reads:?}");
        };
        assert_eq!(rest.start, cut - 1);
        host.stop().await;
    }
}

#[tokio::test]
async fn what_is_not_its_digests_is_given_whole_to_nobody() {
    let bytes = content(SIZE, 46);
    let source = source([bytes.clone()]);
    for _ in 0..8 {
        source.fault(Fault::Wrong(SIZE - 5));
    }
    let lab = Lab::new(task_of(&bytes), &source, 2).await;
    let contents = tokio::join!(lab.open(0), lab.open(1));
    lab.introduce_all().await;
    lab.grant(0).await;
    let task = lab.task.opened();
    let refused = async {
        let returned = |message: &PeerMessage| matches!(message, PeerMessage::LeaseReturned { task: one, .. } if *one == task);
        lab.hosts[0].has_said_such(returned).await;
        for host in &lab.hosts {
            host.hears(SchedulerMessage::Unavailable {
                task,
                why: darter_api::session::LeaseEnd::Unreachable,
                forbidden: false,
            })
            .await;
        }
    };
    let (a, b) = (read(&contents.0), read(&contents.1));
    let ((a, given), (b, passed), ()) = tokio::join!(a, b, refused);
    assert!(a.is_err() && b.is_err(), "{a:?} {b:?}");
    assert!(given <= SIZE - 65_536 && passed <= SIZE - 65_536);
    for host in &lab.hosts {
        assert!(host.store.whole(&lab.task).is_none());
    }
    drop(contents);
    lab.stop().await;
}

#[tokio::test]
async fn what_has_no_end_evicts_little_and_is_passed_on_all_the_same() {
    let small: Vec<Bytes> = (0..6).map(|seed| content(1_000_000, 100 + seed)).collect();
    let bytes = content(20_000_000, 47);
    let all = small.iter().cloned().chain([bytes.clone()]);
    let (source, dir) = (source(all), tempdir().unwrap());
    let host = Host::bounded(dir.path(), &source, 8_000_000).await;
    for bytes in &small {
        let task = task_of(bytes);
        assert!(host.pull(task).await.unwrap() == bytes);
        until("it is committed", || host.store.whole(&task).is_some()).await;
    }
    assert!(host.pull(task_of(&bytes)).await.unwrap() == bytes);
    let (used, _) = host.store.usage();
    assert!(used <= 8_000_000, "{used}");
    for bytes in &small {
        assert!(
            host.store.whole(&task_of(bytes)).is_some(),
            "it is still here"
        );
    }
    assert!(!host.store.is_closed(), "others are stored");
    let reads = source.reads();
    assert_eq!(reads.len(), small.len() + 2, "{reads:?}");
    assert!(
        matches!(&reads[small.len() + 1], Some(rest) if rest.start > 1_000_000),
        "{reads:?}"
    );
    host.stop().await;
}

#[tokio::test]
async fn a_store_without_room_costs_its_clients_nothing() {
    let bytes = content(3_000_001, 48);
    let task = task_of(&bytes);
    let (source, dir) = (source([bytes.clone()]), tempdir().unwrap());
    let host = Host::bounded(dir.path(), &source, 1_000_000).await;
    let (one, two) = tokio::join!(host.pull(task), host.pull(task));
    assert!(one.unwrap() == bytes && two.unwrap() == bytes);
    host.swarm.pretend_full();
    assert!(host.pull(task).await.unwrap() == bytes);
    let sized = host.open_for_size(task, Sizing::Needed).await;
    assert!(sized.is_err(), "nobody knows how large it is");
    let soon = Sizing::Within(Duration::from_secs(60));
    let content = host.open_for_size(task, soon).await.unwrap();
    assert!(read(&content).await.0.unwrap() == bytes, "without a size");
    // The end of what is passed on is held back until all of it is right.
    source.fault(Fault::Wrong(2_999_999));
    let content = host.open(task).await.unwrap();
    let (wrong, given) = read(&content).await;
    assert!(matches!(wrong, Err(ReadError::Corrupt)), "{wrong:?}");
    assert!(given <= bytes.len() - 65_536, "{given}");
    drop(content);
    host.stop().await;
}

#[tokio::test]
async fn a_disk_that_fills_up_in_mid_blob_costs_its_reader_nothing() {
    let Some(disk) = SmallDisk::mount(16 << 20) else {
        return;
    };
    let bytes = content(SIZE, 49);
    let source = source([bytes.clone()]);
    source.fault(Fault::Stall(1_500_000));
    let host = Host::alone(disk.path(), &source).await;
    let content = host.open(task_of(&bytes)).await.unwrap();
    let mut stream = content.reader.read(content.all());
    let mut got = Vec::new();
    while got.len() < 1_400_000 {
        got.extend_from_slice(&stream.next().await.unwrap().unwrap());
    }
    disk.fill();
    source.flowing.send_replace(true);
    while let Some(item) = stream.next().await {
        got.extend_from_slice(&item.unwrap());
    }
    assert!(got == bytes);
    drop((content, stream));
    host.stop().await;
}
