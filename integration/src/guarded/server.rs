//! A small HTTP/1.1 server, with or without TLS, that counts its connections.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// A body that may break off.
pub type Body = BoxBody<Bytes, io::Error>;

/// A body that is there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

/// Runs until it is dropped, and its connections with it.
pub struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    is_tls: bool,
    /// Aborted when dropped.
    _accepting: JoinSet<()>,
}

impl Server {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start<F>(tls: Option<Arc<ServerConfig>>, answer: F) -> Result<Self>
    where
        F: Fn(Request<Bytes>) -> Response<Body> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let connections = Arc::new(AtomicUsize::new(0));
        let is_tls = tls.is_some();
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(
            listener,
            tls,
            Arc::clone(&connections),
            Arc::new(answer),
        ));
        Ok(Self {
            address,
            connections,
            is_tls,
            _accepting: accepting,
        })
    }

    /// `localhost:<port>`
    pub fn authority(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// `https://localhost:<port>`
    pub fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// Connections that came, whatever became of them.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn accept<F>(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    connections: Arc<AtomicUsize>,
    answer: Arc<F>,
) where
    F: Fn(Request<Bytes>) -> Response<Body> + Send + Sync + 'static,
{
    let mut running = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::SeqCst);
        let (tls, answer) = (tls.clone().map(TlsAcceptor::from), Arc::clone(&answer));
        running.spawn(async move { converse(socket, tls, answer).await });
        while running.try_join_next().is_some() {}
    }
}

async fn converse<F>(socket: TcpStream, tls: Option<TlsAcceptor>, answer: Arc<F>)
where
    F: Fn(Request<Bytes>) -> Response<Body> + Send + Sync + 'static,
{
    match tls {
        None => serve(socket, answer).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(socket).await {
                serve(stream, answer).await;
            }
        }
    }
}

async fn serve<F>(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, answer: Arc<F>)
where
    F: Fn(Request<Bytes>) -> Response<Body> + Send + Sync + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = Arc::clone(&answer);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes());
            let request = Request::from_parts(parts, body.unwrap_or_default());
            Ok::<_, Infallible>(answer(request))
        }
    });
    // Whoever hangs up does so on purpose.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
