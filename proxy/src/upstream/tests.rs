//! The registry client against real and faulty servers.

use std::{path::Path, sync::Arc};

use axum::body::Body;
use darter_api::{Digest, Origin, OriginKind};
use http::{Method, Request};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::source::{Read, Source as _};

/// A registry over TLS that says of each request whether it came with a certificate. Its own
/// authority, and a client's certificate and key, are left in `dir`.
async fn registry(dir: &Path, tasks: &Tasks) -> UpstreamOptions {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let issue = || {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, &issuer).unwrap(), key)
    };
    let ((server, server_key), (client, client_key)) = (issue(), issue());
    let file = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let verifier = verifier.allow_unauthenticated().build().unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![server.der().clone()],
            PrivatePkcs8KeyDer::from(server_key.serialize_der()).into(),
        );
    let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tasks.clone().spawn("registry", {
        let tasks = tasks.clone();
        async move {
            while let Ok((socket, _)) = listener.accept().await {
                tasks.spawn("connection", answer(acceptor.clone(), socket));
            }
        }
    });
    UpstreamOptions {
        name: "corp.test".to_owned(),
        url: Some(format!("https://localhost:{port}")),
        ca: Some(file("ca.pem", root.pem())),
        client_certificate: Some(file("client.pem", client.pem())),
        client_key: Some(file("client.key", client_key.serialize_pem())),
        ..UpstreamOptions::default()
    }
}

async fn answer(acceptor: TlsAcceptor, socket: TcpStream) {
    let Ok(mut socket) = acceptor.accept(socket).await else {
        return;
    };
    let shown = socket.get_ref().1.peer_certificates().is_some();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if !matches!(socket.read_buf(&mut head).await, Ok(1..)) {
            return;
        }
    }
    let reply = format!(
        "HTTP/1.1 200 OK\r\nX-Shown: {shown}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let _ = socket.write_all(reply.as_bytes()).await;
    let _ = socket.shutdown().await;
}

#[tokio::test]
async fn a_certificate_is_the_proxys_own_credential_and_is_never_shown_for_anybody() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = Tasks::new();
    let options = registry(dir.path(), &tasks).await;
    let upstreams = Upstreams::new(&[options], &tasks).unwrap();
    let upstream = upstreams.default_upstream().unwrap();
    let ask = Ask {
        method: Method::GET,
        path: "/v2/".to_owned(),
        headers: http::HeaderMap::new(),
        repository: None,
        credential: None,
        insists: false,
    };
    let asked = upstream.ask(ask).await.unwrap();
    assert_eq!(asked.headers()["x-shown"], "true");
    for method in [Method::GET, Method::POST] {
        let path = "/v2/app/blobs/uploads/";
        let request = Request::builder().method(method).uri(path);
        let relayed = upstream.forward(request.body(Body::empty()).unwrap()).await;
        assert_eq!(relayed.unwrap().headers()["x-shown"], "false");
    }
    // What it opens is nobody's but the proxy's: no other member hears of it.
    assert!(upstream.has_own_credentials());
    assert!(!upstreams.is_anonymous(upstream.name()));
    let read = Read {
        origin: Origin {
            upstream: upstream.name().clone(),
            repository: "app".parse().unwrap(),
            kind: OriginKind::Blob,
            private: false,
        },
        digest: Digest::sha256(b""),
        range: None,
        credential: None,
    };
    assert!(!upstreams.read(read).await.unwrap().anonymous);
    assert!(tasks.stop(std::time::Duration::from_secs(60)).await);
}

#[test]
fn a_name_stands_for_one_upstream() {
    let named = |name: &str, aliases: &[&str]| UpstreamOptions {
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        ..UpstreamOptions::parse(name)
    };
    for list in [
        [named("a.test", &[]), named("a.test=http://b.test", &[])],
        [named("a.test", &[]), named("b.test", &["a.test"])],
        [named("b.test", &["a.test"]), named("a.test", &[])],
        [named("docker.io", &[]), named("index.docker.io", &[])],
    ] {
        let errors = Upstreams::new(&list, &Tasks::new()).unwrap_err();
        assert_eq!(errors.len(), 1);
        let text = errors[0].to_string();
        for one in &list {
            assert!(text.contains(&format!("`{}`", one.name)), "{text}");
        }
    }
    // Its own names may be said again.
    Upstreams::new(
        &[named("docker.io", &["docker.io", "index.docker.io"])],
        &Tasks::new(),
    )
    .unwrap();
}
