//! Builds a whole proxy, in order, from its options.
//!
//! Owner of state: [`Proxy`] owns what was bound and started; everything it started
//! ends with the [`Tasks`] it was given. Failure: a start that fails has started nothing
//! that outlives the tasks' stop, and its error names what was tried and on what.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use darter_api::{
    ClusterName, HostId, Member, MemberKind, NodeKey, Place,
    session::{self as vocabulary, Hello, Role},
};
use darter_runtime::{
    Tasks,
    configuration::{self, Kind},
    identity::{self, IdentityError},
    membership::{self, MembershipError},
    server::{BindError, Server, ServerOptions},
    tls::{Connector, Security},
};
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    clients::{self, Clients, UsersError},
    content::Contents,
    errands::Errands,
    files::{self, Files, Sources},
    intercept::{self, Intercept, InterceptError},
    limits::{self, Limits},
    mirror::{self, Mirror},
    preheat::{self, Preheater},
    rights::{self, Proofs, Rights},
    session::{List, ListError, PeerAddress, Peers, Schedulers, Session, SessionEvent},
    settings::{Own, Settings},
    store::{self, Found, Store},
    swarm::{
        core,
        driver::{self, Parts, Policy, Prefetch, Swarm, Trust},
    },
    transfer::{self, Links, fair::Slots, server::PieceServer},
    upstream::{self, UpstreamOptions, Upstreams},
};

/// Events of links and sessions that wait for the swarm's actor.
const EVENTS: usize = 1024;
/// For clients' running bodies to end after a stop, downloads going on meanwhile.
const DRAIN: Duration = Duration::from_secs(10);
/// For everything behind them to end after that.
const WIND_DOWN: Duration = Duration::from_secs(2);
/// Of a piece, in the kernel and not sent: an upload slot that is given back has sent all but this.
const UNSENT: u32 = 32 * 1024;

/// The proxy's section of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Where clients connect: the mirror, and the HTTP proxy. Default 127.0.0.1:4001.
    pub listen: SocketAddr,
    /// Where other peers connect. Default 127.0.0.1:4000; anything but loopback asks
    /// for `insecure`.
    pub peer: SocketAddr,
    /// The address that other peers are told, where it is not the one listened on.
    pub advertise: Option<SocketAddr>,
    /// The directory of store, keys and CA. One process owns it. Default
    /// `/var/lib/darter`.
    pub data: PathBuf,
    /// The host's name, for people. Default: the system's.
    pub name: Option<String>,
    /// Whether this is a seed peer, which reads sources first so that others need not.
    /// Default false.
    pub seed: bool,
    /// Where the host stands, for preferring near neighbours. Default: unknown.
    pub locality: Locality,
    /// Schedulers, as URLs that are the same on all hosts. A content belongs to one of
    /// them. Default none: a pull-through mirror that works alone.
    pub schedulers: Vec<String>,
    /// Instead of schedulers: the peer ports of all hosts, this one among them, as
    /// `ADDRESS:PORT` or `dns:NAME:PORT`. Each is the scheduler of its share of the contents.
    /// The same on all hosts. Default none.
    pub peers: Vec<String>,
    /// The manager's gRPC, as a URL. Schedulers are found through it where none are named,
    /// and a seed is shown there. Default none.
    pub manager: Option<String>,
    /// The cluster of schedulers and peers that it belongs to, by the name that the manager has for
    /// it. Default none: the manager finds it by address, name and locality.
    pub cluster: Option<ClusterName>,
    /// Speak plain text to peers and schedulers beyond loopback. Default false. Costs
    /// confidentiality on that network.
    pub insecure: bool,
    /// Whose grants count beside the schedulers': `members` (a host may lease to itself,
    /// so that swarms work without a scheduler) or `schedulers`. Default `members`.
    pub trust: Policy,
    /// The registries, a closed list; the first is the default. Default Docker Hub alone.
    pub upstreams: Vec<UpstreamOptions>,
    /// The content on disk.
    pub store: store::Options,
    /// Tags and slow beginnings.
    pub mirror: mirror::Options,
    /// The same port as an HTTP proxy.
    pub intercept: intercept::Options,
    /// Who may read.
    pub rights: rights::Options,
    /// Who is let in to what the proxy's own credentials can read.
    pub clients: clients::Options,
    /// How pieces are asked for.
    pub swarm: core::Options,
    /// What is given to other peers.
    pub transfer: transfer::Options,
    /// What becomes of contents that clients read in small parts, as lazy pullers do: `off`, or
    /// `after-first-range` to get all of them in the background. Default off.
    pub prefetch: Prefetch,
    /// What may be moved a second.
    pub limits: limits::Options,
}

impl Default for Options {
    fn default() -> Self {
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            listen: loopback(4001),
            peer: loopback(4000),
            advertise: None,
            data: PathBuf::from("/var/lib/darter"),
            name: None,
            seed: false,
            locality: Locality::default(),
            schedulers: Vec::new(),
            peers: Vec::new(),
            manager: None,
            cluster: None,
            insecure: false,
            trust: Policy::default(),
            upstreams: vec![UpstreamOptions::parse("docker.io")],
            store: store::Options::default(),
            mirror: mirror::Options::default(),
            intercept: intercept::Options::default(),
            rights: rights::Options::default(),
            clients: clients::Options::default(),
            swarm: core::Options::default(),
            transfer: transfer::Options::default(),
            prefetch: Prefetch::default(),
            limits: limits::Options::default(),
        }
    }
}

impl Options {
    /// Whether the host is to serve a scheduler on its peer port, for its share of the
    /// contents.
    pub const fn is_home(&self) -> bool {
        !self.peers.is_empty() && self.schedulers.is_empty()
    }

    /// Whether it speaks with other nodes.
    const fn has_fellows(&self) -> bool {
        !self.peers.is_empty() || !self.schedulers.is_empty() || self.manager.is_some()
    }

    /// What is wrong with the list of peers.
    pub fn check_peers(&self) -> Vec<String> {
        let entries = self.peers.iter();
        let parsed = entries.filter_map(|entry| entry.parse::<PeerAddress>().err());
        let mut mistakes: Vec<String> = parsed.map(|error| error.to_string()).collect();
        if self.peers.is_empty() {
            return mistakes;
        }
        if !self.schedulers.is_empty() {
            mistakes.push("there are `schedulers` already".to_owned());
        }
        if self.trust == Policy::Schedulers {
            mistakes.push("every peer is a scheduler: `trust` has to be \"members\"".to_owned());
        }
        mistakes
    }
}

/// Where a host stands. Empty texts are unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Locality {
    /// Hosts that share a rack or a switch.
    pub host_group: String,
    /// The data centre.
    pub idc: String,
    /// From the widest to the narrowest, `region|zone|room`.
    pub location: String,
}

impl From<Locality> for vocabulary::Locality {
    fn from(locality: Locality) -> Self {
        Self {
            host_group: locality.host_group,
            idc: locality.idc,
            location: locality.location,
        }
    }
}

/// A proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Peers beyond loopback would be spoken to in plain text, unasked.
    #[error(
        "peers would connect to {0} in plain text: be a member of a cluster ([cluster]), listen on loopback, or say `insecure = true`"
    )]
    PlainText(SocketAddr),
    /// Other peers can't be told where this one is.
    #[error("peers can't be told to connect to {0}: say `advertise = \"ADDRESS:PORT\"`")]
    Advertise(SocketAddr),
    /// The list of peers makes no sense.
    #[error("peers")]
    Peers(#[from] ListError),
    /// A file or directory can't be used.
    #[error("{what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        cause: std::io::Error,
    },
    /// The list of registries makes no sense.
    #[error("{0}")]
    Upstream(upstream::ConfigError),
    /// A port can't be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// There is no key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There are no users.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// A rule for files makes no sense.
    #[error(transparent)]
    Files(#[from] files::RuleError),
    /// The manager's URL makes no sense.
    #[error(transparent)]
    Manager(#[from] MembershipError),
    /// Listed registries can't be intercepted.
    #[error(transparent)]
    Intercept(#[from] InterceptError),
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] store::OpenError),
}

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

    /// Where others reach it.
    fn address(&self, options: &Options) -> SocketAddr {
        options.advertise.unwrap_or(self.peer)
    }

    /// What says to which cluster it belongs.
    fn place(&self, options: &Options) -> Place {
        let locality = &options.locality;
        Place {
            cluster: options.cluster.clone(),
            name: options.name.clone().unwrap_or_else(identity::host_name),
            address: Some(self.address(options).ip()),
            idc: locality.idc.clone(),
            location: locality.location.clone(),
        }
    }

    /// Follows what the manager sets, if there is one; what was kept of it counts at once.
    fn follow(
        &self,
        options: &Options,
        settings: &Settings,
        connector: &Connector,
        tasks: &Tasks,
        registry: &mut Registry,
    ) -> Result<(), StartError> {
        let Some(manager) = &options.manager else {
            return Ok(());
        };
        let node = configuration::Node {
            host: self.host,
            kind: if options.seed { Kind::Seed } else { Kind::Peer },
            place: self.place(options),
        };
        let data = &options.data;
        let set = configuration::follow(manager, &node, data, connector, tasks, registry)
            .map_err(MembershipError::from)?;
        settings.set(set.borrow().clone());
        tasks.spawn("settings", settings.clone().follow(set));
        Ok(())
    }

    /// The sessions with schedulers, where any are configured or may be found; and a seed's place in the manager's list.
    async fn session(
        &self,
        options: &Options,
        settings: &Settings,
        key: &Arc<NodeKey>,
        connector: Connector,
        tasks: &Tasks,
        metrics: &transfer::Metrics,
    ) -> Result<Option<(Session, mpsc::Receiver<SessionEvent>)>, StartError> {
        let (address, place) = (self.address(options), self.place(options));
        let Some(schedulers) = schedulers(options, &place, &connector, tasks).await? else {
            return Ok(None);
        };
        if address.ip().is_unspecified() || address.port() == 0 {
            return Err(StartError::Advertise(address));
        }
        let name = place.name.clone();
        if let Some(manager) = &options.manager {
            let member = Member {
                kind: MemberKind::SeedPeer,
                host: self.host,
                address: address.to_string(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                place,
            };
            let (manager, seed) = (manager.clone(), settings.seed());
            membership::keep_alive_while(manager, member, seed, connector.clone(), tasks);
        }
        let hello = Hello {
            host: self.host,
            epoch: 0,
            name,
            address,
            role: if options.seed { Role::Seed } else { Role::Peer },
            locality: options.locality.clone().into(),
            upload_slots: u32::try_from(options.transfer.upload_slots).unwrap_or(u32::MAX),
            cores: cores(),
            shares: options.swarm.share,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let (sender, events) = mpsc::channel(EVENTS);
        let session = Session::start(
            schedulers,
            hello,
            Arc::clone(key),
            connector,
            sender,
            tasks,
            metrics.clone(),
        );
        Ok(Some((session, events)))
    }
}

/// The schedulers as configured; else every peer; else as the manager knows them now and
/// later.
async fn schedulers(
    options: &Options,
    place: &Place,
    connector: &Connector,
    tasks: &Tasks,
) -> Result<Option<Schedulers>, StartError> {
    if !options.schedulers.is_empty() {
        let list = List::new(&options.schedulers, false);
        return Ok(Some(Schedulers::Named(list)));
    }
    if !options.peers.is_empty() {
        let entries = options.peers.iter().map(|entry| entry.parse());
        let entries = entries.collect::<Result<Vec<PeerAddress>, _>>()?;
        // A scheduler asks a seed, which has to be there for that.
        let on_demand = !options.seed;
        let peers = Peers::resolve(entries, connector, on_demand).await;
        return Ok(Some(Schedulers::Peers(peers)));
    }
    let Some(manager) = &options.manager else {
        return Ok(None);
    };
    let followed = membership::follow_schedulers(manager.clone(), place.clone(), connector, tasks);
    let urls = followed.await?;
    Ok(Some(Schedulers::Managed(urls)))
}

fn cores() -> Option<u32> {
    let cores = std::thread::available_parallelism().ok()?;
    u32::try_from(cores.get()).ok()
}

/// Two groups that end with `tasks`: first that of the clients' connections, drained, then
/// all that their bodies live on.
fn wind_down(tasks: &Tasks) -> (Tasks, Tasks) {
    let (clients, inner) = (Tasks::new(), Tasks::new());
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
