//! Whom a proxy speaks with beside its clients: schedulers, and the manager that knows them.

use std::{net::SocketAddr, sync::Arc};

use darter_api::{
    Member, MemberKind, NodeKey, Place,
    session::{Hello, Role},
};
use darter_runtime::{
    Tasks,
    configuration::{self, Kind},
    identity,
    membership::{self, MembershipError},
    tls::Connector,
};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use super::{EVENTS, Options, Proxy, StartError};
use crate::{
    session::{List, PeerAddress, Peers, Schedulers, Session, SessionEvent},
    settings::Settings,
    transfer,
};

impl Proxy {
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
    pub(super) fn follow(
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

    /// The sessions with schedulers, where any are configured or may be found; and a seed's place
    /// in the manager's list.
    pub(super) async fn session(
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
    let (manager, place, data) = (manager.clone(), place.clone(), &options.data);
    let followed = membership::follow_schedulers(manager, place, data, connector, tasks);
    let urls = followed.await?;
    Ok(Some(Schedulers::Managed(urls)))
}

fn cores() -> Option<u32> {
    let cores = std::thread::available_parallelism().ok()?;
    u32::try_from(cores.get()).ok()
}
