//! Becoming a member, and staying one, over real sockets.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use darter_api::NodeKey;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{tests::SECONDS, *};
use crate::Tasks;

const HOUR: Duration = Duration::from_secs(3600);

struct Cluster {
    dir: tempfile::TempDir,
    authority: Arc<Authority>,
    address: SocketAddr,
    tasks: Tasks,
}

impl Cluster {
    /// Whose certificates live so long.
    async fn start(life: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::create(&dir.path().join("ca")).unwrap());
        let tasks = Tasks::new();
        let any = "127.0.0.1:0".parse().unwrap();
        let address = serve(Arc::clone(&authority), life, any, &tasks).await;
        Self {
            dir,
            authority,
            address: address.unwrap(),
            tasks,
        }
    }

    fn token(&self, valid: Duration, uses: u32) -> Token {
        let token = Token::generate(self.authority.fingerprint());
        let register = Register::new(self.authority.dir());
        register.add_token(&token, valid, uses).unwrap();
        token
    }

    fn options(&self, token: Option<Token>) -> Options {
        Options {
            join: Some(self.address.to_string()),
            token,
            ..Options::default()
        }
    }

    async fn join(&self, node: &str, token: Option<Token>) -> Result<Credentials, ObtainError> {
        obtain(
            &self.options(token),
            &self.dir.path().join(node),
            &self.tasks,
        )
        .await
    }
}

async fn obtain(options: &Options, data: &Path, tasks: &Tasks) -> Result<Credentials, ObtainError> {
    match options.obtain(data, tasks).await? {
        Security::Tls(credentials) => Ok(credentials),
        Security::Plain => panic!("a node that joins speaks TLS"),
    }
}

fn refusal<T>(result: Result<T, ObtainError>) -> String {
    match result {
        Err(ObtainError::Join(JoinError::Refused(said))) => said,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was let in"),
    }
}

#[tokio::test]
async fn a_token_lets_in_as_many_as_it_may_while_it_may() {
    let cluster = Cluster::start(HOUR).await;
    let token = cluster.token(HOUR, 2);
    let one = cluster.join("one", Some(token.clone())).await.unwrap();
    let two = cluster.join("two", Some(token.clone())).await.unwrap();
    assert_ne!(one.host(), two.host());
    let third = cluster.join("three", Some(token)).await;
    assert!(refusal(third).contains("as often as it may be"));
    let expired = cluster.token(Duration::ZERO, 2);
    let late = cluster.join("three", Some(expired)).await;
    assert!(refusal(late).contains("expired"));
    let made_up = Token::generate(cluster.authority.fingerprint());
    let stranger = cluster.join("three", Some(made_up)).await;
    assert!(refusal(stranger).contains("not one of this authority's"));
}

#[tokio::test]
async fn nothing_is_said_to_another_authority() {
    let cluster = Cluster::start(HOUR).await;
    let other = Cluster::start(HOUR).await;
    let token = cluster.token(HOUR, 1);
    let key = NodeKey::from_seed([1; 32]);
    let address = other.address.to_string();
    let secret = Some(token.secret());
    let asked = join::request(&address, *token.fingerprint(), &key, secret).await;
    assert!(
        matches!(asked, Err(JoinError::Unreachable { .. })),
        "{asked:?}"
    );
    assert_eq!(
        Register::new(cluster.authority.dir()).tokens().unwrap()[0]
            .1
            .uses,
        1
    );
}

#[tokio::test]
async fn a_member_certificate_is_no_authority_to_joiners() {
    // A node with a certificate of the cluster poses as its authority.
    let cluster = Cluster::start(HOUR).await;
    let node = cluster
        .join("one", Some(cluster.token(HOUR, 1)))
        .await
        .unwrap();
    let server = crate::server::Server::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = server.local_addr().to_string();
    let options = crate::server::ServerOptions {
        tls: Some(node.acceptor()),
        ..crate::server::ServerOptions::default()
    };
    server.serve("impostor", axum::Router::new(), &cluster.tasks, options);
    let key = NodeKey::from_seed([1; 32]);
    let fingerprint = cluster.authority.fingerprint();
    let asked = join::request(&address, fingerprint, &key, None).await;
    assert!(
        matches!(asked, Err(JoinError::Unreachable { .. })),
        "{asked:?}"
    );
}

#[tokio::test]
async fn who_sends_half_a_request_is_let_go() {
    let cluster = Cluster::start(HOUR).await;
    let socket = TcpStream::connect(cluster.address).await.unwrap();
    let connector = join::connector(cluster.authority.fingerprint()).unwrap();
    let name = ServerName::try_from(AUTHORITY_NAME).unwrap();
    let mut stream = connector.connect(name, socket).await.unwrap();
    let half = "POST /v1/certificates HTTP/1.1\r\nhost: authority\r\n\
        content-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(half.as_bytes()).await.unwrap();
    let mut reply = String::new();
    let read = stream.read_to_string(&mut reply);
    let read = tokio::time::timeout(Duration::from_secs(60), read).await;
    read.expect("its place is for others").unwrap();
    assert!(reply.starts_with("HTTP/1.1 408 "), "{reply}");
}

#[tokio::test]
async fn a_member_comes_back_without_token_and_without_authority() {
    let cluster = Cluster::start(HOUR).await;
    let token = cluster.token(HOUR, 1);
    let first = cluster.join("one", Some(token.clone())).await.unwrap();
    // With the same token, which is used up, and without one.
    let again = cluster.join("one", Some(token)).await.unwrap();
    assert_eq!(first.host(), again.host());
    assert!(cluster.tasks.stop(Duration::from_secs(60)).await);
    let nobody_there = cluster.join("one", None).await.unwrap();
    assert_eq!(nobody_there.expires(), first.expires());
    let data = cluster.dir.path().join("two");
    let without = obtain(&cluster.options(None), &data, &Tasks::new()).await;
    assert!(matches!(without, Err(ObtainError::Options(_))));
}

#[tokio::test]
async fn certificates_of_seconds_are_renewed_over_the_network_until_the_member_is_removed() {
    let cluster = Cluster::start(SECONDS).await;
    let node = cluster
        .join("one", Some(cluster.token(HOUR, 1)))
        .await
        .unwrap();
    let first = node.expires();
    while node.expires() < first + SECONDS {
        assert!(node.expires() > SystemTime::now(), "renewed too late");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // One whose certificate has expired needs no token while it is a member.
    let register = Register::new(cluster.authority.dir());
    assert!(register.remove(&node.host()).unwrap());
    while node.expires() > SystemTime::now() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let removed = cluster.join("one", None).await;
    assert!(refusal(removed).contains("no member"));
    let secret = cluster.token(HOUR, 1).secret();
    register.admit(&node.host(), Some(&secret)).unwrap();
    let back = cluster.join("one", None).await.unwrap();
    assert_eq!(back.host(), node.host());
}
