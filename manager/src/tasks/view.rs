//! Tasks, graphs and hosts as they are shown.

use darter_api::{PieceSet, TaskId, wire::v1};
use serde::Serialize;

/// A scheduler that could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Silent {
    pub(crate) scheduler: String,
    pub(crate) why: String,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TaskView {
    pub(crate) task: String,
    /// None while nobody knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    /// Hosts that hold or want any of it.
    pub(crate) hosts: u32,
    /// Those that want it.
    pub(crate) waiting: u32,
    /// Those that hold all of it.
    pub(crate) whole: u32,
    /// Those that read the source.
    pub(crate) readers: u32,
}

impl From<v1::TaskSummary> for TaskView {
    fn from(task: v1::TaskSummary) -> Self {
        Self {
            task: task.task,
            size: task.size,
            hosts: task.hosts,
            waiting: task.waiting,
            whole: task.whole,
            readers: task.readers,
        }
    }
}

/// A task's swarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct GraphView {
    task: String,
    /// None while nobody knows the content's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pieces: Option<u32>,
    hosts: Vec<NodeView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct NodeView {
    host: String,
    name: String,
    /// Pieces.
    held: u32,
    wants: bool,
    /// Runs of pieces that it reads from the source, each from the first to before the second.
    reads: Vec<[u32; 2]>,
    /// It was elected to bring it into its data centre.
    gateway: bool,
    /// Others take nothing from it for a while.
    bad: bool,
    neighbours: Vec<String>,
}

impl GraphView {
    pub(super) fn new(task: &TaskId, graph: v1::TaskGraph) -> Self {
        Self {
            task: task.to_string(),
            size: graph.size,
            pieces: graph.pieces,
            hosts: graph.hosts.into_iter().map(node).collect(),
        }
    }
}

fn node(node: v1::task_graph::Node) -> NodeView {
    let reads = node.reads.and_then(|set| PieceSet::try_from(set).ok());
    let reads = reads.unwrap_or_default();
    NodeView {
        host: hex::encode(&node.host),
        name: node.name,
        held: node.held,
        wants: node.wants,
        reads: reads
            .runs()
            .iter()
            .map(|run| [run.start, run.end])
            .collect(),
        gateway: node.gateway,
        bad: node.bad,
        neighbours: node.neighbours.iter().map(hex::encode).collect(),
    }
}

/// A host, as the schedulers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PeerView {
    /// Its public key in hex.
    pub(crate) host: String,
    pub(crate) name: String,
    address: String,
    /// Empty: of before hosts told it.
    version: String,
    role: &'static str,
    idc: String,
    location: String,
    /// Pieces that it sends now, and at most.
    uploads: u32,
    upload_slots: u32,
    /// Nothing goes on there; its session rests.
    resting: bool,
    /// Tasks that it holds or wants.
    tasks: u64,
    /// Bytes that it holds.
    bytes: u64,
    /// These are the bytes of some tasks only: there are too many.
    more: bool,
}

impl PeerView {
    /// What another scheduler knows of the same host.
    pub(super) fn add(&mut self, other: Self) {
        self.uploads = self.uploads.max(other.uploads);
        self.resting &= other.resting;
        self.tasks = self.tasks.saturating_add(other.tasks);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.more |= other.more;
        if other.role == SEED {
            self.role = SEED;
        }
    }
}

const SEED: &str = "seed";

impl From<v1::HostSummary> for PeerView {
    fn from(host: v1::HostSummary) -> Self {
        Self {
            host: hex::encode(&host.host),
            name: host.name,
            address: host.address,
            version: host.version,
            role: if host.seed { SEED } else { "peer" },
            idc: host.idc,
            location: host.location,
            uploads: host.uploads,
            upload_slots: host.upload_slots,
            resting: host.resting,
            tasks: host.tasks,
            bytes: host.bytes,
            more: host.more,
        }
    }
}
