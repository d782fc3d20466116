//! What the schedulers know of tasks and hosts, and what all hosts are to do: asked of every
//! active scheduler, of all clusters or of one, and put together here.
//!
//! Nothing here owns state. A scheduler that can't be asked is named with the reason beside
//! what the others say; it is never taken for one that has nothing to say. A host that is
//! with several schedulers is listed once, with the most that any of them heard of it.

mod errands;
mod view;

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use darter_api::{
    ClusterName, HostId, MemberKind, TaskId,
    wire::v1::{self, operations_client::OperationsClient},
};
use darter_runtime::tls::Connector;
use futures::{StreamExt as _, stream};
use time::OffsetDateTime;
use tonic::{Status, transport::Channel};

use crate::{
    members::{Known, Members},
    scheduler::connect,
};
pub(crate) use errands::{DoneView, DroppedView, Outcome};
pub(crate) use view::{GraphView, PeerView, Silent, TaskView};

/// Schedulers that are asked at the same time.
const AT_ONCE: usize = 16;
/// For a scheduler to answer; errands take longer.
const PATIENCE: Duration = Duration::from_secs(8);
/// Bytes of one answer: a task's graph with some ten thousand hosts.
const MOST_ANSWER: usize = 64 * 1024 * 1024;

/// What schedulers said, and which could not be asked.
#[derive(Debug)]
pub(crate) struct Said<T> {
    pub(crate) answers: Vec<T>,
    pub(crate) silent: Vec<Silent>,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Operations {
    members: Arc<Members>,
    connector: Connector,
    /// Only its schedulers, if it is named.
    cluster: Option<ClusterName>,
}

type Client = OperationsClient<Channel>;

impl Operations {
    pub(crate) const fn new(members: Arc<Members>, connector: Connector) -> Self {
        Self {
            members,
            connector,
            cluster: None,
        }
    }

    /// The same, of this cluster's schedulers and hosts alone.
    pub(crate) fn within(&self, cluster: Option<ClusterName>) -> Self {
        Self {
            cluster,
            ..self.clone()
        }
    }

    /// Asks every active scheduler that is meant.
    async fn ask_all<T, F>(
        &self,
        patience: Duration,
        ask: impl Fn(Client) -> F,
    ) -> Result<Said<T>, sqlx::Error>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let now = OffsetDateTime::now_utc();
        let mut active = self.members.list(MemberKind::Scheduler, now).await?;
        let cluster = self.cluster.as_ref().map(ClusterName::as_str);
        active.retain(|member| member.active && cluster.is_none_or(|one| one == member.cluster));
        let one = |member: Known| {
            let client = self.client(&member).map(&ask);
            async move {
                let answer = match client {
                    Err(why) => Err(why),
                    Ok(asked) => match tokio::time::timeout(patience, asked).await {
                        Ok(answer) => answer.map_err(|status| status.message().to_owned()),
                        Err(_) => Err("it does not answer".to_owned()),
                    },
                };
                (member.address, answer)
            }
        };
        // Made before they are polled: a closure that is called within a stream's future is
        // not general enough for the compiler.
        let questions: Vec<_> = active.into_iter().map(one).collect();
        let mut ends = stream::iter(questions).buffered(AT_ONCE);
        let (mut answers, mut silent) = (Vec::new(), Vec::new());
        while let Some((scheduler, answer)) = ends.next().await {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(why) => silent.push(Silent { scheduler, why }),
            }
        }
        Ok(Said { answers, silent })
    }

    fn client(&self, member: &Known) -> Result<Client, String> {
        let channel = connect(&self.connector, member).map_err(|error| error.to_string())?;
        Ok(OperationsClient::new(channel).max_decoding_message_size(MOST_ANSWER))
    }

    /// Tasks in the order of their names, after `after`; or those of `only` that are known.
    pub(crate) async fn tasks(
        &self,
        after: Option<&TaskId>,
        limit: u32,
        only: &[TaskId],
    ) -> Result<Said<TaskView>, sqlx::Error> {
        let request = v1::TasksRequest {
            after: after.map(ToString::to_string).unwrap_or_default(),
            limit,
            only: only.iter().map(ToString::to_string).collect(),
        };
        let said = self.ask_all(PATIENCE, |mut client| {
            let request = request.clone();
            async move { Ok(client.tasks(request).await?.into_inner().tasks) }
        });
        let Said { answers, silent } = said.await?;
        let mut tasks: BTreeMap<String, TaskView> = BTreeMap::new();
        for task in answers.into_iter().flatten() {
            let view = TaskView::from(task);
            let known = tasks
                .entry(view.task.clone())
                .or_insert_with(|| view.clone());
            if known.hosts < view.hosts {
                *known = view;
            }
        }
        let most = if only.is_empty() {
            limit as usize
        } else {
            only.len()
        };
        let answers = tasks.into_values().take(most).collect();
        Ok(Said { answers, silent })
    }

    /// A task's graph, as the scheduler has it that knows most of its hosts.
    pub(crate) async fn task(&self, task: &TaskId) -> Result<Said<GraphView>, sqlx::Error> {
        let request = v1::TaskRequest {
            task: task.to_string(),
        };
        let said = self.ask_all(PATIENCE, |mut client| {
            let request = request.clone();
            async move {
                match client.task(request).await {
                    Ok(graph) => Ok(Some(graph.into_inner())),
                    Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
                    Err(status) => Err(status),
                }
            }
        });
        let Said { answers, silent } = said.await?;
        let graphs = answers.into_iter().flatten();
        let most = graphs.max_by_key(|graph| graph.hosts.len());
        let answers = most.map(|graph| GraphView::new(task, graph));
        Ok(Said {
            answers: answers.into_iter().collect(),
            silent,
        })
    }

    /// Hosts in the order of their keys, after `after`.
    pub(crate) async fn peers(
        &self,
        after: Option<&HostId>,
        limit: u32,
    ) -> Result<Said<PeerView>, sqlx::Error> {
        let request = v1::HostsRequest {
            after: after.map_or_else(bytes::Bytes::new, |host| {
                bytes::Bytes::copy_from_slice(host.as_bytes())
            }),
            limit,
        };
        let said = self.ask_all(PATIENCE, |mut client| {
            let request = request.clone();
            async move { Ok(client.hosts(request).await?.into_inner().hosts) }
        });
        let Said { answers, silent } = said.await?;
        let mut peers: BTreeMap<String, PeerView> = BTreeMap::new();
        for host in answers.into_iter().flatten() {
            let view = PeerView::from(host);
            match peers.get_mut(&view.host) {
                // Each scheduler hears of the tasks that are at home with it.
                Some(known) => known.add(view),
                None => drop(peers.insert(view.host.clone(), view)),
            }
        }
        let answers = peers.into_values().take(limit as usize).collect();
        Ok(Said { answers, silent })
    }
}
