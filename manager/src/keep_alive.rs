//! The gRPC side: streams of beats in; each node's schedulers and configuration out.
//!
//! Owner of state: each stream's task, which alone says when its stream has ended. A member
//! that does not read its replies, or is silent for the grace, loses its stream; one whose
//! beat can't be written down is told UNAVAILABLE and comes again.

use std::{pin::Pin, sync::Arc, time::Duration};

use darter_api::{
    HostId, Member, MemberKind, Place,
    wire::v1::{self, manager_server::Manager as ManagerRpc},
};
use darter_runtime::{Tasks, server::PeerIdentity};
use futures::Stream;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_stream::{
    StreamExt as _,
    wrappers::{ReceiverStream, WatchStream},
};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    clusters::Clusters,
    managers::Managers,
    members::{BeatError, Members, StreamId},
    metrics::Metrics,
    settings::{Asking, configuration},
};

/// Replies that wait for a member to read them.
const REPLIES: usize = 4;

type Frame = Result<v1::BeatReply, Status>;

pub(crate) struct Service {
    pub(crate) members: Arc<Members>,
    pub(crate) metrics: Metrics,
    pub(crate) tasks: Tasks,
    /// Between two beats.
    pub(crate) interval: Duration,
    /// A member that is silent for so long is gone.
    pub(crate) grace: Duration,
    pub(crate) clusters: Clusters,
    pub(crate) managers: Managers,
}

#[tonic::async_trait]
impl ManagerRpc for Service {
    type KeepAliveStream = Pin<Box<dyn Stream<Item = Frame> + Send>>;

    async fn keep_alive(
        &self,
        request: Request<Streaming<v1::Beat>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let (replies, receiver) = mpsc::channel(REPLIES);
        let certified = request.extensions().get().map(|PeerIdentity(host)| *host);
        let beats = Beats {
            stream: self.members.new_stream(OffsetDateTime::now_utc()),
            members: Arc::clone(&self.members),
            clusters: self.clusters.clone(),
            managers: self.managers.clone(),
            metrics: self.metrics.clone(),
            interval: self.interval,
            grace: self.grace,
            certified,
            speaks_for: None,
        };
        self.tasks
            .spawn("keep alive", beats.run(request.into_inner(), replies));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type ConfigureStream = Pin<Box<dyn Stream<Item = Result<v1::Configuration, Status>> + Send>>;

    async fn configure(
        &self,
        request: Request<v1::ConfigureRequest>,
    ) -> Result<Response<Self::ConfigureStream>, Status> {
        let certified = request.extensions().get().map(|PeerIdentity(host)| *host);
        let request = request.into_inner();
        let place = place(request.place)?;
        // A certificate knows better than the node itself.
        let host = certified.or_else(|| HostId::try_from(&request.host[..]).ok());
        let asking = match request.scheduler {
            true => Asking::Scheduler,
            false => Asking::Peer {
                seed: request.seed,
                host,
            },
        };
        let mut last = None;
        let newest = WatchStream::new(self.clusters.watch());
        let words = newest.filter_map(move |directory| {
            let set = configuration(&directory, &place, asking);
            let set = set.filter(|set| last.as_ref() != Some(set))?;
            let word = (&set).into();
            last = Some(set);
            Some(Ok(word))
        });
        // It ends with the manager, so that the port is free then.
        let stopped = self.tasks.token().clone().cancelled_owned();
        let words = futures::StreamExt::take_until(words, Box::pin(stopped));
        Ok(Response::new(Box::pin(words)))
    }

    async fn list_schedulers(
        &self,
        request: Request<v1::ListSchedulersRequest>,
    ) -> Result<Response<v1::ListSchedulersResponse>, Status> {
        let listed = self.schedulers(request.into_inner()).await;
        let status = match &listed {
            Ok(_) => 200,
            Err(status) if status.code() == Code::Unavailable => 503,
            Err(_) => 400,
        };
        self.metrics.answered("ListSchedulers", status);
        listed.map(Response::new)
    }
}

impl Service {
    async fn schedulers(
        &self,
        request: v1::ListSchedulersRequest,
    ) -> Result<v1::ListSchedulersResponse, Status> {
        let place = place(request.place)?;
        let cluster = self.clusters.directory().cluster_of(&place);
        let cluster = cluster.map_err(|cause| Status::failed_precondition(cause.to_string()))?;
        let now = OffsetDateTime::now_utc();
        let active = self.members.active(MemberKind::Scheduler, &cluster, now);
        let active = active.await;
        let active = active.map_err(|_| Status::unavailable("the manager's database fails"))?;
        let schedulers = active.into_iter().map(|known| v1::ActiveScheduler {
            host: host_bytes(&known.host),
            name: known.name,
            url: known.address,
        });
        Ok(v1::ListSchedulersResponse {
            schedulers: schedulers.collect(),
            cluster: cluster.into(),
        })
    }
}

fn place(place: Option<v1::Place>) -> Result<Place, Status> {
    let place = place.unwrap_or_default().try_into();
    place.map_err(|cause: darter_api::wire::WireError| Status::invalid_argument(cause.to_string()))
}

fn host_bytes(hex: &str) -> bytes::Bytes {
    let host = hex.parse::<HostId>().map(|host| host.as_bytes().to_vec());
    host.unwrap_or_default().into()
}

fn id_bytes(host: &HostId) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(host.as_bytes())
}

/// One stream of beats.
struct Beats {
    stream: StreamId,
    members: Arc<Members>,
    clusters: Clusters,
    managers: Managers,
    metrics: Metrics,
    interval: Duration,
    grace: Duration,
    /// Whose certificate the connection has, where it is TLS.
    certified: Option<HostId>,
    /// Whom the first beat named.
    speaks_for: Option<(MemberKind, HostId)>,
}

impl Beats {
    async fn run(mut self, mut inbound: Streaming<v1::Beat>, replies: mpsc::Sender<Frame>) {
        let interval = u32::try_from(self.interval.as_millis()).unwrap_or(u32::MAX);
        loop {
            let beat = match tokio::time::timeout(self.grace, inbound.next()).await {
                Ok(Some(Ok(beat))) => beat,
                Ok(Some(Err(_)) | None) => break,
                Err(_) => {
                    let _ = replies.try_send(Err(Status::deadline_exceeded("no beat came")));
                    break;
                }
            };
            let reply = self.take(beat).await.map(|()| v1::BeatReply {
                interval_ms: interval,
                managers: self.managers.known().iter().map(id_bytes).collect(),
            });
            let refused = reply.is_err();
            if replies.try_send(reply).is_err() || refused {
                break;
            }
        }
        if let Some((kind, host)) = self.speaks_for {
            tracing::info!(kind = kind.as_str(), ?host, "a member's stream has ended");
            // A database that fails now lets the grace do it.
            let _ = self.members.end(kind, host, self.stream).await;
        }
    }

    async fn take(&mut self, beat: v1::Beat) -> Result<(), Status> {
        let taken = self.write(beat).await;
        self.metrics.beat(match &taken {
            Ok(()) => "accepted",
            Err(status) if status.code() == tonic::Code::Unavailable => "failed",
            Err(_) => "refused",
        });
        taken
    }

    async fn write(&mut self, beat: v1::Beat) -> Result<(), Status> {
        let member =
            Member::try_from(beat).map_err(|cause| Status::invalid_argument(cause.to_string()))?;
        let who = (member.kind, member.host);
        if self.certified.is_some_and(|host| host != member.host) {
            return Err(Status::unauthenticated("the certificate is another host's"));
        }
        if self.speaks_for.is_some_and(|first| first != who) {
            return Err(Status::invalid_argument("a stream speaks for one member"));
        }
        // Looked at with every beat: it may be claimed by another cluster meanwhile.
        let cluster = self.clusters.directory().cluster_of(&member.place);
        let cluster = cluster.map_err(|cause| Status::failed_precondition(cause.to_string()))?;
        let now = OffsetDateTime::now_utc();
        let written = self.members.beat(&member, &cluster, self.stream, now).await;
        written.map_err(|cause| match &cause {
            BeatError::Superseded => Status::aborted(cause.to_string()),
            BeatError::Full => Status::resource_exhausted(cause.to_string()),
            BeatError::Database(_) => Status::unavailable("the manager's database fails"),
        })?;
        if self.speaks_for.replace(who).is_none() {
            let (kind, host) = (member.kind.as_str(), member.host);
            tracing::info!(kind, ?host, name = member.place.name, address = %member.address, %cluster, "a member has come");
        }
        Ok(())
    }
}
