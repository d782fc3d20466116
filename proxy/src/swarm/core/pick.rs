//! What to ask of whom.
//!
//! A reader's next piece comes first when nothing is under way for it: that is its
//! deadline, not its priority. All other requests go rarest first inside a window ahead
//! of the contiguous prefix, ties at random: if every host asked for what its reader
//! wants next, all would ask the same host for the same piece.

use std::time::Duration;

use darter_api::{
    HostId, PieceIndex, PieceSet, TaskId, Timestamp,
    session::{Complaint, PeerMessage},
};
use rand::RngExt as _;

use super::{
    Node,
    event::{Command, PieceFailure, RequestId},
    state::{Download, Request},
};

/// A piece that was asked for so long ago is asked of another parent as well, once
/// nothing else is to be asked for.
const HEDGE_AFTER: Duration = Duration::from_millis(1500);
/// A parent that stalls, or can't be reached, so often in a row is given up.
const MAX_FAILURES: u32 = 3;
/// A parent whose queue is full is left alone for so long: about what its slots take for
/// the pieces that wait. Twice as long leaves uplinks idle.
const BUSY: Duration = Duration::from_millis(60);
/// For so long.
const BANISHED: Duration = Duration::from_secs(300);
/// So many requests under way keep a downlink busy whatever the parents' queues are.
const FEW: usize = 8;
/// What a parent is thought to take for a piece before one has come from it.
const NEW: Duration = Duration::from_millis(20);
/// A parent that would take so many times longer than the best one is not asked.
const WORTH: u64 = 4;
/// Requests for what nobody waits for, while somebody waits for something else: enough to go on
/// with, few enough to be in nobody's way.
const BEHIND: usize = 2;
/// Requests of one piece at the same time.
const MAX_DUPLICATES: usize = 2;

/// A piece worth asking for.
struct Candidate {
    piece: u32,
    /// Lower is sooner.
    order: (bool, u32, u32),
}

impl Node {
    /// Asks for whatever can be asked for now.
    pub(super) fn pick(&mut self, now: Timestamp, id: &TaskId) {
        if !self.has_free_parent(now, id) {
            return;
        }
        for candidate in self.candidates(id) {
            if self.state.requests.len() >= self.most_requests() || self.gives_way(id) {
                return;
            }
            if let Some(parent) = self.choose_parent(now, id, candidate.piece) {
                self.request(now, id, candidate.piece, parent);
            }
        }
        self.hedge(now, id);
    }

    /// Whether anybody could be asked for anything: most events come when all are busy.
    fn has_free_parent(&self, now: Timestamp, id: &TaskId) -> bool {
        let download = self.state.tasks.get(id);
        let Some(download) = download.and_then(|task| task.download.as_ref()) else {
            return false;
        };
        let free = |host: &HostId| {
            let known = self.state.hosts.get(host);
            known.is_some_and(|known| known.up && known.in_flight < self.depth())
                && download.avoided.get(host).is_none_or(|until| *until <= now)
        };
        self.state.requests.len() < self.most_requests() && download.available.keys().any(free)
    }

    /// Requests that may be under way now: hardly any while the source is read, which brings
    /// what nobody else has.
    fn most_requests(&self) -> usize {
        let most = if self.state.reads.any() {
            self.options.in_flight_reading
        } else {
            self.options.in_flight
        };
        most as usize
    }

    /// Whether a task that nobody waits for has all the requests that it may have while
    /// somebody waits for another one.
    fn gives_way(&self, id: &TaskId) -> bool {
        if !self.is_behind(id) {
            return false;
        }
        let behind = |request: &&Request| self.is_behind(&request.task);
        let requests = self.state.requests.values().filter(behind).count();
        requests >= BEHIND && self.state.busy.iter().any(|task| self.is_urgent(task))
    }

    fn is_urgent(&self, id: &TaskId) -> bool {
        let download = self.state.tasks.get(id);
        let download = download.and_then(|task| task.download.as_ref());
        download.is_some_and(|download| {
            !download.is_ahead() && !download.completing && download.abandoned.is_none()
        })
    }

    /// Requests that one parent may have now: several only while few are under way in all.
    /// What is asked for early waits in queues, while what is asked for late goes to who is
    /// free, for what is rarest by then.
    fn depth(&self) -> u32 {
        let few = self.state.requests.len() < FEW;
        if few { self.options.pipeline } else { 1 }
    }

    fn candidates(&mut self, id: &TaskId) -> Vec<Candidate> {
        let Some(task) = self.state.tasks.get(id) else {
            return Vec::new();
        };
        let Some(download) = &task.download else {
            return Vec::new();
        };
        // For a client that left, only what is under way is finished.
        let idle = download.completing || download.abandoned.is_some();
        if idle || download.available.is_empty() {
            return Vec::new();
        }
        let pieces = task.lengths.pieces();
        let mut candidates = Vec::new();
        let missing = |piece: &u32| {
            !task.held.contains(*piece)
                && !task.reading.contains(*piece)
                && !download.in_flight.contains_key(piece)
        };
        let urgent: Vec<u32> = download
            .readers
            .values()
            .map(|wants| task.held.first_gap(wants.start))
            .filter(|piece| *piece < pieces && missing(piece))
            .collect();
        for start in self.window_starts(id) {
            let window = start..pieces.min(start.saturating_add(self.options.window));
            let rarities = download.rarities(window.clone());
            for (piece, rarity) in window.zip(rarities) {
                if rarity > 0 && missing(&piece) {
                    let tie = self.rng.random();
                    let order = (!urgent.contains(&piece), rarity, tie);
                    candidates.push(Candidate { piece, order });
                }
            }
        }
        candidates.sort_unstable_by_key(|candidate| candidate.order);
        candidates.dedup_by_key(|candidate| candidate.piece);
        candidates
    }

    /// The contiguous prefix's end, and where readers are that lie beyond it.
    fn window_starts(&self, id: &TaskId) -> Vec<u32> {
        let Some(task) = self.state.tasks.get(id) else {
            return Vec::new();
        };
        let prefix = task.held.first_gap(0);
        let mut starts = vec![prefix];
        if let Some(download) = &task.download {
            for wants in download.readers.values() {
                let at = task.held.first_gap(wants.start);
                if at >= prefix + self.options.window && at < wants.end {
                    starts.push(at);
                }
            }
        }
        starts.sort_unstable();
        starts.dedup();
        starts
    }

    /// The host that announced the piece and will probably give it soonest; nobody, while
    /// waiting for another one is better.
    fn choose_parent(&mut self, now: Timestamp, id: &TaskId, piece: u32) -> Option<HostId> {
        let download = self.state.tasks.get(id)?.download.as_ref()?;
        let asked: Vec<HostId> = self.asked(download, piece);
        let mut soonest = u64::MAX;
        let mut best: Option<(u64, HostId)> = None;
        for (host, set) in &download.available {
            if !set.contains(piece) || asked.contains(host) {
                continue;
            }
            if download.avoided.get(host).is_some_and(|until| *until > now) {
                continue;
            }
            let Some(known) = self.state.hosts.get(host).filter(|host| host.up) else {
                continue;
            };
            let service = known.service.unwrap_or(NEW).as_micros() as u64;
            let expected = service * u64::from(known.in_flight + 1);
            soonest = soonest.min(expected);
            if known.in_flight >= self.depth() {
                continue;
            }
            // Not everybody may take the same one for the best.
            let expected = expected * self.rng.random_range(75..125) / 100;
            if best.is_none_or(|(least, _)| expected < least) {
                best = Some((expected, *host));
            }
        }
        let worth_it = |(expected, _): &(u64, HostId)| *expected <= soonest.saturating_mul(WORTH);
        best.filter(worth_it).map(|(_, host)| host)
    }

    fn asked(&self, download: &Download, piece: u32) -> Vec<HostId> {
        let requests = download.in_flight.get(&piece).into_iter().flatten();
        requests
            .filter_map(|id| self.state.requests.get(id))
            .map(|request| request.host)
            .collect()
    }

    fn request(&mut self, now: Timestamp, id: &TaskId, piece: u32, host: HostId) {
        let stall_after = self.options.stall_timeout;
        let request = RequestId(self.next_request);
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        let (Some(download), Some(neighbourhood)) =
            (&mut task.download, self.state.hosts.get_mut(&host))
        else {
            return;
        };
        self.next_request += 1;
        neighbourhood.in_flight += 1;
        let depth = neighbourhood.in_flight;
        download.in_flight.entry(piece).or_default().push(request);
        let asked = Request {
            task: *id,
            piece,
            host,
            since: now,
            depth,
            begun: false,
        };
        self.state.requests.insert(request, asked);
        self.commands.push(Command::Request {
            request,
            host,
            task: *id,
            lengths: task.lengths,
            piece: PieceIndex(piece),
            stall_after,
        });
    }

    /// Asks another parent too for pieces that are long under way.
    fn hedge(&mut self, now: Timestamp, id: &TaskId) {
        let Some(download) = self
            .state
            .tasks
            .get(id)
            .and_then(|task| task.download.as_ref())
        else {
            return;
        };
        let late: Vec<u32> = download
            .in_flight
            .iter()
            .filter(|(_, requests)| requests.len() < MAX_DUPLICATES)
            .filter(|(_, requests)| {
                requests
                    .iter()
                    .filter_map(|id| self.state.requests.get(id))
                    .all(|request| now.since(request.since) >= HEDGE_AFTER)
            })
            .map(|(piece, _)| *piece)
            .take(4)
            .collect();
        for piece in late {
            if self.state.requests.len() >= self.most_requests() {
                return;
            }
            let idle = |host: &HostId| {
                self.state
                    .hosts
                    .get(host)
                    .is_some_and(|host| host.in_flight == 0)
            };
            let download = self
                .state
                .tasks
                .get(id)
                .and_then(|task| task.download.as_ref());
            let anyone_idle = download.is_some_and(|download| download.available.keys().any(idle));
            if anyone_idle && let Some(parent) = self.choose_parent(now, id, piece) {
                self.request(now, id, piece, parent);
            }
        }
    }

    /// Takes a request off the books.
    pub(super) fn forget(&mut self, id: &RequestId) -> Option<Request> {
        let request = self.state.requests.remove(id)?;
        if let Some(neighbourhood) = self.state.hosts.get_mut(&request.host) {
            neighbourhood.in_flight = neighbourhood.in_flight.saturating_sub(1);
        }
        if let Some(download) = self.download(&request.task)
            && let Some(requests) = download.in_flight.get_mut(&request.piece)
        {
            requests.retain(|other| other != id);
            if requests.is_empty() {
                download.in_flight.remove(&request.piece);
            }
        }
        Some(request)
    }

    pub(super) fn cancel_all(&mut self, id: &TaskId) {
        let requests: Vec<RequestId> = self
            .state
            .requests
            .iter()
            .filter(|(_, request)| request.task == *id)
            .map(|(request, _)| *request)
            .collect();
        for request in requests {
            self.forget(&request);
            self.commands.push(Command::Cancel(request));
        }
    }

    pub(super) fn piece_stored(&mut self, now: Timestamp, id: RequestId) {
        let Some(request) = self.forget(&id) else {
            return;
        };
        if let Some(download) = self.download(&request.task) {
            download.failures.remove(&request.host);
        }
        if let Some(parent) = self.state.hosts.get_mut(&request.host) {
            let service = now.since(request.since) / request.depth;
            let before = parent.service.unwrap_or(service);
            parent.service = Some((before * 3 + service) / 4);
            self.came_from(&request, service);
        }
        let one = PieceSet::from_range(request.piece..request.piece + 1);
        self.read_less(now, &request.task, &one);
        self.gained(now, &request.task, request.piece);
        self.announce(now, &request.task, request.piece);
        self.complete_if_whole(&request.task);
        self.pick(now, &request.task);
        self.pick_elsewhere(now, &request.task);
    }

    /// A slot that one task leaves free may serve another.
    fn pick_elsewhere(&mut self, now: Timestamp, but: &TaskId) {
        let others: Vec<TaskId> = self
            .state
            .busy
            .iter()
            .filter(|task| *task != but)
            .copied()
            .collect();
        let (behind, urgent): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|task| self.is_behind(task));
        for task in urgent.iter().chain(&behind) {
            self.pick(now, task);
        }
    }

    pub(super) fn piece_failed(&mut self, now: Timestamp, id: RequestId, failure: PieceFailure) {
        let Some(request) = self.forget(&id) else {
            return;
        };
        let Request {
            task, host, piece, ..
        } = request;
        let pause = match failure {
            PieceFailure::Busy => BUSY,
            PieceFailure::NotHeld => Duration::ZERO,
            // The own store is at fault; asking again at once would only turn in circles.
            PieceFailure::Store | PieceFailure::Unreachable => Duration::from_secs(1),
            PieceFailure::Stalled => Duration::from_secs(5),
            PieceFailure::Rot => BANISHED,
        };
        let mut given_up = false;
        if let Some(download) = self.download(&task) {
            // Requests that were under way together fail together.
            let again = download
                .avoided
                .get(&host)
                .is_none_or(|until| *until <= now);
            let counts = match failure {
                PieceFailure::Stalled => true,
                PieceFailure::Unreachable => again,
                _ => false,
            };
            let failures = download.failures.entry(host).or_default();
            *failures += u32::from(counts);
            let hopeless = failure == PieceFailure::Rot || *failures >= MAX_FAILURES;
            let pause = if hopeless { BANISHED } else { pause };
            download.avoided.insert(host, now + pause);
            if failure == PieceFailure::NotHeld
                && let Some(set) = download.available.get_mut(&host)
            {
                set.remove(piece);
            }
            given_up = hopeless;
            if hopeless {
                download.available.remove(&host);
                download.read_by.remove(&host);
                download.failures.remove(&host);
            }
        }
        self.failed_at(&host, failure, given_up);
        let complaint = match failure {
            PieceFailure::Rot => Some(Complaint::Rot),
            PieceFailure::Stalled => Some(Complaint::Slow),
            _ => None,
        };
        if let Some(complaint) = complaint {
            self.say(PeerMessage::Report {
                neighbour: host,
                task,
                complaint,
            });
        }
        self.pick(now, &task);
    }
}
