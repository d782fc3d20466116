//! `Expect: 100-continue` (RFC 9110, section 10.1.1): a client that waits for leave to send its
//! body waits for the upstream's, so that what is refused is not sent.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body::{Frame, SizeHint};
use tokio::sync::Notify;

/// An upstream that knows nothing of it says nothing: then the body is sent.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a body that is held back waits for.
#[derive(Debug, Default)]
pub(super) struct Leave {
    heard: Notify,
    is_answered: AtomicBool,
}

impl Leave {
    /// The upstream's answer is here: a body that has not begun never does.
    pub(super) fn answered(&self) {
        self.is_answered.store(true, Ordering::Release);
        self.heard.notify_one();
    }

    /// Whether the body is to be sent.
    async fn is_given(&self) -> bool {
        // Either way it is sent then.
        let _ = tokio::time::timeout(PATIENCE, self.heard.notified()).await;
        if !self.is_answered.load(Ordering::Acquire) {
            return true;
        }
        // The answer comes on the connection that ends when the body does not come.
        tokio::time::sleep(PATIENCE).await;
        false
    }
}

/// Holds a request's body back, if its sender expects to be told to go on, until the upstream
/// says so. The client's own server tells it once the body is asked for.
pub(super) fn wait_for_leave(request: &mut Request<Body>) -> Arc<Leave> {
    let leave = Arc::new(Leave::default());
    let expect = request.headers().get(header::EXPECT);
    let waits = expect
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
    if !waits {
        return leave;
    }
    let given = Arc::clone(&leave);
    hyper::ext::on_informational(request, move |reply| {
        if reply.status() == StatusCode::CONTINUE {
            given.heard.notify_one();
        }
    });
    let body = std::mem::take(request.body_mut());
    let waiting = Arc::clone(&leave);
    let wait = async move { waiting.is_given().await };
    *request.body_mut() = Body::new(Withheld {
        body,
        wait: Some(Box::pin(wait)),
    });
    leave
}

/// A body that begins when the wait is over, if it is to.
struct Withheld {
    body: Body,
    wait: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
}

impl http_body::Body for Withheld {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(wait) = &mut self.wait {
            let is_given = std::task::ready!(wait.as_mut().poll(context));
            self.wait = None;
            if !is_given {
                let unsent = std::io::Error::other("the upstream answered without it");
                return Poll::Ready(Some(Err(axum::Error::new(unsent))));
            }
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::upstream::{UpstreamOptions, Upstreams};

    async fn head(socket: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap().to_lowercase()
    }

    /// An upload that notes when its body is asked for.
    fn upload(asked: &Arc<AtomicBool>) -> Request<Body> {
        let asked = Arc::clone(asked);
        let body = stream::once(async move {
            asked.store(true, Ordering::SeqCst);
            Ok::<_, std::io::Error>(Bytes::from_static(b"push"))
        });
        Request::put("/v2/a/blobs/uploads/1")
            .header("expect", "100-continue")
            .header("content-length", "4")
            .header("x-twice", "1")
            .header("x-twice", "2")
            .body(Body::from_stream(body))
            .unwrap()
    }

    async fn upstream() -> (TcpListener, Upstreams) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let options = UpstreamOptions::parse(&format!("r=http://{address}"));
        let tasks = darter_runtime::Tasks::new();
        (listener, Upstreams::new(&[options], &tasks).unwrap())
    }

    #[tokio::test]
    async fn a_refused_upload_is_not_sent() {
        let (listener, upstreams) = upstream().await;
        let asked = Arc::new(AtomicBool::new(false));
        let forward = upstreams.resolve("r").unwrap().forward(upload(&asked));
        let refuse = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let head = head(&mut socket).await;
            assert!(head.contains("expect: 100-continue"), "{head}");
            assert_eq!(head.matches("x-twice: ").count(), 2, "{head}");
            let reply = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
            socket.write_all(reply).await.unwrap();
            socket
        };
        let (reply, _socket) = tokio::join!(forward, refuse);
        assert_eq!(reply.unwrap().status(), 401);
        tokio::time::sleep(PATIENCE * 3).await;
        assert!(!asked.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_welcome_one_is() {
        let (listener, upstreams) = upstream().await;
        let asked = Arc::new(AtomicBool::new(false));
        let forward = upstreams.resolve("r").unwrap().forward(upload(&asked));
        let take = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            head(&mut socket).await;
            let leave = b"HTTP/1.1 100 Continue\r\n\r\n";
            socket.write_all(leave).await.unwrap();
            let mut body = [0; 4];
            socket.read_exact(&mut body).await.unwrap();
            let reply = b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n";
            socket.write_all(reply).await.unwrap();
            (body, socket)
        };
        let (reply, (body, _socket)) = tokio::join!(forward, take);
        assert_eq!((reply.unwrap().status().as_u16(), &body), (201, b"push"));
    }
}
