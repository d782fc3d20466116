//! Tunnels to hosts that are no upstreams: bytes are passed on unread.
//!
//! For clients on this host only, to port 443 only, and to public addresses only. The
//! name is resolved once, every address is checked, and a checked address is dialled:
//! a name that changes its mind in between changes nothing.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use darter_runtime::server::CallerAddress;
use futures::future::BoxFuture;
use tokio::{net::TcpStream, time::timeout};

use super::{refusal::Refusal, target::Target};
use crate::upstream::is_public;

const HTTPS: u16 = 443;
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
const TRIED: usize = 4;

/// Finds the addresses of a name.
pub(super) trait Resolve: Send + Sync + 'static {
    fn resolve(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// The system's resolver.
struct System;

impl Resolve for System {
    fn resolve(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host.as_str(), port)).await?;
            Ok(found.collect())
        })
    }
}

/// The rules for leaving blind.
#[derive(Clone)]
pub(super) struct Exit {
    pub(super) port: u16,
    pub(super) permits: fn(IpAddr) -> bool,
    pub(super) resolver: Arc<dyn Resolve>,
}

impl Default for Exit {
    fn default() -> Self {
        Self {
            port: HTTPS,
            permits: is_public,
            resolver: Arc::new(System),
        }
    }
}

impl Exit {
    /// Connects to a target for a client, if the rules allow it.
    pub(super) async fn dial(
        &self,
        client: CallerAddress,
        target: &Target,
    ) -> Result<TcpStream, Refusal> {
        if !client.is_here() {
            return Err(Refusal::Remote);
        }
        if target.port != self.port {
            return Err(Refusal::Port);
        }
        let addresses = self.addresses(target).await?;
        for address in addresses.into_iter().take(TRIED) {
            match timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(socket)) => {
                    let _ = socket.set_nodelay(true);
                    return Ok(socket);
                }
                Ok(Err(cause)) => tracing::debug!(%cause, %address, "can't be reached"),
                Err(_) => tracing::debug!(%address, "does not answer"),
            }
        }
        Err(Refusal::Unreachable)
    }

    async fn addresses(&self, target: &Target) -> Result<Vec<SocketAddr>, Refusal> {
        let lookup = self.resolver.resolve(target.host.clone(), target.port);
        let found = timeout(RESOLVE_TIMEOUT, lookup).await;
        let found = match found {
            Ok(Ok(found)) if !found.is_empty() => found,
            _ => return Err(Refusal::Unresolved),
        };
        // One inside address among public ones is no accident.
        if found.iter().all(|found| (self.permits)(found.ip())) {
            Ok(found)
        } else {
            Err(Refusal::Private)
        }
    }
}
