//! An HTTP proxy towards the outside, which tunnels for who has a name.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context as _, Result};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::basic;
use crate::secrets;

/// Runs until it is dropped.
pub struct Tunnel {
    port: u16,
    opened: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    /// Aborted when dropped.
    _accepting: JoinSet<()>,
}

impl Tunnel {
    /// One that asks for this name and password, and may speak TLS.
    ///
    /// # Errors
    /// When it can't listen.
    pub async fn start(name: &str, password: &str, tls: Option<Arc<ServerConfig>>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (opened, refused) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        secrets::keep(&format!("{name}:{password}"));
        let wanted = format!("Proxy-Authorization: {}", basic(name, password));
        let (open, refuse) = (Arc::clone(&opened), Arc::clone(&refused));
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut tunnels = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (wanted, open, refuse) =
                    (wanted.clone(), Arc::clone(&open), Arc::clone(&refuse));
                let tls = tls.clone().map(TlsAcceptor::from);
                tunnels.spawn(async move {
                    let ended = match tls {
                        None => tunnel(socket, &wanted).await,
                        Some(tls) => match tls.accept(socket).await {
                            Ok(stream) => tunnel(stream, &wanted).await,
                            Err(cause) => Err(cause.into()),
                        },
                    };
                    let counter = match ended {
                        Ok(true) => open,
                        _ => refuse,
                    };
                    counter.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Ok(Self {
            port,
            opened,
            refused,
            _accepting: accepting,
        })
    }

    /// `127.0.0.1:<port>`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Tunnels that have ended, and those that were refused.
    pub fn ended(&self) -> (usize, usize) {
        let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
        (count(&self.opened), count(&self.refused))
    }
}

async fn tunnel(mut socket: impl AsyncRead + AsyncWrite + Unpin, wanted: &str) -> Result<bool> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if socket.read_buf(&mut head).await? == 0 {
            return Ok(false);
        }
    }
    let head = String::from_utf8(head)?;
    let target = head
        .strip_prefix("CONNECT ")
        .and_then(|rest| rest.split(' ').next());
    let target = target.context("a CONNECT")?;
    if !head.lines().any(|line| line == wanted) {
        let reply = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
        socket.write_all(reply).await?;
        return Ok(false);
    }
    let mut to = TcpStream::connect(target).await?;
    socket
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await?;
    // Who is killed ends it in any way.
    let _ = tokio::io::copy_bidirectional(&mut socket, &mut to).await;
    Ok(true)
}
