//! Who is let in, by clients that say what address they have.

use std::net::SocketAddr;

use darter_api::{
    Lengths, Origin, Repository, TaskId,
    session::{Observation, Reference},
};
use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::{
    clients,
    content::{Content, OpenError, Progress, Want},
    rights::{self, Proofs},
    upstream::UpstreamOptions,
};
use darter_runtime::server::ClientAddress;

/// There is nothing; who tells others of anything fails.
struct Nothing;

impl Contents for Nothing {
    fn open(&self, _: Want) -> BoxFuture<'static, Result<Content, OpenError>> {
        Box::pin(async { Err(OpenError::ShuttingDown) })
    }

    fn stored(&self, _: &TaskId) -> Option<(u64, Option<String>)> {
        None
    }

    fn progress(&self, _: &TaskId) -> Progress {
        Progress::Nothing
    }

    fn interest(&self, _: Vec<(TaskId, Lengths)>, _: Origin) {}

    fn observed(&self, _: Observation) {
        panic!("others are told");
    }

    fn lookup(
        &self,
        _: UpstreamName,
        _: Repository,
        _: Reference,
    ) -> BoxFuture<'static, Option<Observation>> {
        Box::pin(async { None })
    }
}

/// A mirror of one registry that is not there.
fn mirror(change: impl FnOnce(&mut UpstreamOptions)) -> Mirror {
    let mut options = UpstreamOptions::parse("corp.test=http://127.0.0.1:1");
    change(&mut options);
    let upstreams = Upstreams::new(&[options], &darter_runtime::Tasks::new()).unwrap();
    let rights = rights::Options::default();
    let proofs = Proofs::new(&rights);
    let mut registry = Registry::default();
    let source = Arc::new(upstreams.clone());
    let rights = Rights::new(rights, source, Arc::new(Nothing), proofs, &mut registry);
    let clients = Clients::new(&clients::Options::default()).unwrap();
    let options = Options::default();
    Mirror::new(
        options,
        upstreams,
        Arc::new(Nothing),
        rights,
        clients,
        &mut registry,
    )
}

/// The status and the error's code that a client at `address` gets.
async fn get(mirror: &Mirror, path: &str, address: &str) -> (u16, String) {
    get_of(mirror, "localhost:4001", path, address).await
}

/// The same of a client that calls the mirror so.
async fn get_of(mirror: &Mirror, host: &str, path: &str, address: &str) -> (u16, String) {
    let request = Request::get(path).header(header::HOST, host);
    let mut request = request.body(Body::empty()).unwrap();
    let address: SocketAddr = address.parse().unwrap();
    request.extensions_mut().insert(ClientAddress(address));
    let response = mirror.handle(None, request).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let code = body.pointer("/errors/0/code");
    let code = code.and_then(serde_json::Value::as_str).unwrap_or_default();
    (status, code.to_owned())
}

#[tokio::test]
async fn what_a_certificate_opens_is_not_for_clients_on_other_hosts() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::default().self_signed(&key).unwrap();
    let (certificate, private) = (dir.path().join("own.pem"), dir.path().join("own.key"));
    std::fs::write(&certificate, own.pem()).unwrap();
    std::fs::write(&private, key.serialize_pem()).unwrap();
    let mirror = mirror(|options| {
        options.client_certificate = Some(certificate);
        options.client_key = Some(private);
    });
    for path in ["/v2/app/manifests/1", "/v2/app/tags/list"] {
        let remote = get(&mirror, path, "10.0.0.7:1").await;
        assert_eq!(remote, (403, "DENIED".to_owned()), "{path}");
        let local = get(&mirror, path, "127.0.0.1:1").await;
        assert_eq!(local.0, 502, "it is asked for this host: {path}");
        // A page in a browser here, whose own name was pointed here.
        let page = get_of(&mirror, "evil.test:4001", path, "127.0.0.1:1").await;
        assert_eq!(page, (403, "DENIED".to_owned()), "{path}");
    }
    // A client finds out first whether it speaks to a registry at all.
    for (path, wanted) in [("/v2/", 200), ("/v2", 301)] {
        assert_eq!(get(&mirror, path, "10.0.0.7:1").await.0, wanted, "{path}");
    }
    assert_eq!(get(&mirror, "/token", "127.0.0.1:1").await.0, 404);
}
