use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use darter_api::UpstreamName;
use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{blind::Resolve, *};
use darter_runtime::server::{Server, ServerOptions};

mod upgrade;

/// Answers with what it was asked, and by which of its doors.
struct Echo;

impl Echo {
    fn answer(door: &str, request: &Request<Body>) -> Response<Body> {
        let host = request.headers().get("host");
        let host = host.map(|host| host.to_str().unwrap().to_owned());
        let own = request.headers().contains_key("proxy-authorization");
        let text = format!(
            "{door} {} {} host={} leaked={own}",
            request.method(),
            request.uri(),
            host.unwrap_or_default()
        );
        Response::new(Body::from(text))
    }
}

impl Front for Echo {
    fn find(&self, target: &Target) -> Option<UpstreamName> {
        (target.host == "listed.example").then(|| "listed.example".parse().unwrap())
    }

    fn own(&self, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move { Self::answer("own", &request) })
    }

    fn content(
        &self,
        _: UpstreamName,
        request: Request<Body>,
    ) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move { Self::answer("content", &request) })
    }

    fn relay(
        &self,
        _: UpstreamName,
        _: Target,
        request: Request<Body>,
    ) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move {
            let head = Self::answer("relay", &request);
            let sent = request.into_body().collect().await.unwrap().to_bytes();
            let mut text = head
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
                .to_vec();
            text.extend_from_slice(b" body=");
            text.extend_from_slice(&sent);
            Response::new(Body::from(text))
        })
    }
}

/// Knows these names only.
struct Names(HashMap<&'static str, SocketAddr>);

impl Resolve for Names {
    fn resolve(&self, host: String, _: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let found = self.0.get(host.as_str()).copied();
        Box::pin(async move {
            found
                .map(|one| vec![one])
                .ok_or(io::ErrorKind::NotFound.into())
        })
    }
}

struct Proxy {
    address: SocketAddr,
    data: tempfile::TempDir,
    tasks: Tasks,
}

impl Proxy {
    async fn start(options: &Options, exit: Exit) -> Self {
        Self::before(Arc::new(Echo), options, exit).await
    }

    async fn before(front: Arc<dyn Front>, options: &Options, exit: Exit) -> Self {
        let data = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let mut registry = Registry::default();
        let intercept =
            Intercept::before(front, options, data.path(), exit, &tasks, &mut registry).unwrap();
        let server = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .unwrap();
        let address = server.local_addr();
        server.serve(
            "proxy",
            intercept.router(),
            &tasks,
            ServerOptions::default(),
        );
        Self {
            address,
            data,
            tasks,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// One request on a connection of its own; the whole reply.
    async fn ask(&self, request: &str) -> String {
        let mut socket = self.connect().await;
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        socket.read_to_string(&mut reply).await.unwrap();
        reply
    }

    async fn tunnel(&self, target: &str) -> (String, TcpStream) {
        let mut socket = self.connect().await;
        let request = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        (String::from_utf8(head).unwrap(), socket)
    }

    fn trusting(&self) -> tokio_rustls::TlsConnector {
        let pem = std::fs::read(self.data.path().join("ca.crt")).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&pem).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config).into()
    }

    async fn stop(self) {
        self.tasks.stop(Duration::from_secs(60)).await;
    }
}

fn nowhere() -> Exit {
    Exit {
        resolver: Arc::new(Names(HashMap::new())),
        ..Exit::default()
    }
}

const BLOB: &str =
    "/v2/a/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[tokio::test]
async fn absolute_form_goes_to_the_mirror_or_the_upstream() {
    let proxy = Proxy::start(&Options::default(), nowhere()).await;
    let close = "connection: close\r\nproxy-authorization: Basic c2VjcmV0\r\n";
    let ask = |target: String, host: &str| {
        format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n{close}\r\n")
    };
    let content = proxy
        .ask(&ask(
            format!("http://listed.example{BLOB}"),
            "other.example",
        ))
        .await;
    assert!(
        content.contains(&format!("content GET {BLOB} ")),
        "{content}"
    );
    assert!(content.contains("leaked=false"), "{content}");
    let relayed = proxy
        .ask(&ask(
            "http://listed.example/v2/token?a=1".to_owned(),
            "listed.example",
        ))
        .await;
    assert!(relayed.contains("relay GET /v2/token?a=1 "), "{relayed}");
    let refused = proxy
        .ask(&ask(
            "http://unlisted.example/".to_owned(),
            "unlisted.example",
        ))
        .await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    assert!(refused.contains("\"unlisted\""), "{refused}");
    let own = proxy.ask(&ask("/v2/".to_owned(), "localhost")).await;
    assert!(own.contains("own GET /v2/ "), "{own}");
    proxy.stop().await;
}

#[tokio::test]
async fn a_listed_host_is_answered_under_the_ca() {
    let proxy = Proxy::start(&Options::default(), nowhere()).await;
    let (head, socket) = proxy.tunnel("listed.example:443").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let name = ServerName::try_from("listed.example").unwrap();
    let mut tls = proxy.trusting().connect(name, socket).await.unwrap();
    let request = format!(
        "GET {BLOB} HTTP/1.1\r\nhost: listed.example\r\n\r\n\
         PUT /v2/a/blobs/uploads/1 HTTP/1.1\r\nhost: listed.example\r\nconnection: close\r\ncontent-length: 4\r\n\r\npush"
    );
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut replies = String::new();
    tls.read_to_string(&mut replies).await.unwrap();
    assert!(
        replies.contains(&format!("content GET {BLOB} ")),
        "{replies}"
    );
    assert!(
        replies.contains("relay PUT /v2/a/blobs/uploads/1 "),
        "{replies}"
    );
    assert!(replies.ends_with("body=push"), "{replies}");
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_of_http_2_has_it_in_the_tunnel() {
    let proxy = Proxy::start(&Options::default(), nowhere()).await;
    let (_, socket) = proxy.tunnel("listed.example:443").await;
    let name = ServerName::try_from("listed.example").unwrap();
    let mut config = proxy.trusting().config().as_ref().clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tls = connector.connect(name, socket).await.unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let executor = hyper_util::rt::TokioExecutor::new();
    let shaken = hyper::client::conn::http2::handshake(executor, TokioIo::new(tls)).await;
    let (mut sender, connection) = shaken.unwrap();
    let talk = async move {
        let mut said = String::new();
        for (method, path, body) in [("GET", BLOB, ""), ("PUT", "/v2/a/blobs/uploads/1", "push")] {
            let request = Request::builder()
                .method(method)
                .uri(format!("https://other.example{path}"))
                .body(Body::from(body))
                .unwrap();
            let reply = sender.send_request(request).await.unwrap();
            let bytes = reply.into_body().collect().await.unwrap().to_bytes();
            said += std::str::from_utf8(&bytes).unwrap();
        }
        said
    };
    let (said, ended) = tokio::join!(talk, connection);
    ended.unwrap();
    // The tunnel says which upstream is meant, whatever authority a request names.
    assert!(said.contains(&format!("content GET {BLOB} ")), "{said}");
    assert!(said.contains("relay PUT /v2/a/blobs/uploads/1 "), "{said}");
    assert!(said.ends_with("body=push"), "{said}");
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_ca_harms_nobody() {
    let proxy = Proxy::start(&Options::default(), nowhere()).await;
    let (_, mut socket) = proxy.tunnel("listed.example:443").await;
    socket.write_all(b"no TLS at all\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest).await;
    let (head, _) = proxy.tunnel("listed.example:443").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    proxy.stop().await;
}

#[tokio::test]
async fn blind_tunnels_pass_bytes_and_obey_the_rules() {
    let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = far.local_addr().unwrap();
    let names = [
        ("far.example", address),
        ("inside.example", "10.0.0.1:443".parse().unwrap()),
    ];
    let exit = Exit {
        port: address.port(),
        permits: |ip: IpAddr| ip.is_loopback(),
        resolver: Arc::new(Names(HashMap::from(names))),
    };
    let proxy = Proxy::start(&Options::default(), exit).await;
    let port = address.port();

    let (head, mut near) = proxy.tunnel(&format!("far.example:{port}")).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let (mut end, _) = far.accept().await.unwrap();
    near.write_all(b"ask").await.unwrap();
    near.shutdown().await.unwrap();
    let mut asked = Vec::new();
    end.read_to_end(&mut asked).await.unwrap();
    end.write_all(b"answer").await.unwrap();
    drop(end);
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.unwrap();
    assert_eq!(
        (asked.as_slice(), answer.as_slice()),
        (&b"ask"[..], &b"answer"[..])
    );

    for name in ["forwarded", "x-forwarded-for", "via"] {
        let request = format!(
            "CONNECT far.example:{port} HTTP/1.1\r\nhost: x\r\n{name}: 10.0.0.9\r\nconnection: close\r\n\r\n"
        );
        let reply = proxy.ask(&request).await;
        assert!(reply.starts_with("HTTP/1.1 403"), "{reply}");
        assert!(reply.contains(r#""reason":"remote""#), "{reply}");
    }

    for (target, status) in [
        ("far.example:22", "403"),
        (&format!("inside.example:{port}"), "403"),
        (&format!("unknown.example:{port}"), "502"),
        ("far.example", "400"),
    ] {
        let (head, _) = proxy.tunnel(target).await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}")),
            "{target}: {head}"
        );
    }
    proxy.stop().await;
}

#[tokio::test]
async fn tunnels_are_bounded_and_can_be_off() {
    let one = Options {
        max_tunnels: 1,
        ..Options::default()
    };
    let proxy = Proxy::start(&one, nowhere()).await;
    let (first, held) = proxy.tunnel("listed.example:443").await;
    let (second, _) = proxy.tunnel("listed.example:443").await;
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
    assert!(second.starts_with("HTTP/1.1 503"), "{second}");
    drop(held);
    proxy.stop().await;

    let off = Options {
        enabled: false,
        ..Options::default()
    };
    let proxy = Proxy::start(&off, nowhere()).await;
    let (head, _) = proxy.tunnel("listed.example:443").await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    assert!(!proxy.data.path().join("ca.crt").exists());
    proxy.stop().await;
}

#[tokio::test]
async fn unlisted_hosts_can_be_refused() {
    let refuse = Options {
        unlisted: Unlisted::Refuse,
        ..Options::default()
    };
    let proxy = Proxy::start(&refuse, nowhere()).await;
    let (head, _) = proxy.tunnel("far.example:443").await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    let (head, _) = proxy.tunnel("listed.example:443").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    proxy.stop().await;
}

#[tokio::test]
async fn only_users_have_a_proxy_and_everybody_has_the_mirror() {
    use std::os::unix::fs::OpenOptionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    let mut private = std::fs::File::options();
    let private = private.write(true).create(true).mode(0o600);
    std::io::Write::write_all(&mut private.open(&path).unwrap(), b"ann:secret\n").unwrap();
    let options = Options {
        users: Some(path),
        ..Options::default()
    };
    let proxy = Proxy::start(&options, nowhere()).await;
    // ann:secret, and ann:wrong
    let (right, wrong) = ("YW5uOnNlY3JldA==", "YW5uOndyb25n");
    let connect = "CONNECT listed.example:443 HTTP/1.1\r\nhost: listed.example:443\r\n";
    let absolute = "GET http://listed.example/v2/ HTTP/1.1\r\nhost: listed.example\r\n";
    for head in [connect, absolute] {
        for shown in ["", &format!("proxy-authorization: Basic {wrong}\r\n")] {
            let reply = proxy
                .ask(&format!("{head}{shown}connection: close\r\n\r\n"))
                .await;
            assert!(reply.starts_with("HTTP/1.1 407"), "{reply}");
            let challenge = "proxy-authenticate: basic realm=\"darter\"";
            assert!(reply.to_lowercase().contains(challenge), "{reply}");
        }
    }
    let shown = format!("proxy-authorization: Basic {right}\r\nconnection: close\r\n\r\n");
    let reply = proxy.ask(&format!("{absolute}{shown}")).await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert!(reply.contains("leaked=false"), "{reply}");
    let mut socket = proxy.connect().await;
    let request = format!("{connect}{shown}");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    socket.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let own = "GET /v2/ HTTP/1.1\r\nhost: mirror\r\nconnection: close\r\n\r\n";
    assert!(proxy.ask(own).await.starts_with("HTTP/1.1 200"));
    drop(socket);
    // Who guesses waits, in the proxy alone.
    let mut last = String::new();
    for guess in 0..crate::clients::MOST_GUESSES {
        let shown = STANDARD.encode(format!("ann:{guess}"));
        let shown = format!("proxy-authorization: Basic {shown}\r\nconnection: close\r\n\r\n");
        last = proxy.ask(&format!("{connect}{shown}")).await;
    }
    assert!(last.starts_with("HTTP/1.1 429"), "{last}");
    assert!(last.to_lowercase().contains("retry-after: 60"), "{last}");
    assert!(
        proxy
            .ask(&format!("{absolute}{shown}"))
            .await
            .starts_with("HTTP/1.1 429")
    );
    assert!(proxy.ask(own).await.starts_with("HTTP/1.1 200"));
    proxy.stop().await;
}
