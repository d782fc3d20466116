//! Builds a whole proxy, in order, from its options.
//!
//! Owner of state: [`Proxy`] owns what was bound and started; everything it started
//! ends with the [`Tasks`] it was given. Failure: a start that fails has started nothing
//! that outlives the tasks' stop, and its error names what was tried and on what.

mod error;
mod fellows;
mod options;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use darter_api::{HostId, NodeKey};
use darter_runtime::{
    Tasks, identity,
    server::{Server, ServerOptions},
    tls::Security,
};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use crate::{
    clients::Clients,
    content::Contents,
    errands::Errands,
    files::{Files, Sources},
    intercept::Intercept,
    limits::{self, Limits},
    mirror::Mirror,
    preheat::{self, Preheater},
    rights::{Proofs, Rights},
    settings::{Own, Settings},
    store::{self, Found, Store},
    swarm::driver::{self, Parts, Swarm, Trust},
    transfer::{self, Links, fair::Slots, server::PieceServer},
    upstream::Upstreams,
};
pub use error::StartError;
pub use options::{Locality, Options};

/// Events of links and sessions that wait for the swarm's actor.
const EVENTS: usize = 1024;
/// For clients' running bodies to end after a stop, downloads going on meanwhile.
const DRAIN: Duration = Duration::from_secs(10);
/// For everything behind them to end after that.
const WIND_DOWN: Duration = Duration::from_secs(2);
/// Of a piece, in the kernel and not sent: an upload slot that is given back has sent all but this.
const UNSENT: u32 = 32 * 1024;

/// A running proxy. It ends with the tasks it was started in.
#[derive(Debug)]
pub struct Proxy {
    listen: SocketAddr,
    peer: SocketAddr,
    host: HostId,
    settings: Settings,
    operations: axum::Router,
}

impl Proxy {
    /// Starts everything and returns when both ports are open. `beside` is served on the
    /// peer port too.
    ///
    /// # Errors
    /// What is wrong with the options, the directory or the ports.
    pub async fn start(
        options: Options,
        security: &Security,
        beside: axum::Router,
        tasks: &Tasks,
        registry: &mut Registry,
    ) -> Result<Self, StartError> {
        if security.is_plain() && !options.peer.ip().is_loopback() {
            if !options.insecure {
                return Err(StartError::PlainText(options.peer));
            }
            tracing::warn!(address = %options.peer, "peers connect in plain text, which others can read and join");
        } else if security.is_plain() && options.has_fellows() {
            tracing::warn!(address = %options.peer, "peers connect in plain text, from this host alone: [cluster] is empty");
        }
        let (clients, inner) = wind_down(tasks);
        let upstreams = Upstreams::new(&options.upstreams, &inner)
            .map_err(|mut errors| StartError::Upstream(errors.swap_remove(0)))?;
        let files = Files::new(&options.intercept.rules)?;
        let key = Arc::new(identity::load_or_create(&options.data)?);
        let (store, found) = open_store(&options, registry)?;
        let mirror_port = Server::bind(options.listen).await?;
        let peer_port = Server::bind(options.peer).await?;
        let limits = open_limits(&options.limits, registry);
        let slots = Slots::new(options.transfer.upload_slots, options.transfer.upload_queue);
        let settings = Settings::new(
            Own {
                rates: options.limits.rates(),
                transfer: options.transfer.clone(),
                seed: options.seed,
                prefetch: options.prefetch,
            },
            limits.clone(),
            slots.clone(),
            upstreams.clone(),
        );
        let mut proxy = Self {
            listen: mirror_port.local_addr(),
            peer: peer_port.local_addr(),
            host: key.id(),
            settings: settings.clone(),
            operations: axum::Router::new(),
        };
        let connector = security.connector();

        let transfers = transfer::Metrics::default();
        transfers.register(registry);
        transfers
            .sessions_expected
            .set(options.has_schedulers().into());
        let (link_sender, link_events) = mpsc::channel(EVENTS);
        let links = Links::new(
            Arc::clone(&key),
            security.connector(),
            link_sender,
            inner.clone(),
            transfers.clone(),
        );
        proxy.follow(&options, &settings, &connector, &inner, registry)?;
        let pieces = PieceServer::new(store.clone(), slots, limits.clone(), transfers.clone());
        let peer_router = tonic::service::Routes::new(links.service())
            .into_axum_router()
            .merge(pieces.router())
            .merge(beside);
        let session = proxy
            .session(&options, &settings, &key, connector, &inner, &transfers)
            .await?;

        let metrics = driver::Metrics::default();
        metrics.register(registry);
        let proofs = Proofs::new(&options.rights);
        let line = session.as_ref().map(|(session, _)| session.clone());
        let swarm = Swarm::start(
            Parts {
                proofs: proofs.clone(),
                options: options.swarm.clone(),
                trust: open_trust(&options, &key)?,
                key,
                store: store.clone(),
                found,
                source: Arc::new(Sources {
                    registries: Arc::new(upstreams.clone()),
                    files: files.clone(),
                }),
                links,
                link_events,
                session,
                spool: options.data.join("spool"),
                prefetch: settings.prefetch(),
                limits: limits.clone(),
                metrics,
                transfers,
            },
            &inner,
        );
        let peer_router = peer_router.merge(driver::excerpts_router(&swarm));
        let contents: Arc<dyn Contents> = Arc::new(swarm.clone());
        let rights = Rights::new(
            options.rights.clone(),
            Arc::new(upstreams.clone()),
            Arc::clone(&contents),
            proofs,
            registry,
        );
        let mirror = Mirror::new(
            options.mirror.clone(),
            upstreams.clone(),
            Arc::clone(&contents),
            rights.clone(),
            Clients::new(&options.clients)?,
            registry,
        );
        let preheats = preheat::Metrics::default();
        preheats.register(registry);
        if let Some(session) = line {
            let errands = Errands {
                store: store.clone(),
                mirror: mirror.clone(),
                upstreams: upstreams.clone(),
                session: session.clone(),
                tasks: inner.clone(),
            };
            errands.start();
            let preheater = Preheater {
                swarm,
                store: store.clone(),
                mirror: mirror.clone(),
                rights,
                upstreams: upstreams.clone(),
                files: files.clone(),
                session,
                metrics: preheats,
                tasks: inner.clone(),
            };
            preheater.start();
        }

        proxy.operations = limits::router(limits.clone()).merge(mirror.operations());
        let intercept = Intercept::new(
            &options.intercept,
            (mirror, upstreams),
            (files, contents),
            &options.data,
            &clients,
            registry,
        )?;

        inner.spawn("store upkeep", store::upkeep(store.clone()));
        inner.spawn("scrub", store::scrub(store));
        inner.spawn("limits", limits.watch(options.limits));
        peer_port.serve("peer port", peer_router, &inner, peer_options(security));
        let clients_options = ServerOptions {
            drain: DRAIN,
            ..ServerOptions::default()
        };
        mirror_port.serve("mirror", intercept.router(), &clients, clients_options);
        Ok(proxy)
    }

    /// Where clients connect.
    pub const fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where other peers connect.
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The host's public key.
    pub const fn host(&self) -> HostId {
        self.host
    }

    /// What of it can be seen and changed while it runs, for the operations port: `/limits` and
    /// `/tags`.
    pub fn operations(&self) -> axum::Router {
        self.operations.clone()
    }

    /// What its file and the manager say, as far as it can change while it runs.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// Two groups that end with `tasks`: first that of the clients' connections, drained, then
/// all that their bodies live on.
fn wind_down(tasks: &Tasks) -> (Tasks, Tasks) {
    let (clients, inner) = (tasks.group(), tasks.group());
    let groups = (clients.clone(), inner.clone());
    let stopped = tasks.token().clone();
    tasks.spawn_draining("wind down", async move {
        stopped.cancelled().await;
        clients.stop(DRAIN + Duration::from_secs(1)).await;
        inner.stop(WIND_DOWN).await;
    });
    groups
}

fn open_store(
    options: &Options,
    registry: &mut Registry,
) -> Result<(Store, Vec<Found>), StartError> {
    let metrics = store::Metrics::default();
    metrics.register(registry);
    Ok(Store::open(
        &options.data.join("store"),
        &options.store,
        metrics,
    )?)
}

fn open_limits(options: &limits::Options, registry: &mut Registry) -> Limits {
    let metrics = limits::Metrics::default();
    metrics.register(registry);
    Limits::new(options.rates(), metrics)
}

fn open_trust(options: &Options, key: &NodeKey) -> Result<Trust, StartError> {
    let path = options.data.join("schedulers.trusted");
    Trust::open(&path, key.id(), options.trust).map_err(|cause| StartError::File {
        what: "can't read the trusted schedulers' keys in",
        path,
        cause,
    })
}

/// Peers keep connections for long, and say what they want at once.
fn peer_options(security: &Security) -> ServerOptions {
    ServerOptions {
        drain: Duration::from_secs(1),
        answer_tls: false,
        unsent_bytes: Some(UNSENT),
        tls: security.acceptor(),
        ..ServerOptions::default()
    }
}
