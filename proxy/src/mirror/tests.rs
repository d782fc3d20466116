//! Who is let in, by clients that say what address they have; what is held for them.

use std::{net::SocketAddr, ops::Range};

use bytes::Bytes;
use darter_api::{
    Lengths, Origin, Repository, TaskId,
    session::{Observation, Reference},
};
use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use http_body_util::BodyExt as _;
use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::{
    clients,
    content::{Content, OpenError, Progress, Provenance, ReadError, Reader, Want},
    rights::{self, Proofs},
    source::{Body as SourceBody, Read, Source, Stat},
    upstream::UpstreamOptions,
};
use darter_runtime::server::{ClientAddress, span::Span};

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

    fn ahead(&self, _: &TaskId, _: &Origin, _: Option<&Credential>) {}

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

/// A manifest that anybody may read, on this node's disk or read through for each.
#[derive(Clone)]
struct Manifest {
    bytes: Bytes,
    is_here: bool,
}

impl Reader for Manifest {
    fn spans(&self, range: Range<u64>) -> BoxStream<'static, Result<Span, ReadError>> {
        let part = self.bytes.slice(range.start as usize..range.end as usize);
        stream::iter([Ok(Span::Bytes(part))]).boxed()
    }

    fn is_here(&self) -> bool {
        self.is_here
    }
}

impl Source for Manifest {
    fn stat(
        &self,
        _: &Origin,
        _: &Digest,
        _: Option<&Credential>,
    ) -> BoxFuture<'static, Result<Stat, SourceError>> {
        let stat = Stat {
            size: Some(self.bytes.len() as u64),
            media_type: None,
        };
        async move { Ok(stat) }.boxed()
    }

    fn read(&self, _: Read) -> BoxFuture<'static, Result<SourceBody, SourceError>> {
        async { Err(SourceError::Missing) }.boxed()
    }
}

impl Contents for Manifest {
    fn open(&self, _: Want) -> BoxFuture<'static, Result<Content, OpenError>> {
        let content = Content {
            size: Some(self.bytes.len() as u64),
            media_type: None,
            provenance: Provenance::Download,
            reader: Arc::new(self.clone()),
        };
        async move { Ok(content) }.boxed()
    }

    fn stored(&self, _: &TaskId) -> Option<(u64, Option<String>)> {
        None
    }

    fn progress(&self, _: &TaskId) -> Progress {
        Progress::Nothing
    }

    fn interest(&self, _: Vec<(TaskId, Lengths)>, _: Origin) {}

    fn ahead(&self, _: &TaskId, _: &Origin, _: Option<&Credential>) {}

    fn observed(&self, _: Observation) {}

    fn lookup(
        &self,
        _: UpstreamName,
        _: Repository,
        _: Reference,
    ) -> BoxFuture<'static, Option<Observation>> {
        async { None }.boxed()
    }
}

/// A mirror that may hold so many bytes, with one manifest.
fn mirror_holding(most: usize, manifest: &Manifest) -> Mirror {
    let options = UpstreamOptions::parse("corp.test=http://127.0.0.1:1");
    let upstreams = Upstreams::new(&[options], &darter_runtime::Tasks::new()).unwrap();
    let rights = rights::Options::default();
    let proofs = Proofs::new(&rights);
    let mut registry = Registry::default();
    let contents: Arc<dyn Contents> = Arc::new(manifest.clone());
    let source = Arc::new(manifest.clone());
    let rights = Rights::new(rights, source, Arc::clone(&contents), proofs, &mut registry);
    let clients = Clients::new(&clients::Options::default()).unwrap();
    Mirror::holding(
        Held::new(most),
        Options::default(),
        upstreams,
        (contents, rights, clients),
        &mut registry,
    )
}

/// Clients that ask for a large manifest and don't take it.
#[tokio::test(start_paused = true)]
async fn what_is_held_for_clients_is_bounded_and_what_is_on_disk_is_not_held() {
    for is_here in [false, true] {
        let bytes = Bytes::from(vec![b' '; 80_000]);
        let manifest = Manifest { bytes, is_here };
        let mirror = mirror_holding(100_000, &manifest);
        let path = format!("/v2/app/manifests/{}", Digest::sha256(&manifest.bytes));
        let get = || mirror.handle(None, Request::get(&path).body(Body::empty()).unwrap());
        let first = get().await;
        assert_eq!(first.status(), StatusCode::OK);
        let second = get().await;
        if is_here {
            assert_eq!(second.status(), StatusCode::OK);
        } else {
            assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(second.headers()[header::RETRY_AFTER], "1");
        }
        let body = first.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, manifest.bytes);
        drop(body);
        assert_eq!(get().await.status(), StatusCode::OK);
    }
}
