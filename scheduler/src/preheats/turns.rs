//! Whose turn it is to have a run's contents, and what each host has still to say.
//!
//! Owner of state: the run. Pure; a report costs the same however many hosts and contents there
//! are. Hosts that could read the registry begin first. The others, which have nothing to show
//! there, begin when one of these has all of it, when none of them is left, or when none has said
//! anything for [`QUIET`]: one that hangs holds nobody up for longer, and does not count any more
//! among those that are at it at the same time. Orders go out at a bounded rate, since each lists
//! all contents and waits in its host's session until that is read.

use std::collections::{HashMap, VecDeque};

use darter_api::{Digest, HostId, preheat::Content};

/// Beats, of a second each, without a word of those that read, after which others begin with
/// what there is. A content that takes longer has them wait in its swarm.
const QUIET: u32 = 60;
/// Bytes of a content in an order, without a file's URL.
const CONTENT: usize = 128;

/// See the module.
#[derive(Debug)]
pub(super) struct Turns {
    /// Where a content is in the list.
    places: HashMap<Digest, usize>,
    /// Hosts that have not had their say.
    open: HashMap<HostId, Host>,
    /// Those that could read, and those that could not; some may have left.
    readers: VecDeque<HostId>,
    others: VecDeque<HostId>,
    /// How many of the open ones are at it, silent ones aside, and how many could read.
    busy: usize,
    reading: usize,
    /// One that could read has all of it.
    is_read: bool,
    /// Beats since one of those spoke last.
    quiet: u32,
    /// Bytes of an order, and of orders that may go out before the next beat.
    order: usize,
    allowance: usize,
}

#[derive(Debug)]
struct Host {
    reads: bool,
    /// It has said of a content that it lacks it.
    lacks: bool,
    /// What it has not spoken of; none before it is asked.
    left: Option<Left>,
    /// Beats since it was asked, or spoke last.
    silent: u32,
}

impl Host {
    fn is_busy(&self) -> bool {
        self.left.is_some() && self.silent < QUIET
    }
}

/// A set of places in the list of contents.
#[derive(Debug)]
struct Left {
    bits: Vec<u64>,
    count: usize,
}

impl Left {
    fn all(count: usize) -> Self {
        let mut bits = vec![u64::MAX; count.div_ceil(64)];
        if let Some(last) = bits.last_mut()
            && !count.is_multiple_of(64)
        {
            *last = (1 << (count % 64)) - 1;
        }
        Self { bits, count }
    }

    /// Whether it was there.
    fn take(&mut self, place: usize) -> bool {
        let (word, bit) = (place / 64, 1 << (place % 64));
        let was = self.bits[word] & bit != 0;
        self.bits[word] &= !bit;
        self.count -= usize::from(was);
        was
    }
}

impl Turns {
    /// Nobody was asked yet.
    pub(super) fn new(contents: &[Content], readers: Vec<HostId>, others: Vec<HostId>) -> Self {
        let places = contents.iter().enumerate();
        let host = |reads| {
            move |host: &HostId| {
                let state = Host {
                    reads,
                    lacks: false,
                    left: None,
                    silent: 0,
                };
                (*host, state)
            }
        };
        let open = readers.iter().map(host(true));
        let weight = |content: &Content| CONTENT + content.url.as_ref().map_or(0, String::len);
        Self {
            places: places.map(|(at, one)| (one.digest, at)).collect(),
            open: open.chain(others.iter().map(host(false))).collect(),
            busy: 0,
            reading: readers.len(),
            readers: readers.into(),
            others: others.into(),
            is_read: false,
            quiet: 0,
            order: contents.iter().map(weight).sum(),
            allowance: 0,
        }
    }

    /// Orders of so many bytes may go out until this is said again; one may, however long it is.
    pub(super) fn allow(&mut self, bytes: usize) {
        self.allowance = bytes;
    }

    /// A second has passed.
    pub(super) fn beat(&mut self) {
        self.quiet = self.quiet.saturating_add(1);
        for host in self.open.values_mut().filter(|host| host.is_busy()) {
            host.silent += 1;
            self.busy -= usize::from(!host.is_busy());
        }
    }

    /// A host that is to be asked now, where at most `most` are at the same time, or any number
    /// if that is 0.
    pub(super) fn next(&mut self, most: usize) -> Option<HostId> {
        if self.allowance == 0 || (most > 0 && self.busy >= most) {
            return None;
        }
        let host = self.waiting()?;
        let left = Left::all(self.places.len());
        self.open.get_mut(&host)?.left = Some(left);
        self.busy += 1;
        self.allowance = self.allowance.saturating_sub(self.order);
        Some(host)
    }

    fn waiting(&mut self) -> Option<HostId> {
        let open = &self.open;
        let first = |queue: &mut VecDeque<HostId>| {
            std::iter::from_fn(|| queue.pop_front()).find(|host| open.contains_key(host))
        };
        if let Some(host) = first(&mut self.readers) {
            return Some(host);
        }
        let may_begin = self.is_read || self.reading == 0 || self.quiet >= QUIET;
        may_begin.then(|| first(&mut self.others)).flatten()
    }

    /// A host holds these; the places of those that are news.
    pub(super) fn holds(&mut self, host: &HostId, digests: &[Digest]) -> Vec<usize> {
        let places = &self.places;
        let Some(Host { left, .. }) = heard(&mut self.open, &mut self.busy, host) else {
            return Vec::new();
        };
        let places = digests.iter().filter_map(|digest| places.get(digest));
        let take = |place: &usize| left.as_mut().is_some_and(|left| left.take(*place));
        let news = places.copied().filter(take).collect();
        self.has_spoken(host);
        news
    }

    /// A host lacks this, or all that it has not spoken of; whether that is news.
    pub(super) fn lacks(&mut self, host: &HostId, digest: Option<&Digest>) -> bool {
        let state = heard(&mut self.open, &mut self.busy, host);
        let Some(Host { lacks, left, .. }) = state else {
            return false;
        };
        let is_news = left.as_mut().is_some_and(|left| match digest {
            Some(digest) => {
                let place = self.places.get(digest);
                place.is_some_and(|place| left.take(*place))
            }
            None => std::mem::take(&mut left.count) > 0,
        });
        *lacks |= is_news;
        self.has_spoken(host);
        is_news
    }

    /// A host has left; whether it had something to say.
    pub(super) fn gone(&mut self, host: &HostId) -> bool {
        let Some(state) = self.open.remove(host) else {
            return false;
        };
        self.reading -= usize::from(state.reads);
        self.busy -= usize::from(state.is_busy());
        true
    }

    /// One that has said all has had its say.
    fn has_spoken(&mut self, host: &HostId) {
        let Some(state) = self.open.get(host) else {
            return;
        };
        let is_done = state.left.as_ref().is_some_and(|left| left.count == 0);
        if state.reads {
            self.quiet = 0;
        }
        if is_done {
            self.is_read |= state.reads && !state.lacks;
            self.gone(host);
        }
    }

    /// Whether every host has had its say.
    pub(super) fn is_over(&self) -> bool {
        self.open.is_empty()
    }

    /// Those that were asked and have something to say.
    pub(super) fn asked(&self) -> impl Iterator<Item = HostId> + '_ {
        let asked = self.open.iter().filter(|(_, state)| state.left.is_some());
        asked.map(|(host, _)| *host)
    }
}

/// A host that was asked, and that says something now.
fn heard<'a>(
    open: &'a mut HashMap<HostId, Host>,
    busy: &mut usize,
    host: &HostId,
) -> Option<&'a mut Host> {
    let state = open.get_mut(host).filter(|state| state.left.is_some())?;
    *busy += usize::from(!state.is_busy());
    state.silent = 0;
    Some(state)
}

#[cfg(test)]
mod tests {
    use darter_api::{NodeKey, OriginKind};

    use super::*;

    fn host(seed: u8) -> HostId {
        NodeKey::from_seed([seed; 32]).id()
    }

    fn digest(place: usize) -> Digest {
        Digest::sha256(&place.to_be_bytes())
    }

    fn contents(count: usize) -> Vec<Content> {
        let content = |place| Content {
            digest: digest(place),
            size: 1,
            kind: OriginKind::Blob,
            url: None,
        };
        (0..count).map(content).collect()
    }

    fn turns(count: usize, readers: &[u8], others: &[u8]) -> Turns {
        let hosts = |seeds: &[u8]| seeds.iter().copied().map(host).collect();
        let mut turns = Turns::new(&contents(count), hosts(readers), hosts(others));
        turns.allow(usize::MAX);
        turns
    }

    fn all(turns: &mut Turns) -> Vec<HostId> {
        std::iter::from_fn(|| turns.next(0)).collect()
    }

    #[test]
    fn each_content_is_spoken_of_once() {
        for count in [1, 63, 64, 65, 130] {
            let mut turns = turns(count, &[1], &[]);
            assert!(turns.holds(&host(1), &[digest(0)]).is_empty(), "not asked");
            assert_eq!(all(&mut turns), [host(1)]);
            assert!(turns.holds(&host(2), &[digest(0)]).is_empty(), "not meant");
            let digests: Vec<Digest> = (0..=count).map(digest).collect();
            let places: Vec<usize> = (1..count).collect();
            assert_eq!(turns.holds(&host(1), &digests[1..]), places);
            assert!(turns.holds(&host(1), &digests[1..]).is_empty());
            assert!(!turns.lacks(&host(1), Some(&digests[count])), "not meant");
            assert!(!turns.is_over());
            assert!(turns.lacks(&host(1), None));
            assert!(turns.is_over());
        }
    }

    #[test]
    fn one_that_has_all_is_enough_for_the_others() {
        let mut turns = turns(1, &[1, 2], &[3]);
        assert_eq!(all(&mut turns), [host(1), host(2)]);
        // It will not have it, which helps nobody.
        assert!(turns.lacks(&host(1), Some(&digest(0))));
        assert!(all(&mut turns).is_empty());
        assert_eq!(turns.holds(&host(2), &[digest(0)]), [0]);
        assert_eq!(all(&mut turns), [host(3)]);

        // A second reader that hangs holds nobody up.
        let mut turns = self::turns(1, &[1, 2], &[3]);
        all(&mut turns);
        turns.holds(&host(1), &[digest(0)]);
        assert_eq!(all(&mut turns), [host(3)]);
    }

    #[test]
    fn the_only_reader_is_not_waited_for_forever() {
        let mut turns = turns(2, &[1], &[3]);
        all(&mut turns);
        let silence = |turns: &mut Turns, beats| (0..beats).for_each(|_| turns.beat());
        silence(&mut turns, QUIET - 1);
        turns.holds(&host(1), &[digest(0)]);
        silence(&mut turns, QUIET - 1);
        assert!(all(&mut turns).is_empty(), "it goes on");
        turns.beat();
        assert_eq!(all(&mut turns), [host(3)]);

        let mut left = self::turns(2, &[1], &[3]);
        all(&mut left);
        assert!(left.gone(&host(1)) && !left.gone(&host(1)));
        assert_eq!(all(&mut left), [host(3)]);
    }

    #[test]
    fn orders_go_out_at_a_bounded_rate() {
        let mut turns = turns(10, &[1, 2, 3, 4], &[]);
        turns.allow(2 * 10 * CONTENT);
        assert_eq!(all(&mut turns).len(), 2);
        turns.allow(1);
        assert_eq!(all(&mut turns).len(), 1, "one may, however long it is");
        turns.allow(usize::MAX);
        assert!(turns.next(3).is_none(), "three are at it");
        assert!(turns.gone(&host(1)));
        assert_eq!(turns.next(3), Some(host(4)));
        assert_eq!(turns.asked().count(), 3);
    }

    #[test]
    fn one_that_hangs_takes_nobodys_turn() {
        let mut turns = turns(2, &[1, 2, 3], &[]);
        assert_eq!(turns.next(1), Some(host(1)));
        (0..QUIET - 1).for_each(|_| turns.beat());
        assert_eq!(turns.next(1), None);
        turns.beat();
        assert_eq!(turns.next(1), Some(host(2)));
        // It is there after all.
        assert_eq!(turns.holds(&host(1), &[digest(0)]), [0]);
        assert!(turns.gone(&host(2)));
        assert_eq!(turns.next(1), None);
        assert_eq!(turns.holds(&host(1), &[digest(1)]), [1]);
        assert_eq!(turns.next(1), Some(host(3)));
    }

    #[test]
    fn who_leaves_before_its_turn_has_none() {
        let mut turns = turns(1, &[1, 2], &[]);
        assert!(turns.gone(&host(1)));
        assert_eq!(all(&mut turns), [host(2)]);
        assert!(!turns.is_over());
        assert!(turns.gone(&host(2)));
        assert!(turns.is_over());
    }
}
