//! Who gets in, over real sockets.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Router, routing::get};
use darter_api::{HostId, NodeKey};
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

use super::*;
use crate::{
    Tasks,
    server::{PeerIdentity, Server, ServerOptions},
};

const HOUR: Duration = Duration::from_secs(3600);
/// The least of a certificate's life of which the last third is enough for a slow machine to
/// renew it.
pub(super) const SECONDS: Duration = Duration::from_secs(10);

fn authority() -> (tempfile::TempDir, Arc<Authority>) {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(dir.path()).unwrap();
    (dir, Arc::new(authority))
}

fn key(seed: u8) -> NodeKey {
    NodeKey::from_seed([seed; 32])
}

fn issue(authority: &Authority, seed: u8, life: Duration) -> Certificate {
    let pem = authority.issue(&key(seed).id(), life).unwrap();
    Certificate::from_pem(pem.as_bytes()).unwrap()
}

fn node(authority: &Authority, seed: u8, life: Duration) -> Credentials {
    let certificate = issue(authority, seed, life);
    Credentials::new(&key(seed), &certificate, authority.pem().as_bytes()).unwrap()
}

/// Answers every node with its name.
async fn serve(security: &Security) -> (std::net::SocketAddr, Tasks) {
    serve_with(security, ServerOptions::default()).await
}

async fn serve_with(security: &Security, options: ServerOptions) -> (std::net::SocketAddr, Tasks) {
    let router = Router::new().route(
        "/",
        get(|Extension(PeerIdentity(host)): Extension<PeerIdentity>| async move {
            host.to_string()
        }),
    );
    let tasks = Tasks::new();
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.local_addr();
    let options = ServerOptions {
        tls: security.acceptor(),
        ..options
    };
    server.serve("test", router, &tasks, options);
    (address, tasks)
}

/// What the server at `address` says to who connects so.
async fn ask(connector: Connector, address: std::net::SocketAddr) -> Result<String, String> {
    let client: Client<_, Empty<bytes::Bytes>> =
        Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::get(format!("http://{address}/"));
    let reply = client.request(request.body(Empty::new()).unwrap()).await;
    let reply = reply.map_err(|cause| whole(&cause))?;
    assert_eq!(reply.status(), 200);
    let body = reply.into_body().collect().await;
    let body = body.map_err(|cause| cause.to_string())?.to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[tokio::test]
async fn a_member_is_known_by_its_key() {
    let (_dir, authority) = authority();
    let (address, _tasks) = serve(&Security::Tls(node(&authority, 1, HOUR))).await;
    let child = Connector::secured(&node(&authority, 2, HOUR));
    assert_eq!(
        ask(child.clone(), address).await,
        Ok(key(2).id().to_string())
    );
    let sure = child.clone().expecting(key(1).id());
    assert!(ask(sure, address).await.is_ok());
    let mistaken = child.expecting(key(3).id());
    let refused = ask(mistaken, address).await.unwrap_err();
    assert!(refused.contains(&key(1).id().short()), "{refused}");
}

#[tokio::test]
async fn handshakes_take_turns_which_the_silent_do_not() {
    let (_dir, authority) = authority();
    let options = ServerOptions {
        handshakes: 2,
        ..ServerOptions::default()
    };
    let security = Security::Tls(node(&authority, 1, HOUR));
    let (address, _tasks) = serve_with(&security, options).await;
    let dial = || tokio::net::TcpStream::connect(address);
    let _silent = (dial().await.unwrap(), dial().await.unwrap());
    let mut stalled = dial().await.unwrap();
    // A record's header, and no record.
    tokio::io::AsyncWriteExt::write_all(&mut stalled, &[0x16, 3, 1])
        .await
        .unwrap();
    let asks = (2..10).map(|seed| {
        let child = Connector::secured(&node(&authority, seed, HOUR));
        ask(child, address)
    });
    let answers = futures::future::join_all(asks).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

#[tokio::test]
async fn nobody_else_gets_in() {
    for sparse in [false, true] {
        nobody_else_gets_in_where(sparse).await;
    }
}

async fn nobody_else_gets_in_where(sparse: bool) {
    let ((_dir, authority), (_other_dir, other)) = (authority(), authority());
    let options = ServerOptions {
        sparse,
        ..ServerOptions::default()
    };
    let security = Security::Tls(node(&authority, 1, HOUR));
    let (address, _tasks) = serve_with(&security, options).await;
    let member = Connector::secured(&node(&authority, 3, HOUR));
    let known = ask(member, address).await;
    assert_eq!(known, Ok(key(3).id().to_string()));
    let stranger = Connector::secured(&node(&other, 2, HOUR));
    assert!(ask(stranger, address).await.is_err(), "another authority's");
    assert!(
        ask(Connector::plain(), address).await.is_err(),
        "plain text"
    );

    // One who trusts the cluster's authority but has no certificate of it.
    let anonymous = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates({
            let mut roots = rustls::RootCertStore::empty();
            for root in certificate::all_of(authority.pem().as_bytes()).unwrap() {
                roots.add(root).unwrap();
            }
            roots
        })
        .with_no_client_auth();
    let refused = ask(Connector::with_config(Arc::new(anonymous)), address).await;
    assert!(refused.is_err(), "no certificate");
}

#[tokio::test]
async fn a_server_of_another_cluster_is_not_believed() {
    let ((_dir, authority), (_other_dir, other)) = (authority(), authority());
    let (address, _tasks) = serve(&Security::Tls(node(&other, 1, HOUR))).await;
    let child = Connector::secured(&node(&authority, 2, HOUR));
    assert!(ask(child, address).await.is_err());
}

#[tokio::test]
async fn certificates_of_others_and_expired_ones_are_not_shown() {
    let ((_dir, authority), (_other_dir, other)) = (authority(), authority());
    let credentials = node(&authority, 1, HOUR);
    let before = credentials.expires();
    let of_another_host = credentials.replace(&issue(&authority, 2, HOUR));
    assert!(matches!(
        of_another_host,
        Err(CredentialsError::OtherHost { .. })
    ));
    let of_another_cluster = credentials.replace(&issue(&other, 1, HOUR));
    assert!(matches!(
        of_another_cluster,
        Err(CredentialsError::OtherAuthority(_))
    ));
    let expired = credentials.replace(&issue(&authority, 1, Duration::ZERO));
    assert!(matches!(expired, Err(CredentialsError::Expired)));
    assert_eq!(credentials.expires(), before);
    credentials
        .replace(&issue(&authority, 1, 2 * HOUR))
        .unwrap();
    assert!(credentials.expires() > before);
}

#[tokio::test]
async fn certificates_of_seconds_are_renewed_in_time() {
    let (_dir, authority) = authority();
    let tasks = Tasks::new();
    let mut nodes = Vec::new();
    for seed in [1, 2] {
        let first = issue(&authority, seed, SECONDS);
        let roots = authority.pem().as_bytes();
        let credentials = Credentials::new(&key(seed), &first, roots).unwrap();
        let source = renewal::Source::Authority(Arc::clone(&authority), SECONDS);
        renewal::keep(&credentials, first, source, &tasks);
        nodes.push(credentials);
    }
    let (address, _serving) = serve(&Security::Tls(nodes[0].clone())).await;
    let first = nodes[1].expires();
    // Each asks on a connection of its own, and so with the certificates of the moment.
    while nodes[1].expires() < first + SECONDS {
        let reply = ask(Connector::secured(&nodes[1]), address).await;
        assert_eq!(reply, Ok(key(2).id().to_string()));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(tasks.stop(Duration::from_secs(60)).await);
}

#[tokio::test]
async fn a_file_that_changes_is_shown() {
    let (dir, authority) = authority();
    let data = dir.path().join("node");
    let host: HostId = crate::identity::load_or_create(&data).unwrap().id();
    let options = Options {
        ca: Some(dir.path().join("ca.crt")),
        certificate: Some(dir.path().join("node.crt")),
        ..Options::default()
    };
    let write = |life| {
        let pem = authority.issue(&host, life).unwrap();
        std::fs::write(dir.path().join("node.crt"), pem).unwrap();
    };
    write(HOUR);
    let tasks = Tasks::new();
    let Security::Tls(credentials) = options.obtain(&data, &tasks).await.unwrap() else {
        panic!("it has a certificate");
    };
    let first = credentials.expires();
    write(2 * HOUR);
    while credentials.expires() == first {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(credentials.expires() > first);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_of_no_use_is_looked_at_again_within_a_minute() {
    let (dir, authority) = authority();
    let path = dir.path().join("node.crt");
    let shown = issue(&authority, 1, 100 * HOUR);
    let roots = authority.pem().as_bytes();
    let credentials = Credentials::new(&key(1), &shown, roots).unwrap();
    let first = credentials.expires();
    std::fs::write(&path, "half of a certifi").unwrap();
    let tasks = Tasks::new();
    renewal::keep(
        &credentials,
        shown,
        renewal::Source::File(path.clone()),
        &tasks,
    );
    // It has been looked at by then.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let pem = authority.issue(&key(1).id(), 200 * HOUR).unwrap();
    std::fs::write(&path, pem).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(credentials.expires() > first);
    assert!(tasks.stop(Duration::from_secs(60)).await);
}

#[test]
fn an_authority_is_made_once() {
    let (dir, first) = authority();
    assert!(matches!(
        Authority::create(dir.path()),
        Err(AuthorityError::Exists(_))
    ));
    let again = Authority::load_or_create(dir.path()).unwrap();
    assert_eq!(again.pem(), first.pem());
    // The key of another authority is noticed.
    let (other_dir, _other) = authority();
    std::fs::copy(other_dir.path().join("ca.key"), dir.path().join("ca.key")).unwrap();
    assert!(matches!(
        Authority::load(dir.path()),
        Err(AuthorityError::Content { .. })
    ));
}

#[test]
fn urls_say_what_they_mean() {
    let (_dir, authority) = authority();
    let secured = Connector::secured(&node(&authority, 1, HOUR));
    assert!(secured.endpoint("https://10.0.0.2:8002").is_ok());
    assert!(matches!(
        secured.endpoint("http://10.0.0.2:8002"),
        Err(EndpointError::Plain(_))
    ));
    let plain = Connector::plain();
    assert!(plain.endpoint("http://10.0.0.2:8002").is_ok());
    assert!(matches!(
        plain.endpoint("https://10.0.0.2:8002"),
        Err(EndpointError::NoCertificate(_))
    ));
}
