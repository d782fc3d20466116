//! What to ask of whom.
//!
//! A reader's next piece comes first when nothing is under way for it: that is its
//! deadline, not its priority. All other requests go rarest first inside a window ahead
//! of the contiguous prefix, ties at random: if every host asked for what its reader
//! wants next, all would ask the same host for the same piece. Few neighbours ask in order:
//! offers spread what is new among them as well, and readers get it sooner. The near part of the window
//! goes first, so that where several hosts read the source, and bring more than a downlink takes,
//! readers keep up. [`super::view`] is what it chooses from.

use std::{ops::Range, time::Duration};

use darter_api::{
    HostId, PieceIndex, PieceSet, TaskId, Timestamp,
    session::{Complaint, PeerMessage},
};

use super::{
    Node,
    event::{Command, PieceFailure, RequestId},
    state::{Download, Request, Task},
    view::View,
};

/// A parent that stalls, or can't be reached, so often in a row is given up.
const MAX_FAILURES: u32 = 3;
/// A parent whose queue is full is left alone for so long: about what its slots take for
/// the pieces that wait. Twice as long leaves uplinks idle.
const BUSY: Duration = Duration::from_millis(60);
/// For so long.
const BANISHED: Duration = Duration::from_secs(300);
/// So many requests under way keep a downlink busy whatever the parents' queues are.
const FEW: usize = 8;
/// With fewer under way there is next to nothing to be had of what is wanted next, and a downlink
/// idles: what lies further ahead is asked for as well, so that it is not with its reader alone.
const BORED: usize = 4;
/// Requests for what nobody waits for, while somebody waits for something else: enough to go on
/// with, few enough to be in nobody's way.
const BEHIND: usize = 2;
/// So far is looked ahead in what has no end yet: who knows the end has all pieces behind it.
const MOST_BEYOND: u32 = 1024;

impl Node {
    /// Asks for whatever can be asked for now.
    pub(super) fn pick(&mut self, now: Timestamp, id: &TaskId) {
        self.hedge_urgent(now, id);
        if self.state.requests.len() >= self.most_requests() {
            return;
        }
        if !self.pick_from(now, id, Self::nearby) || self.has_enough() {
            return;
        }
        if !self.pick_from(now, id, Self::windows) {
            return;
        }
        if self.state.requests.len() < BORED && !self.pick_from(now, id, Self::beyond) {
            return;
        }
        self.hedge(now, id);
    }

    /// Whether enough is under way to leave alone what readers want later: what brings more than
    /// this host can take would otherwise fill it with that, and its readers fall behind.
    fn has_enough(&self) -> bool {
        self.state.requests.len() >= self.most_requests() * 3 / 4
    }

    /// Asks for what is to be had of these parts; whether more may be asked for.
    fn pick_from(
        &mut self,
        now: Timestamp,
        id: &TaskId,
        parts: impl Fn(&Self, &Task) -> Vec<Range<u32>>,
    ) -> bool {
        let Some(mut view) = self.view_of_offered(now, id, parts) else {
            return true;
        };
        let depth = self.depth();
        let urgent = self.urgent(id);
        for candidate in view.candidates(depth, &urgent, &mut self.rng) {
            if self.state.requests.len() >= self.most_requests() || self.gives_way(id) {
                return false;
            }
            let depth = self.depth();
            if !view.is_anyone_free(depth) {
                return true;
            }
            if let Some(parent) = view.choose(&candidate, depth, &[], &mut self.rng) {
                self.request(now, id, candidate.piece, parent);
            }
        }
        true
    }

    /// What could be asked of whom now; `None` if nothing: most events come when all who
    /// have something are busy.
    fn view_of_offered(
        &self,
        now: Timestamp,
        id: &TaskId,
        parts: impl Fn(&Self, &Task) -> Vec<Range<u32>>,
    ) -> Option<View> {
        let task = self.state.tasks.get(id)?;
        let download = Self::wanting(task)?;
        let (parts, depth) = (parts(self, task), self.depth());
        View::of_offered(now, task, download, &self.state.hosts, &parts, depth)
    }

    /// What readers want soon.
    fn nearby(&self, task: &Task) -> Vec<Range<u32>> {
        self.windows_of(task, self.options.near.min(self.options.window))
    }

    /// What lies beyond the windows.
    fn beyond(&self, task: &Task) -> Vec<Range<u32>> {
        let mut rest = Vec::new();
        let mut at = task.held.first_gap(0);
        let end = match task.lengths.is_open() {
            true => task.lengths.pieces().min(at.saturating_add(MOST_BEYOND)),
            false => task.lengths.pieces(),
        };
        for window in self.windows(task) {
            rest.push(at..window.start);
            at = window.end;
        }
        rest.push(at..end.max(at));
        rest.retain(|part| !part.is_empty());
        rest
    }

    /// For a client that left, only what is under way is finished.
    pub(super) fn wanting(task: &Task) -> Option<&Download> {
        let download = task.download.as_ref();
        download.filter(|one| !one.completing && one.abandoned.is_none())
    }

    /// Requests that may be under way now: fewer while this host reads a source, which brings
    /// what nobody else has; but not if that gives way to what is asked for.
    pub(super) fn most_requests(&self) -> usize {
        let mut read = self.state.reads.under_way();
        let counts = if self.somebody_waits() {
            read.any(|task| !self.is_behind(task))
        } else {
            read.next().is_some()
        };
        let most = match counts {
            true => self.options.in_flight_reading,
            false => self.options.in_flight,
        };
        most as usize
    }

    /// For any content, so that what nobody waits for gives way.
    fn somebody_waits(&self) -> bool {
        self.state.busy.iter().any(|task| self.is_urgent(task))
    }

    /// Whether a task that nobody waits for has all the requests that it may have while
    /// somebody waits for another one.
    fn gives_way(&self, id: &TaskId) -> bool {
        if !self.is_behind(id) {
            return false;
        }
        let behind = |request: &&Request| self.is_behind(&request.task);
        let requests = self.state.requests.values().filter(behind).count();
        requests >= BEHIND && self.somebody_waits()
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
    pub(super) fn depth(&self) -> u32 {
        let few = self.state.requests.len() < FEW;
        if few { self.options.pipeline } else { 1 }
    }

    /// What readers want next.
    pub(super) fn urgent(&self, id: &TaskId) -> Vec<u32> {
        let Some(task) = self.state.tasks.get(id) else {
            return Vec::new();
        };
        let readers = task.download.iter().flat_map(|one| one.readers.values());
        readers
            .map(|wants| task.held.first_gap(wants.start))
            .collect()
    }

    /// Where pieces are looked for: ahead of the contiguous prefix, and of readers that lie
    /// beyond its window. Sorted, none over another.
    fn windows(&self, task: &Task) -> Vec<Range<u32>> {
        self.windows_of(task, self.options.window)
    }

    /// The same for windows of so many pieces.
    fn windows_of(&self, task: &Task, size: u32) -> Vec<Range<u32>> {
        let prefix = task.held.first_gap(0);
        let mut starts = vec![prefix];
        let readers = task.download.iter().flat_map(|one| one.readers.values());
        for wants in readers {
            let at = task.held.first_gap(wants.start);
            if at >= prefix + size && at < wants.end {
                starts.push(at);
            }
        }
        starts.sort_unstable();
        let mut windows: Vec<Range<u32>> = Vec::new();
        for start in starts {
            let end = start.saturating_add(size);
            let from = windows.last().map_or(start, |last| last.end.max(start));
            windows.push(from..end.min(task.lengths.pieces()));
        }
        windows.retain(|window| !window.is_empty());
        windows
    }

    pub(super) fn request(&mut self, now: Timestamp, id: &TaskId, piece: u32, host: HostId) {
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
        neighbourhood.used = now;
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

    pub(super) fn piece_begun(&mut self, now: Timestamp, id: &RequestId) {
        let Some(request) = self.state.requests.get_mut(id) else {
            return;
        };
        request.begun = true;
        if let Some(parent) = self.state.hosts.get_mut(&request.host) {
            parent.heard = now;
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
            parent.heard = now;
            self.came_from(&request, service);
        }
        let one = PieceSet::from_range(request.piece..request.piece + 1);
        self.read_less(now, &request.task, &one);
        self.gained(now, &request.task, request.piece);
        self.announce(now, &request.task, request.piece, &request.host);
        self.complete_if_whole(&request.task);
        self.pick(now, &request.task);
        self.pick_elsewhere(now, &request.task);
    }

    /// A slot that one task leaves free may serve another: what a client reads first, what
    /// nobody waits for last, and of each kind what began first. A client that is given its
    /// contents in another order than it asks for them waits for one while it could ask for more.
    fn pick_elsewhere(&mut self, now: Timestamp, but: &TaskId) {
        if self.state.requests.len() >= self.most_requests() {
            return;
        }
        let others = self.state.busy.iter().filter(|task| *task != but);
        let mut turns: Vec<_> = others
            .filter_map(|task| Some((self.turn(task)?, *task)))
            .collect();
        turns.sort_unstable();
        for (_, task) in turns {
            self.pick(now, &task);
        }
    }

    /// When it is a task's turn, where something is to be got of it.
    fn turn(&self, id: &TaskId) -> Option<(bool, bool, u64)> {
        let download = Self::wanting(self.state.tasks.get(id)?)?;
        Some((
            download.is_ahead(),
            download.readers.is_empty(),
            download.place,
        ))
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
