//! The same over mutual TLS: who has no certificate of the cluster gets nothing.

use darter_runtime::tls::{Authority, Certificate, Credentials};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;

struct Cluster {
    _dir: tempfile::TempDir,
    authority: Authority,
}

impl Cluster {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(dir.path()).unwrap();
        Self {
            _dir: dir,
            authority,
        }
    }

    fn member(&self, seed: u8) -> Security {
        let key = NodeKey::from_seed([seed; 32]);
        let pem = self
            .authority
            .issue(&key.id(), Duration::from_secs(60))
            .unwrap();
        let certificate = Certificate::from_pem(pem.as_bytes()).unwrap();
        let roots = self.authority.pem().as_bytes();
        Security::Tls(Credentials::new(&key, &certificate, roots).unwrap())
    }
}

async fn fetch(parent: &Parent, security: &Security) -> Result<Fetched, FetchError> {
    let own = NodeKey::from_seed([2; 32]).id();
    let client = PieceClient::new(own, security.connector(), Limits::default());
    let mut sink = Collected::default();
    let fetched = client.fetch(&parent.wanted, |_| true, &mut sink).await;
    if fetched.is_err() {
        assert!(sink.0.is_empty(), "it got bytes");
    }
    fetched
}

#[tokio::test]
async fn pieces_are_for_members_alone() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let parent = parent_as(700_000, None, Limits::default(), &cluster.member(1)).await;
    fetch(&parent, &cluster.member(2)).await.unwrap();
    for (who, security) in [
        ("of another cluster", other.member(2)),
        ("without a certificate", Security::Plain),
    ] {
        let refused = fetch(&parent, &security).await;
        assert!(
            matches!(refused, Err(FetchError::Unreachable(_))),
            "{who}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn plain_text_at_the_peer_port_gets_no_answer_of_http() {
    let cluster = Cluster::new();
    let parent = parent_as(700_000, None, Limits::default(), &cluster.member(1)).await;
    let mut socket = TcpStream::connect(parent.wanted.address).await.unwrap();
    let path = piece_path(
        &parent.wanted.task,
        parent.wanted.index,
        &parent.wanted.lengths,
    );
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    // A TLS alert, if anything (RFC 8446, section 6): 7 bytes that begin with 21.
    let _ = socket.read_to_end(&mut reply).await;
    assert!(reply.len() <= 7, "{}", String::from_utf8_lossy(&reply));
    assert!(reply.first().is_none_or(|first| *first == 21));
}

#[tokio::test]
async fn a_link_is_of_the_certificates_host() {
    let cluster = Cluster::new();
    let (mut one, mut two) = (
        end_as(1, &cluster.member(1)).await,
        end_as(2, &cluster.member(2)).await,
    );
    one.links.dial(&two.neighbour);
    expect(&mut one, LinkEvent::Up(two.neighbour.host)).await;
    expect(&mut two, LinkEvent::Up(one.neighbour.host)).await;

    // Who dials has another host's certificate than its key; who is dialled has, too.
    let (mut liar, mut three) = (
        end_as(9, &cluster.member(8)).await,
        end_as(3, &cluster.member(3)).await,
    );
    three.links.dial(&liar.neighbour);
    expect(&mut three, LinkEvent::Down(liar.neighbour.host)).await;
    liar.links.dial(&three.neighbour);
    expect(&mut liar, LinkEvent::Down(three.neighbour.host)).await;
    while let Ok(event) = three.events.try_recv() {
        assert_ne!(event, LinkEvent::Up(liar.neighbour.host));
    }
}
