//! What could be asked of whom at one moment: pieces as bits, parent by parent.
//!
//! Every event of a large swarm ends in a choice of pieces, and mostly nobody who is free
//! has anything that is missing. So a [`View`] is taken once for all choices of a moment, of
//! those alone who have some of it, and counts rarity only of what could be asked for. It is
//! thrown away afterwards: it owns copies and is never out of date for longer than one choice.

use std::{collections::BTreeMap, ops::Range};

use darter_api::{HostId, Timestamp};
use rand::{RngExt as _, rngs::SmallRng};

use super::{
    bits::Bits,
    order::asks_in_order,
    state::{Download, Neighbourhood, Task},
};

/// Pieces of a block.
const BLOCK: u32 = u64::BITS;
/// A parent that would take so many times longer than the best one is not asked.
const WORTH: u64 = 4;
/// Microseconds that a parent is thought to take for a piece before one has come from it.
const NEW_US: u64 = 20_000;

/// See the module.
#[derive(Debug)]
pub(super) struct View {
    blocks: Vec<Block>,
    parents: Vec<Parent>,
    /// Pieces are asked for in their order, and not the rare ones first.
    in_order: bool,
    /// What each parent announced: as many words as there are blocks, one after the other.
    announced: Vec<u64>,
}

/// Up to 64 pieces, the first one in the lowest bit.
#[derive(Debug, Clone, Copy)]
struct Block {
    start: u32,
    /// Those that are neither held nor under way.
    missing: u64,
}

#[derive(Debug, Clone, Copy)]
struct Parent {
    host: HostId,
    service_us: u64,
    in_flight: u32,
    /// It can be reached, and is not left alone.
    is_there: bool,
}

/// A piece worth asking for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) piece: u32,
    block: usize,
    /// Lower is sooner.
    order: (bool, u32, u32),
}

impl View {
    /// Of each window's first piece, missing or not, and who announced any of them.
    pub(super) fn of_firsts(
        now: Timestamp,
        task: &Task,
        download: &Download,
        hosts: &BTreeMap<HostId, Neighbourhood>,
        windows: &[Range<u32>],
    ) -> Self {
        let blocks = blocks(task, download, windows);
        Self::of(now, task, blocks, download, hosts, |_| 1)
    }

    /// Of what is missing in `windows`, which are sorted and do not overlap, and who announced
    /// any of it; `None` if nobody of them has fewer than `depth` requests.
    pub(super) fn of_offered(
        now: Timestamp,
        task: &Task,
        download: &Download,
        hosts: &BTreeMap<HostId, Neighbourhood>,
        windows: &[Range<u32>],
        depth: u32,
    ) -> Option<Self> {
        let blocks = blocks(task, download, windows);
        if blocks.iter().all(|block| block.missing == 0) {
            return None;
        }
        // Mostly there is nobody, which is found out without a copy of what all have.
        let offers = |set: &Bits| {
            let mut blocks = blocks.iter();
            blocks.any(|block| set.next_64(block.start) & block.missing != 0)
        };
        let is_free = |host: &HostId| {
            let parent = Parent::new(now, *host, download, hosts.get(host));
            parent.is_free(depth)
        };
        let mut available = download.available.iter();
        if !available.any(|(host, set)| offers(set) && is_free(host)) {
            return None;
        }
        Some(Self::of(now, task, blocks, download, hosts, |block| {
            block.missing
        }))
    }

    /// Who announced none of what is `wanted` of the blocks is left out: most of a swarm.
    fn of(
        now: Timestamp,
        task: &Task,
        blocks: Vec<Block>,
        download: &Download,
        hosts: &BTreeMap<HostId, Neighbourhood>,
        wanted: impl Fn(&Block) -> u64,
    ) -> Self {
        let (mut parents, mut announced) = (Vec::new(), Vec::new());
        for (host, set) in &download.available {
            let before = announced.len();
            let mut any = 0;
            for block in &blocks {
                let word = set.next_64(block.start);
                any |= word & wanted(block);
                announced.push(word);
            }
            if any == 0 {
                announced.truncate(before);
                continue;
            }
            parents.push(Parent::new(now, *host, download, hosts.get(host)));
        }
        Self {
            blocks,
            parents,
            in_order: asks_in_order(task.announcer.subscribers.len()),
            announced,
        }
    }

    /// What somebody with fewer than `depth` requests has announced, urgent pieces first,
    /// then rare ones, ties by chance; with few neighbours in the order of the content.
    pub(super) fn candidates(
        &self,
        depth: u32,
        urgent: &[u32],
        rng: &mut SmallRng,
    ) -> Vec<Candidate> {
        let mut found = Vec::new();
        for (at, block) in self.blocks.iter().enumerate() {
            let free = self.parents.iter().enumerate();
            let free = free.filter(|(_, parent)| parent.is_free(depth));
            let offered = free.fold(0, |all, (parent, _)| all | self.word(parent, at));
            let mut wanted = block.missing & offered;
            while wanted != 0 {
                let bit = wanted.trailing_zeros();
                wanted &= wanted - 1;
                let piece = block.start + bit;
                let holders = (0..self.parents.len()).map(|one| self.word(one, at) >> bit & 1);
                let place = match self.in_order {
                    true => piece,
                    false => holders.sum::<u64>() as u32,
                };
                found.push(Candidate {
                    piece,
                    block: at,
                    order: (!urgent.contains(&piece), place, rng.random()),
                });
            }
        }
        found.sort_unstable_by_key(|candidate| candidate.order);
        found
    }

    /// The first piece of each block, missing or not: windows of one piece have no others.
    pub(super) fn firsts(&self) -> Vec<Candidate> {
        let blocks = self.blocks.iter().enumerate();
        let first = |(block, at): (usize, &Block)| Candidate {
            piece: at.start,
            block,
            order: (false, 0, 0),
        };
        blocks.map(first).collect()
    }

    /// Whether a parent can be asked for more.
    pub(super) fn is_anyone_free(&self, depth: u32) -> bool {
        self.parents.iter().any(|parent| parent.is_free(depth))
    }

    /// Whether a parent has nothing to do for this host.
    pub(super) fn is_anyone_idle(&self) -> bool {
        self.parents.iter().any(|parent| parent.in_flight == 0)
    }

    /// The parent that announced the piece, was not asked for it, and will probably give it
    /// soonest; nobody, while waiting for another one is better.
    pub(super) fn choose(
        &mut self,
        candidate: &Candidate,
        depth: u32,
        asked: &[HostId],
        rng: &mut SmallRng,
    ) -> Option<HostId> {
        let bit = candidate.piece - self.blocks[candidate.block].start;
        let mut soonest = u64::MAX;
        let mut best: Option<(u64, usize)> = None;
        for (at, parent) in self.parents.iter().enumerate() {
            let has = self.word(at, candidate.block) >> bit & 1 == 1;
            if !has || !parent.is_there || asked.contains(&parent.host) {
                continue;
            }
            let expected = parent.service_us * u64::from(parent.in_flight + 1);
            soonest = soonest.min(expected);
            if parent.in_flight >= depth {
                continue;
            }
            // Not everybody may take the same one for the best.
            let expected = expected * rng.random_range(75..125) / 100;
            if best.is_none_or(|(least, _)| expected < least) {
                best = Some((expected, at));
            }
        }
        let worth_it = |(expected, _): &(u64, usize)| *expected <= soonest.saturating_mul(WORTH);
        let (_, at) = best.filter(worth_it)?;
        self.parents[at].in_flight += 1;
        Some(self.parents[at].host)
    }

    fn word(&self, parent: usize, block: usize) -> u64 {
        self.announced[parent * self.blocks.len() + block]
    }
}

impl Parent {
    const fn is_free(&self, depth: u32) -> bool {
        self.is_there && self.in_flight < depth
    }

    fn new(
        now: Timestamp,
        host: HostId,
        download: &Download,
        known: Option<&Neighbourhood>,
    ) -> Self {
        let left_alone = download
            .avoided
            .get(&host)
            .is_some_and(|until| *until > now);
        let service = known.and_then(|known| known.service);
        Self {
            host,
            service_us: service.map_or(NEW_US, |service| service.as_micros() as u64),
            in_flight: known.map_or(0, |known| known.in_flight),
            is_there: !left_alone && known.is_some_and(|known| known.up),
        }
    }
}

/// What is missing in these windows.
fn blocks(task: &Task, download: &Download, windows: &[Range<u32>]) -> Vec<Block> {
    let block = |start: u32, end: u32| {
        let gone = task.held.bits(start) | task.reading.bits(start);
        let mut missing = !gone & lowest((end - start).min(BLOCK));
        for (piece, _) in download.in_flight.range(start..start.saturating_add(BLOCK)) {
            missing &= !(1 << (piece - start));
        }
        Block { start, missing }
    };
    let starts = windows.iter().flat_map(|window| {
        let starts = window.clone().step_by(BLOCK as usize);
        starts.map(|start| (start, window.end))
    });
    starts.map(|(start, end)| block(start, end)).collect()
}

/// So many bits.
const fn lowest(count: u32) -> u64 {
    if count >= BLOCK {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}
