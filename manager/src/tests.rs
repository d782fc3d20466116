//! A manager and its clients over real sockets.

use std::{net::SocketAddr, path::Path, time::Duration};

use darter_api::{
    Member, MemberKind, NodeKey, Place,
    wire::v1::{self, manager_client::ManagerClient},
};

use darter_runtime::{
    Tasks, configuration,
    membership::{follow_schedulers, keep_alive, list_schedulers},
    tls::{Connector, Security},
};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{Manager, Options, StartError};

/// Whoever waits in vain fails after this: enough for the slowest machine.
const LIMIT: Duration = Duration::from_secs(120);
/// Between beats, where nobody is to be missed: a slow machine delays none of them three times so long.
const BEATS: Duration = Duration::from_secs(20);

struct Bench {
    manager: Manager,
    tasks: Tasks,
    registry: Registry,
}

impl Bench {
    async fn start(dir: &Path, keep_alive: Duration) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::start_at(dir, keep_alive, any).await
    }

    async fn start_at(dir: &Path, keep_alive: Duration, grpc: SocketAddr) -> Self {
        let options = Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            grpc,
            data: dir.join("manager"),
            keep_alive,
            ..Options::default()
        };
        let (tasks, mut registry) = (Tasks::new(), Registry::default());
        let manager = Manager::start(options, &Security::Plain, &tasks, &mut registry).await;
        Self {
            manager: manager.unwrap_or_else(|cause| panic!("{cause:?}")),
            tasks,
            registry,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.manager.grpc())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let mut socket = TcpStream::connect(self.manager.rest()).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        socket.read_to_string(&mut reply).await.unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {reply}"));
        (status, body)
    }

    /// When a seed was seen last.
    async fn seen_at(&self) -> Value {
        let (_, seeds) = self.get("/api/v1/seed-peers").await;
        seeds[0]["seen_at"].clone()
    }

    /// Names of the active seeds.
    async fn seeds(&self) -> Vec<String> {
        let (_, seeds) = self.get("/api/v1/seed-peers?active=true").await;
        let names = seeds.as_array().unwrap().iter();
        names
            .map(|seed| seed["name"].as_str().unwrap().to_owned())
            .collect()
    }

    async fn stop(self) {
        assert!(self.tasks.stop(LIMIT).await);
    }
}

fn member(kind: MemberKind, seed: u8) -> Member {
    Member {
        kind,
        host: NodeKey::from_seed([seed; 32]).id(),
        address: match kind {
            MemberKind::Scheduler => format!("http://10.0.0.{seed}:8002"),
            MemberKind::SeedPeer => format!("10.0.0.{seed}:4000"),
        },
        version: "0.1.0".to_owned(),
        place: Place {
            name: format!("member-{seed}"),
            ..Place::default()
        },
    }
}

fn anywhere() -> Place {
    Place::default()
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let poll = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let done = tokio::time::timeout(LIMIT, poll).await;
    assert!(done.is_ok(), "waited for {what}");
}

#[tokio::test]
async fn members_are_shown_while_they_live() {
    let dir = tempfile::tempdir().unwrap();
    // What makes a member inactive here is its stream's end.
    let bench = Bench::start(dir.path(), BEATS).await;
    assert_eq!(bench.get("/api/v1/schedulers").await, (200, json!([])));
    assert_eq!(
        list_schedulers(&bench.url(), &anywhere(), &Connector::plain())
            .await
            .unwrap()
            .urls,
        [""; 0]
    );

    let (scheduler, seed) = (Tasks::new(), Tasks::new());
    keep_alive(
        bench.url(),
        member(MemberKind::Scheduler, 1),
        Connector::plain(),
        &scheduler,
    );
    keep_alive(
        bench.url(),
        member(MemberKind::SeedPeer, 2),
        Connector::plain(),
        &seed,
    );
    eventually("the seed", || async { bench.seeds().await == ["member-2"] }).await;
    eventually("the scheduler", || async {
        list_schedulers(&bench.url(), &anywhere(), &Connector::plain())
            .await
            .unwrap()
            .urls
            == ["http://10.0.0.1:8002"]
    })
    .await;
    let (status, list) = bench.get("/api/v1/schedulers").await;
    let host = member(MemberKind::Scheduler, 1).host.to_string();
    let seen_at = list[0]["seen_at"].clone();
    assert!(seen_at.as_str().unwrap().ends_with('Z'), "{seen_at}");
    let wanted = json!([{
        "host": host, "name": "member-1", "address": "http://10.0.0.1:8002",
        "version": "0.1.0", "cluster": "default", "active": true, "seen_at": seen_at,
    }]);
    assert_eq!((status, list), (200, wanted));

    assert!(seed.stop(LIMIT).await);
    eventually("the seed's end", || async {
        bench.seeds().await.is_empty()
    })
    .await;
    let (_, inactive) = bench.get("/api/v1/seed-peers?active=false").await;
    assert_eq!(inactive[0]["name"], "member-2");
    let (_, all) = bench.get("/api/v1/seed-peers").await;
    assert_eq!(all.as_array().unwrap().len(), 1);
    assert!(scheduler.stop(LIMIT).await);
    bench.stop().await;
}

#[tokio::test]
async fn answers_are_json_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start(dir.path(), Duration::from_secs(2)).await;
    assert_eq!(bench.get("/healthy").await, (200, json!({"status": "ok"})));
    let (status, body) = bench.get("/api/v1/nothing").await;
    assert!(
        status == 404 && body["detail"].is_string(),
        "{status} {body}"
    );
    let (status, body) = bench.get("/api/v1/schedulers?active=maybe").await;
    assert!(
        status == 400 && body["detail"].is_string(),
        "{status} {body}"
    );
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &bench.registry).unwrap();
    for line in [
        "requests_total{route=\"/healthy\",status=\"200\"} 1",
        "requests_total{route=\"other\",status=\"404\"} 1",
        "requests_total{route=\"/api/v1/schedulers\",status=\"400\"} 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    bench.stop().await;
}

/// The status that ends a stream of these beats.
async fn refusal(bench: &Bench, beats: Vec<v1::Beat>) -> tonic::Status {
    let mut client = ManagerClient::connect(bench.url()).await.unwrap();
    let (sender, receiver) = mpsc::channel(8);
    for beat in beats {
        sender.try_send(beat).unwrap();
    }
    let replies = client.keep_alive(ReceiverStream::new(receiver)).await;
    let mut replies = replies.unwrap().into_inner();
    loop {
        let reply = tokio::time::timeout(LIMIT, replies.message())
            .await
            .unwrap();
        match reply {
            Ok(reply) => assert!(reply.is_some(), "the stream ended without a refusal"),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn nonsense_is_refused_and_silence_ends() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start(dir.path(), Duration::from_millis(50)).await;
    let good = v1::Beat::from(&member(MemberKind::SeedPeer, 1));
    let nowhere = v1::Beat {
        address: "http://x".to_owned(),
        ..good.clone()
    };
    let status = refusal(&bench, vec![nowhere]).await;
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().contains("address"), "{status}");
    assert_eq!(bench.get("/api/v1/seed-peers").await.1, json!([]));

    let other = v1::Beat::from(&member(MemberKind::SeedPeer, 2));
    let status = refusal(&bench, vec![good.clone(), other]).await;
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let status = refusal(&bench, vec![good.clone()]).await;
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    eventually("silence to count", || async {
        bench.seeds().await.is_empty()
    })
    .await;
    bench.stop().await;
}

#[tokio::test]
async fn of_two_who_say_that_they_are_the_same_the_newer_one_speaks() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start(dir.path(), BEATS).await;
    let good = v1::Beat::from(&member(MemberKind::SeedPeer, 1));
    let (sender, receiver) = mpsc::channel(8);
    let mut client = ManagerClient::connect(bench.url()).await.unwrap();
    let replies = client.keep_alive(ReceiverStream::new(receiver)).await;
    let mut replies = replies.unwrap().into_inner();
    sender.try_send(good.clone()).unwrap();
    replies.message().await.unwrap().unwrap();
    let newer = Tasks::new();
    keep_alive(
        bench.url(),
        member(MemberKind::SeedPeer, 1),
        Connector::plain(),
        &newer,
    );
    let superseded = async {
        loop {
            let _ = sender.send(good.clone()).await;
            match replies.message().await {
                Ok(Some(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                ended => return ended.map(|_| ()),
            }
        }
    };
    let ended = tokio::time::timeout(LIMIT, superseded).await.unwrap();
    assert_eq!(ended.unwrap_err().code(), tonic::Code::Aborted);
    assert_eq!(bench.seeds().await, ["member-1"]);
    assert!(newer.stop(LIMIT).await);
    bench.stop().await;
}

#[tokio::test]
async fn members_and_followers_outlive_a_manager() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start(dir.path(), BEATS).await;
    let (url, grpc) = (bench.url(), bench.manager.grpc());
    let clients = Tasks::new();
    keep_alive(
        url.clone(),
        member(MemberKind::SeedPeer, 1),
        Connector::plain(),
        &clients,
    );
    keep_alive(
        url.clone(),
        member(MemberKind::Scheduler, 2),
        Connector::plain(),
        &clients,
    );
    eventually("the seed", || async { bench.seeds().await == ["member-1"] }).await;
    eventually("the scheduler", || async {
        !list_schedulers(&url, &anywhere(), &Connector::plain())
            .await
            .unwrap()
            .urls
            .is_empty()
    })
    .await;
    let follow = async |node: &str| {
        let data = dir.path().join(node);
        std::fs::create_dir_all(&data).unwrap();
        let plain = Connector::plain();
        let followed = follow_schedulers(url.clone(), anywhere(), &data, &plain, &clients);
        followed.await.unwrap()
    };
    let followed = follow("node").await;
    assert_eq!(*followed.borrow(), ["http://10.0.0.2:8002"]);
    // The list is kept behind the first answer's back.
    let kept = dir.path().join("node/schedulers.json");
    eventually("the list to be kept", || async { kept.exists() }).await;
    let seen_at = bench.seen_at().await;
    bench.stop().await;

    // Nobody is there: everybody goes on.
    let nobody = follow("newcomer").await;
    assert_eq!(*nobody.borrow(), [""; 0]);
    let restarted = follow("node").await;
    assert_eq!(*restarted.borrow(), ["http://10.0.0.2:8002"]);
    assert!(
        list_schedulers(&url, &anywhere(), &Connector::plain())
            .await
            .is_err()
    );
    assert_eq!(*followed.borrow(), ["http://10.0.0.2:8002"]);

    let bench = Bench::start_at(dir.path(), BEATS, grpc).await;
    eventually("the seed's next beat", || async {
        bench.seen_at().await != seen_at
    })
    .await;
    assert_eq!(bench.seeds().await, ["member-1"]);
    // Who found nobody at first finds the scheduler later.
    let mut nobody = nobody;
    tokio::time::timeout(LIMIT, nobody.changed())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(*nobody.borrow(), ["http://10.0.0.2:8002"]);
    assert!(clients.stop(LIMIT).await);
    bench.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let start = async |options: Options| {
        let options = Options {
            data: dir.path().to_owned(),
            ..options
        };
        let (tasks, mut registry) = (Tasks::new(), Registry::default());
        Manager::start(options, &Security::Plain, &tasks, &mut registry)
            .await
            .unwrap_err()
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let base = Options {
        listen: any,
        grpc: any,
        ..Options::default()
    };
    let open = SocketAddr::from(([0, 0, 0, 0], 0));
    let error = start(Options {
        grpc: open,
        ..base.clone()
    })
    .await;
    assert!(matches!(error, StartError::PlainText(_)), "{error:?}");
    let error = start(Options {
        keep_alive: Duration::ZERO,
        ..base.clone()
    })
    .await;
    assert!(matches!(error, StartError::KeepAlive(_)), "{error:?}");
    std::fs::create_dir(dir.path().join("manager.db")).unwrap();
    let error = start(base).await;
    assert!(matches!(error, StartError::Database(_)), "{error:?}");
}

#[tokio::test]
async fn what_is_set_reaches_nodes_and_outlives_the_manager() {
    let dir = tempfile::tempdir().unwrap();
    let node = tempfile::tempdir().unwrap();
    let bench = Bench::start(dir.path(), Duration::from_secs(2)).await;
    let (url, grpc) = (bench.url(), bench.manager.grpc());
    let tasks = Tasks::new();
    let follow = |tasks: &Tasks| {
        let asking = configuration::Node {
            host: NodeKey::from_seed([1; 32]).id(),
            kind: configuration::Kind::Peer,
            place: anywhere(),
        };
        let (data, connector) = (node.path(), Connector::plain());
        let mut registry = Registry::default();
        configuration::follow(&url, &asking, data, &connector, tasks, &mut registry).unwrap()
    };
    let mut set = follow(&tasks);
    assert_eq!(set.borrow().version, 0);
    let upload = async |bench: &Bench, rate: u64, version| {
        let body = json!({"peers": {"upload": rate}, "seeds": {"upload": 0}}).to_string();
        let request = format!(
            "PUT /api/v1/settings HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-type: application/json\r\nif-match: \"{version}\"\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut socket = TcpStream::connect(bench.manager.rest()).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        socket.read_to_string(&mut reply).await.unwrap();
        reply.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(upload(&bench, 1 << 20, 0).await, "200");
    assert_eq!(
        upload(&bench, 1 << 21, 0).await,
        "412",
        "somebody was faster"
    );
    assert_eq!(upload(&bench, 1, 1).await, "400");
    let arrives = set.wait_for(|set| set.peer.rates.upload == Some(1 << 20));
    tokio::time::timeout(LIMIT, arrives).await.unwrap().unwrap();
    assert!(tasks.stop(LIMIT).await);
    bench.stop().await;

    // A node that starts without its manager has what was set last.
    let tasks = Tasks::new();
    let mut set = follow(&tasks);
    assert_eq!(
        (set.borrow().version, set.borrow().peer.rates.upload),
        (1, Some(1 << 20))
    );
    let bench = Bench::start_at(dir.path(), Duration::from_secs(2), grpc).await;
    assert_eq!(upload(&bench, 0, 1).await, "200");
    let arrives = set.wait_for(|set| set.peer.rates.upload == Some(0));
    tokio::time::timeout(LIMIT, arrives).await.unwrap().unwrap();
    assert!(tasks.stop(LIMIT).await);
    bench.stop().await;
}
