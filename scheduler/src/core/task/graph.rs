//! A task as people see it.

use darter_api::{HostId, Lengths, PieceSet, TaskId};

use super::Task;

/// A task as it can be read out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    /// Its geometry.
    pub lengths: Lengths,
    /// Its hosts.
    pub nodes: Vec<GraphNode>,
}

impl Graph {
    /// Pieces of the content, where they are known.
    pub fn pieces(&self) -> Option<u32> {
        (!self.lengths.is_open()).then(|| self.lengths.pieces())
    }

    /// Pieces on a host's disk: of a content that has no end yet up to the first that it lacks.
    pub fn held(&self, node: &GraphNode) -> u32 {
        if self.lengths.is_open() {
            return node.held.first_gap(0);
        }
        node.held.len()
    }
}

/// A host in a task's graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphNode {
    /// Which.
    pub host: HostId,
    /// Its name.
    pub name: String,
    /// Pieces on its disk.
    pub held: PieceSet,
    /// Whether it wants the rest.
    pub wants: bool,
    /// Pieces that it may read from the source.
    pub leased: PieceSet,
    /// Whether it has neighbours in other data centres.
    pub gateway: bool,
    /// Whether it is to get no new neighbours.
    pub bad: bool,
    /// Its neighbours.
    pub neighbours: Vec<HostId>,
}

/// A task in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Which.
    pub id: TaskId,
    /// Its geometry.
    pub lengths: Lengths,
    /// Hosts that have to do with it.
    pub hosts: usize,
    /// Those that want it.
    pub waiting: usize,
    /// Those that hold all of it.
    pub whole: usize,
    /// Leases on its pieces.
    pub readers: usize,
}

impl Task {
    pub(in crate::core) fn summary(&self, id: TaskId) -> Summary {
        Summary {
            id,
            lengths: self.lengths,
            hosts: self.members.len(),
            waiting: self.waiting,
            whole: self.census.whole,
            readers: self.leases.len(),
        }
    }

    pub(in crate::core) fn graph(&self) -> Graph {
        let leased = |host: &HostId| {
            let mut pieces = PieceSet::new();
            for lease in self.leases.iter().filter(|lease| lease.holder == *host) {
                pieces.union_with(&lease.pieces);
            }
            pieces
        };
        let nodes = self.members.iter().map(|(host, member)| GraphNode {
            host: **host,
            name: String::new(),
            held: self.held(host).clone(),
            wants: member.wants(),
            leased: leased(host),
            gateway: false,
            bad: false,
            neighbours: self.neighbours(host).copied().collect(),
        });
        Graph {
            lengths: self.lengths,
            nodes: nodes.collect(),
        }
    }
}
