//! One task: who holds what of it, who wants it, who reads its source.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use darter_api::{
    HostId, Lengths, Origin, PieceSet, TaskId, Timestamp,
    session::{LeaseEnd, Locality, Purpose},
};

use super::{
    cells::{Cells, Seat},
    pace::Pace,
    zones::Gateway,
};

/// Places where a task can be read that are kept.
const MAX_ORIGINS: usize = 8;
/// Hosts that are remembered for having gone to the source.
const MAX_SOURCES: usize = 8;
/// Hosts tell of what they have once a second.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// A content being distributed.
#[derive(Debug)]
pub(super) struct Task {
    /// Its name, which is long: hosts keep this one.
    pub(super) id: Arc<TaskId>,
    pub(super) lengths: Lengths,
    /// All pieces.
    all: Arc<PieceSet>,
    pub(super) origins: Vec<Origin>,
    pub(super) members: BTreeMap<Arc<HostId>, Member>,
    /// The members again, for sampling.
    pub(super) cells: Cells,
    /// Who was elected to bring it into a data centre; no more than the options allow.
    pub(super) gateways: BTreeMap<String, Vec<Gateway>>,
    /// Some who went to the source for it: seeds of this task.
    pub(super) sources: BTreeSet<HostId>,
    pub(super) leases: Vec<Lease>,
    /// Who gave a lease back, why, and when.
    pub(super) refused: BTreeMap<HostId, (LeaseEnd, Timestamp)>,
    /// Pieces that a reader has from its neighbours, or is about to, though nobody has told of
    /// them yet; and since when.
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
    /// Members that hold all of it.
    whole: usize,
    /// Members that hold a part of it: only while there are any are pieces counted.
    partial: usize,
    /// How many hold each piece, those that hold all left out.
    copies: Vec<u32>,
    /// Pieces that one of those holds.
    somewhere: PieceSet,
}

/// Nothing, to be pointed at.
static NO_PIECES: PieceSet = PieceSet::new();
static NO_HOSTS: BTreeSet<HostId> = BTreeSet::new();

/// A host's part in a task. There are millions: what most of them have none of is not
/// stored in them, and what they have in common only once; 24 bytes.
#[derive(Debug, Default)]
pub(super) struct Member {
    /// `None` for nothing.
    held: Option<Arc<PieceSet>>,
    /// `None` for nobody.
    #[expect(
        clippy::box_collection,
        reason = "a pointer for a set, in millions of members"
    )]
    neighbours: Option<Box<BTreeSet<HostId>>>,
    pub(super) purpose: Purpose,
    marks: Marks,
    seat: Seat,
}

/// What is true of a member, a bit each.
#[derive(Debug, Clone, Copy, Default)]
struct Marks(u8);

impl Marks {
    const WANTS: u8 = 1;
    /// See [`Member::hurry`].
    const HURRIES: u8 = 1 << 1;
    /// See [`Member::set_idle`].
    const IDLE: u8 = 1 << 2;
    /// It is one of the task's newcomers.
    const NEW: u8 = 1 << 3;

    const fn has(self, mark: u8) -> bool {
        self.0 & mark != 0
    }

    /// What it was before.
    const fn set(&mut self, mark: u8, so: bool) -> bool {
        let before = self.has(mark);
        self.0 = if so { self.0 | mark } else { self.0 & !mark };
        before
    }
}

impl Member {
    pub(super) fn held(&self) -> &PieceSet {
        self.held.as_deref().unwrap_or(&NO_PIECES)
    }

    pub(super) fn neighbours(&self) -> &BTreeSet<HostId> {
        self.neighbours.as_deref().unwrap_or(&NO_HOSTS)
    }

    pub(super) fn meets(&mut self, other: HostId) {
        self.neighbours.get_or_insert_default().insert(other);
    }

    fn loses(&mut self, other: &HostId) {
        if let Some(neighbours) = &mut self.neighbours {
            neighbours.remove(other);
        }
        if self.neighbours().is_empty() {
            self.neighbours = None;
        }
    }

    pub(super) const fn wants(&self) -> bool {
        self.marks.has(Marks::WANTS)
    }

    /// Whether it reads the source for somebody who waits, and not for a preheat alone; what was
    /// so before.
    pub(super) const fn hurry(&mut self, so: bool) -> bool {
        self.marks.set(Marks::HURRIES, so)
    }

    /// Whether it holds and wants nothing; what was so when it was last looked at.
    pub(super) const fn set_idle(&mut self, so: bool) -> bool {
        self.marks.set(Marks::IDLE, so)
    }

    /// It is no newcomer any more.
    pub(super) const fn settled(&mut self) {
        self.marks.set(Marks::NEW, false);
    }
}

/// The right to read pieces.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) holder: HostId,
    pub(super) pieces: PieceSet,
    /// The holder took it itself.
    pub(super) own: bool,
    pub(super) granted: Timestamp,
    /// Pieces that were granted in all.
    pub(super) size: u32,
    pub(super) accepted: Option<Timestamp>,
    pub(super) first_byte: bool,
    pub(super) renewed: Timestamp,
    pub(super) pace: Pace,
}

impl Lease {
    /// How long the holder will need for the rest, as far as can be told.
    pub(super) fn time_left(&self, now: Timestamp) -> Duration {
        let (left, took) = (self.pieces.len(), now.since(self.granted));
        match self.size.saturating_sub(left) {
            0 => took,
            read => took * left / read,
        }
    }
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
    pub(super) fn new(id: TaskId, lengths: Lengths) -> Self {
        Self {
            id: Arc::new(id),
            lengths,
            all: Arc::new(PieceSet::full(lengths.pieces())),
            origins: Vec::new(),
            members: BTreeMap::new(),
            cells: Cells::default(),
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
            whole: 0,
            partial: 0,
            copies: Vec::new(),
            somewhere: PieceSet::new(),
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
            self.members.insert(Arc::new(host), Member::default());
        }
        let member = self.members.get_mut(&host);
        member.expect("it was made if there was none")
    }

    /// The host is a member that stands there, where it can be found.
    pub(super) fn place(&mut self, host: &Arc<HostId>, place: &Arc<Locality>) {
        let member = self.members.entry(Arc::clone(host)).or_default();
        if !member.seat.is_taken() {
            member.seat = self.cells.insert(Arc::clone(host), place);
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

    pub(super) fn neighbours(&self, host: &HostId) -> impl Iterator<Item = &HostId> {
        let member = self.members.get(host).into_iter();
        member.flat_map(Member::neighbours)
    }

    pub(super) fn are_neighbours(&self, host: &HostId, other: &HostId) -> bool {
        let member = self.members.get(host);
        member.is_some_and(|member| member.neighbours().contains(other))
    }

    /// Notes what a member holds; what lies beyond the task's end does not count.
    pub(super) fn set_held(&mut self, host: HostId, mut held: PieceSet) {
        let pieces = self.lengths.pieces();
        held.remove_range(pieces..u32::MAX);
        let shared = match held.is_empty() {
            true => None,
            false if self.is_whole(&held) => Some(Arc::clone(&self.all)),
            false => Some(Arc::new(held.clone())),
        };
        let before = std::mem::replace(&mut self.member(host).held, shared);
        let before = before.map(Arc::unwrap_or_clone).unwrap_or_default();
        if self.is_whole(&before) || self.is_whole(&held) {
            self.uncount(&before);
            self.count(&held);
        } else {
            let (mut gained, mut lost) = (held.clone(), before.clone());
            gained.subtract(&before);
            lost.subtract(&held);
            self.count(&gained);
            self.uncount(&lost);
        }
        let (was, is) = (self.is_part(&before), self.is_part(&held));
        self.partial = self.partial + usize::from(is) - usize::from(was);
        if self.partial == 0 {
            self.copies = Vec::new();
        }
    }

    /// Whether these are some pieces and not all.
    fn is_part(&self, set: &PieceSet) -> bool {
        !set.is_empty() && !self.is_whole(set)
    }

    /// Pieces that have to be counted for a host that holds these.
    pub(super) fn claim(&self, held: &PieceSet) -> u64 {
        match self.is_part(held) {
            true => u64::from(self.lengths.pieces()),
            false => 0,
        }
    }

    /// Pieces that are counted for what a member holds.
    pub(super) fn claim_of(&self, host: &HostId) -> u64 {
        let member = self.members.get(host);
        member.map_or(0, |member| self.claim(member.held()))
    }

    /// Whether these are all pieces; of a content without any, nobody's are.
    fn is_whole(&self, set: &PieceSet) -> bool {
        !set.is_empty() && set.len() == self.lengths.pieces()
    }

    fn count(&mut self, set: &PieceSet) {
        if self.is_whole(set) {
            self.whole += 1;
            return;
        }
        if self.copies.is_empty() && !set.is_empty() {
            self.copies.resize(self.lengths.pieces() as usize, 0);
        }
        for piece in set.iter() {
            self.copies[piece as usize] += 1;
        }
        self.somewhere.union_with(set);
    }

    fn uncount(&mut self, set: &PieceSet) {
        if self.is_whole(set) {
            self.whole -= 1;
            return;
        }
        for piece in set.iter() {
            let copies = &mut self.copies[piece as usize];
            *copies -= 1;
            if *copies == 0 {
                self.somewhere.remove(piece);
            }
        }
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
        self.set_held(*host, PieceSet::new());
        self.set_wants(*host, false);
        self.newcomers.retain(|(_, newcomer)| newcomer != host);
        let gone = self.members.remove(host).unwrap_or_default();
        self.sources.remove(host);
        for elected in self.gateways.values_mut() {
            elected.retain(|gateway| gateway.host != *host);
        }
        self.gateways.retain(|_, elected| !elected.is_empty());
        if let Some(moved) = self.cells.remove(place, gone.seat)
            && let Some(member) = self.members.get_mut(&moved)
        {
            member.seat = gone.seat;
        }
        self.refused.remove(host);
        self.told_unavailable.remove(host);
        for neighbour in gone.neighbours() {
            if let Some(member) = self.members.get_mut(neighbour) {
                member.loses(host);
            }
        }
        gone.neighbours.map(|all| *all).unwrap_or_default()
    }

    /// Pieces that nobody holds and nobody may read.
    pub(super) fn uncovered(&self) -> PieceSet {
        if self.whole > 0 {
            return PieceSet::new();
        }
        let mut covered = self.somewhere.clone();
        for lease in &self.leases {
            covered.union_with(&lease.pieces);
        }
        covered.missing(self.lengths.pieces())
    }

    /// The same without what is about to be told of: asked for in vain, one host after the
    /// other would say so.
    pub(super) fn unclaimed(&self, now: Timestamp) -> PieceSet {
        let mut unclaimed = self.uncovered();
        if let Some((pieces, since)) = &self.elsewhere
            && now.since(*since) < TOLD_WITHIN
        {
            unclaimed.subtract(pieces);
        }
        unclaimed
    }

    /// A reader need not read these.
    pub(super) fn is_elsewhere(&mut self, now: Timestamp, pieces: &PieceSet) {
        let fresh = |(_, since): &(PieceSet, Timestamp)| now.since(*since) < TOLD_WITHIN;
        let (mut all, since) = self.elsewhere.take().filter(fresh).unwrap_or_default();
        let since = if all.is_empty() { now } else { since };
        all.union_with(pieces);
        self.elsewhere = Some((all, since));
    }

    /// Somebody lacks these.
    pub(super) fn is_nowhere(&mut self, pieces: &PieceSet) {
        if let Some((all, _)) = &mut self.elsewhere {
            all.subtract(pieces);
        }
    }

    /// Somebody left, who may have had what others counted on.
    pub(super) fn doubt_elsewhere(&mut self) {
        self.elsewhere = None;
    }

    /// Those of `pieces` that another member holds.
    pub(super) fn held_by_others(&self, host: &HostId, pieces: &PieceSet) -> PieceSet {
        let own = self.members.get(host).map(Member::held);
        let others = |piece: &u32| {
            let is_own = own.is_some_and(|own| own.contains(*piece));
            let copies = self.copies.get(*piece as usize).copied().unwrap_or(0);
            self.whole > 0 || copies > u32::from(is_own)
        };
        pieces.iter().filter(others).collect()
    }

    /// A host may read these pieces, beside what it may read already.
    pub(super) fn lease(&mut self, now: Timestamp, holder: HostId, pieces: Range<u32>) {
        let granted = |lease: &&mut Lease| lease.holder == holder && !lease.own;
        if let Some(lease) = self.leases.iter_mut().find(granted) {
            lease.size += pieces.end - pieces.start;
            lease.pieces.insert_range(pieces);
            return;
        }
        self.leases.push(Lease {
            holder,
            size: pieces.end - pieces.start,
            pieces: PieceSet::from_range(pieces),
            own: false,
            granted: now,
            accepted: None,
            first_byte: false,
            renewed: now,
            pace: Pace::new(now),
        });
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

    /// Who may read some of it, each once.
    pub(super) fn readers(&self) -> Vec<HostId> {
        let mut readers = Vec::new();
        for lease in &self.leases {
            if !readers.contains(&lease.holder) {
                readers.push(lease.holder);
            }
        }
        readers
    }

    /// Whether the source's first answer is on its way, and will tell if others could read
    /// it as well.
    pub(super) fn awaits_first_byte(&self) -> bool {
        let awaits = |lease: &Lease| !lease.own && !lease.first_byte;
        self.ranges.is_none() && self.leases.iter().any(awaits)
    }

    /// Whether anybody is known to hold any of it, or to read it.
    pub(super) fn is_held_or_read(&self) -> bool {
        self.whole > 0 || !self.somewhere.is_empty() || !self.leases.is_empty()
    }

    /// Whether each piece is held by somebody.
    pub(super) fn is_held(&self) -> bool {
        self.whole > 0 || self.somewhere.len() == self.lengths.pieces()
    }

    /// How many neighbours a host has.
    pub(super) fn degree(&self, host: &HostId) -> usize {
        let member = self.members.get(host);
        member.map_or(0, |member| member.neighbours().len())
    }

    /// In how many runs a host reads.
    pub(super) fn runs_of(&self, host: &HostId) -> usize {
        let own = self.leases.iter().filter(|lease| lease.holder == *host);
        own.map(|lease| lease.pieces.runs().len()).sum()
    }

    /// In how many it would, with another one.
    pub(super) fn runs_with(&self, host: &HostId, run: &Range<u32>) -> usize {
        let mut all = PieceSet::from_range(run.clone());
        for lease in self.leases.iter().filter(|lease| lease.holder == *host) {
            all.union_with(&lease.pieces);
        }
        all.runs().len()
    }

    pub(super) fn waiters(&self) -> Vec<HostId> {
        let waiting = self.members.iter().filter(|(_, member)| member.wants());
        waiting.map(|(host, _)| **host).collect()
    }

    pub(super) fn summary(&self, id: TaskId) -> Summary {
        Summary {
            id,
            lengths: self.lengths,
            hosts: self.members.len(),
            waiting: self.waiting,
            whole: self.whole,
            readers: self.leases.len(),
        }
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
            host: **host,
            name: String::new(),
            held: member.held().clone(),
            wants: member.wants(),
            leased: leased(host),
            gateway: false,
            bad: false,
            neighbours: member.neighbours().iter().copied().collect(),
        });
        Graph {
            lengths: self.lengths,
            nodes: nodes.collect(),
        }
    }
}
