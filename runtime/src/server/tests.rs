//! The clean short end, over real sockets.

use bytes::Bytes;
use futures::stream;
use tokio::io::AsyncReadExt as _;

use super::*;

async fn serve(router: Router) -> (SocketAddr, Tasks) {
    serve_with(router, ServerOptions::default()).await
}

async fn serve_with(router: Router, options: ServerOptions) -> (SocketAddr, Tasks) {
    let tasks = Tasks::new();
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.local_addr();
    server.serve("test", router, &tasks, options);
    (address, tasks)
}

fn failing(good: usize, length: Option<usize>) -> Router {
    Router::new().fallback(move || async move {
        let chunks = (0..good.div_ceil(10_000)).map(move |at| {
            let size = 10_000.min(good - at * 10_000);
            Ok(Bytes::from(vec![b'x'; size]))
        });
        let end = [Err(io::Error::other("the source broke"))];
        let body = Body::from_stream(stream::iter(chunks.chain(end)));
        let mut response = Response::builder();
        if let Some(length) = length {
            response = response.header("content-length", length);
        }
        response.body(body).unwrap()
    })
}

/// What a client does while it reads.
#[derive(Debug, Clone, Copy)]
enum Client {
    Quiet,
    /// Has sent so much more than a request before it reads anything.
    SentMore(usize),
    /// Sends until the server does not take it any more.
    KeepsSending,
}

/// All that a client reads until the end, which must be a FIN.
async fn read_to_fin(address: SocketAddr, client: Client) -> Vec<u8> {
    let socket = TcpStream::connect(address).await.unwrap();
    let (mut from, mut to) = socket.into_split();
    to.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    // Unread bytes in the server's receive buffer are what would make a RST.
    let more = vec![b'A'; 100_000];
    if let Client::SentMore(bytes) = client {
        to.write_all(&vec![b'A'; bytes]).await.expect("it is read");
    }
    let read = async {
        let mut all = Vec::new();
        from.read_to_end(&mut all).await.expect("a FIN, not a RST");
        all
    };
    let send = async {
        if matches!(client, Client::KeepsSending) {
            while to.write_all(&more).await.is_ok() {}
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        all = read => all,
        () = send => unreachable!("it never ends"),
    }
}

fn body_of(reply: &[u8]) -> &[u8] {
    let at = reply
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap();
    &reply[at + 4..]
}

const CLIENTS: [Client; 3] = [
    Client::Quiet,
    Client::SentMore(100_000),
    Client::KeepsSending,
];
const SIZES: [usize; 4] = [1, 9_999, 70_000, 3_000_000];

#[tokio::test]
async fn a_broken_body_ends_short_and_clean() {
    for good in SIZES {
        let (address, _tasks) = serve(failing(good, Some(good + 5_000))).await;
        for client in CLIENTS {
            let reply = read_to_fin(address, client).await;
            assert_eq!(body_of(&reply).len(), good, "{client:?}");
        }
    }
}

#[tokio::test]
async fn a_broken_chunked_body_has_no_last_chunk() {
    for good in SIZES {
        let (address, _tasks) = serve(failing(good, None)).await;
        for client in CLIENTS {
            let reply = read_to_fin(address, client).await;
            let bytes = body_of(&reply).iter().filter(|byte| **byte == b'x').count();
            assert_eq!(bytes, good, "{client:?}");
            assert!(!reply.ends_with(b"0\r\n\r\n"));
        }
    }
}

#[tokio::test]
async fn a_client_reads_the_good_bytes_however_much_it_sent_before() {
    let (address, _tasks) = serve(failing(9_999, Some(20_000))).await;
    let reply = read_to_fin(address, Client::SentMore(32_000_000)).await;
    assert_eq!(body_of(&reply).len(), 9_999);
}

#[tokio::test]
async fn a_client_that_never_asks_is_let_go() {
    for said in [
        &b""[..],
        b"GET / HT",
        b"PRI * HTTP/2",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let options = ServerOptions {
            header_timeout: Duration::from_millis(50),
            drain: Duration::from_millis(50),
            ..ServerOptions::default()
        };
        let (address, _tasks) = serve_with(Router::new(), options).await;
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(said).await.unwrap();
        let mut reply = Vec::new();
        tokio::time::timeout(Duration::from_secs(60), socket.read_to_end(&mut reply))
            .await
            .unwrap_or_else(|_| panic!("{said:?} holds a connection"))
            .unwrap();
    }
}

#[tokio::test]
async fn a_place_is_free_again_when_its_socket_has_closed() {
    let options = ServerOptions {
        max_connections: 1,
        ..ServerOptions::default()
    };
    let (address, _tasks) = serve_with(failing(10, Some(20)), options).await;
    for _ in 0..3 {
        let reply = read_to_fin(address, Client::SentMore(100_000)).await;
        assert_eq!(body_of(&reply).len(), 10);
    }
}

/// An HTTP/2 connection whose streams have a window of so many bytes.
async fn http2(
    address: SocketAddr,
    window: u32,
    tasks: &Tasks,
) -> hyper::client::conn::http2::SendRequest<Body> {
    let socket = TcpStream::connect(address).await.unwrap();
    let mut builder = hyper::client::conn::http2::Builder::new(InTasks(tasks.clone()));
    let builder = builder.initial_stream_window_size(window);
    let (requests, connection) = builder.handshake(TokioIo::new(socket)).await.unwrap();
    tasks.spawn("client", connection);
    requests
}

#[tokio::test]
async fn who_opens_no_window_gives_its_place_back() {
    let endless = || {
        let chunks = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from(vec![b'x'; 1000])));
        Response::new(Body::from_stream(chunks))
    };
    let router = Router::new().fallback(move || async move { endless() });
    let options = ServerOptions {
        max_connections: 1,
        header_timeout: Duration::from_millis(100),
        stall: Duration::from_millis(200),
        drain: Duration::from_millis(100),
        ..ServerOptions::default()
    };
    let (address, _tasks) = serve_with(router, options).await;
    let clients = Tasks::new();
    let ask = || {
        let request = Request::get("http://localhost/");
        request.body(Body::empty()).unwrap()
    };
    let mut idle = http2(address, 10, &clients).await;
    let unread = idle.send_request(ask()).await.unwrap();
    let next = async {
        let mut next = http2(address, 100_000, &clients).await;
        next.send_request(ask()).await.unwrap()
    };
    let next = tokio::time::timeout(Duration::from_secs(60), next).await;
    assert!(next.is_ok(), "the place is free");
    drop((idle, unread));
    clients.stop(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let (address, _tasks) = serve(Router::new()).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    let (mut from, mut to) = socket.split();
    let send = async {
        to.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nlong: ").await?;
        loop {
            to.write_all(&[b'a'; 1024]).await?;
        }
        #[expect(unreachable_code, reason = "names the type of the error")]
        Ok::<(), io::Error>(())
    };
    let mut reply = Vec::new();
    tokio::select! {
        read = from.read_to_end(&mut reply) => drop(read.unwrap()),
        Err(error) = send => panic!("cut before the reply was read: {error}"),
    }
    assert!(reply.starts_with(b"HTTP/1.1 431"));
}

#[tokio::test]
async fn tls_on_the_plain_port_is_told_so() {
    let (address, _tasks) = serve(Router::new()).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket
        .write_all(&[0x16, 3, 1, 0, 200, 1, 0, 0])
        .await
        .unwrap();
    let mut reply = String::new();
    socket.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 400"), "{reply}");
}

#[tokio::test]
async fn a_stop_lets_the_running_request_end() {
    let (begun, mut waits) = tokio::sync::mpsc::channel::<()>(1);
    let (go, gate) = tokio::sync::watch::channel(false);
    let router = Router::new().fallback(move || {
        let (begun, mut gate) = (begun.clone(), gate.clone());
        async move {
            begun.send(()).await.unwrap();
            gate.wait_for(|open| *open).await.unwrap();
            "whole"
        }
    });
    let (address, tasks) = serve(router).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    waits.recv().await.unwrap();
    let stop = tasks.stop(Duration::from_secs(60));
    let finish = async {
        go.send(true).unwrap();
        let mut reply = Vec::new();
        socket.read_to_end(&mut reply).await.unwrap();
        drop(socket);
        reply
    };
    let (stopped, reply) = tokio::join!(stop, finish);
    assert!(stopped);
    assert_eq!(body_of(&reply), b"whole");
}

/// A body of spans of a file, twice: `at` what it keeps has been let go of.
mod spans {
    use std::{
        fs::File,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use axum::BoxError;
    use futures::StreamExt as _;

    use super::*;
    use crate::server::span::{FileSpan, Span, set_spans};

    struct Held(Arc<AtomicUsize>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn bytes(size: usize) -> Vec<u8> {
        (0..size).map(|at| (at * 31 % 251) as u8).collect()
    }

    /// `GET /`: a word, then the whole file in two spans, then perhaps a failure.
    fn router(file: Arc<File>, size: u64, fails: bool, dropped: Arc<AtomicUsize>) -> Router {
        Router::new().fallback(move || async move {
            let half = size / 2;
            let span = |range| FileSpan::new(Arc::clone(&file), range);
            let held = Held(Arc::clone(&dropped));
            let mut all = vec![
                Ok(Span::Bytes(Bytes::from_static(b"word"))),
                Ok(Span::File(span(0..half))),
                Ok(Span::File(span(half..size).keeping(held))),
            ];
            if fails {
                all.push(Err(BoxError::from("the source broke")));
            }
            let length = size + 4 + u64::from(fails);
            let mut response = Response::builder()
                .header("content-length", length)
                .body(Body::empty())
                .unwrap();
            set_spans(&mut response, stream::iter(all).boxed());
            response
        })
    }

    async fn check(size: usize, fails: bool, request: &str) {
        let dropped = Arc::new(AtomicUsize::new(0));
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &bytes(size)).unwrap();
        let router = router(Arc::new(file), size as u64, fails, Arc::clone(&dropped));
        let (address, _tasks) = serve(router).await;
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut reply = Vec::new();
        socket.read_to_end(&mut reply).await.expect("a FIN");
        let body = body_of(&reply);
        assert!(body.starts_with(b"word"), "{request:?}");
        assert!(
            body[4..] == bytes(size),
            "{request:?}: {} bytes",
            body.len()
        );
        assert_eq!(dropped.load(Ordering::SeqCst), 1, "{request:?}");
    }

    #[tokio::test]
    async fn a_file_arrives_as_it_is_with_and_without_hyper() {
        for size in [1, 70_000, 5_000_000] {
            for fails in [false, true] {
                check(size, fails, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
                let hyper = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
                check(size, fails, hyper).await;
            }
        }
    }

    #[tokio::test]
    async fn who_reads_nothing_gives_its_place_back() {
        let size = 64 << 20;
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        let router = router(Arc::new(file), size, false, Arc::default());
        let options = ServerOptions {
            max_connections: 1,
            stall: Duration::from_millis(100),
            ..ServerOptions::default()
        };
        let (address, _tasks) = serve_with(router, options).await;
        for request in [
            "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        ] {
            let mut idle = TcpStream::connect(address).await.unwrap();
            idle.write_all(request.as_bytes()).await.unwrap();
            let mut next = TcpStream::connect(address).await.unwrap();
            next.write_all(request.as_bytes()).await.unwrap();
            let answered = tokio::time::timeout(Duration::from_secs(60), next.read_u8());
            assert!(answered.await.is_ok_and(|read| read.is_ok()), "{request:?}");
            drop((idle, next));
        }
    }

    #[tokio::test]
    async fn a_connection_goes_on_from_plain_requests_to_others() {
        let router = Router::new().fallback(|request: Request<Body>| async move {
            let body = axum::body::to_bytes(request.into_body(), 100)
                .await
                .unwrap();
            format!("{} bytes", body.len())
        });
        let (address, _tasks) = serve(router).await;
        let mut socket = TcpStream::connect(address).await.unwrap();
        // All at once: what was read too early must reach hyper.
        let requests = "GET /one HTTP/1.1\r\nhost: x\r\n\r\n\
            HEAD /two HTTP/1.1\r\nhost: x\r\n\r\n\
            POST /three HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello\
            GET /four HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        socket.write_all(requests.as_bytes()).await.unwrap();
        let mut reply = String::new();
        socket.read_to_string(&mut reply).await.unwrap();
        assert_eq!(reply.matches("HTTP/1.1 200 OK").count(), 4, "{reply}");
        assert_eq!(reply.matches("0 bytes").count(), 2, "{reply}");
        assert_eq!(reply.matches("5 bytes").count(), 1, "{reply}");
    }

    #[tokio::test]
    async fn a_file_that_ends_too_soon_ends_the_body_short() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &bytes(1000)).unwrap();
        let router = router(Arc::new(file), 2000, false, Arc::default());
        let (address, _tasks) = serve(router).await;
        let reply = read_to_fin(address, Client::Quiet).await;
        assert_eq!(body_of(&reply).len(), 4 + 1000);
    }
}
