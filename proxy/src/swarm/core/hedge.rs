//! Pieces that are long under way are asked of another parent as well.
//!
//! What a reader wants next is so as soon as it takes far longer than pieces usually take and nothing
//! is heard of its parent, no word and no piece's beginning or end, since all of that reader's content
//! waits behind it; all else only once nothing else is to be asked for. Another one is asked that has
//! nothing to do for this host. Whoever loses is called off, and that costs the connection.

use std::{ops::Range, time::Duration};

use darter_api::{HostId, TaskId, Timestamp};

use super::{
    Node,
    event::{Command, RequestId},
    state::Request,
    view::View,
};

/// A piece that was asked for so long ago is asked of another parent as well, once
/// nothing else is to be asked for.
const HEDGE_AFTER: Duration = Duration::from_millis(1500);
/// What a reader wants next is after so many times what pieces usually take.
const LATE: u32 = 3;
/// And not before.
const SOONEST: Duration = Duration::from_secs(1);
/// And only if nothing was heard of its parent for so long.
const SILENT: Duration = Duration::from_millis(500);
/// Requests of one piece at the same time.
const MAX_DUPLICATES: usize = 2;
/// Late pieces that are looked at at a time.
const MOST_LATE: usize = 4;

impl Node {
    /// Asks another parent too for what readers want next, where that is late.
    pub(super) fn hedge_urgent(&mut self, now: Timestamp, id: &TaskId) {
        let mut late = self.urgent(id);
        late.retain(|piece| self.is_late(now, id, *piece, SOONEST));
        late.retain(|piece| self.is_silent(now, id, *piece));
        if late.is_empty() {
            return;
        }
        let Some(usual) = self.usual_time(id) else {
            return;
        };
        late.retain(|piece| self.is_late(now, id, *piece, usual * LATE));
        self.ask_others(now, id, &late);
    }

    /// Asks another parent too for pieces that are long under way.
    pub(super) fn hedge(&mut self, now: Timestamp, id: &TaskId) {
        let task = self.state.tasks.get(id);
        let Some(download) = task.and_then(Self::wanting) else {
            return;
        };
        let under_way = download.in_flight.keys().copied();
        let late = under_way.filter(|piece| self.is_late(now, id, *piece, HEDGE_AFTER));
        let late: Vec<u32> = late.take(MOST_LATE).collect();
        self.ask_others(now, id, &late);
    }

    /// What was asked of a host that is no neighbour any more, and is late, will not come: its machine may
    /// be without power. Somebody else is asked, or it is read anew.
    pub(super) fn give_up_late(&mut self, now: Timestamp, host: &HostId, id: &TaskId) {
        let usual = self.usual_time(id).unwrap_or_default();
        let patience = (usual * LATE).max(SOONEST);
        let requests = self.state.requests.iter();
        let late = requests.filter(|(_, request)| {
            let of_it = request.host == *host && request.task == *id;
            of_it && now.since(request.since) >= patience
        });
        let late: Vec<RequestId> = late.map(|(request, _)| *request).collect();
        for request in late {
            self.forget(&request);
            self.commands.push(Command::Cancel(request));
        }
        self.pick(now, id);
    }

    /// What a piece usually takes from this download's parents: the median of them.
    fn usual_time(&self, id: &TaskId) -> Option<Duration> {
        let download = Self::wanting(self.state.tasks.get(id)?)?;
        let parents = download.available.keys();
        let known = parents.filter_map(|host| self.state.hosts.get(host)?.service);
        let mut known: Vec<Duration> = known.collect();
        let last = known.len().checked_sub(1)?;
        Some(*known.select_nth_unstable(last / 2).1)
    }

    /// Whether a piece was asked for so long ago, and of few.
    fn is_late(&self, now: Timestamp, id: &TaskId, piece: u32, patience: Duration) -> bool {
        let mut requests = self.requests_for(id, piece);
        let old = |request: &Request| now.since(request.since) >= patience;
        let few = (1..MAX_DUPLICATES).contains(&requests.clone().count());
        few && requests.all(old)
    }

    /// Whether nothing was heard of those that a piece was asked of.
    fn is_silent(&self, now: Timestamp, id: &TaskId, piece: u32) -> bool {
        let silent = |request: &Request| {
            let parent = self.state.hosts.get(&request.host);
            parent.is_none_or(|parent| now.since(parent.heard) >= SILENT)
        };
        self.requests_for(id, piece).all(silent)
    }

    /// Asks for these of parents that were not asked for them.
    fn ask_others(&mut self, now: Timestamp, id: &TaskId, pieces: &[u32]) {
        if pieces.is_empty() {
            return;
        }
        let Some(task) = self.state.tasks.get(id) else {
            return;
        };
        let Some(download) = Self::wanting(task) else {
            return;
        };
        let windows: Vec<Range<u32>> = pieces.iter().map(|piece| *piece..piece + 1).collect();
        let mut view = View::of_firsts(now, task, download, &self.state.hosts, &windows);
        for candidate in view.firsts() {
            if self.state.requests.len() >= self.most_requests() || !view.is_anyone_idle() {
                return;
            }
            let asked = self.requests_for(id, candidate.piece);
            let asked: Vec<HostId> = asked.map(|request| request.host).collect();
            let depth = self.depth();
            if let Some(parent) = view.choose(&candidate, depth, &asked, &mut self.rng) {
                self.request(now, id, candidate.piece, parent);
            }
        }
    }

    /// The requests for a piece.
    fn requests_for(&self, id: &TaskId, piece: u32) -> impl Iterator<Item = &Request> + Clone {
        let task = self.state.tasks.get(id);
        let download = task.and_then(|task| task.download.as_ref());
        let requests = download.and_then(|one| one.in_flight.get(&piece));
        let requests = requests.into_iter().flatten();
        requests.filter_map(|id| self.state.requests.get(id))
    }
}
