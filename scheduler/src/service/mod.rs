//! The gRPC service: [`session`]s in, the core's commands out, by one [`actor`].

mod actor;
mod session;

use std::{net::SocketAddr, time::Duration};

use darter_api::{
    HostId, Member, MemberKind, NodeKey, Place,
    configuration::Configuration,
    wire::{MAX_MESSAGE_BYTES, v1::scheduler_server::SchedulerServer},
};
use darter_runtime::{
    Tasks, configuration,
    identity::{self, IdentityError},
    membership,
    server::{BindError, Server, ServerOptions},
    tls::{EndpointError, Security},
};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};

use crate::{Metrics, Options, inspect, managers::Managers, operations, preheat, preheats};
use actor::Actor;
pub(crate) use actor::Inbound;
use session::Service;

/// Events that wait for the actor; sessions wait when it is full. An inventory is some KiB.
const INBOX: usize = 1024;

/// A scheduler does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Peers beyond loopback would be spoken to in plain text, unasked.
    #[error(
        "peers would connect to {0} in plain text: be a member of a cluster ([cluster]), listen on loopback, or say `insecure = true`"
    )]
    PlainText(SocketAddr),
    /// The manager can't tell proxies where this scheduler is.
    #[error("proxies can't be told to connect to {0}: say `advertise = \"ADDRESS:PORT\"`")]
    Advertise(SocketAddr),
    /// The port can't be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The manager's URL makes no sense.
    #[error("the manager's URL")]
    Manager(#[from] EndpointError),
    /// There is no key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// A running scheduler. It ends with the tasks it was started in.
#[derive(Debug)]
pub struct Scheduler {
    address: SocketAddr,
    id: HostId,
    inbox: mpsc::Sender<Inbound>,
}

impl Scheduler {
    /// Starts a scheduler; its port is open when this returns. With TLS, a hello's host is
    /// the one of its certificate.
    ///
    /// # Errors
    /// When the port or the key can't be had.
    pub async fn start(
        options: Options,
        security: &Security,
        tasks: &Tasks,
        registry: &mut Registry,
    ) -> Result<Self, StartError> {
        if security.is_plain() && !options.listen.ip().is_loopback() {
            if !options.insecure {
                return Err(StartError::PlainText(options.listen));
            }
            tracing::warn!(address = %options.listen, "peers connect in plain text, which others can read and join");
        } else if security.is_plain() {
            tracing::warn!(address = %options.listen, "peers connect in plain text, from this host alone: [cluster] is empty");
        }
        let key = identity::load_or_create(&options.data)?;
        let id = key.id();
        let server = Server::bind(options.listen).await?;
        let address = server.local_addr();
        let member = member(&options, security, id, address)?;
        let (manager, data) = (options.manager.clone(), options.data.clone());
        let Home {
            mut sessions,
            inbox,
        } = Home::start(options, key, tasks, registry);
        let node = configuration::Node {
            host: id,
            kind: configuration::Kind::Scheduler,
            place: member.place.clone(),
        };
        let server_options = ServerOptions {
            max_connections: 65_536,
            answer_tls: false,
            drain: Duration::from_millis(500),
            tls: security.acceptor(),
            sparse: true,
            window: Some(session::WINDOW),
            ..ServerOptions::default()
        };
        if let Some(manager) = &manager {
            let connector = security.connector();
            let set = configuration::follow(manager, &node, &data, &connector, tasks, registry)?;
            // What was kept counts before anybody comes: the inbox is empty.
            let _ = inbox.try_send(Inbound::Set(set.borrow().scheduler.clone()));
            tasks.spawn("settings", follow(set, inbox.clone()));
            let managers = membership::keep_alive(manager.clone(), member, connector, tasks);
            let managers = Managers(managers);
            sessions = sessions
                .merge(preheats::service(inbox.clone(), managers.clone()))
                .merge(operations::service(inbox.clone(), managers));
        }
        server.serve("scheduler port", sessions, tasks, server_options);
        Ok(Self { address, id, inbox })
    }

    /// Where peers connect.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its tasks and their graphs as JSON: `GET /tasks`, `GET /tasks/{id}`; and
    /// `POST /preheat`.
    pub fn router(&self) -> axum::Router {
        inspect::router(self.inbox.clone()).merge(preheat::router(self.inbox.clone()))
    }

    /// Its public key, whose grants count.
    pub const fn id(&self) -> HostId {
        self.id
    }
}

/// A scheduler without a port of its own, for whoever has one: every host of a list of
/// peers. It ends with the tasks it was started in.
#[derive(Debug)]
pub struct Home {
    sessions: axum::Router,
    inbox: mpsc::Sender<Inbound>,
}

impl Home {
    /// Starts it. It signs with `key`; of the options those of ports and places say nothing.
    pub fn start(options: Options, key: NodeKey, tasks: &Tasks, registry: &mut Registry) -> Self {
        let metrics = Metrics::default();
        metrics.register(registry);
        let (inbox, events) = mpsc::channel(INBOX);
        let actor = Actor::new(options, key, metrics);
        tasks.spawn_vital("scheduler", actor.run(events));
        let service = Service::new(inbox.clone(), tasks.clone());
        let service = SchedulerServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let sessions = tonic::service::Routes::new(service).into_axum_router();
        // What is asked beside it is the port's owner's business.
        let sessions = sessions.reset_fallback();
        Self { sessions, inbox }
    }

    /// The gRPC service, to be served where peers connect.
    pub fn sessions(&self) -> axum::Router {
        self.sessions.clone()
    }

    /// As [`Scheduler::router`], without `/preheat`: of a list of peers few have a session at
    /// a time.
    pub fn router(&self) -> axum::Router {
        inspect::router(self.inbox.clone())
    }
}

/// Passes on what a manager sets.
async fn follow(mut set: watch::Receiver<Configuration>, inbox: mpsc::Sender<Inbound>) {
    while set.changed().await.is_ok() {
        let settings = set.borrow_and_update().scheduler.clone();
        if inbox.send(Inbound::Set(settings)).await.is_err() {
            return;
        }
    }
}

/// What the manager is told of this scheduler.
fn member(
    options: &Options,
    security: &Security,
    host: HostId,
    listen: SocketAddr,
) -> Result<Member, StartError> {
    let address = options.advertise.unwrap_or(listen);
    let member = Member {
        kind: MemberKind::Scheduler,
        host,
        address: format!("{}://{address}", security.scheme()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        place: Place {
            cluster: options.cluster.clone(),
            name: options.name.clone().unwrap_or_else(identity::host_name),
            address: Some(address.ip()),
            ..Place::default()
        },
    };
    if options.manager.is_some() && address.ip().is_unspecified() {
        return Err(StartError::Advertise(address));
    }
    Ok(member)
}

#[cfg(test)]
mod tests;
