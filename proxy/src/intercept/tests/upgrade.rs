//! Other protocols, trailers and what is said twice, before a real upstream's connection.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;

use super::*;
use crate::upstream::{Upstream, UpstreamOptions};

/// Passes everything on to one upstream.
struct Straight(Arc<Upstream>);

impl Front for Straight {
    fn find(&self, target: &Target) -> Option<UpstreamName> {
        (target.host == "listed.example").then(|| self.0.name().clone())
    }

    fn own(&self, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move { Echo::answer("own", &request) })
    }

    fn content(
        &self,
        _: UpstreamName,
        request: Request<Body>,
    ) -> BoxFuture<'static, Response<Body>> {
        self.own(request)
    }

    fn relay(
        &self,
        _: UpstreamName,
        _: Target,
        request: Request<Body>,
    ) -> BoxFuture<'static, Response<Body>> {
        let upstream = Arc::clone(&self.0);
        Box::pin(async move { upstream.forward(request).await.expect("it answers") })
    }
}

/// A proxy before an upstream that this test plays.
struct Stage {
    proxy: Proxy,
    upstream: TcpListener,
}

impl Stage {
    async fn set(options: &Options) -> Self {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("r=http://{}", upstream.local_addr().unwrap());
        let upstreams =
            crate::upstream::Upstreams::new(&[UpstreamOptions::parse(&url)], &Tasks::new());
        let straight = Straight(Arc::clone(upstreams.unwrap().resolve("r").unwrap()));
        let proxy = Proxy::before(Arc::new(straight), options, nowhere()).await;
        Self { proxy, upstream }
    }

    /// A client's TLS connection inside a tunnel.
    async fn client(&self) -> TlsStream<TcpStream> {
        let (_, socket) = self.proxy.tunnel("listed.example:443").await;
        let name = ServerName::try_from("listed.example").unwrap();
        self.proxy.trusting().connect(name, socket).await.unwrap()
    }

    /// The next request's head, in lower case, and the connection that it came by.
    async fn asked(&self) -> (String, TcpStream) {
        let (mut socket, _) = self.upstream.accept().await.unwrap();
        (head(&mut socket).await, socket)
    }
}

async fn head(socket: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

async fn say(socket: &mut (impl AsyncWrite + Unpin), text: &str) {
    socket.write_all(text.as_bytes()).await.unwrap();
}

async fn rest(socket: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    text
}

const WISH: &str = "GET /v2/ws HTTP/1.1\r\nhost: listed.example\r\n\
    connection: keep-alive, Upgrade\r\nupgrade: h2c, Echo/1\r\nhttp2-settings: AA\r\n\r\n";
const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo/1\r\n\r\n";

#[tokio::test]
async fn bytes_pass_both_ways_once_the_upstream_switches() {
    let stage = Stage::set(&Options::default()).await;
    let mut client = stage.client().await;
    say(&mut client, WISH).await;
    let (asked, mut upstream) = stage.asked().await;
    assert!(asked.contains("\r\nupgrade: echo/1\r\n"), "{asked}");
    assert!(asked.contains("\r\nconnection: upgrade\r\n"), "{asked}");
    say(&mut upstream, &format!("{SWITCH}first")).await;
    let switched = head(&mut client).await;
    assert!(switched.starts_with("http/1.1 101"), "{switched}");
    assert!(switched.contains("\r\nupgrade: echo/1\r\n"), "{switched}");
    assert!(
        switched.contains("\r\nconnection: upgrade\r\n"),
        "{switched}"
    );
    let mut first = [0; 5];
    client.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"first");
    // One half ends, and the other goes on.
    say(&mut client, "no HTTP\r\n\r\n").await;
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut upstream).await, "no HTTP\r\n\r\n");
    say(&mut upstream, "last").await;
    drop(upstream);
    assert_eq!(rest(&mut client).await, "last");
    stage.proxy.stop().await;
}

#[tokio::test]
async fn a_silent_upgraded_connection_is_closed() {
    let quick = Options {
        tunnel_idle: Duration::from_millis(200),
        ..Options::default()
    };
    let stage = Stage::set(&quick).await;
    let mut client = stage.client().await;
    say(&mut client, WISH).await;
    let (_, mut upstream) = stage.asked().await;
    say(&mut upstream, SWITCH).await;
    head(&mut client).await;
    assert_eq!(rest(&mut upstream).await, "");
    stage.proxy.stop().await;
}

#[tokio::test]
async fn an_upstream_need_not_switch_and_must_not_unasked() {
    let stage = Stage::set(&Options::default()).await;
    let mut client = stage.client().await;
    say(&mut client, WISH).await;
    let (_, mut upstream) = stage.asked().await;
    let plain = "HTTP/1.1 200 OK\r\nupgrade: echo/1\r\nconnection: upgrade, close\r\n\
        content-length: 2\r\n\r\nno";
    say(&mut upstream, plain).await;
    drop(upstream);
    let reply = head(&mut client).await;
    assert!(reply.starts_with("http/1.1 200"), "{reply}");
    assert!(!reply.contains("upgrade"), "{reply}");
    let mut body = [0; 2];
    client.read_exact(&mut body).await.unwrap();

    let wishes = [
        "connection: close\r\n",
        "connection: close, upgrade\r\nupgrade: h2c\r\n",
        "connection: close, upgrade\r\nupgrade: other\r\n",
    ];
    for wish in wishes {
        let mut client = stage.client().await;
        let request = format!("GET /v2/ws HTTP/1.1\r\nhost: listed.example\r\n{wish}\r\n");
        say(&mut client, &request).await;
        let upstream = async {
            let (asked, mut socket) = stage.asked().await;
            assert!(!asked.contains("h2c"), "{asked}");
            say(&mut socket, SWITCH).await;
            socket
        };
        let (reply, _upstream) = tokio::join!(rest(&mut client), upstream);
        assert!(reply.starts_with("HTTP/1.1 502"), "{wish}: {reply}");
        assert!(reply.contains("\"switched\""), "{wish}: {reply}");
    }
    stage.proxy.stop().await;
}

#[tokio::test]
async fn without_a_place_a_request_goes_on_as_it_is() {
    let one = Options {
        max_tunnels: 1,
        ..Options::default()
    };
    let stage = Stage::set(&one).await;
    let mut client = stage.client().await;
    say(&mut client, WISH).await;
    let (asked, _upstream) = stage.asked().await;
    assert!(!asked.contains("upgrade"), "{asked}");
    stage.proxy.stop().await;
}

#[tokio::test]
async fn trailers_and_what_is_said_twice_pass_both_ways() {
    let stage = Stage::set(&Options::default()).await;
    let mut client = stage.client().await;
    let request = "PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\nhost: listed.example\r\n\
        te: trailers\r\nconnection: te, close\r\nx-twice: 1\r\nx-twice: 2\r\ntrailer: x-sum\r\n\
        transfer-encoding: chunked\r\n\r\n4\r\npush\r\n0\r\nx-sum: 77\r\n\r\n";
    say(&mut client, request).await;
    let (asked, mut upstream) = stage.asked().await;
    for line in ["x-twice: 1", "x-twice: 2", "te: trailers", "trailer: x-sum"] {
        assert!(
            asked.contains(&format!("\r\n{line}\r\n")),
            "{line}: {asked}"
        );
    }
    let mut body = Vec::new();
    while !body.ends_with(b"x-sum: 77\r\n\r\n") {
        body.push(upstream.read_u8().await.unwrap());
        assert!(body.len() < 100, "{body:?}");
    }
    let reply = "HTTP/1.1 202 Accepted\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\
        trailer: x-back\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-back: 88\r\n\r\n";
    say(&mut upstream, reply).await;
    let reply = rest(&mut client).await;
    for part in [
        "set-cookie: a=1\r\n",
        "set-cookie: b=2\r\n",
        "x-back: 88\r\n",
    ] {
        assert!(reply.contains(part), "{part}: {reply}");
    }
    assert!(reply.ends_with("0\r\nx-back: 88\r\n\r\n"), "{reply}");
    stage.proxy.stop().await;
}
