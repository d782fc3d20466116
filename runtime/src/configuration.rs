//! What a manager sets for this node, followed while it runs.
//!
//! Owner of state: the follower's task, and the file in the node's data directory that it keeps:
//! the node starts from it when the manager is away. Failure: a manager that is away, or says
//! nonsense, changes nothing; it is asked again. A file that can't be read is as none, one
//! that can't be written is said and tried again with the next change.

use std::{
    error::Error,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use darter_api::{
    HostId, Place,
    configuration::Configuration,
    wire::v1::{ConfigureRequest, manager_client::ManagerClient},
};
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use rand::RngExt as _;
use tokio::sync::watch;
use tonic::transport::Endpoint;

use crate::{
    Tasks, kept,
    membership::MembershipError,
    tls::{Connector, EndpointError},
};

/// In the data directory.
const FILE: &str = "configuration.json";
/// Bytes of the file at most.
const MOST_FILE: u64 = 1024 * 1024;
/// For a connection.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Between attempts.
const AGAIN: Duration = Duration::from_secs(1);

/// Who asks.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its public key.
    pub host: HostId,
    /// What it is.
    pub kind: Kind,
    /// Where it stands.
    pub place: Place,
}

/// What a node is, by its own file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A scheduler.
    Scheduler,
    /// A seed peer.
    Seed,
    /// A peer.
    Peer,
}

impl From<&Node> for ConfigureRequest {
    fn from(node: &Node) -> Self {
        Self {
            seed: node.kind == Kind::Seed,
            scheduler: node.kind == Kind::Scheduler,
            place: Some((&node.place).into()),
            host: Bytes::copy_from_slice(node.host.as_bytes()),
        }
    }
}

/// What the manager whose gRPC is at `url` sets for this node, until the group ends; at first what
/// is on disk in `data`.
///
/// # Errors
/// When the URL makes no sense.
pub fn follow(
    url: &str,
    node: &Node,
    data: &Path,
    connector: &Connector,
    tasks: &Tasks,
    registry: &mut Registry,
) -> Result<watch::Receiver<Configuration>, EndpointError> {
    let endpoint: Endpoint = connector.endpoint(url)?;
    let endpoint = endpoint
        .connect_timeout(TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(TIMEOUT)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect_with_connector_lazy(connector.clone());
    let client = ManagerClient::new(channel);
    let help = "Version of what the manager sets for this node; 0 is nothing";
    let version = Gauge::<i64>::default();
    registry.register("configuration_version", help, version.clone());
    let follower = Follower {
        file: data.join(FILE),
        version,
        sender: watch::Sender::default(),
    };
    if let Some(kept) = read(&follower.file) {
        follower.take(kept);
    }
    let receiver = follower.sender.subscribe();
    let (url, asked) = (url.to_owned(), ConfigureRequest::from(node));
    tasks.spawn("configuration", async move {
        loop {
            let ended = follower.one(client.clone(), asked.clone()).await;
            tracing::debug!(%url, cause = &ended as &dyn Error, "the last configuration stands");
            let wait = AGAIN.mul_f64(rand::rng().random_range(0.8..1.2));
            tokio::time::sleep(wait).await;
        }
    });
    Ok(receiver)
}

struct Follower {
    file: PathBuf,
    version: Gauge,
    sender: watch::Sender<Configuration>,
}

impl Follower {
    fn take(&self, configuration: Configuration) {
        let version = i64::try_from(configuration.version).unwrap_or(i64::MAX);
        self.version.set(version);
        self.sender.send_replace(configuration);
    }

    /// One stream, until it ends.
    async fn one(
        &self,
        mut client: ManagerClient<tonic::transport::Channel>,
        asked: ConfigureRequest,
    ) -> MembershipError {
        let mut stream = match client.configure(asked).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return status.into(),
        };
        loop {
            let word = match stream.message().await {
                Ok(Some(word)) => Configuration::try_from(word),
                Ok(None) => return MembershipError::Ended,
                Err(status) => return status.into(),
            };
            match word {
                Ok(configuration) if configuration != *self.sender.borrow() => {
                    let (version, cluster) = (configuration.version, &configuration.cluster);
                    tracing::info!(version, cluster, "the manager sets");
                    // Before it counts: what a restart finds is never older than what was seen.
                    keep(self.file.clone(), configuration.clone()).await;
                    self.take(configuration);
                }
                Ok(_) => {}
                Err(cause) => tracing::warn!(%cause, "what the manager sets makes no sense"),
            }
        }
    }
}

fn read(file: &Path) -> Option<Configuration> {
    parse(&kept::read(file, MOST_FILE)?)
}

/// What was kept, if it makes sense.
pub(crate) fn parse(text: &[u8]) -> Option<Configuration> {
    let configuration: Configuration = serde_json::from_slice(text).ok()?;
    Some(configuration).filter(|configuration| configuration.check().is_ok())
}

async fn keep(file: PathBuf, configuration: Configuration) {
    let written = match serde_json::to_vec(&configuration) {
        Ok(text) => kept::write(file, text).await,
        Err(cause) => Err(cause.into()),
    };
    if let Err(cause) = written {
        tracing::warn!(%cause, "the configuration can't be kept");
    }
}

#[cfg(test)]
mod tests {
    use darter_api::configuration::{PeerSettings, RateSettings};

    use super::*;

    #[tokio::test]
    async fn what_was_kept_is_read_and_nonsense_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        assert_eq!(read(&file), None);
        let configuration = Configuration {
            version: 3,
            peer: PeerSettings {
                rates: RateSettings {
                    upload: Some(1 << 20),
                    ..RateSettings::default()
                },
                ..PeerSettings::default()
            },
            ..Configuration::default()
        };
        keep(file.clone(), configuration.clone()).await;
        assert_eq!(read(&file), Some(configuration));
        for nonsense in ["", "{", r#"{"version":1,"peer":{"upload":1}}"#] {
            std::fs::write(&file, nonsense).unwrap();
            assert_eq!(read(&file), None, "{nonsense}");
        }
    }
}
