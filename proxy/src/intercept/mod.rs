//! The mirror's port as an HTTP proxy: absolute-form requests and CONNECT.
//!
//! A listed upstream's blobs and manifests are the mirror's to answer, whatever way a
//! client asks for them; all else is passed on to the upstream unchanged. CONNECT to a
//! listed upstream, or to a host of a rule for files, ends here ([`terminated`]), under a
//! certificate that [`leaves`] makes and [`ca`] signs; any other is passed on unread by the rules of [`blind`], or refused. Where users
//! are configured ([`callers`]), whoever is none gets nothing as a proxy; the mirror itself
//! asks nobody.
//!
//! Owner of state: [`Intercept`] owns the authority, the certificates and the count of
//! open tunnels, all bounded. Failure: a refusal is answered before a tunnel opens, and
//! dials nothing.

mod blind;
mod ca;
mod callers;
mod front;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod idle;
mod inspect;
mod leaves;
mod metrics;
mod refusal;
mod target;
mod terminated;
mod upgrade;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body};
use darter_runtime::{
    server::{CallerAddress, ClientAddress},
    tasks::Tasks,
};
use http::{Method, Request, Response, Version};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, sync::Semaphore};
use tokio_rustls::TlsAcceptor;

use crate::{
    content::Contents,
    files::{Files, RuleOptions},
    mirror::Mirror,
    upstream::Upstreams,
};
use blind::Exit;
use ca::Authority;
pub use ca::CaError;
use callers::Callers;
pub use callers::{UsersError, count_users};
use front::Front;
pub use inspect::{CaFacts, inspect};
use leaves::Leaves;
use metrics::{Metrics, OpenTunnel, TunnelKind};
use refusal::Refusal;
use target::Target;
use terminated::{Behind, Session, WIDE_TUNNELS};

/// How the mirror's port serves as an HTTP proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Whether it does at all. Default true.
    pub enabled: bool,
    /// A PEM file with the CA certificate that signs for listed hosts, and its chain.
    /// Default: one of the node's own, `ca.crt` in the data directory.
    pub ca_certificate: Option<PathBuf>,
    /// The PEM file with its key. Default: `ca.key` in the data directory, mode 0600.
    pub ca_key: Option<PathBuf>,
    /// What becomes of a CONNECT to a host that is no upstream: `tunnel` (unread, for clients
    /// on this host, to public addresses and port 443) or `refuse`. Default `tunnel`.
    pub unlisted: Unlisted,
    /// A file of `user:password` lines, mode 0600: who may use the port as an HTTP proxy
    /// (Basic). Default none: anybody who reaches it. The mirror is not asked for it. An address
    /// that showed 20 wrong ones within a minute is answered 429 for its rest.
    pub users: Option<PathBuf>,
    /// Tunnels at the same time; more are answered 503. Default 512. Costs up to two
    /// sockets and 32 KiB each, and 256 KiB where HTTP/2 is pushed through it, 4 MiB in the
    /// first 16 such.
    pub max_tunnels: usize,
    /// A blind tunnel, or a connection that was upgraded to another protocol, in which neither
    /// side says anything for so long is closed. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub tunnel_idle: Duration,
    /// Which downloads go into the swarm although they are no images; the first rule that has
    /// the host decides. Default none.
    pub rules: Vec<RuleOptions>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            enabled: true,
            ca_certificate: None,
            ca_key: None,
            unlisted: Unlisted::Tunnel,
            users: None,
            max_tunnels: 512,
            tunnel_idle: Duration::from_secs(300),
            rules: Vec::new(),
        }
    }
}

/// What becomes of a CONNECT to a host that is no upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unlisted {
    /// Its bytes are passed on unread.
    #[default]
    Tunnel,
    /// It is answered 403.
    Refuse,
}

/// The port can't serve as an HTTP proxy.
#[derive(Debug, thiserror::Error)]
pub enum InterceptError {
    /// There is no CA to sign with.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Who may use it can't be read.
    #[error(transparent)]
    Users(#[from] UsersError),
}

/// The interception before a mirror. Cheap to clone.
#[derive(Clone)]
pub struct Intercept(Arc<Inner>);

struct Inner {
    front: Arc<dyn Front>,
    /// Absent where interception is switched off.
    leaves: Option<Leaves>,
    exit: Exit,
    unlisted: Unlisted,
    /// Absent where anybody may.
    callers: Option<Callers>,
    places: Arc<Semaphore>,
    /// Tunnels whose client may push much ahead.
    wide: Arc<Semaphore>,
    idle: Duration,
    tasks: Tasks,
    metrics: Metrics,
}

impl Intercept {
    /// Before `mirror`, for the upstreams of the list and the files of the rules; its CA is in
    /// `data`, where one is made if need be. Tunnels run in `tasks`.
    ///
    /// # Errors
    /// When there is no CA to sign with, or who may use it can't be read.
    pub fn new(
        options: &Options,
        (mirror, upstreams): (Mirror, Upstreams),
        (files, contents): (Files, Arc<dyn Contents>),
        data: &Path,
        tasks: &Tasks,
        registry: &mut Registry,
    ) -> Result<Self, InterceptError> {
        let front = Arc::new(front::Registry {
            mirror,
            upstreams,
            files,
            contents,
        });
        Self::before(front, options, data, Exit::default(), tasks, registry)
    }

    fn before(
        front: Arc<dyn Front>,
        options: &Options,
        data: &Path,
        exit: Exit,
        tasks: &Tasks,
        registry: &mut Registry,
    ) -> Result<Self, InterceptError> {
        let metrics = Metrics::default();
        metrics.register(registry);
        let leaves = if options.enabled {
            let authority = authority(options, data)?;
            Some(Leaves::new(authority, metrics.leaves.clone())?)
        } else {
            None
        };
        Ok(Self(Arc::new(Inner {
            front,
            leaves,
            exit,
            unlisted: options.unlisted,
            callers: options.users.as_deref().map(Callers::read).transpose()?,
            places: Arc::new(Semaphore::new(options.max_tunnels)),
            wide: Arc::new(Semaphore::new(WIDE_TUNNELS)),
            idle: options.tunnel_idle,
            tasks: tasks.clone(),
            metrics,
        })))
    }

    /// The service of the mirror's port.
    pub fn router(&self) -> Router {
        let inner = Arc::clone(&self.0);
        Router::new().fallback(move |request: Request<Body>| {
            let inner = Arc::clone(&inner);
            async move { inner.handle(request).await }
        })
    }
}

fn authority(options: &Options, data: &Path) -> Result<Authority, CaError> {
    match (&options.ca_certificate, &options.ca_key) {
        (Some(certificate), Some(key)) => Authority::load(certificate, key),
        (None, None) => Authority::load_or_create(data),
        _ => Err(CaError::Half),
    }
}

impl Inner {
    async fn handle(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        // An HTTP/2 request always names its host; only in HTTP/1.1 does that make it a
        // proxy's.
        let to_a_proxy = request.version() < Version::HTTP_2 && request.uri().authority().is_some();
        let is_connect = *request.method() == Method::CONNECT;
        let as_a_proxy = is_connect || to_a_proxy;
        let admitted = match &self.callers {
            Some(callers) if as_a_proxy => {
                let from = ClientAddress::ip_of(request.extensions());
                callers.admit(request.headers(), from)
            }
            _ => Ok(()),
        };
        let answered = if let Err(refusal) = admitted {
            Err(refusal)
        } else if is_connect {
            Arc::clone(&self).connect(request).await
        } else if to_a_proxy {
            self.absolute(request).await
        } else {
            Ok(self.front.own(request).await)
        };
        answered.unwrap_or_else(|refusal| {
            self.metrics.refused(refusal);
            refusal.response()
        })
    }

    async fn absolute(&self, request: Request<Body>) -> Result<Response<Body>, Refusal> {
        if self.leaves.is_none() {
            return Err(Refusal::Off);
        }
        let target = Target::of_absolute(request.uri()).ok_or(Refusal::Malformed)?;
        let behind = self.behind(&target).ok_or(Refusal::Unlisted)?;
        Ok(self.within(behind, target, request).await)
    }

    /// Whom this proxy answers for itself, if the target is listed or a rule names it.
    fn behind(&self, target: &Target) -> Option<Behind> {
        let listed = self.front.find(target).map(Behind::Registry);
        listed.or_else(|| self.front.files(target).map(Behind::Files))
    }

    async fn connect(
        self: Arc<Self>,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let leaves = self.leaves.as_ref().ok_or(Refusal::Off)?;
        if request.version() >= Version::HTTP_2 {
            return Err(Refusal::Malformed);
        }
        let target = Target::of_connect(request.uri()).ok_or(Refusal::Malformed)?;
        // Inside the tunnel nothing says that it was passed on.
        let client = CallerAddress::of(request.headers(), request.extensions());
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| Refusal::TooMany)?;
        let upgrade = hyper::upgrade::on(&mut request);
        if let Some(behind) = self.behind(&target) {
            let config = leaves.config(&target.host).map_err(|cause| {
                tracing::warn!(%cause, host = target.host, "no certificate");
                Refusal::Certificate
            })?;
            let session = Session {
                inner: Arc::clone(&self),
                behind,
                target,
                client,
                tunnel: self.metrics.tunnel(TunnelKind::Terminated, place),
            };
            let work = session.run(upgrade, TlsAcceptor::from(config));
            self.tasks.spawn_draining("intercepted tunnel", work);
        } else if self.unlisted == Unlisted::Refuse {
            return Err(Refusal::Unlisted);
        } else {
            let socket = self.exit.dial(client, &target).await?;
            let tunnel = self.metrics.tunnel(TunnelKind::Blind, place);
            let work = Arc::clone(&self).pass(upgrade, socket, tunnel);
            self.tasks.spawn_draining("blind tunnel", work);
        }
        Ok(Response::new(Body::empty()))
    }

    async fn pass(self: Arc<Self>, upgrade: OnUpgrade, socket: TcpStream, tunnel: OpenTunnel) {
        if let Some(client) = upgraded(upgrade).await {
            let end = idle::join(client, socket, self.idle, self.tasks.token()).await;
            tracing::debug!(?end, "a blind tunnel ends");
        }
        drop(tunnel);
    }
}

async fn upgraded(upgrade: OnUpgrade) -> Option<TokioIo<Upgraded>> {
    match upgrade.await {
        Ok(client) => Some(TokioIo::new(client)),
        Err(cause) => {
            tracing::debug!(%cause, "a client went away before its tunnel opened");
            None
        }
    }
}

#[cfg(test)]
mod tests;
