//! The ways to a manager: staying alive in its list, and finding schedulers in it.
//!
//! Owner of state: the task of each. Nothing here stands in the way of anything: a
//! manager that is away, slow or never there is asked again later, and the last list of
//! schedulers stands.

use std::{error::Error, time::Duration};

use darter_api::{
    HostId, Member, Place,
    wire::v1::{self, manager_client::ManagerClient},
};
use rand::RngExt as _;
use tokio::sync::{mpsc, watch};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::{
    Tasks,
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

/// The schedulers that the manager whose gRPC is at `url` knows for a node of this place, followed
/// until the group ends. Returns with its first answer, or with an empty list when there is none
/// within two seconds. An empty answer changes nothing, as long as the cluster is the same:
/// whoever is still there goes on serving.
pub async fn follow_schedulers(
    url: String,
    place: Place,
    connector: &Connector,
    tasks: &Tasks,
) -> Result<watch::Receiver<Vec<String>>, MembershipError> {
    let mut client = client(&url, connector)?;
    let first = list(&mut client, &place).await;
    if let Err(cause) = &first {
        let cause = cause as &dyn Error;
        tracing::warn!(%url, cause, "no schedulers from the manager; going on without");
    }
    let mut known = first.unwrap_or_default();
    let (sender, receiver) = watch::channel(known.urls.clone());
    tasks.spawn("find schedulers", async move {
        loop {
            let nobody = known.urls.is_empty();
            let wait = if nobody { LOOK_EVERY.0 } else { LOOK_EVERY.1 };
            tokio::time::sleep(with_jitter(wait)).await;
            match list(&mut client, &place).await {
                Ok(listed) => {
                    let stays = known.cluster.is_empty() || known.cluster == listed.cluster;
                    known.cluster = listed.cluster;
                    if known.urls != listed.urls && !(stays && listed.urls.is_empty()) {
                        let (cluster, urls) = (&known.cluster, &listed.urls);
                        tracing::info!(cluster, ?urls, "the manager knows other schedulers");
                        sender.send_replace(urls.clone());
                        known.urls = listed.urls;
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
