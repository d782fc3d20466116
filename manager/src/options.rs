//! The manager's section of the configuration.

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{DatabaseUrl, PushRule, Role, StoredCredential};

/// What [`Options::keep_alive`] may be.
pub const KEEP_ALIVE: RangeInclusive<Duration> =
    Duration::from_millis(50)..=Duration::from_secs(60);

/// Settings of a manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Where people and tools ask it (REST). Default 127.0.0.1:8080; anything but loopback
    /// asks for `insecure`.
    pub listen: SocketAddr,
    /// Where schedulers and proxies connect (gRPC). Default 127.0.0.1:65003; anything but
    /// loopback asks for `insecure`.
    pub grpc: SocketAddr,
    /// The directory of its key, and of its database where none is named (`manager.db`, SQLite).
    /// Default `/var/lib/darter/manager`.
    pub data: PathBuf,
    /// PostgreSQL, `postgres://user:password@host/name`, which several managers may share.
    /// Default none.
    pub database: Option<DatabaseUrl>,
    /// Between two beats of a member, 50 ms to one minute; one that is silent for three of
    /// them is inactive. Default 2 s. Costs a write to the database each.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// Speak plain text beyond loopback. Default false.
    pub insecure: bool,
    /// A file with the administrator's password, for the first start. Default none: one is made
    /// up and said once.
    pub root_password_file: Option<PathBuf>,
    /// What callers are who show no token and no password.
    pub access: Access,
    /// Which images are preheated when a registry says that they were pushed; the first rule
    /// that fits decides. Default none.
    pub pushes: Vec<PushRule>,
    /// What signs in at registries for jobs and rules that call it by its name. Default none.
    pub credentials: Vec<StoredCredential>,
}

/// What callers are who show no token and no password: `none`, `guest`, `operator`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// Those on the manager's own host. Default `operator`.
    pub local: Role,
    /// All others. Default `none`.
    pub anonymous: Role,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            local: Role::Operator,
            anonymous: Role::None,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            listen: loopback(8080),
            grpc: loopback(65003),
            data: PathBuf::from("/var/lib/darter/manager"),
            database: None,
            keep_alive: Duration::from_secs(2),
            insecure: false,
            root_password_file: None,
            access: Access::default(),
            pushes: Vec::new(),
            credentials: Vec::new(),
        }
    }
}
