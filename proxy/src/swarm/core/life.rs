//! What becomes of a task on this host: begun, found in the store, gained piece by piece, whole or
//! given up, and forgotten.

use std::time::Duration;

use darter_api::{
    HostId, Lengths, Origin, PieceSet, TaskId, Timestamp,
    link::LinkMessage,
    session::{Holding, Join, LeaseEnd, PeerMessage, Purpose},
};
use rand::RngExt as _;

use super::{
    Node,
    event::{Command, DownloadFailure, RequestId},
    state::{Download, Lease, Task},
};

/// Progress is told so often at most.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// A blob that failed its digest is read again so often.
const CORRUPT_RETRIES: u32 = 2;

impl Node {
    pub(super) fn start(
        &mut self,
        now: Timestamp,
        id: TaskId,
        lengths: Lengths,
        origin: Origin,
        held: PieceSet,
        purpose: Purpose,
    ) {
        let task = self.state.tasks.entry(id);
        let task = task.or_insert_with(|| Task::new(lengths, self.homes.of(&id).cloned()));
        let found = found_beside(&task.held, &held);
        task.lengths = lengths;
        task.origin = Some(origin);
        task.held = held;
        if let Some(download) = &mut task.download {
            if download.abandoned.take().is_some() {
                self.subscribe_all(&id);
                self.dial_again(&id);
            }
            return;
        }
        let jitter = self.options.join_timeout / 2;
        let jitter = jitter.mul_f64(self.rng.random_range(0.0..1.0));
        self.begun += 1;
        let mut download = Download::new(now, purpose, self.begun, jitter);
        download.answer_by = now + self.options.join_timeout + jitter;
        task.download = Some(download);
        self.state.busy.insert(id);
        self.give_out(now, &id, &found);
        self.adopt_early_subscribers(now, &id);
        self.join(now, &id);
        self.subscribe_all(&id);
        self.dial_again(&id);
        let early = self.state.granted.remove(&id);
        for grant in early.into_iter().flat_map(|(grants, _)| grants) {
            self.accept(now, grant);
        }
        self.complete_if_whole(&id);
        self.review(now, &id);
    }

    pub(super) fn join(&mut self, now: Timestamp, id: &TaskId) {
        let Some(home) = self.home_of(id).cloned() else {
            return;
        };
        if !self.homes.is_up(&home) {
            self.open(now, &home);
            return;
        }
        self.say_moved(&home, &[*id]);
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        let (Some(origin), Some(download)) = (task.origin.clone(), task.download.as_mut()) else {
            return;
        };
        task.told = Some(home);
        download.joined = Some(now);
        download.answered = false;
        download.told = task.held.clone();
        let join = Join {
            task: *id,
            lengths: task.lengths,
            held: task.held.clone(),
            origin,
            purpose: download.purpose,
        };
        self.say(PeerMessage::Join(join));
    }

    pub(super) fn stored(
        &mut self,
        now: Timestamp,
        id: TaskId,
        lengths: Lengths,
        held: PieceSet,
        origin: Option<Origin>,
    ) {
        let whole = held.len() == lengths.pieces();
        let task = self.state.tasks.entry(id);
        let task = task.or_insert_with(|| Task::new(lengths, self.homes.of(&id).cloned()));
        let found = found_beside(&task.held, &held);
        task.lengths = lengths;
        task.held = held;
        task.origin = origin.or(task.origin.take());
        self.give_out(now, &id, &found);
        self.rest(&id);
        self.adopt_early_subscribers(now, &id);
        let Some(home) = self.home_of(&id).cloned() else {
            return;
        };
        if !self.homes.is_up(&home) {
            self.homes.owe(&home);
            return;
        }
        let holdings = self.holding(&id).into_iter().collect();
        let last = false;
        self.say_to(&home, PeerMessage::Inventory { holdings, last });
        if whole {
            self.say(PeerMessage::Done { task: id });
        }
    }

    pub(super) fn evicted(&mut self, mut tasks: Vec<TaskId>) {
        tasks.retain(|id| self.drops(id));
        if !tasks.is_empty() {
            self.say(PeerMessage::Evicted { tasks });
        }
    }

    /// A task is forgotten, and neighbours hear so; whether it was known.
    fn drops(&mut self, id: &TaskId) -> bool {
        let Some(task) = self.forget_task(id) else {
            return false;
        };
        self.state.busy.remove(id);
        self.strangers(id);
        for host in task.announcer.subscribers.keys() {
            let pieces = task.held.clone();
            self.commands.push(Command::Link {
                host: *host,
                message: LinkMessage::Lost { task: *id, pieces },
            });
        }
        true
    }

    pub(super) fn holding(&self, id: &TaskId) -> Option<Holding> {
        let task = self.state.tasks.get(id)?;
        Some(Holding {
            task: *id,
            lengths: task.lengths,
            held: task.held.clone(),
            reading: task.reading.clone(),
            wanted: task
                .download
                .as_ref()
                .is_some_and(|download| download.abandoned.is_none()),
            origin: task.origin.clone(),
        })
    }

    pub(super) fn stop(&mut self, now: Timestamp, id: &TaskId) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        let Some(download) = &mut task.download else {
            return;
        };
        // A client that comes back in a moment finds everything as it was; what the store
        // did not take, or no child has waited for in that moment, is not waited with.
        let is_waited_for = task.announcer.is_waited_for(task.lengths.pieces());
        let is_forsaken = download.is_forsaken() && !is_waited_for;
        if download.failed.is_none() && !is_forsaken {
            download.abandoned = Some(now);
            self.leave_to_others(id);
            return;
        }
        self.give_up(id);
    }

    /// Ends a download without a verdict; what is held stays held.
    pub(super) fn give_up(&mut self, id: &TaskId) {
        self.cancel_all(id);
        self.return_lease(id, LeaseEnd::NotNeeded);
        self.unsubscribe_all(id);
        if let Some(task) = self.state.tasks.get_mut(id) {
            task.download = None;
        }
        self.say(PeerMessage::Leave { task: *id });
        self.homes.no_longer_asked(id);
        if self
            .state
            .tasks
            .get(id)
            .is_some_and(|task| task.held.is_empty())
        {
            self.forget_task(id);
        }
        self.rest(id);
    }

    pub(super) fn fail(&mut self, id: &TaskId, why: DownloadFailure) {
        self.give_up(id);
        self.commands.push(Command::Fail { task: *id, why });
    }

    pub(super) fn committed(&mut self, id: &TaskId) {
        self.cancel_all(id);
        let parted = self.parted(id);
        if let Some(task) = self.state.tasks.get_mut(id) {
            task.download = None;
            task.reading = PieceSet::new();
            task.held = PieceSet::full(task.lengths.pieces());
            self.say(PeerMessage::Done { task: *id });
        }
        if self.homes.no_longer_asked(id) {
            self.rehome(self.now, None);
        }
        self.lose_interest(id, &parted);
        self.part(id);
        self.rest(id);
    }

    pub(super) fn corrupt(&mut self, now: Timestamp, id: &TaskId, pieces: &PieceSet) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        task.held.subtract(pieces);
        task.announcer
            .take_back(pieces, &mut self.state.open_offers);
        let hosts: Vec<HostId> = task.announcer.subscribers.keys().copied().collect();
        let Some(download) = &mut task.download else {
            return;
        };
        download.completing = false;
        download.corrupted += 1;
        // Whoever stated them stated them wrong: only the source is asked again.
        for set in download.available.values_mut() {
            set.subtract(pieces);
        }
        download.read_by.clear();
        let again = download.corrupted <= CORRUPT_RETRIES;
        for host in hosts {
            let message = LinkMessage::Lost {
                task: *id,
                pieces: pieces.clone(),
            };
            self.commands.push(Command::Link { host, message });
        }
        if again {
            self.self_lease(now, id);
        } else {
            self.fail(id, DownloadFailure::Corrupt);
        }
    }

    /// Notes that a piece is on disk.
    pub(super) fn gained(&mut self, now: Timestamp, id: &TaskId, piece: u32) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        task.held.insert(piece);
        if let Some(download) = &mut task.download {
            download.last_gain = now;
        }
        let others: Vec<RequestId> = self
            .download(id)
            .and_then(|download| download.in_flight.remove(&piece))
            .unwrap_or_default();
        for request in others {
            self.forget(&request);
            self.commands.push(Command::Cancel(request));
        }
    }

    pub(super) fn complete_if_whole(&mut self, id: &TaskId) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        let whole = task.held.len() == task.lengths.pieces();
        if let Some(download) = task
            .download
            .as_mut()
            .filter(|download| whole && !download.completing)
        {
            download.completing = true;
            download.lease = Lease::None;
            task.reading = PieceSet::new();
            self.commands.push(Command::Complete { task: *id });
        }
    }

    pub(super) fn tell_progress(&mut self, now: Timestamp, id: &TaskId) {
        let Some(task) = self.state.tasks.get(id) else {
            return;
        };
        let Some(download) = &task.download else {
            return;
        };
        // Hundreds of small contents that wait have nothing to tell.
        if now.since(download.last_progress) < PROGRESS_INTERVAL || download.told == task.held {
            return;
        }
        self.say_progress(now, id);
    }

    pub(super) fn say_progress(&mut self, now: Timestamp, id: &TaskId) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        let Some(download) = &mut task.download else {
            return;
        };
        download.last_progress = now;
        download.told = task.held.clone();
        let held = task.held.clone();
        self.say(PeerMessage::Progress { task: *id, held });
    }

    /// Lets a task rest that has nothing to do any more.
    pub(super) fn rest(&mut self, id: &TaskId) {
        let busy = self
            .state
            .tasks
            .get(id)
            .is_some_and(|task| task.download.is_some() || task.announcer.is_busy());
        if !busy {
            self.state.busy.remove(id);
            self.state.unoffered.remove(id);
        }
    }

    fn forget_task(&mut self, id: &TaskId) -> Option<Task> {
        let mut task = self.state.tasks.remove(id)?;
        let offers = &mut task.announcer.offers;
        offers.close_all(&mut self.state.open_offers);
        self.state.unoffered.remove(id);
        Some(task)
    }
}

/// What was on disk already, before any swarm.
fn found_beside(known: &PieceSet, held: &PieceSet) -> PieceSet {
    let mut found = held.clone();
    found.subtract(known);
    found
}
