//! What a manager sets for this node, followed while it runs.
//!
//! Owner of state: the follower's task, and the file in the node's data directory that it keeps:
//! the node starts from it when the manager is away. Failure: a manager that is away, or says
//! nonsense, changes nothing; it is asked again. A file that can't be read is as none, one
//! that can't be written is said and tried again with the next change.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use darter_api::{
    Place,
    configuration::Configuration,
    wire::v1::{ConfigureRequest, manager_client::ManagerClient},
};
use rand::RngExt as _;
use tokio::sync::watch;
use tonic::transport::Endpoint;

use crate::{
    Tasks,
    membership::MembershipError,
    tls::{Connector, EndpointError},
};

/// In the data directory.
const FILE: &str = "configuration.json";
/// Bytes of the file at most.
const MOST_FILE: u64 = 64 * 1024;
/// For a connection.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Between attempts.
const AGAIN: Duration = Duration::from_secs(1);

/// What the manager whose gRPC is at `url` sets for a peer, or a seed, of this place, until the
/// group ends; at first what is on disk in `data`.
///
/// # Errors
/// When the URL makes no sense.
pub fn follow(
    url: &str,
    seed: bool,
    place: &Place,
    data: &Path,
    connector: &Connector,
    tasks: &Tasks,
) -> Result<watch::Receiver<Configuration>, EndpointError> {
    let endpoint: Endpoint = connector.endpoint(url)?;
    let endpoint = endpoint
        .connect_timeout(TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(TIMEOUT)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect_with_connector_lazy(connector.clone());
    let client = ManagerClient::new(channel);
    let file = data.join(FILE);
    let (sender, receiver) = watch::channel(read(&file).unwrap_or_default());
    let url = url.to_owned();
    let asked = ConfigureRequest {
        seed,
        place: Some(place.into()),
    };
    tasks.spawn("configuration", async move {
        loop {
            let ended = one(client.clone(), asked.clone(), &file, &sender).await;
            tracing::debug!(%url, cause = &ended as &dyn Error, "the last configuration stands");
            let wait = AGAIN.mul_f64(rand::rng().random_range(0.8..1.2));
            tokio::time::sleep(wait).await;
        }
    });
    Ok(receiver)
}

/// One stream, until it ends.
async fn one(
    mut client: ManagerClient<tonic::transport::Channel>,
    asked: ConfigureRequest,
    file: &Path,
    sender: &watch::Sender<Configuration>,
) -> MembershipError {
    let asked = client.configure(asked).await;
    let mut stream = match asked {
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
            Ok(configuration) if configuration != *sender.borrow() => {
                tracing::info!(?configuration, "the manager sets");
                keep(file.to_owned(), configuration).await;
                sender.send_replace(configuration);
            }
            Ok(_) => {}
            Err(cause) => tracing::warn!(%cause, "what the manager sets makes no sense"),
        }
    }
}

fn read(file: &Path) -> Option<Configuration> {
    let size = std::fs::metadata(file).ok()?.len();
    let text = (size <= MOST_FILE).then(|| std::fs::read(file).ok())??;
    let configuration: Configuration = serde_json::from_slice(&text).ok()?;
    Some(configuration).filter(|configuration| configuration.rates.is_valid())
}

async fn keep(file: PathBuf, configuration: Configuration) {
    let write = move || -> io::Result<()> {
        let temporary = file.with_extension("new");
        std::fs::write(&temporary, serde_json::to_vec(&configuration)?)?;
        std::fs::rename(&temporary, &file)
    };
    let written = tokio::task::spawn_blocking(write).await;
    if let Ok(Err(cause)) = written {
        tracing::warn!(%cause, "the configuration can't be kept");
    }
}

#[cfg(test)]
mod tests {
    use darter_api::configuration::RateSettings;

    use super::*;

    #[tokio::test]
    async fn what_was_kept_is_read_and_nonsense_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        assert_eq!(read(&file), None);
        let configuration = Configuration {
            version: 3,
            rates: RateSettings {
                upload: Some(1 << 20),
                ..RateSettings::default()
            },
        };
        keep(file.clone(), configuration).await;
        assert_eq!(read(&file), Some(configuration));
        for nonsense in ["", "{", r#"{"version":1,"rates":{"upload":1}}"#] {
            std::fs::write(&file, nonsense).unwrap();
            assert_eq!(read(&file), None, "{nonsense}");
        }
    }
}
