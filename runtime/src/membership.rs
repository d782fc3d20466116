//! The ways to a manager: staying alive in its list, and finding schedulers in it.
//!
//! Owner of state: the task of each, and the file in the node's data directory where it keeps the
//! last list of schedulers. Nothing here stands in the way of anything: a manager that is away,
//! slow or never there is asked again later, and the last list stands, also over a restart.

use std::{error::Error, net::IpAddr, path::Path, time::Duration};

use darter_api::{
    HostId, Member, Place,
    membership::ClusterName,
    wire::v1::{self, manager_client::ManagerClient},
};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::{
    Tasks, kept,
    tls::{Connector, EndpointError},
};

/// For a connection, and for one answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Between attempts to say that one lives, growing from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// What a manager may ask for between beats.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));
/// Between looks at the list of schedulers, while none is known and after.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// Managers that are taken from one answer.
const MOST_MANAGERS: usize = 64;
/// Schedulers that are taken from one list.
const MOST_SCHEDULERS: usize = 64;
/// Where the last list is kept, in the data directory.
const FILE: &str = "schedulers.json";
/// Bytes of it at most.
const MOST_FILE: u64 = 64 * 1024;

/// A manager is of no help right now.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// Its URL makes no sense.
    #[error("the manager's URL")]
    Url(#[from] EndpointError),
    /// It can't be reached, refuses, or does not know what is asked.
    #[error("the manager can't be asked (the port of its gRPC is meant, not that of REST)")]
    Status(#[source] Box<tonic::Status>),
    /// It says nothing.
    #[error("the manager does not answer")]
    Silent,
    /// It ended the stream.
    #[error("the stream ended")]
    Ended,
}

impl MembershipError {
    /// Whether it is the configuration's fault, such as a cluster that is not there: waiting does
    /// not help.
    fn is_mistake(&self) -> bool {
        let Self::Status(status) = self else {
            return false;
        };
        let code = status.code();
        matches!(code, Code::FailedPrecondition | Code::InvalidArgument)
    }
}

impl From<tonic::Status> for MembershipError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// Keeps `member` alive at the manager whose gRPC is at `url`, until the group ends. Returns the
/// keys of all managers, as that one tells them; none before its first answer.
pub fn keep_alive(
    url: String,
    member: Member,
    connector: Connector,
    tasks: &Tasks,
) -> watch::Receiver<Vec<HostId>> {
    let (_, always) = watch::channel(true);
    keep_alive_while(url, member, always, connector, tasks)
}

/// The same while it is `wanted`.
pub fn keep_alive_while(
    url: String,
    member: Member,
    mut wanted: watch::Receiver<bool>,
    connector: Connector,
    tasks: &Tasks,
) -> watch::Receiver<Vec<HostId>> {
    let (managers, told) = watch::channel(Vec::new());
    tasks.spawn("keep alive", async move {
        let mut wait = BACKOFF.0;
        // Once nobody can change it any more, it is as it was last.
        while wanted.wait_for(|wanted| *wanted).await.is_ok() || *wanted.borrow() {
            let mut stood = false;
            let ended = tokio::select! {
                ended = beat(&url, &member, &connector, &managers, &mut stood) => ended,
                () = unwanted(&mut wanted) => continue,
            };
            if stood {
                tracing::warn!(%url, cause = &ended as &dyn Error, "the manager is lost");
                wait = BACKOFF.0;
            } else if ended.is_mistake() {
                tracing::warn!(%url, cause = &ended as &dyn Error, "the manager does not take this member");
            } else {
                tracing::debug!(%url, cause = &ended as &dyn Error, "no manager");
            }
            tokio::time::sleep(with_jitter(wait)).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    });
    told
}

async fn unwanted(wanted: &mut watch::Receiver<bool>) {
    if wanted.wait_for(|wanted| !*wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// One stream of beats, until it ends.
async fn beat(
    url: &str,
    member: &Member,
    connector: &Connector,
    managers: &watch::Sender<Vec<HostId>>,
    stood: &mut bool,
) -> MembershipError {
    let stream = async {
        let mut client = client(url, connector)?;
        let (beats, outbound) = mpsc::channel(1);
        let _ = beats.try_send(v1::Beat::from(member));
        let replies = client.keep_alive(ReceiverStream::new(outbound)).await?;
        Ok::<_, MembershipError>((beats, replies.into_inner()))
    };
    let (beats, mut replies) = match tokio::time::timeout(TIMEOUT, stream).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(cause)) => return cause,
        Err(_) => return MembershipError::Silent,
    };
    loop {
        let reply = match tokio::time::timeout(TIMEOUT, replies.next()).await {
            Ok(Some(Ok(reply))) => reply,
            Ok(Some(Err(status))) => return status.into(),
            Ok(None) => return MembershipError::Ended,
            Err(_) => return MembershipError::Silent,
        };
        if !*stood {
            tracing::info!(%url, "the manager knows this member");
            *stood = true;
        }
        let hosts = reply.managers.iter().take(MOST_MANAGERS);
        let hosts = hosts.filter_map(|host| HostId::try_from(&host[..]).ok());
        managers.send_replace(hosts.collect());
        let interval = Duration::from_millis(reply.interval_ms.into());
        let interval = interval.clamp(INTERVALS.0, INTERVALS.1);
        // The stream's end is learned at once, not at the next beat.
        match tokio::time::timeout(interval, replies.next()).await {
            Err(_) => {}
            Ok(Some(Ok(_))) => tokio::time::sleep(interval).await,
            Ok(Some(Err(status))) => return status.into(),
            Ok(None) => return MembershipError::Ended,
        }
        if beats.try_send(v1::Beat::from(member)).is_err() {
            return MembershipError::Silent;
        }
    }
}

/// The schedulers of a node's cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listed {
    /// The cluster, as the manager calls it.
    pub cluster: String,
    /// URLs of those that are active, in the manager's order.
    pub urls: Vec<String>,
}

/// What the manager whose gRPC is at `url` knows for a node of this place.
///
/// # Errors
/// When it does not answer within two seconds, or knows no cluster of the name that `place` has.
pub async fn list_schedulers(
    url: &str,
    place: &Place,
    connector: &Connector,
) -> Result<Listed, MembershipError> {
    list(&mut client(url, connector)?, place).await
}

async fn list(
    client: &mut ManagerClient<Channel>,
    place: &Place,
) -> Result<Listed, MembershipError> {
    let place = Some(place.into());
    let asked = client.list_schedulers(v1::ListSchedulersRequest { place });
    let reply = tokio::time::timeout(TIMEOUT, asked)
        .await
        .map_err(|_| MembershipError::Silent)??;
    let reply = reply.into_inner();
    let urls = reply.schedulers.into_iter().map(|scheduler| scheduler.url);
    Ok(Listed {
        urls: urls.take(MOST_SCHEDULERS).collect(),
        cluster: reply.cluster,
    })
}

/// What is kept of a list: what it answers, and what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Of the manager.
    url: String,
    /// The node's place, as it said it: which cluster it belongs to follows from all of it.
    asked: Asked,
    /// The one that it was told, and its schedulers.
    cluster: String,
    urls: Vec<String>,
}

/// A [`Place`] in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    cluster: Option<ClusterName>,
    name: String,
    address: Option<IpAddr>,
    idc: String,
    location: String,
}

impl From<&Place> for Asked {
    fn from(place: &Place) -> Self {
        Self {
            cluster: place.cluster.clone(),
            name: place.name.clone(),
            address: place.address,
            idc: place.idc.clone(),
            location: place.location.clone(),
        }
    }
}

/// The list that was kept, if it was of this manager and what is asked now.
fn kept(data: &Path, url: &str, place: &Place) -> Option<Listed> {
    let text = kept::read(&data.join(FILE), MOST_FILE)?;
    let kept: Kept = serde_json::from_slice(&text).ok()?;
    let same = kept.url == url && kept.asked == Asked::from(place);
    let urls = kept.urls.into_iter().take(MOST_SCHEDULERS).collect();
    same.then_some(Listed {
        cluster: kept.cluster,
        urls,
    })
}

/// Keeps a list for the next start; whether that went well.
async fn keep(data: &Path, url: &str, place: &Place, listed: &Listed) -> bool {
    let kept = Kept {
        url: url.to_owned(),
        asked: place.into(),
        cluster: listed.cluster.clone(),
        urls: listed.urls.clone(),
    };
    let written = match serde_json::to_vec(&kept) {
        Ok(text) => kept::write(data.join(FILE), text).await,
        Err(cause) => Err(cause.into()),
    };
    if let Err(cause) = &written {
        tracing::warn!(%cause, "the list of schedulers can't be kept");
    }
    written.is_ok()
}

impl Listed {
    /// Takes what the manager says now; whether anything has changed.
    fn takes(&mut self, listed: Self) -> bool {
        let stays = self.cluster.is_empty() || self.cluster == listed.cluster;
        let changes = self.urls != listed.urls && !(stays && listed.urls.is_empty());
        self.cluster = listed.cluster;
        if changes {
            self.urls = listed.urls;
        }
        changes
    }
}

/// The schedulers that the manager whose gRPC is at `url` knows for a node of this place, followed
/// until the group ends. Returns with its first answer; when there is none within two seconds,
/// with the list that was kept in `data`, or an empty one. An empty answer changes nothing, as
/// long as the cluster is the same: whoever is still there goes on serving.
///
/// # Errors
/// When the URL makes no sense.
pub async fn follow_schedulers(
    url: String,
    place: Place,
    data: &Path,
    connector: &Connector,
    tasks: &Tasks,
) -> Result<watch::Receiver<Vec<String>>, MembershipError> {
    let mut client = client(&url, connector)?;
    let data = data.to_owned();
    let mut known = kept(&data, &url, &place).unwrap_or_default();
    let mut saved = known.clone();
    match list(&mut client, &place).await {
        Ok(listed) => drop(known.takes(listed)),
        Err(cause) => {
            let (cause, urls) = (&cause as &dyn Error, &known.urls);
            tracing::warn!(%url, cause, ?urls, "no schedulers from the manager; going on with the last ones");
        }
    }
    let (sender, receiver) = watch::channel(known.urls.clone());
    tasks.spawn("find schedulers", async move {
        loop {
            if saved != known && keep(&data, &url, &place, &known).await {
                saved = known.clone();
            }
            let nobody = known.urls.is_empty();
            let wait = if nobody { LOOK_EVERY.0 } else { LOOK_EVERY.1 };
            tokio::time::sleep(with_jitter(wait)).await;
            match list(&mut client, &place).await {
                Ok(listed) => {
                    if known.takes(listed) {
                        let (cluster, urls) = (&known.cluster, &known.urls);
                        tracing::info!(cluster, ?urls, "the manager knows other schedulers");
                        sender.send_replace(urls.clone());
                    }
                }
                Err(cause) if cause.is_mistake() => {
                    let cause = &cause as &dyn Error;
                    tracing::warn!(%url, cause, "the last list of schedulers stands");
                }
                Err(cause) => {
                    let cause = &cause as &dyn Error;
                    tracing::debug!(%url, cause, "the last list of schedulers stands");
                }
            }
        }
    });
    Ok(receiver)
}

fn client(url: &str, connector: &Connector) -> Result<ManagerClient<Channel>, MembershipError> {
    let endpoint: Endpoint = connector.endpoint(url)?;
    let endpoint = endpoint
        .connect_timeout(TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(TIMEOUT);
    Ok(ManagerClient::new(
        endpoint.connect_with_connector_lazy(connector.clone()),
    ))
}

/// So that the members of a big cluster don't speak all at once.
fn with_jitter(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.8..1.2))
}
