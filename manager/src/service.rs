//! Builds a whole manager, in order, from its options.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use darter_api::wire::v1::manager_server::ManagerServer;
use darter_runtime::{
    Tasks,
    identity::{self, IdentityError},
    server::{BindError, Server, ServerOptions},
    tls::Security,
};
use prometheus_client::registry::Registry;
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, Semaphore},
    time::MissedTickBehavior,
};

use crate::{
    KEEP_ALIVE, Options,
    accounts::Accounts,
    clusters::Clusters,
    credentials::Credentials,
    database::{Database, OpenError},
    jobs::{Jobs, Runner},
    keep_alive::Service,
    managers::Managers,
    members::Members,
    metrics::Metrics,
    rest,
    settings::Settings,
    tasks::Operations,
};

/// A member that misses so many beats is inactive.
const BEATS_OF_GRACE: u32 = 3;
/// Bytes of a beat at most: many times what a valid one has.
const MOST_BEAT: usize = 16 * 1024;

/// A manager does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Others beyond loopback would be spoken to in plain text, unasked.
    #[error(
        "members and tools would connect to {0} in plain text: listen on loopback, or say `insecure = true`"
    )]
    PlainText(SocketAddr),
    /// The interval makes no sense.
    #[error("keep_alive is {0:?}; it can be from {min:?} to {max:?}", min = KEEP_ALIVE.start(), max = KEEP_ALIVE.end())]
    KeepAlive(Duration),
    /// Two credentials have one name.
    #[error("credentials: `{0}` is the name of several")]
    Credential(String),
    /// The database can't be opened.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// The database's URL is none.
    #[error("database: a URL of PostgreSQL begins with postgres://")]
    DatabaseUrl,
    /// The database does not answer.
    #[error("the manager's database fails")]
    Query(#[from] sqlx::Error),
    /// There is no key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The administrator's password can't be read, or is empty.
    #[error("the password in {path} can't be read, or is none")]
    Password {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A port can't be had.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// A running manager. It ends with the tasks it was started in.
pub struct Manager {
    rest: SocketAddr,
    grpc: SocketAddr,
    first_password: Option<String>,
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Manager");
        shown.field("rest", &self.rest).field("grpc", &self.grpc);
        shown.finish_non_exhaustive()
    }
}

impl Manager {
    /// Starts a manager; its ports are open when this returns.
    ///
    /// # Errors
    /// What is wrong with the options, the database or the ports.
    pub async fn start(
        options: Options,
        security: &Security,
        tasks: &Tasks,
        registry: &mut Registry,
    ) -> Result<Self, StartError> {
        // People's tools have no certificate: REST is plain text in any case.
        let plain = [options.listen, options.grpc].into_iter();
        for address in plain.take(if security.is_plain() { 2 } else { 1 }) {
            if address.ip().is_loopback() {
                continue;
            }
            if !options.insecure {
                return Err(StartError::PlainText(address));
            }
            tracing::warn!(%address, "the manager is asked in plain text, which others can read and join");
        }
        let url = options.database.as_ref();
        if url.is_some_and(|url| !url.is_valid()) {
            return Err(StartError::DatabaseUrl);
        }
        let interval = options.keep_alive;
        if !KEEP_ALIVE.contains(&interval) {
            return Err(StartError::KeepAlive(interval));
        }
        let credentials = Credentials::new(options.credentials);
        if let Some(name) = credentials.doubled() {
            return Err(StartError::Credential(name.to_owned()));
        }
        let rest_port = Server::bind(options.listen).await?;
        let grpc_port = Server::bind(options.grpc).await?;

        let metrics = Metrics::default();
        metrics.register(registry);
        let grace = interval * BEATS_OF_GRACE;
        let database = Database::open(url, &options.data, metrics.clone()).await?;
        let own = identity::load_or_create(&options.data)?.id();
        let managers = Managers::new(database.clone(), own);
        let jobs = Jobs::new(database.clone());
        let members = Arc::new(Members::open(database.clone(), grace).await?);
        let clusters = Clusters::open(database.clone()).await?;
        tasks.spawn("clusters", clusters.clone().follow());
        let settings = Settings::new(database.clone(), clusters.clone());
        let accounts = Accounts::new(database);
        let given = options.root_password_file.as_deref();
        let given = given.map(read_password).transpose()?;
        let now = OffsetDateTime::now_utc();
        let manager = Self {
            rest: rest_port.local_addr(),
            grpc: grpc_port.local_addr(),
            first_password: accounts.ensure_root(given, now).await?,
        };
        let upkeep = sweep(
            Arc::clone(&members),
            managers.clone(),
            jobs.clone(),
            accounts.clone(),
            interval,
        );
        tasks.spawn("sweep", upkeep);
        let wake = Arc::<Notify>::default();
        let runner = Runner {
            jobs: jobs.clone(),
            members: Arc::clone(&members),
            connector: security.connector(),
            credentials: credentials.clone(),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            owner: format!("{:016x}", rand::random::<u64>()),
            wake: Arc::clone(&wake),
        };
        runner.start();

        let service = Service {
            members: Arc::clone(&members),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            interval,
            grace,
            clusters: clusters.clone(),
            managers,
        };
        let service = ManagerServer::new(service).max_decoding_message_size(MOST_BEAT);
        let grpc = tonic::service::Routes::new(service).into_axum_router();
        let grpc_options = ServerOptions {
            max_connections: 65_536,
            answer_tls: false,
            drain: Duration::from_millis(500),
            tls: security.acceptor(),
            ..ServerOptions::default()
        };
        grpc_port.serve("manager gRPC", grpc, tasks, grpc_options);
        let rest_options = ServerOptions {
            drain: Duration::from_secs(1),
            ..ServerOptions::default()
        };
        let operations = Operations::new(Arc::clone(&members), security.connector());
        let rest = rest::router(rest::Api {
            members,
            jobs,
            accounts,
            clusters,
            settings,
            operations,
            access: options.access,
            pushes: options.pushes.into(),
            credentials,
            streams: Arc::new(Semaphore::new(rest::MOST_STREAMS)),
            writes: Arc::new(Semaphore::new(rest::MOST_WRITES)),
            tasks: tasks.clone(),
            wake,
            metrics,
        });
        rest_port.serve("manager REST", rest, tasks, rest_options);
        Ok(manager)
    }

    /// The administrator's password, where this start made one up: to be said once.
    pub fn first_password(&self) -> Option<&str> {
        self.first_password.as_deref()
    }

    /// Where people and tools ask it.
    pub const fn rest(&self) -> SocketAddr {
        self.rest
    }

    /// Where schedulers and proxies connect.
    pub const fn grpc(&self) -> SocketAddr {
        self.grpc
    }
}

/// The file's text without the break at its end.
fn read_password(path: &Path) -> Result<String, StartError> {
    let text = std::fs::read_to_string(path);
    let password = text.map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
    let is_one = password.and_then(|password| {
        let empty = || io::Error::from(io::ErrorKind::InvalidData);
        Some(password)
            .filter(|text| !text.is_empty())
            .ok_or_else(empty)
    });
    let path = path.to_owned();
    is_one.map_err(|cause| StartError::Password { path, cause })
}

async fn sweep(
    members: Arc<Members>,
    managers: Managers,
    jobs: Jobs,
    accounts: Accounts,
    interval: Duration,
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A database that fails is logged and counted there, and asked again.
        let now = OffsetDateTime::now_utc();
        let _ = members.sweep(now).await;
        let _ = managers.look(now).await;
        let _ = jobs.sweep(now).await;
        let _ = accounts.sweep(now).await;
    }
}
