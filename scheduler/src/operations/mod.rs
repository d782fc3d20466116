//! What managers ask and have done: pages of tasks and hosts, a task's graph, and errands of
//! all hosts.
//!
//! Nothing here owns state: the scheduler's actor is asked, and answers between two events of
//! its own; [`errands`] has those under way. Who may: as with preheats, managers alone, and
//! whoever may connect in plain text. Another member of the TLS cluster can't have contents
//! dropped everywhere.

mod errands;

use std::pin::Pin;

use axum::Router;
use darter_api::{
    HostId, TaskId,
    errand::Errand,
    wire::v1::{
        self,
        operations_server::{Operations, OperationsServer},
    },
};
use futures::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{
    core::{Graph, GraphNode, HostSummary, Summary},
    inspect::{Question, ask},
    managers::Managers,
    service::Inbound,
};
pub(crate) use errands::{Begun, Errands, Frame};

/// Bytes of a question: names of all contents of an image.
const MOST_QUESTION: usize = 512 * 1024;
/// Tasks or hosts on one page.
const MOST_PAGE: usize = 1000;

/// The gRPC service, to be served beside the sessions.
pub(crate) fn service(inbox: mpsc::Sender<Inbound>, managers: Managers) -> Router {
    let service = OperationsServer::new(Service { inbox, managers });
    let service = service.max_decoding_message_size(MOST_QUESTION);
    tonic::service::Routes::new(service)
        .into_axum_router()
        .reset_fallback()
}

struct Service {
    inbox: mpsc::Sender<Inbound>,
    managers: Managers,
}

fn busy() -> Status {
    Status::unavailable("the scheduler is busy, or shutting down")
}

fn task(text: &str) -> Result<TaskId, Status> {
    let nonsense = |_| Status::invalid_argument("no task has this name");
    text.parse().map_err(nonsense)
}

fn page(limit: u32) -> usize {
    (limit as usize).clamp(1, MOST_PAGE)
}

#[tonic::async_trait]
impl Operations for Service {
    type RunStream = Pin<Box<dyn Stream<Item = Frame> + Send>>;

    async fn tasks(
        &self,
        request: Request<v1::TasksRequest>,
    ) -> Result<Response<v1::TasksResponse>, Status> {
        self.managers.check(&request, "questions")?;
        let asked = request.into_inner();
        let only = asked.only.iter().map(|text| task(text));
        let only = only.collect::<Result<Vec<TaskId>, Status>>()?;
        let after = Some(asked.after.as_str()).filter(|text| !text.is_empty());
        let after = after.map(task).transpose()?;
        let limit = page(asked.limit);
        let tasks = ask(&self.inbox, |answer| {
            if only.is_empty() {
                Question::TasksAfter(after, limit, answer)
            } else {
                Question::TasksOf(only, answer)
            }
        });
        let tasks = tasks.await.ok_or_else(busy)?;
        let tasks = tasks.iter().map(summary).collect();
        Ok(Response::new(v1::TasksResponse { tasks }))
    }

    async fn task(
        &self,
        request: Request<v1::TaskRequest>,
    ) -> Result<Response<v1::TaskGraph>, Status> {
        self.managers.check(&request, "questions")?;
        let id = task(&request.into_inner().task)?;
        let graph = ask(&self.inbox, |answer| Question::Graph(id, answer));
        let graph = graph.await.ok_or_else(busy)?;
        let graph = graph.ok_or_else(|| Status::not_found("no host has to do with it"))?;
        Ok(Response::new(shown(&graph)))
    }

    async fn hosts(
        &self,
        request: Request<v1::HostsRequest>,
    ) -> Result<Response<v1::HostsResponse>, Status> {
        self.managers.check(&request, "questions")?;
        let asked = request.into_inner();
        let after = Some(asked.after.as_ref()).filter(|raw: &&[u8]| !raw.is_empty());
        let nonsense = |_| Status::invalid_argument("no host has this key");
        let after = after.map(|raw| HostId::try_from(raw).map_err(nonsense));
        let (after, limit) = (after.transpose()?, page(asked.limit));
        let hosts = ask(&self.inbox, |answer| Question::Hosts(after, limit, answer));
        let hosts = hosts.await.ok_or_else(busy)?;
        let hosts = hosts.iter().map(host).collect();
        Ok(Response::new(v1::HostsResponse { hosts }))
    }

    async fn run(&self, request: Request<v1::Errand>) -> Result<Response<Self::RunStream>, Status> {
        self.managers.check(&request, "errands")?;
        let errand = Errand::try_from(request.into_inner());
        let errand = errand.map_err(|cause| Status::invalid_argument(cause.to_string()))?;
        let (begun, events) = oneshot::channel();
        let begin = Inbound::Errand(errand, begun);
        self.inbox.send(begin).await.map_err(|_| busy())?;
        let events = events.await.map_err(|_| busy())??;
        Ok(Response::new(Box::pin(ReceiverStream::new(events))))
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn summary(task: &Summary) -> v1::TaskSummary {
    v1::TaskSummary {
        task: task.id.to_string(),
        size: task.lengths.known_size(),
        hosts: count(task.hosts),
        waiting: count(task.waiting),
        whole: count(task.whole),
        readers: count(task.readers),
    }
}

fn shown(graph: &Graph) -> v1::TaskGraph {
    v1::TaskGraph {
        size: graph.lengths.known_size(),
        pieces: graph.pieces(),
        hosts: graph.nodes.iter().map(|one| node(graph, one)).collect(),
    }
}

fn key(host: &HostId) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(host.as_bytes())
}

fn node(graph: &Graph, node: &GraphNode) -> v1::task_graph::Node {
    v1::task_graph::Node {
        host: key(&node.host),
        name: node.name.clone(),
        held: graph.held(node),
        wants: node.wants,
        reads: Some((&node.leased).into()),
        gateway: node.gateway,
        bad: node.bad,
        neighbours: node.neighbours.iter().map(key).collect(),
    }
}

fn host(host: &HostSummary) -> v1::HostSummary {
    v1::HostSummary {
        host: key(&host.host),
        name: host.name.clone(),
        address: host.address.to_string(),
        version: host.version.clone(),
        seed: host.seed,
        idc: host.idc.clone(),
        location: host.location.clone(),
        uploads: host.uploads,
        upload_slots: host.upload_slots,
        resting: host.resting,
        tasks: host.tasks as u64,
        bytes: host.bytes,
        more: host.more,
    }
}

#[cfg(test)]
mod tests {
    use darter_api::NodeKey;
    use darter_runtime::server::PeerIdentity;
    use tokio::sync::watch;

    use super::*;

    #[tokio::test]
    async fn members_that_are_no_managers_are_refused_everything() {
        let id = |seed| NodeKey::from_seed([seed; 32]).id();
        let (inbox, mut taken) = mpsc::channel(4);
        let (_, managers) = watch::channel(vec![id(1)]);
        let managers = Managers(managers);
        let service = Service { inbox, managers };
        fn from<T: Default>(host: HostId) -> Request<T> {
            let mut request = Request::new(T::default());
            request.extensions_mut().insert(PeerIdentity(host));
            request
        }
        let stranger = id(2);
        let refused = [
            service.tasks(from(stranger)).await.map(drop),
            service.task(from(stranger)).await.map(drop),
            service.hosts(from(stranger)).await.map(drop),
            service.run(from(stranger)).await.map(drop),
        ];
        for reply in refused {
            assert_eq!(reply.unwrap_err().code(), tonic::Code::PermissionDenied);
        }
        assert!(taken.try_recv().is_err());
        // A manager is heard: what it says is nonsense.
        let heard = service.run(from(id(1))).await.map(drop).unwrap_err();
        assert_eq!(heard.code(), tonic::Code::InvalidArgument);
    }
}
