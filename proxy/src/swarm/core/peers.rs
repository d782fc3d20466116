//! Neighbours: introduced by the scheduler, and subscribed to.

use std::{collections::BTreeSet, time::Duration};

use darter_api::{
    HostId, PieceSet, SchedulerName, TaskId, Timestamp,
    link::LinkMessage,
    session::{Neighbour, SchedulerMessage},
};

use super::{
    Node,
    event::{Command, DownloadFailure},
    state::{Download, Lease, Task},
};

/// Who is avoided for longer than this counts for nothing.
const LONG: Duration = Duration::from_secs(10);
/// A grant comes so soon after the answer to a join, if it comes.
const GRANT_FOLLOWS: Duration = Duration::from_millis(100);

impl Node {
    pub(super) fn session(
        &mut self,
        now: Timestamp,
        from: &SchedulerName,
        message: SchedulerMessage,
    ) {
        if !self.is_heard(from, &message) {
            return;
        }
        match message {
            SchedulerMessage::Welcome { trusted, .. } => {
                self.commands.push(Command::Trust(trusted))
            }
            // Who may read, what has no geometry yet, what is read in small parts, and what is
            // preheated is not the core's concern.
            SchedulerMessage::Heartbeat
            | SchedulerMessage::Preheat(_)
            | SchedulerMessage::Errand(_)
            | SchedulerMessage::Public { .. }
            | SchedulerMessage::ExcerptsFrom { .. }
            | SchedulerMessage::Size { .. } => {}
            SchedulerMessage::Neighbours { task, add, remove } => {
                self.homes.answered(now, from);
                self.introduced(now, &task, add, &remove)
            }
            SchedulerMessage::Grant(grant) => self.granted(now, from, grant.into()),
            SchedulerMessage::Revoked { task, pieces } => self.revoked(now, &task, &pieces),
            SchedulerMessage::Fetch {
                task,
                lengths,
                origin,
                purpose,
            } => {
                self.asked_by(from, task);
                if let Some(download) = self.download(&task) {
                    download.asked_for(now);
                }
                self.commands.push(Command::Fetch {
                    task,
                    lengths,
                    origin,
                    purpose,
                });
            }
            SchedulerMessage::Mismatch { task, .. } => {
                // The size this host was told is not the others': the source decides.
                if let Some(download) = self.download(&task) {
                    download.answered = true;
                    if download.lease == Lease::None {
                        self.self_lease(now, &task);
                    }
                }
            }
            SchedulerMessage::Unavailable {
                task,
                why,
                forbidden,
            } => self.unavailable(now, &task, why, forbidden),
            SchedulerMessage::Found { id, observation } => {
                self.commands.push(Command::Found { id, observation });
            }
        }
    }

    fn introduced(&mut self, now: Timestamp, id: &TaskId, add: Vec<Neighbour>, remove: &[HostId]) {
        if let Some(download) = self.download(id) {
            download.answered = true;
            download.last_word = now;
            if download.unanswered && download.lease == Lease::Own {
                // A grant may follow; if not, others read.
                download.yields.get_or_insert(now + GRANT_FOLLOWS);
            }
        }
        for neighbour in add {
            if neighbour.host == self.own {
                continue;
            }
            let host = self.state.hosts.entry(neighbour.host).or_default();
            host.tasks.insert(*id);
            let is_subscribed_to = host.ahead.remove(id);
            host.used = now;
            host.info = Some(neighbour.clone());
            if host.up {
                if !is_subscribed_to {
                    self.subscribe(neighbour.host, id);
                }
            } else {
                self.commands.extend(host.dial());
            }
        }
        for host in remove {
            if let Some(neighbourhood) = self.state.hosts.get_mut(host) {
                neighbourhood.tasks.remove(id);
                neighbourhood.ahead.remove(id);
            }
            self.withdrawn(host, id);
            self.give_up_late(now, host, id);
        }
    }

    /// What a host had of a task counts no more.
    pub(super) fn withdrawn(&mut self, host: &HostId, id: &TaskId) {
        if let Some(task) = self.state.tasks.get_mut(id) {
            if let Some(download) = &mut task.download {
                download.available.remove(host);
                download.read_by.remove(host);
            }
            task.announcer.leave(host, &mut self.state.open_offers);
        }
    }

    pub(super) fn link(&mut self, now: Timestamp, host: HostId, message: LinkMessage) {
        if let Some(neighbourhood) = self.state.hosts.get_mut(&host) {
            neighbourhood.used = now;
            neighbourhood.heard = now;
        }
        match message {
            LinkMessage::Subscribe {
                task,
                lengths,
                waits,
            } => self.subscribed(now, host, task, lengths, waits),
            LinkMessage::Unsubscribe { task } => self.unsubscribed(now, &host, &task),
            LinkMessage::Have { task, pieces } => {
                self.heard(now, &task, &host, &pieces);
                self.note_available(now, &host, &task, &pieces);
                self.held_elsewhere(now, &task, &pieces);
                self.part_with(&task, &host);
                self.pick(now, &task);
            }
            LinkMessage::Lost { task, pieces } => {
                self.lost_elsewhere(now, &task, &host, &pieces);
                if let Some(download) = self.download(&task) {
                    if let Some(set) = download.available.get_mut(&host) {
                        set.subtract(&pieces);
                    }
                    if let Some(set) = download.read_by.get_mut(&host) {
                        set.subtract(&pieces);
                    }
                }
            }
            LinkMessage::Reading { task, pieces } => {
                self.read_elsewhere(now, &task, &host, &pieces);
                if let Some(task) = self.state.tasks.get_mut(&task) {
                    task.announcer.promises(&host, &pieces);
                }
                if let Some(download) = self.download(&task).filter(|one| !one.is_disputed()) {
                    download.last_news = now;
                    download.read_by.insert(host, pieces);
                }
            }
        }
    }

    fn note_available(&mut self, now: Timestamp, host: &HostId, id: &TaskId, pieces: &PieceSet) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        if pieces.end() > task.lengths.pieces() {
            return;
        }
        if let Some(download) = &mut task.download {
            if download.is_disputed() {
                return;
            }
            // Who sent rot, or stalls all the time, promises nothing.
            let avoided = download.avoided.get(host);
            if avoided.is_some_and(|until| until.since(now) > LONG) {
                return;
            }
            if pieces.iter().any(|piece| !task.held.contains(piece)) {
                download.last_news = now;
            }
            download
                .available
                .entry(*host)
                .or_default()
                .union_with(pieces);
        }
    }

    pub(super) fn subscribe_all(&mut self, id: &TaskId) {
        let hosts: Vec<HostId> = self
            .state
            .hosts
            .iter()
            .filter(|(_, host)| host.up && host.tasks.contains(id))
            .map(|(host, _)| *host)
            .collect();
        for host in hosts {
            self.subscribe(host, id);
        }
    }

    /// Nobody waits for it here any more: neighbours hear so, who may read it for that alone.
    pub(super) fn leave_to_others(&mut self, id: &TaskId) {
        if self.gives_out(id) {
            self.subscribe_all(id);
        } else {
            self.unsubscribe_all(id);
        }
    }

    /// What neighbours have is of no interest any more, but to who still gives out pieces
    /// one by one. Those who know are not told.
    pub(super) fn lose_interest(&mut self, id: &TaskId, parted: &BTreeSet<HostId>) {
        if !self.gives_out(id) {
            self.unsubscribe_from(id, parted);
        }
    }

    /// Whether pieces are given out one by one here.
    fn gives_out(&self, id: &TaskId) -> bool {
        let gives = |task: &Task| !task.announcer.offers.own.is_empty();
        self.state.tasks.get(id).is_some_and(gives)
    }

    pub(super) fn unsubscribe_all(&mut self, id: &TaskId) {
        self.unsubscribe_from(id, &BTreeSet::new());
    }

    fn unsubscribe_from(&mut self, id: &TaskId, but: &BTreeSet<HostId>) {
        let hosts: Vec<HostId> = self
            .state
            .hosts
            .iter()
            .filter(|(name, host)| host.up && host.tasks.contains(id) && !but.contains(name))
            .map(|(host, _)| *host)
            .collect();
        for host in hosts {
            self.tell(host, LinkMessage::Unsubscribe { task: *id });
        }
    }

    pub(super) fn subscribe(&mut self, host: HostId, id: &TaskId) {
        let Some(task) = self.state.tasks.get(id) else {
            return;
        };
        // Who gives pieces out one by one has to hear what becomes of them.
        if task.download.is_some() || !task.announcer.offers.own.is_empty() {
            let waits = task.download.as_ref().is_some_and(Download::waits);
            let message = LinkMessage::Subscribe {
                task: *id,
                lengths: task.lengths,
                waits,
            };
            self.tell(host, message);
        }
    }

    /// Who subscribes here is a neighbour too.
    pub(super) fn subscribe_back(&mut self, host: HostId, id: &TaskId) {
        let neighbourhood = self.state.hosts.entry(host).or_default();
        neighbourhood.up = true;
        neighbourhood.dialled = true;
        if neighbourhood.tasks.insert(*id) {
            neighbourhood.ahead.insert(*id);
            self.subscribe(host, id);
        }
    }

    fn unavailable(
        &mut self,
        now: Timestamp,
        id: &TaskId,
        why: darter_api::session::LeaseEnd,
        forbidden: bool,
    ) {
        let Some(download) = self.download(id) else {
            return;
        };
        download.answered = true;
        if download.lease != Lease::None {
            return;
        }
        if download.failed.is_none() && !forbidden {
            // This host's own client may hold a credential that the others did not.
            self.self_lease(now, id);
            return;
        }
        let gained_meanwhile = self.state.tasks.get(id).is_some_and(|task| {
            let missing = task.held.missing(task.lengths.pieces());
            task.download
                .as_ref()
                .is_some_and(|download| download.unpromised(&missing).is_empty())
        });
        if !gained_meanwhile {
            let forbidden = forbidden.then_some(DownloadFailure::Forbidden);
            self.fail(id, forbidden.unwrap_or(DownloadFailure::Source(why)));
        }
    }
}
