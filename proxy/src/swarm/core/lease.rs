//! When the source is read, and by whose leave.
//!
//! Reading needs a lease. The scheduler grants it; where no scheduler answers in time the
//! host leases to itself what no neighbour holds or reads, and yields at the scheduler's
//! first word.

use std::{sync::Arc, time::Duration};

use darter_api::{
    Grant, HostId, PieceSet, SchedulerName, TaskId, Timestamp,
    session::{LeaseEnd, PeerMessage, Purpose},
};

use super::{
    Node,
    event::{Authority, Command, DownloadFailure},
    sessions::Standing,
    state::{Download, Lease},
};

/// A grant whose download is not opened within this is given back.
const OPEN_WITHIN: Duration = Duration::from_secs(5);
/// Neighbours that had nothing new for so long will have nothing new.
const QUIET: Duration = Duration::from_secs(1);
/// Starvation is told so often at most.
const STARVED_INTERVAL: Duration = Duration::from_secs(1);
/// After its own read failed a host waits so long for the scheduler to find another way.
const FAILED_WAIT: Duration = Duration::from_secs(3);
/// A task's new scheduler may not know for so long who reads what.
const NEWS_TAKES: Duration = Duration::from_secs(3);

impl Node {
    /// A grant came; its download may not be open yet.
    pub(super) fn granted(&mut self, now: Timestamp, from: &SchedulerName, grant: Arc<Grant>) {
        if grant.holder != self.own {
            return;
        }
        if !self.is_home(from, &grant.task) {
            let pieces = PieceSet::from_range(grant.pieces.clone());
            let (task, why) = (grant.task, LeaseEnd::NotNeeded);
            self.say_to(from, PeerMessage::LeaseReturned { task, pieces, why });
            return;
        }
        self.say(PeerMessage::LeaseAccepted { task: grant.task });
        if self.download(&grant.task).is_some() {
            self.accept(now, grant);
        } else {
            let early = self.state.granted.entry(grant.task);
            early.or_insert((Vec::new(), now)).0.push(grant);
        }
    }

    /// Reads what a grant allows.
    pub(super) fn accept(&mut self, now: Timestamp, grant: Arc<Grant>) {
        let id = grant.task;
        let mut pieces = PieceSet::from_range(grant.pieces.clone());
        let Some(task) = self.state.tasks.get_mut(&id) else {
            return;
        };
        pieces.subtract(&task.held);
        let Some(download) = &mut task.download else {
            return;
        };
        download.answered = true;
        download.unanswered = false;
        download.yields = None;
        if task.lengths != grant.lengths {
            self.say(PeerMessage::LeaseReturned {
                task: id,
                pieces,
                why: LeaseEnd::WrongSize,
            });
            return;
        }
        let granted = pieces.clone();
        for piece in download.in_flight.keys() {
            pieces.remove(*piece);
        }
        // What a neighbour has is taken from it: the scheduler's knowledge is a second old.
        for available in download.available.values() {
            available.remove_from(&mut pieces);
        }
        if download.moved.is_some_and(|at| now.since(at) < NEWS_TAKES) {
            for reading in download.read_by.values() {
                pieces.subtract(reading);
            }
        }
        // That neighbour may be gone a moment later: the scheduler is not to count on this host.
        let mut elsewhere = granted;
        elsewhere.subtract(&pieces);
        if !pieces.is_empty() && !elsewhere.is_empty() {
            self.say(PeerMessage::LeaseReturned {
                task: id,
                pieces: elsewhere,
                why: LeaseEnd::NotNeeded,
            });
        }
        if pieces.is_empty() {
            let pieces = PieceSet::from_range(grant.pieces.clone());
            self.say(PeerMessage::LeaseReturned {
                task: id,
                pieces,
                why: LeaseEnd::NotNeeded,
            });
            return;
        }
        let Some(task) = self.state.tasks.get_mut(&id) else {
            return;
        };
        let Some(download) = &mut task.download else {
            return;
        };
        // What was being read stays so: the same stream goes on under the new word.
        pieces.union_with(&task.reading);
        download.lease = Lease::Granted(Arc::clone(&grant));
        download.failed = None;
        download.last_gain = now;
        self.read(now, &id, pieces, Authority::Granted(grant));
    }

    fn read(&mut self, now: Timestamp, id: &TaskId, mut pieces: PieceSet, word: Authority) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        if task.origin.is_none() {
            return;
        }
        pieces.subtract(&task.held);
        task.reading = pieces;
        self.order_read(now, id, word);
        self.tell_reading(id);
    }

    /// Leases to itself what nobody near holds or reads.
    pub(super) fn self_lease(&mut self, now: Timestamp, id: &TaskId) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        let Some(download) = &mut task.download else {
            return;
        };
        let missing = task.held.missing(task.lengths.pieces());
        let mut pieces = download.unpromised(&missing);
        for piece in download.in_flight.keys() {
            pieces.remove(*piece);
        }
        if pieces.is_empty() {
            return;
        }
        download.lease = Lease::Own;
        download.unanswered = !download.answered;
        download.yields = None;
        download.last_gain = now;
        self.say(PeerMessage::SelfLeased {
            task: *id,
            pieces: pieces.clone(),
        });
        self.read(now, id, pieces, Authority::Own);
    }

    pub(super) fn revoked(&mut self, now: Timestamp, id: &TaskId, pieces: &PieceSet) {
        self.state.granted.remove(id);
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        let Some(download) = &mut task.download else {
            return;
        };
        download.answered = true;
        self.read_less(now, id, pieces);
        // Who reads on need not read what was read here since the last word.
        self.say_progress(now, id);
    }

    /// Stops reading some pieces; the rest is read on by the same word.
    pub(super) fn read_less(&mut self, now: Timestamp, id: &TaskId, pieces: &PieceSet) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        let Some(download) = &mut task.download else {
            return;
        };
        let mut rest = task.reading.clone();
        rest.subtract(pieces);
        if rest == task.reading {
            return;
        }
        let lease = download.lease.clone();
        if rest.is_empty() {
            download.lease = Lease::None;
            task.reading = PieceSet::new();
            self.commands.push(Command::StopSource { task: *id });
            self.tell_reading(id);
            return;
        }
        match lease {
            Lease::Granted(grant) => self.read(now, id, rest, Authority::Granted(grant)),
            Lease::Own => self.read(now, id, rest, Authority::Own),
            Lease::None => {}
        }
    }

    /// A self-lease ends in favour of others, in part or as a whole.
    pub(super) fn yield_to_others(&mut self, now: Timestamp, id: &TaskId, pieces: &PieceSet) {
        self.read_less(now, id, pieces);
        let reading = self.state.tasks.get(id).map(|task| task.reading.clone());
        self.say(PeerMessage::SelfLeased {
            task: *id,
            pieces: reading.unwrap_or_default(),
        });
    }

    /// A neighbour reads these from the source: of two that read by their own leave the
    /// smaller id goes on.
    pub(super) fn read_elsewhere(
        &mut self,
        now: Timestamp,
        id: &TaskId,
        by: &HostId,
        pieces: &PieceSet,
    ) {
        let own = self.own;
        let Some(task) = self.state.tasks.get(id) else {
            return;
        };
        let both = task.reading.intersection(pieces);
        let is_own = task
            .download
            .as_ref()
            .is_some_and(|download| download.lease == Lease::Own && !download.is_disputed());
        if is_own && *by < own && !both.is_empty() {
            self.yield_to_others(now, id, &both);
        }
    }

    /// A neighbour holds these: they are not read from the source any more, but for the
    /// one that is being read.
    pub(super) fn held_elsewhere(&mut self, now: Timestamp, id: &TaskId, pieces: &PieceSet) {
        let Some(task) = self.state.tasks.get(id) else {
            return;
        };
        let disputed = task.download.as_ref().is_none_or(Download::is_disputed);
        let mut both = task.reading.intersection(pieces);
        if let Some(current) = task.reading.first()
            && self.state.reads.has_begun(id)
        {
            both.remove(current);
        }
        if !disputed && !both.is_empty() {
            self.read_less(now, id, &both);
        }
    }

    /// Gives back what has not been read.
    pub(super) fn return_lease(&mut self, id: &TaskId, why: LeaseEnd) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        let Some(download) = &mut task.download else {
            return;
        };
        if download.lease == Lease::None {
            return;
        }
        download.lease = Lease::None;
        let pieces = std::mem::take(&mut task.reading);
        self.commands.push(Command::StopSource { task: *id });
        self.say(PeerMessage::LeaseReturned {
            task: *id,
            pieces,
            why,
        });
        self.tell_reading(id);
    }

    pub(super) fn source_piece(&mut self, now: Timestamp, id: &TaskId, piece: u32) {
        self.gained(now, id, piece);
        if let Some(task) = self.state.tasks.get_mut(id) {
            task.reading.remove(piece);
            if task.reading.is_empty()
                && let Some(download) = &mut task.download
            {
                download.lease = Lease::None;
            }
        }
        self.announce_fresh(now, id, piece);
        self.tell_of_first_run(now, id);
        self.complete_if_whole(id);
    }

    /// Says when half of a part's first run is read. Until it hears of that the scheduler may leave
    /// what lies behind it to one who comes yet.
    fn tell_of_first_run(&mut self, now: Timestamp, id: &TaskId) {
        let Some(task) = self.state.tasks.get(id) else {
            return;
        };
        let untold = |download: &Download| download.told.is_empty();
        if !task.download.as_ref().is_some_and(untold) {
            return;
        }
        let Some(first) = task.reading.runs().first() else {
            return;
        };
        let mut held = task.held.runs().iter();
        let read = held.find(|run| run.end == first.start);
        let is_half = read.is_some_and(|read| read.len() >= first.len());
        if is_half && first.end < task.lengths.pieces() {
            self.say_progress(now, id);
        }
    }

    pub(super) fn source_failed(&mut self, now: Timestamp, id: &TaskId, why: LeaseEnd) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        let Some(download) = &mut task.download else {
            return;
        };
        download.failed = Some((why, now));
        download.lease = Lease::None;
        let pieces = std::mem::take(&mut task.reading);
        self.say(PeerMessage::LeaseReturned {
            task: *id,
            pieces,
            why,
        });
        self.tell_reading(id);
        self.review(now, id);
    }

    /// Whether the download can go on as it is, and what to do if not.
    pub(super) fn review(&mut self, now: Timestamp, id: &TaskId) {
        self.look_for_children(now, id);
        let Some(task) = self.state.tasks.get(id) else {
            return;
        };
        let Some(download) = &task.download else {
            return;
        };
        if download.completing {
            return;
        }
        if let Some(since) = download.abandoned {
            let waited_for = task.announcer.is_waited_for(task.lengths.pieces())
                && download.lease != Lease::None;
            if !waited_for && now.since(since) >= self.options.linger {
                self.give_up(id);
            }
            return;
        }
        if download.yields.is_some_and(|at| at <= now) {
            let (lease, reading) = (download.lease.clone(), task.reading.clone());
            if let Some(download) = self.download(id) {
                download.yields = None;
            }
            if lease == Lease::Own {
                self.yield_to_others(now, id, &reading);
                return;
            }
        }
        let Some(task) = self.state.tasks.get(id) else {
            return;
        };
        let Some(download) = &task.download else {
            return;
        };
        if download.lease != Lease::None {
            return;
        }
        let missing = task.held.missing(task.lengths.pieces());
        let unpromised = download.unpromised(&missing);
        if let Some((why, at)) = download.failed {
            self.review_failed(now, id, &unpromised, why, at);
            return;
        }
        if !unpromised.is_empty() {
            self.review_unpromised(now, id, unpromised);
        } else if now.since(download.last_gain) >= self.options.starved_timeout * 2 {
            // Those who promised do not deliver.
            if let Some(download) = self.download(id) {
                download.read_by.clear();
                download.last_gain = now;
            }
        }
    }

    /// Whether any neighbour still waits for what a scheduler had this seed fetch.
    fn look_for_children(&mut self, now: Timestamp, id: &TaskId) {
        // A child whose client left waits for `linger` itself: while the scheduler counts on it,
        // what a seed gives back would be another seed's to read.
        let linger = self.options.linger * 3 / 2;
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        let is_waited_for = task.announcer.is_waited_for(task.lengths.pieces());
        let has_come = !task.announcer.subscribers.is_empty();
        let Some(download) = &mut task.download else {
            return;
        };
        if download.purpose != Purpose::Seed {
            return;
        }
        if is_waited_for {
            download.unwaited = Some(now);
        } else if let Some(since) = download.unwaited {
            // Who has come and waits for nothing brings no others.
            let since = if has_come { since.min(now) } else { since };
            let over = now.since(since) >= linger;
            download.unwaited = (!over).then_some(since);
            if over {
                self.commands.push(Command::Forsaken { task: *id });
            }
        }
    }

    fn review_unpromised(&mut self, now: Timestamp, id: &TaskId, unpromised: PieceSet) {
        let (grace, starved) = (self.options.session_grace, self.options.starved_timeout);
        let (standing, answered) = (self.standing(id), self.last_answer_of(id));
        let wait = self.options.join_timeout;
        let Some(download) = self.download(id) else {
            return;
        };
        let (alone, quiet) = (download.is_alone(), download.quiet(now));
        // While neighbours have news, what they lack may be on its way to them.
        let hopeful = !alone && quiet < QUIET + download.jitter;
        let over = match standing {
            Standing::Alone => true,
            Standing::Gone(since) => now.since(since) >= grace,
            Standing::Awaited => now >= download.answer_by,
            Standing::Up => false,
        };
        if standing != Standing::Up {
            if over && !hopeful {
                self.self_lease(now, id);
            }
            return;
        }
        if !download.answered {
            // One that answers others, or this host's other joins, is busy and not dead.
            let working = now.since(answered) < wait + download.jitter;
            let joined = download.joined.unwrap_or(download.answer_by);
            let busy = working && now.since(joined) < starved;
            if now >= download.answer_by && !hopeful && !busy {
                self.self_lease(now, id);
            }
            return;
        }
        // A scheduler that answers knows better, but neighbours that are out of reach.
        let answers = now.since(download.last_word) < starved;
        let patience = if answers && !alone {
            starved * 3
        } else {
            starved
        };
        // A seed does not help itself: it was asked for what the scheduler knows best. Nor is there
        // haste with what no client has asked for yet.
        if quiet >= patience && download.purpose == Purpose::Pull && download.has_clients {
            self.self_lease(now, id);
        } else if quiet >= STARVED_INTERVAL && now.since(download.last_starved) >= STARVED_INTERVAL
        {
            download.last_starved = now;
            self.say(PeerMessage::Starved {
                task: *id,
                pieces: unpromised,
            });
        }
    }

    fn review_failed(
        &mut self,
        now: Timestamp,
        id: &TaskId,
        unpromised: &PieceSet,
        why: LeaseEnd,
        at: Timestamp,
    ) {
        let is_up = self.is_up(id);
        let Some(download) = self.download(id) else {
            return;
        };
        let at = at.max(download.last_gain).max(download.last_news);
        if unpromised.is_empty() {
            return;
        }
        let hopeless = !is_up || matches!(why, LeaseEnd::Missing | LeaseEnd::WrongSize);
        if hopeless || now.since(at) >= FAILED_WAIT {
            self.fail(id, DownloadFailure::Source(why));
        }
    }

    pub(super) fn expire_early_grants(&mut self, now: Timestamp) {
        let late: Vec<TaskId> = self
            .state
            .granted
            .iter()
            .filter(|(_, (_, since))| now.since(*since) >= OPEN_WITHIN)
            .map(|(task, _)| *task)
            .collect();
        for task in late {
            if let Some((grants, _)) = self.state.granted.remove(&task) {
                let mut pieces = PieceSet::new();
                for grant in grants {
                    pieces.insert_range(grant.pieces.clone());
                }
                self.say(PeerMessage::LeaseReturned {
                    task,
                    pieces,
                    why: LeaseEnd::NotNeeded,
                });
            }
        }
    }
}
