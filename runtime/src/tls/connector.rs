//! Connecting to other nodes: one type for plain text and TLS, for gRPC and for pieces.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    os::fd::AsFd as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use darter_api::HostId;
use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::Endpoint;
use tower::Service;

use super::{Credentials, NODE_NAME, host_of};
use crate::low_water;

/// For TCP and TLS together.
const TIMEOUT: Duration = Duration::from_secs(3);

/// A URL is not one that can be connected to.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// It is plain text, and the cluster is not.
    #[error("{0} is plain text, and this node's cluster speaks TLS: say https://")]
    Plain(String),
    /// It asks for TLS, and there is no certificate.
    #[error("{0} asks for a certificate of the cluster, and this node has none")]
    NoCertificate(String),
    /// It makes no sense.
    #[error("{url} is no URL")]
    Url {
        /// What was said.
        url: String,
        /// Why it is none.
        #[source]
        cause: tonic::transport::Error,
    },
}

/// Connects to other nodes of the cluster. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    http: HttpConnector,
    tls: Option<TlsConnector>,
    expected: Option<HostId>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = self.tls.is_some();
        write!(f, "Connector(tls: {tls}, expects {:?})", self.expected)
    }
}

impl Connector {
    /// In plain text.
    pub fn plain() -> Self {
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        http.set_connect_timeout(Some(TIMEOUT));
        Self {
            http,
            tls: None,
            expected: None,
        }
    }

    /// With mutual TLS.
    pub fn secured(credentials: &Credentials) -> Self {
        Self::with_config(credentials.client())
    }

    /// With this configuration.
    pub(super) fn with_config(config: Arc<ClientConfig>) -> Self {
        Self {
            tls: Some(TlsConnector::from(config)),
            ..Self::plain()
        }
    }

    /// Refuses whoever has another host's certificate. Plain text says nothing of that.
    #[must_use]
    pub fn expecting(mut self, host: HostId) -> Self {
        self.expected = Some(host);
        self
    }

    /// A gRPC endpoint at `url`, `https://` where this is TLS and `http://` where not; to be
    /// connected with this connector.
    ///
    /// # Errors
    /// When the URL makes no sense, or is of the other kind.
    pub fn endpoint(&self, url: &str) -> Result<Endpoint, EndpointError> {
        let plain = match (url.strip_prefix("https://"), &self.tls) {
            // tonic adds a TLS of its own to https; the connector has done it by then.
            (Some(rest), Some(_)) => format!("http://{rest}"),
            (Some(_), None) => return Err(EndpointError::NoCertificate(url.to_owned())),
            (None, Some(_)) => return Err(EndpointError::Plain(url.to_owned())),
            (None, None) => url.to_owned(),
        };
        let endpoint = Endpoint::from_shared(plain).map_err(|cause| EndpointError::Url {
            url: url.to_owned(),
            cause,
        })?;
        Ok(endpoint.connect_timeout(TIMEOUT).tcp_nodelay(true))
    }

    /// A gRPC endpoint at an address.
    ///
    /// # Errors
    /// When the address makes no URL.
    pub fn to_address(&self, address: SocketAddr) -> Result<Endpoint, EndpointError> {
        self.endpoint(&format!("{}://{address}", self.scheme()))
    }

    /// Of the URLs of other parts.
    pub const fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

impl Connector {
    /// A connection to an address. The caller bounds its time.
    ///
    /// # Errors
    /// When nobody is there, or nobody of the cluster.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Stream::Plain(socket)),
            Some(tls) => {
                let stream = shake(tls, socket, self.expected).await?;
                Ok(Stream::Tls(Box::new(stream)))
            }
        }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let socket = self.http.call(uri);
        let (tls, expected) = (self.tls.clone(), self.expected);
        Box::pin(async move {
            let socket = socket.await?.into_inner();
            let stream = match tls {
                None => Stream::Plain(socket),
                Some(tls) => {
                    let shake = shake(&tls, socket, expected);
                    Stream::Tls(Box::new(tokio::time::timeout(TIMEOUT, shake).await??))
                }
            };
            Ok(TokioIo::new(stream))
        })
    }
}

async fn shake(
    tls: &TlsConnector,
    socket: TcpStream,
    expected: Option<HostId>,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(NODE_NAME).map_err(io::Error::other)?;
    let stream = tls.connect(name, socket).await?;
    let shown = stream.get_ref().1.peer_certificates();
    let host = shown.and_then(|chain| host_of(chain.first()?));
    match (host, expected) {
        (None, _) => Err(io::Error::other("its certificate is no node's")),
        (Some(host), Some(expected)) if host != expected => Err(io::Error::other(format!(
            "it is host {}, not {}",
            host.short(),
            expected.short()
        ))),
        _ => Ok(stream),
    }
}

/// A connection to another node.
#[derive(Debug)]
pub enum Stream {
    /// In plain text.
    Plain(TcpStream),
    /// Over TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Wakes a reader when so many bytes have come, or the end, and not for each packet. A hint:
    /// over TLS, whose records are read ahead, nothing changes.
    pub fn wake_after(&self, bytes: u32) {
        if let Self::Plain(socket) = self {
            let _ = low_water::set(socket.as_fd(), bytes);
        }
    }

    /// Whether nothing came that was not read, not even the end.
    pub fn is_quiet(&mut self) -> bool {
        match self {
            Self::Plain(socket) => {
                let read = socket.try_read(&mut [0]);
                matches!(read, Err(cause) if cause.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Tls(stream) => {
                let mut byte = [0];
                let mut context = Context::from_waker(Waker::noop());
                let read = Pin::new(stream).poll_read(&mut context, &mut ReadBuf::new(&mut byte));
                read.is_pending()
            }
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Self::Plain(socket) => socket.connected(),
            Self::Tls(stream) => stream.get_ref().0.connected(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
