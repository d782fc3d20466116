//! Who may have a session.

use std::{path::Path, time::Duration};

use darter_api::{
    Digest, Lengths, Origin, OriginKind, PieceSet, TaskId,
    session::{Hello, Locality, PeerMessage, Purpose, Role, SchedulerMessage},
    wire::{
        session_challenge,
        v1::{self, peer_message, scheduler_client::SchedulerClient, scheduler_message},
    },
};
use darter_runtime::tls::{Authority, Certificate, Connector, Credentials};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::{
    session::{OUTBOX, WINDOW},
    *,
};
use crate::core::Command;

const HOUR: Duration = Duration::from_secs(3600);

fn key(seed: u8) -> NodeKey {
    NodeKey::from_seed([seed; 32])
}

fn credentials(authority: &Authority, key: &NodeKey) -> Credentials {
    let pem = authority.issue(&key.id(), HOUR).unwrap();
    let certificate = Certificate::from_pem(pem.as_bytes()).unwrap();
    Credentials::new(key, &certificate, authority.pem().as_bytes()).unwrap()
}

async fn start(dir: &Path, security: &Security) -> (Scheduler, Tasks) {
    let options = Options {
        listen: ([127, 0, 0, 1], 0).into(),
        data: dir.join("scheduler"),
        ..Options::default()
    };
    let (tasks, mut registry) = (Tasks::new(), Registry::default());
    let scheduler = Scheduler::start(options, security, &tasks, &mut registry).await;
    (scheduler.unwrap(), tasks)
}

fn hello(host: HostId, epoch: u64) -> Hello {
    Hello {
        host,
        epoch,
        name: "node".to_owned(),
        address: ([10, 0, 0, 1], 4000).into(),
        role: Role::Peer,
        locality: Locality::default(),
        upload_slots: 4,
        cores: None,
        shares: true,
        version: String::new(),
    }
}

/// A session as its host has it.
struct Opened {
    outbox: mpsc::Sender<v1::PeerMessage>,
    _inbound: Streaming<v1::SchedulerMessage>,
    said: SchedulerMessage,
}

/// What the scheduler says to a hello of `named`, signed by `signer`.
async fn greet(
    scheduler: &Scheduler,
    connector: Connector,
    named: HostId,
    signer: &NodeKey,
) -> Result<SchedulerMessage, String> {
    let opened = open(scheduler, connector, named, signer, 7).await;
    opened.map(|opened| opened.said)
}

async fn open(
    scheduler: &Scheduler,
    connector: Connector,
    named: HostId,
    signer: &NodeKey,
    epoch: u64,
) -> Result<Opened, String> {
    let endpoint = connector.to_address(scheduler.address()).unwrap();
    let channel = endpoint.connect_with_connector(connector).await;
    let mut client = SchedulerClient::new(channel.map_err(|cause| cause.to_string())?);
    let (outbox, messages) = mpsc::channel(4);
    let opened = client.session(ReceiverStream::new(messages)).await;
    let mut inbound = opened
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    let first = inbound.next().await.unwrap().unwrap();
    let Some(scheduler_message::Kind::Challenge(challenge)) = first.kind else {
        panic!("a challenge comes first");
    };
    let hello = hello(named, epoch);
    let signature = signer.sign(&session_challenge(&challenge.nonce, hello.epoch));
    let hello = v1::Hello {
        signature: signature.to_vec().into(),
        ..(&hello).into()
    };
    let kind = Some(peer_message::Kind::Hello(hello));
    outbox.send(v1::PeerMessage { kind }).await.unwrap();
    let said = inbound.next().await.unwrap();
    let said = said.map_err(|status| status.message().to_owned())?;
    Ok(Opened {
        outbox,
        _inbound: inbound,
        said: SchedulerMessage::try_from(said).unwrap(),
    })
}

#[tokio::test]
async fn over_tls_a_host_is_whose_certificate_it_shows() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(&dir.path().join("authority")).unwrap();
    let own = identity::load_or_create(&dir.path().join("scheduler")).unwrap();
    let security = Security::Tls(credentials(&authority, &own));
    let (scheduler, tasks) = start(dir.path(), &security).await;

    let (node, other) = (key(1), key(2));
    let connector = Connector::secured(&credentials(&authority, &node));
    let welcome = greet(&scheduler, connector.clone(), node.id(), &node).await;
    assert!(matches!(welcome, Ok(SchedulerMessage::Welcome { .. })));
    // Another's name is not taken, though the hello has the other's signature.
    let mismatch = greet(&scheduler, connector, other.id(), &other).await;
    assert!(mismatch.unwrap_err().contains("does not prove"));

    let elsewhere = Authority::create(&dir.path().join("elsewhere")).unwrap();
    let stranger = Connector::secured(&credentials(&elsewhere, &node));
    assert!(greet(&scheduler, stranger, node.id(), &node).await.is_err());
    let plain = greet(&scheduler, Connector::plain(), node.id(), &node).await;
    assert!(plain.is_err(), "plain text");
    assert!(tasks.stop(Duration::from_secs(60)).await);
}

#[tokio::test]
async fn in_plain_text_a_host_is_whose_key_signs() {
    let dir = tempfile::tempdir().unwrap();
    let (scheduler, tasks) = start(dir.path(), &Security::Plain).await;
    let (node, other) = (key(1), key(2));
    let welcome = greet(&scheduler, Connector::plain(), node.id(), &node).await;
    assert!(matches!(welcome, Ok(SchedulerMessage::Welcome { .. })));
    let forged = greet(&scheduler, Connector::plain(), other.id(), &node).await;
    assert!(forged.unwrap_err().contains("does not prove"));
    assert!(tasks.stop(Duration::from_secs(60)).await);
}

#[tokio::test]
async fn plain_text_beyond_loopback_has_to_be_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        listen: ([0, 0, 0, 0], 0).into(),
        data: dir.path().to_owned(),
        ..Options::default()
    };
    let (tasks, mut registry) = (Tasks::new(), Registry::default());
    let refused = Scheduler::start(options, &Security::Plain, &tasks, &mut registry).await;
    assert!(matches!(refused, Err(StartError::PlainText(_))));
}

#[tokio::test]
async fn no_preheat_while_hosts_are_still_coming() {
    let first_word = async |preheat_settle| {
        let options = Options {
            preheat_settle,
            ..Options::default()
        };
        let (tasks, mut registry) = (Tasks::new(), Registry::default());
        let Home { inbox, .. } = Home::start(options, key(9), &tasks, &mut registry);
        let request = v1::PreheatRequest {
            image: Some(v1::PreheatImage {
                registry: "docker.io".to_owned(),
                repository: "library/app".to_owned(),
                platforms: Vec::new(),
                reference: Some(v1::preheat_image::Reference::Tag("1".to_owned())),
            }),
            ..v1::PreheatRequest::default()
        };
        let (events, mut heard) = mpsc::channel(8);
        let begin = Inbound::Preheat(request.try_into().unwrap(), events);
        assert!(inbox.send(begin).await.is_ok());
        let word = heard.recv().await.unwrap();
        assert!(tasks.stop(HOUR).await);
        word.map(drop).map_err(|status| status.code())
    };
    assert_eq!(first_word(HOUR).await, Err(tonic::Code::Unavailable));
    assert_eq!(first_word(Duration::ZERO).await, Ok(()));
}

#[tokio::test]
async fn a_session_ends_with_the_next_one_of_its_host() {
    let dir = tempfile::tempdir().unwrap();
    let (scheduler, tasks) = start(dir.path(), &Security::Plain).await;
    let node = key(1);
    let session = async |epoch| {
        let plain = Connector::plain();
        open(&scheduler, plain, node.id(), &node, epoch)
            .await
            .unwrap()
    };
    let first = session(1).await;
    let second = session(2).await;
    // The first says nothing more, and is not read any more.
    let ended = tokio::time::timeout(Duration::from_secs(60), first.outbox.closed());
    assert!(ended.await.is_ok(), "it goes on");
    assert!(!second.outbox.is_closed());
    drop((first, second));
    assert!(tasks.stop(Duration::from_secs(60)).await);
}

#[test]
fn a_hello_that_a_later_one_overtook_ends_nothing_but_its_own_session() {
    let mut actor = Actor::new(Options::default(), key(9), Metrics::default());
    let host = key(1).id();
    let mut up = |epoch| {
        let (sender, receiver) = mpsc::channel(OUTBOX);
        let over = CancellationToken::new();
        let guard = over.clone().drop_guard();
        actor.take(Inbound::Up(hello(host, epoch), sender, guard));
        (receiver, over)
    };
    let (_outbox, newer) = up(2);
    let (_, older) = up(1);
    assert!(older.is_cancelled() && !newer.is_cancelled());
    actor.take(Inbound::Down(host, 1));
    assert!(!newer.is_cancelled());
    assert_eq!(actor.cluster.counts().hosts, 1);
}

/// All of a thousand neighbours stop reading at once: a switch goes down.
#[test]
fn hosts_that_stop_reading_at_once_end_one_after_the_other() {
    const HOSTS: u16 = 1000;
    let play = || {
        let mut actor = Actor::new(Options::default(), key(9), Metrics::default());
        let (mut receivers, mut hosts) = (Vec::new(), Vec::new());
        for number in 0..HOSTS {
            let mut raw = [0; 32];
            raw[..2].copy_from_slice(&number.to_be_bytes());
            let host = HostId::from_bytes(raw);
            let (sender, receiver) = mpsc::channel(OUTBOX);
            let guard = CancellationToken::new().drop_guard();
            actor.take(Inbound::Up(hello(host, 1), sender, guard));
            let join = darter_api::session::Join {
                task: TaskId::of_content(Digest::sha256(b"x")),
                lengths: Lengths::of(1 << 20).unwrap(),
                held: PieceSet::new(),
                origin: Origin {
                    upstream: "docker.io".parse().unwrap(),
                    repository: "library/app".parse().unwrap(),
                    kind: OriginKind::Blob,
                    private: false,
                },
                purpose: Purpose::Pull,
            };
            actor.take(Inbound::Message(host, 1, Box::new(PeerMessage::Join(join))));
            receivers.push(receiver);
            hosts.push(host);
        }
        assert_eq!(actor.cluster.counts().hosts, usize::from(HOSTS));
        drop(receivers);
        // As when the time for a heartbeat has come.
        let beats = hosts.into_iter().map(|host| Command {
            host,
            message: SchedulerMessage::Heartbeat,
        });
        actor.say(beats.collect());
        actor.cluster.counts().hosts
    };
    // As small as some threads are.
    let thread = std::thread::Builder::new()
        .stack_size(512 << 10)
        .spawn(play);
    assert_eq!(thread.unwrap().join().unwrap(), 0);
}

/// What HTTP/2 says of itself first of all (RFC 9113, section 6.5).
async fn settings(scheduler: &Scheduler) -> Vec<(u16, u32)> {
    let mut socket = TcpStream::connect(scheduler.address()).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let none = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    socket.write_all(preface).await.unwrap();
    socket.write_all(&none).await.unwrap();
    let mut head = [0; 9];
    socket.read_exact(&mut head).await.unwrap();
    let [_, high, low, kind, ..] = head;
    assert_eq!(kind, 4, "SETTINGS come first");
    let mut frame = vec![0; usize::from(u16::from_be_bytes([high, low]))];
    socket.read_exact(&mut frame).await.unwrap();
    let (all, _) = frame.as_chunks::<6>();
    let setting = |one: &[u8; 6]| {
        let [id, more, value @ ..] = *one;
        (u16::from_be_bytes([id, more]), u32::from_be_bytes(value))
    };
    all.iter().map(setting).collect()
}

#[tokio::test]
async fn a_host_may_send_no_more_than_fits_into_one_read() {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    let dir = tempfile::tempdir().unwrap();
    let (scheduler, tasks) = start(dir.path(), &Security::Plain).await;
    let settings = settings(&scheduler).await;
    assert!(
        settings.contains(&(INITIAL_WINDOW_SIZE, WINDOW)),
        "{settings:?}"
    );
    assert!(tasks.stop(Duration::from_secs(60)).await);
}
