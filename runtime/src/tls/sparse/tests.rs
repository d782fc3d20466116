//! Against tokio-rustls' client.

use std::time::Duration;

use darter_api::{HostId, NodeKey};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{super::*, *};

const MINUTE: Duration = Duration::from_secs(60);
/// Many records, and more than the sockets take at once.
const LONG: usize = 8 << 20;

fn key(seed: u8) -> NodeKey {
    NodeKey::from_seed([seed; 32])
}

/// A server's end and its client's, and who that is said to be.
async fn pair() -> (SparseStream, TlsStream<TcpStream>, Option<HostId>) {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(dir.path()).unwrap();
    let node = |seed| {
        let pem = authority.issue(&key(seed).id(), MINUTE).unwrap();
        let certificate = Certificate::from_pem(pem.as_bytes()).unwrap();
        Credentials::new(&key(seed), &certificate, authority.pem().as_bytes()).unwrap()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dial = TcpStream::connect(listener.local_addr().unwrap());
    let (socket, accepted) = tokio::join!(dial, listener.accept());
    let acceptor = node(1).acceptor();
    let name = ServerName::try_from(NODE_NAME).unwrap();
    let connector = TlsConnector::from(node(2).client());
    let (client, server) = tokio::join!(
        connector.connect(name, socket.unwrap()),
        acceptor.accept_sparse(accepted.unwrap().0, MINUTE)
    );
    let (server, host) = server.unwrap();
    (server, client.unwrap(), host)
}

fn room(stream: &SparseStream) -> usize {
    stream.incoming.capacity() + stream.plain.capacity() + stream.outgoing.capacity()
}

#[tokio::test]
async fn much_arrives_whole_both_ways_and_leaves_no_buffer() {
    let (mut server, client, host) = pair().await;
    assert_eq!(host, Some(key(2).id()));
    let said: Vec<u8> = (0..LONG).map(|at| (at / 7 + at / 4099) as u8).collect();
    let (mut from, mut to) = tokio::io::split(client);
    let says = async {
        to.write_all(&said).await.unwrap();
        to.flush().await.unwrap();
        to
    };
    let hears = async {
        let mut heard = vec![0; LONG];
        from.read_exact(&mut heard).await.unwrap();
        assert!(heard == said);
    };
    let echoes = async {
        let mut left = LONG;
        let mut part = vec![0; 10_000];
        while left > 0 {
            let length = server.read(&mut part).await.unwrap();
            assert!(length > 0);
            server.write_all(&part[..length]).await.unwrap();
            left -= length;
        }
        server.flush().await.unwrap();
    };
    let (_to, (), ()) = tokio::join!(says, hears, echoes);
    assert!(futures::poll!(std::pin::pin!(server.read_u8())).is_pending());
    assert_eq!(room(&server), 0);
}

#[tokio::test]
async fn only_an_end_that_was_said_is_one() {
    let (mut server, mut client, _) = pair().await;
    client.write_all(b"all").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    assert_eq!(server.read_to_end(&mut heard).await.unwrap(), 3);
    // The other direction goes on.
    server.write_all(b"and").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(client.read_to_end(&mut heard).await.unwrap(), 3);
    assert_eq!(heard, b"alland");
    assert!(server.write_all(b"more").await.is_err());

    let (mut server, mut client, _) = pair().await;
    client.write_all(b"some").await.unwrap();
    client.get_mut().0.shutdown().await.unwrap();
    let cause = server.read_to_end(&mut heard).await.unwrap_err();
    assert_eq!(cause.kind(), io::ErrorKind::UnexpectedEof);
    assert!(server.read_u8().await.is_err(), "not the end now, either");
}

#[tokio::test]
async fn a_forged_record_is_refused_and_said_to_be() {
    let (mut server, mut client, _) = pair().await;
    let mut forged = vec![0x17, 3, 3, 0, 32];
    forged.extend([7; 32]);
    client.write_all(b"good").await.unwrap();
    let socket = client.get_mut().0;
    socket.write_all(&forged).await.unwrap();
    client.write_all(b"true").await.unwrap();
    // What was good before it may have come with it, and is given.
    let mut heard = [0; 4];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"good");
    let cause = server.read_u8().await.unwrap_err();
    assert_eq!(cause.kind(), io::ErrorKind::InvalidData);
    assert!(server.read_u8().await.is_err(), "nothing after it counts");
    assert!(server.write_all(b"nothing").await.is_err());
    let told = client.read_u8().await.unwrap_err();
    assert!(told.to_string().contains("BadRecordMac"), "{told}");
}

#[tokio::test]
async fn keys_are_changed_when_the_other_end_says_so() {
    let (mut server, mut client, _) = pair().await;
    for _ in 0..3 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(b"asked").await.unwrap();
        let mut heard = [0; 5];
        server.read_exact(&mut heard).await.unwrap();
        server.write_all(&heard).await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"asked");
    }
}
