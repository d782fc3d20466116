//! One task: who holds what of it, who wants it, who reads its source.

use std::collections::{BTreeMap, BTreeSet};

use darter_api::{
    HostId, Lengths, Origin, PieceSet, Timestamp,
    session::{LeaseEnd, Purpose},
};

/// Places where a task can be read that are kept.
const MAX_ORIGINS: usize = 8;

/// A content being distributed.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) lengths: Lengths,
    pub(super) origins: Vec<Origin>,
    pub(super) members: BTreeMap<HostId, Member>,
    /// The members again, for sampling.
    pub(super) order: Vec<HostId>,
    pub(super) leases: Vec<Lease>,
    /// Who could not read the source, why, and when.
    pub(super) refused: BTreeMap<HostId, (LeaseEnd, Timestamp)>,
    /// The waiters were told that nobody can read it.
    pub(super) told_unavailable: bool,
}

/// A host's part in a task.
#[derive(Debug, Default)]
pub(super) struct Member {
    pub(super) held: PieceSet,
    pub(super) wants: bool,
    pub(super) purpose: Purpose,
    pub(super) neighbours: BTreeSet<HostId>,
}

/// The right to read pieces.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) holder: HostId,
    pub(super) pieces: PieceSet,
    pub(super) granted: Timestamp,
    pub(super) accepted: Option<Timestamp>,
    pub(super) first_byte: bool,
    pub(super) renewed: Timestamp,
}

/// A task as it can be read out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    /// Its geometry.
    pub lengths: Lengths,
    /// Its hosts.
    pub nodes: Vec<GraphNode>,
}

/// A host in a task's graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphNode {
    /// Which.
    pub host: HostId,
    /// Pieces on its disk.
    pub held: PieceSet,
    /// Whether it wants the rest.
    pub wants: bool,
    /// Pieces that it may read from the source.
    pub leased: PieceSet,
    /// Its neighbours.
    pub neighbours: Vec<HostId>,
}

impl Task {
    pub(super) fn new(lengths: Lengths) -> Self {
        Self {
            lengths,
            origins: Vec::new(),
            members: BTreeMap::new(),
            order: Vec::new(),
            leases: Vec::new(),
            refused: BTreeMap::new(),
            told_unavailable: false,
        }
    }

    pub(super) fn add_origin(&mut self, origin: &Origin) {
        if !self.origins.contains(origin) && self.origins.len() < MAX_ORIGINS {
            self.origins.push(origin.clone());
        }
    }

    /// The member, made if need be.
    pub(super) fn member(&mut self, host: HostId) -> &mut Member {
        let order = &mut self.order;
        self.members.entry(host).or_insert_with(|| {
            order.push(host);
            Member::default()
        })
    }

    /// Removes a member; its neighbours, who no longer have it.
    pub(super) fn remove(&mut self, host: &HostId) -> BTreeSet<HostId> {
        let Some(gone) = self.members.remove(host) else {
            return BTreeSet::new();
        };
        self.order.retain(|other| other != host);
        self.refused.remove(host);
        for neighbour in &gone.neighbours {
            if let Some(member) = self.members.get_mut(neighbour) {
                member.neighbours.remove(host);
            }
        }
        gone.neighbours
    }

    /// Pieces that nobody holds and nobody may read.
    pub(super) fn uncovered(&self) -> PieceSet {
        let mut covered = PieceSet::new();
        for member in self.members.values() {
            covered.union_with(&member.held);
        }
        for lease in &self.leases {
            covered.union_with(&lease.pieces);
        }
        covered.missing(self.lengths.pieces())
    }

    pub(super) fn waiters(&self) -> Vec<HostId> {
        let waiting = self.members.iter().filter(|(_, member)| member.wants);
        waiting.map(|(host, _)| *host).collect()
    }

    pub(super) fn graph(&self) -> Graph {
        let leased = |host: &HostId| {
            let mut pieces = PieceSet::new();
            for lease in self.leases.iter().filter(|lease| lease.holder == *host) {
                pieces.union_with(&lease.pieces);
            }
            pieces
        };
        let nodes = self.members.iter().map(|(host, member)| GraphNode {
            host: *host,
            held: member.held.clone(),
            wants: member.wants,
            leased: leased(host),
            neighbours: member.neighbours.iter().copied().collect(),
        });
        Graph {
            lengths: self.lengths,
            nodes: nodes.collect(),
        }
    }
}
