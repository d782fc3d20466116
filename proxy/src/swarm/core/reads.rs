//! How many readings of sources begin at the same time.
//!
//! An image of hundreds of small layers makes hundreds of leases at once. Were all read at once,
//! their connections would drown each other on the way: each begins with a burst, and what is
//! lost waits for seconds. So few begin within a second at one upstream; a long reading counts
//! no more after that second, so that it holds nobody up. Of long ones, too, only so many are under
//! way. What waits can still be taken from a neighbour instead.
//!
//! Owner of state: [`Reads`], by task. Invariants: a task is begun or waits, not both, and
//! only while it has a lease; those that a client reads begin first, those that nobody waits for
//! last; of what is neither read here nor by a seed for others, half as many are under way at most.

use std::{collections::BTreeMap, time::Duration};

use darter_api::{
    TaskId, Timestamp, UpstreamName,
    session::{PeerMessage, Purpose},
};

use super::{
    Node,
    event::{Authority, Command},
    state::{Download, Lease, Task},
};

/// A reading that began so long ago is not in the way of others.
const YOUNG: Duration = Duration::from_secs(1);
/// The scheduler hears so often that a lease is going to be used.
const RENEW: Duration = Duration::from_secs(2);
/// Words that a waiting reading keeps; as many as a reading remembers.
const MOST_WORDS: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Reads {
    begun: BTreeMap<TaskId, Begun>,
    waiting: BTreeMap<TaskId, Waiting>,
    /// Those that wait, in the order of their places: they are looked at with every event.
    queues: BTreeMap<UpstreamName, BTreeMap<u64, TaskId>>,
    next_place: u64,
}

#[derive(Debug)]
struct Begun {
    upstream: UpstreamName,
    at: Timestamp,
}

#[derive(Debug)]
struct Waiting {
    place: u64,
    upstream: UpstreamName,
    /// By whose leave; all of them count for what they cover.
    words: Vec<Authority>,
    renewed: Timestamp,
}

impl Reads {
    /// The tasks whose sources are being read.
    pub(super) fn under_way(&self) -> impl Iterator<Item = &TaskId> {
        self.begun.keys()
    }

    /// As if all that is being read had begun just now, and a long time from now.
    #[cfg(test)]
    pub(super) fn hold_back(&mut self) {
        for begun in self.begun.values_mut() {
            begun.at = begun.at + Duration::from_secs(3600);
        }
    }

    /// Whether a task's source is being read.
    pub(super) fn has_begun(&self, id: &TaskId) -> bool {
        self.begun.contains_key(id)
    }

    fn take_waiting(&mut self, id: &TaskId) -> Option<Waiting> {
        let waiting = self.waiting.remove(id)?;
        if let Some(queue) = self.queues.get_mut(&waiting.upstream) {
            queue.remove(&waiting.place);
            if queue.is_empty() {
                self.queues.remove(&waiting.upstream);
            }
        }
        Some(waiting)
    }

    fn young(&self, now: Timestamp, upstream: &UpstreamName) -> usize {
        let is_young = |one: &&Begun| one.upstream == *upstream && now.since(one.at) < YOUNG;
        self.begun.values().filter(is_young).count()
    }
}

impl Node {
    /// Reads what the task's `reading` says, now or when its turn comes.
    pub(super) fn order_read(&mut self, now: Timestamp, id: &TaskId, word: Authority) {
        if self.state.reads.begun.contains_key(id) {
            self.command_read(id, word);
            return;
        }
        let origin = self
            .state
            .tasks
            .get(id)
            .and_then(|task| task.origin.clone());
        let Some(origin) = origin else { return };
        let reads = &mut self.state.reads;
        let place = reads.next_place;
        reads.next_place += 1;
        let waiting = reads.waiting.entry(*id).or_insert_with(|| {
            let upstream = origin.upstream;
            let queue = reads.queues.entry(upstream.clone()).or_default();
            queue.insert(place, *id);
            Waiting {
                place,
                upstream,
                words: Vec::new(),
                renewed: now,
            }
        });
        waiting.words.push(word);
        if waiting.words.len() > MOST_WORDS {
            waiting.words.remove(0);
        }
    }

    /// Begins the readings whose turn it is; what is over, or not wanted any more, is
    /// forgotten first.
    pub(super) fn begin_reads(&mut self, now: Timestamp) {
        let state = &mut self.state;
        let tasks = &state.tasks;
        state.reads.begun.retain(|id, _| is_read(tasks, id));
        while let Some(id) = self.next_to_begin(now) {
            let Some(waiting) = self.state.reads.take_waiting(&id) else {
                return;
            };
            if !is_read(&self.state.tasks, &id) {
                continue;
            }
            let upstream = waiting.upstream;
            self.state
                .reads
                .begun
                .insert(id, Begun { upstream, at: now });
            for word in waiting.words {
                self.command_read(&id, word);
            }
        }
    }

    /// Whether nobody waits for a task.
    pub(super) fn is_behind(&self, id: &TaskId) -> bool {
        let download = self.state.tasks.get(id);
        let download = download.and_then(|task| task.download.as_ref());
        download.is_some_and(Download::is_ahead)
    }

    fn next_to_begin(&self, now: Timestamp) -> Option<TaskId> {
        let most = self.options.source_begins as usize;
        let reads = &self.state.reads;
        let queues = reads.queues.iter();
        let able = queues.filter(|(upstream, _)| reads.young(now, upstream) < most);
        let all = self.options.source_readings as usize;
        if reads.begun.len() >= all {
            return None;
        }
        let are_few = reads.begun.len() < all / 2;
        let waiting = able.flat_map(|(_, queue)| queue);
        let turns = waiting.filter_map(|(place, id)| {
            let download = self.state.tasks.get(id)?.download.as_ref()?;
            let is_unread = download.readers.is_empty();
            let may_begin = are_few || !is_unread || download.purpose == Purpose::Seed;
            may_begin.then_some((download.is_ahead(), is_unread, *place, *id))
        });
        turns.min().map(|(.., id)| id)
    }

    fn command_read(&mut self, id: &TaskId, authority: Authority) {
        let Some(task) = self.state.tasks.get(id) else {
            return;
        };
        let Some(origin) = task.origin.clone() else {
            return;
        };
        self.commands.push(Command::ReadSource {
            task: *id,
            lengths: task.lengths,
            origin,
            pieces: task.reading.clone(),
            authority,
        });
    }

    /// Tells the scheduler of leases that wait for their turn, so that it does not take
    /// this host for dead.
    pub(super) fn renew_waiting(&mut self, now: Timestamp) {
        let mut due = Vec::new();
        for (id, waiting) in &mut self.state.reads.waiting {
            if now.since(waiting.renewed) >= RENEW {
                waiting.renewed = now;
                due.push(*id);
            }
        }
        for task in due {
            self.say(PeerMessage::LeaseAccepted { task });
        }
    }
}

/// Whether a task has a lease, and pieces to read by it.
fn is_read(tasks: &BTreeMap<TaskId, Task>, id: &TaskId) -> bool {
    let leased = |download: &Download| download.lease != Lease::None;
    let task = tasks.get(id).filter(|task| !task.reading.is_empty());
    task.is_some_and(|task| task.download.as_ref().is_some_and(leased))
}
