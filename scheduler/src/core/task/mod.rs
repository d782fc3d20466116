//! One task: who holds what of it, who wants it, who reads its source.

mod census;
mod copies;
mod coverage;
mod graph;
mod lease;
mod member;
mod neighbours;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use darter_api::{
    HostId, Lengths, Origin, PieceSet, TaskId, Timestamp,
    session::{LeaseEnd, Locality, Purpose},
};

use super::{blocks::Blocks, cells::Cells, zones::Gateway};
use census::Census;
pub use graph::{Graph, GraphNode, Summary};
pub(super) use lease::Lease;
use member::Marks;
pub(super) use member::Member;
use neighbours::Neighbours;

/// Places where a task can be read that are kept.
const MAX_ORIGINS: usize = 8;
/// Hosts that are remembered for having gone to the source.
const MAX_SOURCES: usize = 8;

/// A content being distributed.
#[derive(Debug)]
pub(super) struct Task {
    /// Its name, which is long: hosts keep this one.
    pub(super) id: Arc<TaskId>,
    pub(super) lengths: Lengths,
    pub(super) origins: Vec<Origin>,
    pub(super) members: Blocks<Arc<HostId>, Member>,
    neighbours: Neighbours,
    /// The members again, for sampling, while somebody does.
    pub(super) cells: Option<Cells>,
    /// Who was elected to bring it into a data centre; no more than the options allow.
    pub(super) gateways: BTreeMap<String, Vec<Gateway>>,
    /// Some who went to the source for it: seeds of this task.
    pub(super) sources: BTreeSet<HostId>,
    pub(super) leases: Vec<Lease>,
    /// Who gave a lease back, why, and when.
    pub(super) refused: BTreeMap<HostId, (LeaseEnd, Timestamp)>,
    /// Pieces that a reader has from its neighbours, or is about to, though nobody has told of
    /// them yet; and until when that is believed.
    elsewhere: Option<(PieceSet, Timestamp)>,
    /// Whether the source serves ranges, once it has answered.
    pub(super) ranges: Option<bool>,
    /// Waiters that failed to read it since a piece last came from the source or a host
    /// joined.
    pub(super) failures: u32,
    /// Waiters that were told that nobody can read it.
    pub(super) told_unavailable: BTreeSet<HostId>,
    /// Neighbours of the last holder that went away: they have most of what it had.
    pub(super) heirs: BTreeSet<HostId>,
    /// Members that joined a moment ago, each once, the oldest first.
    pub(super) newcomers: VecDeque<(Timestamp, HostId)>,
    /// Members that want it.
    waiting: usize,
    census: Census,
}

impl Task {
    pub(super) fn new(id: TaskId, lengths: Lengths) -> Self {
        Self {
            id: Arc::new(id),
            lengths,
            origins: Vec::new(),
            members: Blocks::default(),
            neighbours: Neighbours::default(),
            cells: None,
            gateways: BTreeMap::new(),
            sources: BTreeSet::new(),
            leases: Vec::new(),
            refused: BTreeMap::new(),
            elsewhere: None,
            ranges: None,
            failures: 0,
            told_unavailable: BTreeSet::new(),
            heirs: BTreeSet::new(),
            newcomers: VecDeque::new(),
            waiting: 0,
            census: Census::new(lengths.pieces()),
        }
    }

    pub(super) fn add_origin(&mut self, origin: &Origin) {
        if !self.origins.contains(origin) && self.origins.len() < MAX_ORIGINS {
            self.origins.push(origin.clone());
        }
    }

    /// The member, made if need be.
    pub(super) fn member(&mut self, host: HostId) -> &mut Member {
        if !self.members.contains_key(&host) {
            self.members.or_default(Arc::new(host));
        }
        let member = self.members.get_mut(&host);
        member.expect("it was made if there was none")
    }

    /// The host is a member that stands there, where it can be found.
    pub(super) fn place(&mut self, host: &Arc<HostId>, place: &Arc<Locality>) {
        self.seat(host, place);
        self.members.or_default(Arc::clone(host));
    }

    /// A host that is a member in a moment can be found.
    fn seat(&mut self, host: &Arc<HostId>, place: &Arc<Locality>) {
        if let Some(cells) = &mut self.cells
            && !self.members.contains_key(host)
        {
            cells.insert(host, place);
        }
    }

    /// The host went to the source.
    pub(super) fn add_source(&mut self, host: HostId) {
        if self.sources.len() < MAX_SOURCES && self.members.contains_key(&host) {
            self.sources.insert(host);
        }
    }

    /// Whether a host reads the source, or has read it.
    pub(super) fn reads_source(&self, host: &HostId) -> bool {
        self.sources.contains(host) || self.leases.iter().any(|lease| lease.holder == *host)
    }

    /// Two members know each other from now on.
    pub(super) fn meet(&mut self, host: HostId, other: HostId) {
        self.neighbours.meet(host, other);
    }

    /// A member is nobody's neighbour any more; whose it was.
    pub(super) fn part_from_all(&mut self, host: &HostId) -> BTreeSet<HostId> {
        self.neighbours.remove(host)
    }

    /// Those that a member knows, in order.
    pub(super) fn neighbours(&self, host: &HostId) -> impl Iterator<Item = &HostId> {
        self.neighbours.of(host).iter()
    }

    pub(super) fn are_neighbours(&self, host: &HostId, other: &HostId) -> bool {
        self.neighbours.of(host).contains(other)
    }

    /// A member joined.
    pub(super) fn joined(&mut self, now: Timestamp, host: HostId) {
        if !self.member(host).marks.set(Marks::NEW, true) {
            self.newcomers.push_back((now, host));
        }
    }

    /// Notes whether a member wants the rest.
    pub(super) fn set_wants(&mut self, host: HostId, wants: bool) {
        let before = self.member(host).marks.set(Marks::WANTS, wants);
        self.waiting = self.waiting + usize::from(wants) - usize::from(before);
    }

    /// Members that want it.
    pub(super) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Removes a member that stands there; its neighbours, who no longer have it.
    pub(super) fn remove(&mut self, host: &HostId, place: &Locality) -> BTreeSet<HostId> {
        if !self.members.contains_key(host) {
            return BTreeSet::new();
        }
        self.lets_go(*host);
        self.set_wants(*host, false);
        self.newcomers.retain(|(_, newcomer)| newcomer != host);
        let gone = self.members.remove(host);
        if let (Some((id, _)), Some(cells)) = (gone, &mut self.cells) {
            cells.remove(place, &id);
        }
        self.sources.remove(host);
        for elected in self.gateways.values_mut() {
            elected.retain(|gateway| gateway.host != *host);
        }
        self.gateways.retain(|_, elected| !elected.is_empty());
        self.refused.remove(host);
        self.told_unavailable.remove(host);
        self.part_from_all(host)
    }

    /// A host failed to read the source. Seeds do not count: where they stand, the source
    /// may be out of reach for them alone.
    pub(super) fn failed(&mut self, host: HostId) {
        let fetches = |member: &Member| member.purpose == Purpose::Seed;
        if !self.members.get(&host).is_some_and(fetches) {
            self.failures += 1;
        }
    }

    /// Whether a client waits for it somewhere.
    pub(super) fn is_pulled(&self) -> bool {
        let waits = |member: &Member| member.wants() && member.purpose == Purpose::Pull;
        self.members.values().any(waits)
    }

    /// How many neighbours a host has.
    pub(super) fn degree(&self, host: &HostId) -> usize {
        self.neighbours.of(host).len()
    }

    /// All members, from a place in their order on and round to it.
    pub(super) fn members_from(&self, from: &HostId) -> impl Iterator<Item = &HostId> {
        self.members.round_from(from).map(|(host, _)| host.as_ref())
    }

    pub(super) fn waiters(&self) -> Vec<HostId> {
        let waiting = self.members.iter().filter(|(_, member)| member.wants());
        waiting.map(|(host, _)| **host).collect()
    }
}
