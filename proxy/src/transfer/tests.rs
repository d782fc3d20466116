//! Pieces and links over real sockets.

use std::{
    io,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use darter_api::{
    Digest, Grant, Lengths, NodeKey, PieceDigest, PieceIndex, PieceSet, Proof, Statement, TaskId,
    link::LinkMessage,
    proof::GroupDigest,
    session::{Neighbour, Role},
};
use darter_runtime::{
    Tasks,
    server::{Server, ServerOptions},
    tls::{Connector, Security},
};
use tokio::sync::mpsc;

use super::{
    client::{Rot, Sink, Wanted},
    server::PieceServer,
    *,
};
use crate::{
    limits::{self, Class, Limits, Rates},
    store::{self, Store},
};

mod secured;
mod slow;

struct Parent {
    _dir: tempfile::TempDir,
    store: Store,
    wanted: Wanted,
    tasks: Tasks,
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 7 % 253) as u8).collect()
}

/// A parent that holds pieces 0 and 1 of a content; `spoil` is written over piece 1.
async fn parent(size: usize, spoil: Option<(u64, &[u8])>) -> Parent {
    parent_within(size, spoil, Limits::default()).await
}

async fn parent_within(size: usize, spoil: Option<(u64, &[u8])>, limits: Limits) -> Parent {
    parent_as(size, spoil, limits, &Security::Plain).await
}

async fn parent_as(
    size: usize,
    spoil: Option<(u64, &[u8])>,
    limits: Limits,
    security: &Security,
) -> Parent {
    let task = TaskId::from(Digest::sha256(&content(size)));
    parent_of(task, size, spoil, limits, security).await
}

async fn parent_of(
    task: TaskId,
    size: usize,
    spoil: Option<(u64, &[u8])>,
    limits: Limits,
    security: &Security,
) -> Parent {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(
        dir.path(),
        &store::Options::default(),
        store::Metrics::default(),
    )
    .unwrap();
    let bytes = content(size);
    let lengths = Lengths::of(size as u64).unwrap();
    let partial = store.begin(task, lengths, None, None).unwrap();
    let key = NodeKey::from_seed([1; 32]);
    let grant = Arc::new(Grant::sign(
        &key,
        key.id(),
        task,
        lengths,
        0..lengths.pieces(),
        5,
    ));
    for index in [0, 1]
        .map(PieceIndex)
        .into_iter()
        .take(lengths.pieces() as usize)
    {
        let range = lengths.piece_range(index);
        let piece = &bytes[range.start as usize..range.end as usize];
        partial.write(range.start, piece).unwrap();
        let groups: Vec<GroupDigest> = piece.chunks(64 * 1024).map(GroupDigest::of).collect();
        let statement = Statement::sign(&key, &task, &lengths, index, PieceDigest::of(&groups));
        let proof = Proof {
            grant: Arc::clone(&grant),
            statement,
        };
        let length = piece.len() as u64;
        partial.seal(index, length, &groups, Some(&proof)).unwrap();
    }
    if let Some((offset, bytes)) = spoil {
        partial.write(offset, bytes).unwrap();
    }
    let tasks = Tasks::new();
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let wanted = Wanted {
        address: server.local_addr(),
        task,
        lengths,
        index: PieceIndex(1),
        stall_after: Duration::from_secs(5),
        class: Class::Foreground,
    };
    let router = PieceServer::new(
        store.clone(),
        fair::Slots::new(4, 64),
        limits,
        Metrics::default(),
    )
    .router();
    server.serve("peer", router, &tasks, server_options(security));
    Parent {
        _dir: dir,
        store,
        wanted,
        tasks,
    }
}

#[derive(Default)]
struct Collected(Vec<(u64, Bytes)>);

impl Sink for Collected {
    fn verified(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.push((offset, Bytes::copy_from_slice(bytes)));
        Ok(())
    }
}

fn client() -> PieceClient {
    PieceClient::new(
        NodeKey::from_seed([2; 32]).id(),
        Connector::plain(),
        Limits::default(),
    )
}

#[tokio::test]
async fn a_piece_comes_with_its_proof() {
    let parent = parent(700_000, None).await;
    let mut sink = Collected::default();
    let fetched = client()
        .fetch(&parent.wanted, |_| true, &mut sink)
        .await
        .unwrap();
    let got: Vec<u8> = sink
        .0
        .iter()
        .flat_map(|(_, bytes)| bytes.to_vec())
        .collect();
    assert_eq!(got, content(700_000)[262_144..524_288]);
    assert_eq!(sink.0[1].0, 262_144 + 65_536);
    assert!(fetched.proof.is_some());
    assert_eq!(fetched.bytes, 262_144);
    let refused = client()
        .fetch(&parent.wanted, |grant| !grant.is_self_lease(), &mut sink)
        .await;
    assert!(
        matches!(refused, Err(FetchError::Rot(Rot::Proof(_)))),
        "{refused:?}"
    );
    parent.tasks.stop(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn rot_is_caught_in_its_group() {
    let parent = parent(700_000, Some((262_144 + 2 * 65_536 + 77, b"rot"))).await;
    let mut sink = Collected::default();
    let rotten = client().fetch(&parent.wanted, |_| true, &mut sink).await;
    assert!(
        matches!(rotten, Err(FetchError::Rot(Rot::Group(2)))),
        "{rotten:?}"
    );
    assert_eq!(sink.0.len(), 2, "only what was verified left");
}

#[tokio::test]
async fn a_small_content_is_proved_by_its_own_digest() {
    let good = parent(1000, None).await;
    let wanted = Wanted {
        index: PieceIndex(0),
        ..good.wanted
    };
    let mut sink = Collected::default();
    assert!(
        client()
            .fetch(&wanted, |_| false, &mut sink)
            .await
            .unwrap()
            .proof
            .is_none()
    );
    assert_eq!(sink.0[0].1, content(1000));
    let bad = parent(1000, Some((500, b"rot"))).await;
    let wanted = Wanted {
        index: PieceIndex(0),
        ..bad.wanted
    };
    let mut sink = Collected::default();
    let rotten = client().fetch(&wanted, |_| true, &mut sink).await;
    assert!(
        matches!(rotten, Err(FetchError::Rot(Rot::Content))),
        "{rotten:?}"
    );
    assert!(sink.0.is_empty());
}

#[tokio::test]
async fn a_small_file_is_proved_by_a_statement() {
    let task = TaskId::of_file(b"http://h/f 1000 etag \"a\"");
    let parent = |spoil| parent_of(task, 100_000, spoil, Limits::default(), &Security::Plain);
    let good = parent(None).await;
    let wanted = Wanted {
        index: PieceIndex(0),
        ..good.wanted
    };
    let mut sink = Collected::default();
    let fetched = client().fetch(&wanted, |_| true, &mut sink).await.unwrap();
    assert!(fetched.proof.is_some() && fetched.groups.len() == 2);
    assert_eq!(sink.0.len(), 2);
    let refused = client().fetch(&wanted, |_| false, &mut sink).await;
    assert!(
        matches!(refused, Err(FetchError::Rot(Rot::Proof(_)))),
        "{refused:?}"
    );
    let bad = parent(Some((70_000, b"rot"))).await;
    let wanted = Wanted {
        index: PieceIndex(0),
        ..bad.wanted
    };
    let rotten = client().fetch(&wanted, |_| true, &mut sink).await;
    assert!(
        matches!(rotten, Err(FetchError::Rot(Rot::Group(1)))),
        "{rotten:?}"
    );
}

/// One child asks for twelve pieces at a time on as many connections, the other for four.
#[tokio::test]
async fn a_greedy_child_gets_no_more_than_another() {
    // Less than any machine sends: what they share is the rate.
    let rates = Rates {
        upload: NonZeroU64::new(4 << 20),
        ..Rates::default()
    };
    let limits = Limits::new(rates, limits::Metrics::default());
    let parent = parent_within(700_000, None, limits).await;
    let pieces = [AtomicU32::new(0), AtomicU32::new(0)];
    let pull = |child: usize| {
        let key = NodeKey::from_seed([child as u8 + 2; 32]);
        let client = PieceClient::new(key.id(), Connector::plain(), Limits::default());
        let (wanted, pieces) = (&parent.wanted, &pieces);
        async move {
            while pieces[0].load(Ordering::Relaxed) < 40 {
                let mut sink = Collected::default();
                client.fetch(wanted, |_| true, &mut sink).await.unwrap();
                pieces[child].fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let all = [0; 12].into_iter().chain([1; 4]).map(pull);
    futures::future::join_all(all).await;
    let [greedy, modest] = pieces.map(AtomicU32::into_inner);
    println!("{greedy} and {modest} pieces");
    assert!(modest * 3 >= greedy * 2, "{modest} beside {greedy}");
    parent.tasks.stop(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn what_is_not_there_is_said_so() {
    let parent = parent(700_000, None).await;
    let mut sink = Collected::default();
    let missing = Wanted {
        index: PieceIndex(2),
        ..parent.wanted
    };
    assert!(matches!(
        client().fetch(&missing, |_| true, &mut sink).await,
        Err(FetchError::NotHeld(_))
    ));
    let other = Wanted {
        lengths: Lengths::of(700_001).unwrap(),
        ..parent.wanted
    };
    assert!(matches!(
        client().fetch(&other, |_| true, &mut sink).await,
        Err(FetchError::NotHeld(_))
    ));
    let nobody = Wanted {
        address: "127.0.0.1:1".parse().unwrap(),
        ..parent.wanted
    };
    assert!(matches!(
        client().fetch(&nobody, |_| true, &mut sink).await,
        Err(FetchError::Unreachable(_))
    ));
    assert!(
        parent
            .store
            .piece(&parent.wanted.task, PieceIndex(1))
            .unwrap()
            .is_some()
    );
}

struct End {
    links: Links,
    events: mpsc::Receiver<LinkEvent>,
    neighbour: Neighbour,
    tasks: Tasks,
}

fn server_options(security: &Security) -> ServerOptions {
    ServerOptions {
        tls: security.acceptor(),
        ..ServerOptions::default()
    }
}

async fn end(seed: u8) -> End {
    end_as(seed, &Security::Plain).await
}

async fn end_as(seed: u8, security: &Security) -> End {
    end_with(seed, security, 100).await
}

async fn end_with(seed: u8, security: &Security, most: usize) -> End {
    let key = Arc::new(NodeKey::from_seed([seed; 32]));
    let (sender, events) = mpsc::channel(100);
    let tasks = Tasks::new();
    let links = Links::bounded(
        Arc::clone(&key),
        security.connector(),
        sender,
        tasks.clone(),
        Metrics::default(),
        most,
    );
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let neighbour = Neighbour {
        host: key.id(),
        address: server.local_addr(),
        role: Role::Peer,
    };
    let router = tonic::service::Routes::new(links.service()).into_axum_router();
    server.serve("peer", router, &tasks, server_options(security));
    End {
        links,
        events,
        neighbour,
        tasks,
    }
}

async fn expect(end: &mut End, wanted: LinkEvent) {
    let wait = async {
        loop {
            let event = end.events.recv().await.unwrap();
            if event == wanted {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .unwrap_or_else(|_| panic!("no {wanted:?}"));
}

#[tokio::test]
async fn two_hosts_that_dial_at_once_have_one_link() {
    let (mut one, mut two) = (end(1).await, end(2).await);
    one.links.dial(&two.neighbour);
    two.links.dial(&one.neighbour);
    expect(&mut one, LinkEvent::Up(two.neighbour.host)).await;
    expect(&mut two, LinkEvent::Up(one.neighbour.host)).await;
    let message = LinkMessage::Have {
        task: TaskId::from(Digest::sha256(b"x")),
        pieces: PieceSet::from_range(0..3),
    };
    one.links.send(&two.neighbour.host, &message);
    expect(
        &mut two,
        LinkEvent::Message(one.neighbour.host, message.clone()),
    )
    .await;
    two.links.send(&one.neighbour.host, &message);
    expect(&mut one, LinkEvent::Message(two.neighbour.host, message)).await;
    two.tasks.stop(Duration::from_secs(60)).await;
    expect(&mut one, LinkEvent::Down(two.neighbour.host)).await;
}

#[tokio::test]
async fn who_is_not_there_or_somebody_else_is_no_link() {
    let (mut one, two) = (end(1).await, end(2).await);
    let impostor = Neighbour {
        host: NodeKey::from_seed([9; 32]).id(),
        ..two.neighbour.clone()
    };
    one.links.dial(&impostor);
    expect(&mut one, LinkEvent::Down(impostor.host)).await;
    let gone = Neighbour {
        address: "127.0.0.1:1".parse().unwrap(),
        ..two.neighbour
    };
    one.links.dial(&gone);
    expect(&mut one, LinkEvent::Down(gone.host)).await;
}

#[tokio::test]
async fn one_link_too_many_is_said_at_both_ends() {
    let mut full = end_with(1, &Security::Plain, 1).await;
    let (mut two, mut three) = (end(2).await, end(3).await);
    full.links.dial(&two.neighbour);
    expect(&mut full, LinkEvent::Up(two.neighbour.host)).await;
    expect(&mut two, LinkEvent::Up(full.neighbour.host)).await;
    full.links.dial(&three.neighbour);
    expect(&mut full, LinkEvent::Down(three.neighbour.host)).await;
    three.links.dial(&full.neighbour);
    expect(&mut three, LinkEvent::Down(full.neighbour.host)).await;
    let message = LinkMessage::Have {
        task: TaskId::from(Digest::sha256(b"x")),
        pieces: PieceSet::from_range(0..3),
    };
    two.links.send(&full.neighbour.host, &message);
    expect(&mut full, LinkEvent::Message(two.neighbour.host, message)).await;
}
