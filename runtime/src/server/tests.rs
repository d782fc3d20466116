//! The clean short end, over real sockets.

use bytes::Bytes;
use futures::stream;
use tokio::io::AsyncReadExt as _;

use super::*;

async fn serve(router: Router) -> (SocketAddr, Tasks) {
    let tasks = Tasks::new();
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.local_addr();
    server.serve("test", router, &tasks, ServerOptions::default());
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

/// All that a client reads until the end, which must be a FIN.
async fn read_to_fin(address: SocketAddr, more: usize, pause: bool) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    // Unread bytes in the server's receive buffer are what would make a RST.
    socket.write_all(&vec![b'A'; more]).await.unwrap();
    if pause {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut all = Vec::new();
    socket
        .read_to_end(&mut all)
        .await
        .expect("a FIN, not a RST");
    all
}

fn body_of(reply: &[u8]) -> &[u8] {
    let at = reply
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap();
    &reply[at + 4..]
}

#[tokio::test]
async fn a_broken_body_ends_short_and_clean() {
    for good in [1, 9_999, 70_000, 3_000_000] {
        for (more, pause) in [(0, false), (100_000, true)] {
            let (address, tasks) = serve(failing(good, Some(good + 5_000))).await;
            let reply = read_to_fin(address, more, pause).await;
            assert_eq!(
                body_of(&reply).len(),
                good,
                "all good bytes, and nothing else"
            );
            tasks.stop(Duration::from_secs(5)).await;
        }
    }
}

#[tokio::test]
async fn a_broken_chunked_body_has_no_last_chunk() {
    let (address, _tasks) = serve(failing(30_000, None)).await;
    let reply = read_to_fin(address, 0, false).await;
    assert!(reply.len() > 30_000);
    assert!(!reply.ends_with(b"0\r\n\r\n"));
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
    let stop = tasks.stop(Duration::from_secs(5));
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
