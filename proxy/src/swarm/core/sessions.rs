//! What is said to which scheduler, and how tasks move between them.
//!
//! Each scheduler hears of the tasks that are at home with it ([`super::homes`]), and of no
//! others. A task that moves is told to its new home at once, as a restarted scheduler is
//! told: what is held and read, then the join. Its old home hears of it seconds later, and
//! its word on the task counts no more meanwhile, so that nobody loses a neighbour over it.

use std::collections::{BTreeMap, BTreeSet};

use darter_api::{
    Digest, Lengths, Origin, Repository, SchedulerName, TaskId, Timestamp, UpstreamName,
    session::{Holding, PeerMessage, Reference, SchedulerMessage},
};

use super::{
    Node,
    event::Command,
    homes::{Chores, Line},
};

/// How a task's scheduler is to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// There is none.
    Alone,
    /// Its session is to come.
    Awaited,
    /// Its session is gone since then.
    Gone(Timestamp),
    /// Its session stands.
    Up,
}

impl Node {
    /// The list of schedulers is this from now on.
    pub(super) fn listed(&mut self, now: Timestamp, names: &[SchedulerName], on_demand: bool) {
        for name in self.homes.list(now, names, on_demand) {
            self.open(now, &name);
        }
        self.rehome(now, None);
    }

    /// The scheduler that a task is at home with.
    pub(super) fn home_of(&self, id: &TaskId) -> Option<&SchedulerName> {
        let task = self.state.tasks.get(id);
        let told = task.and_then(|task| task.home.as_ref());
        told.or_else(|| self.homes.of(id))
    }

    pub(super) fn standing(&self, id: &TaskId) -> Standing {
        let Some(home) = self.home_of(id) else {
            return Standing::Alone;
        };
        match self.homes.line(home) {
            Line::Up => Standing::Up,
            Line::Lost(since) => Standing::Gone(since),
            Line::Opening(since) if !self.homes.is_on_demand() => Standing::Gone(since),
            Line::Opening(_) | Line::Closed | Line::Resting(_) => Standing::Awaited,
        }
    }

    /// When a task's scheduler last answered about any task.
    pub(super) fn last_answer_of(&self, id: &TaskId) -> Timestamp {
        let home = self.home_of(id);
        home.map_or(Timestamp::ZERO, |home| self.homes.last_answer(home))
    }

    pub(super) fn is_up(&self, id: &TaskId) -> bool {
        self.standing(id) == Standing::Up
    }

    /// Whether a scheduler's word on a task counts.
    pub(super) fn is_home(&self, name: &SchedulerName, id: &TaskId) -> bool {
        self.home_of(id) == Some(name)
    }

    /// Says something to the scheduler whose business it is, if its session stands.
    pub(super) fn say(&mut self, message: PeerMessage) {
        if let Some(id) = message.task().copied() {
            let waits = matches!(
                message,
                PeerMessage::SizeWanted { .. } | PeerMessage::ExcerptsWanted { .. }
            );
            if waits {
                // Somebody waits for the answer.
                self.say_or_open(&id, message);
            } else {
                self.say_of(&id, message);
            }
            return;
        }
        match message {
            PeerMessage::Interest { tasks, origin } => self.announce_interest(tasks, &origin),
            PeerMessage::Evicted { tasks } => self.announce_evicted(tasks),
            PeerMessage::Observed(ref seen) => {
                let key = key(&seen.upstream, &seen.repository, &seen.reference);
                self.say_or_open(&key, message);
            }
            PeerMessage::Lookup {
                ref upstream,
                ref repository,
                ref reference,
                ..
            } => {
                let key = key(upstream, repository, reference);
                self.say_or_open(&key, message);
            }
            PeerMessage::Load { .. } | PeerMessage::Parents { .. } => self.say_to_busy(&message),
            _ => {}
        }
    }

    fn say_of(&mut self, id: &TaskId, message: PeerMessage) {
        let Some(home) = self.home_of(id).cloned() else {
            return;
        };
        if self.homes.is_up(&home) {
            self.say_to(&home, message);
        } else {
            self.homes.owe(&home);
        }
    }

    /// The same, but it waits for the session if need be.
    fn say_or_open(&mut self, id: &TaskId, message: PeerMessage) {
        let Some(home) = self.home_of(id).cloned() else {
            return;
        };
        if self.homes.is_up(&home) {
            self.say_to(&home, message);
        } else {
            self.open(self.now, &home);
            self.homes.remember(&home, message);
        }
    }

    /// Says something in a session that stands.
    pub(super) fn say_to(&mut self, name: &SchedulerName, message: PeerMessage) {
        if let Some(home) = self.homes.get_mut(name) {
            home.used = self.now;
            self.commands.push(Command::Session(name.clone(), message));
        }
    }

    /// Says something to all schedulers whose session is not idle.
    fn say_to_busy(&mut self, message: &PeerMessage) {
        let up: Vec<SchedulerName> = self.homes.up().cloned().collect();
        let busy = self.busy_homes();
        let on_demand = self.homes.is_on_demand();
        for name in up {
            if !on_demand || busy.contains(&name) {
                let message = message.clone();
                self.commands.push(Command::Session(name, message));
            }
        }
    }

    /// Schedulers with which something is under way.
    fn busy_homes(&self) -> BTreeSet<SchedulerName> {
        let busy = self.state.busy.iter();
        let tasks = busy.filter_map(|id| self.state.tasks.get(id));
        tasks.filter_map(|task| task.home.clone()).collect()
    }

    fn announce_interest(&mut self, tasks: Vec<(TaskId, Lengths)>, origin: &Origin) {
        let mut by_home: BTreeMap<SchedulerName, Vec<(TaskId, Lengths)>> = BTreeMap::new();
        for (id, lengths) in tasks {
            if let Some(home) = self.home_of(&id) {
                let tasks = by_home.entry(home.clone()).or_default();
                tasks.push((id, lengths));
            }
        }
        for (home, tasks) in by_home {
            let ids: Vec<TaskId> = tasks.iter().map(|(id, _)| *id).collect();
            let origin = origin.clone();
            let interest = PeerMessage::Interest { tasks, origin };
            if self.homes.is_up(&home) {
                self.say_moved(&home, &ids);
                self.say_to(&home, interest);
            } else {
                self.open(self.now, &home);
                self.homes.remember(&home, interest);
            }
        }
    }

    /// One message a scheduler, however many there are: an outbox has places for some thousand.
    fn announce_evicted(&mut self, tasks: Vec<TaskId>) {
        let mut by_home: BTreeMap<SchedulerName, Vec<TaskId>> = BTreeMap::new();
        for id in tasks {
            if let Some(home) = self.home_of(&id) {
                by_home.entry(home.clone()).or_default().push(id);
            }
        }
        for (home, tasks) in by_home {
            if self.homes.is_up(&home) {
                self.say_to(&home, PeerMessage::Evicted { tasks });
            } else {
                self.homes.owe(&home);
            }
        }
    }

    /// Says which of these were, or would be, another scheduler's.
    pub(super) fn say_moved(&mut self, name: &SchedulerName, ids: &[TaskId]) {
        let moved = |id: &&TaskId| {
            let told = self.state.tasks.get(id).and_then(|task| task.told.as_ref());
            told != Some(name) && (told.is_some() || self.homes.owner(id) != Some(name))
        };
        let tasks: Vec<TaskId> = ids.iter().filter(moved).copied().collect();
        if !tasks.is_empty() {
            self.say_to(name, PeerMessage::Moved { tasks });
        }
    }

    /// Wants a session, if none is wanted yet; if there are too many, as soon as one rests.
    pub(super) fn open(&mut self, now: Timestamp, name: &SchedulerName) {
        if !matches!(self.homes.line(name), Line::Closed | Line::Resting(_)) {
            return;
        }
        let busy = self.busy_homes();
        let (opened, idle) = self.homes.open(now, name, &busy);
        if let Some(idle) = idle {
            self.rest_at(now, &idle);
        }
        if opened {
            self.commands.push(Command::Open(name.clone()));
        } else {
            self.homes.owe(name);
        }
    }

    pub(super) fn session_up(&mut self, now: Timestamp, name: &SchedulerName) {
        let Some(passed_over) = self.homes.came_up(now, name) else {
            return;
        };
        if passed_over {
            self.rehome(now, Some(name));
        } else {
            let tasks = self.state.tasks.iter();
            let own = tasks.filter(|(_, task)| task.home.as_ref() == Some(name));
            let own: Vec<TaskId> = own.map(|(id, _)| *id).collect();
            self.move_in(now, name, &own, true);
        }
        let home = self.homes.get_mut(name);
        let waiting = home.map(|home| std::mem::take(&mut home.waiting));
        for message in waiting.into_iter().flatten() {
            if let PeerMessage::Interest { tasks, .. } = &message {
                let ids: Vec<TaskId> = tasks.iter().map(|(id, _)| *id).collect();
                self.say_moved(name, &ids);
            }
            self.say_to(name, message);
        }
    }

    /// Nobody listens where a scheduler should be.
    pub(super) fn session_refused(&mut self, now: Timestamp, name: &SchedulerName) {
        if self.homes.refused(name) {
            self.rehome(now, None);
        }
    }

    /// Moves the tasks that have another home now. A scheduler that has just come `up` is
    /// told of all of its.
    pub(super) fn rehome(&mut self, now: Timestamp, up: Option<&SchedulerName>) {
        let mut moved: BTreeMap<SchedulerName, Vec<TaskId>> = BTreeMap::new();
        moved.extend(up.map(|name| (name.clone(), Vec::new())));
        for (id, task) in &mut self.state.tasks {
            let new = self.homes.of(id);
            if task.home.as_ref() == new && new != up {
                continue;
            }
            let old = std::mem::replace(&mut task.home, new.cloned());
            if let Some(new) = &task.home {
                moved.entry(new.clone()).or_default().push(*id);
            }
            if let Some(old) = old.filter(|old| Some(old) != task.home.as_ref()) {
                self.homes.leave(now, &old, *id);
            }
        }
        for (home, ids) in moved {
            self.move_in(now, &home, &ids, up == Some(&home));
        }
    }

    /// Tells a scheduler of tasks that are at home with it now.
    fn move_in(&mut self, now: Timestamp, home: &SchedulerName, ids: &[TaskId], all: bool) {
        let is_busy = |id: &&TaskId| self.state.busy.contains(id);
        let busy: Vec<TaskId> = ids.iter().filter(is_busy).copied().collect();
        let wait = self.options.join_timeout;
        for id in ids {
            self.homes.arrive(home, id);
            if let Some(download) = self.download(id) {
                download.answer_by = now + wait + download.jitter;
                download.moved = Some(now);
                // The inventory tells the scheduler; its word is awaited.
                download.unanswered = false;
                download.yields = None;
            }
        }
        if !self.homes.is_up(home) {
            self.homes.owe(home);
            if !busy.is_empty() {
                self.open(now, home);
            }
            return;
        }
        let holdings: Vec<Holding> = ids.iter().filter_map(|id| self.holding(id)).collect();
        self.say_moved(home, ids);
        if all || !holdings.is_empty() {
            let last = all;
            self.say_to(home, PeerMessage::Inventory { holdings, last });
        }
        for id in ids {
            if let Some(task) = self.state.tasks.get_mut(id) {
                task.told = Some(home.clone());
            }
        }
        for id in busy {
            self.join(now, &id);
        }
    }

    /// Passes over who is away, and lets sessions rest.
    pub(super) fn tend_sessions(&mut self, now: Timestamp) {
        if self.homes.next_deadline().is_none_or(|due| now < due) {
            return;
        }
        let busy = self.busy_homes();
        let Chores {
            moves,
            leaves,
            closes,
            rests,
            opens,
        } = self.homes.tend(now, &busy);
        if moves {
            self.rehome(now, None);
        }
        for (name, tasks) in leaves {
            let away = |id: &TaskId| self.home_of(id) != Some(&name);
            let tasks: Vec<TaskId> = tasks.into_iter().filter(away).collect();
            if self.homes.is_up(&name) && !tasks.is_empty() {
                self.commands.push(Command::Session(
                    name.clone(),
                    PeerMessage::Evicted { tasks },
                ));
            }
        }
        for name in closes {
            self.homes.close(now, &name, false);
            self.commands.push(Command::Close(name));
        }
        for name in rests {
            self.rest_at(now, &name);
        }
        for name in opens {
            self.open(now, &name);
        }
    }

    /// Ends a session in which nothing goes on. The scheduler remembers what is held.
    fn rest_at(&mut self, now: Timestamp, name: &SchedulerName) {
        let mut tasks = self.state.tasks.values();
        let rests = tasks.any(|task| task.home.as_ref() == Some(name) && !task.held.is_empty());
        if rests {
            self.say_to(name, PeerMessage::Resting);
        }
        self.homes.close(now, name, rests);
        self.commands.push(Command::Close(name.clone()));
    }

    /// A seed's home for a task is whoever asked it to have it.
    pub(super) fn asked_by(&mut self, from: &SchedulerName, id: TaskId) {
        let task = self.state.tasks.get_mut(&id);
        if task.as_ref().is_some_and(|task| task.download.is_some()) {
            return;
        }
        if let Some(task) = task {
            task.home = Some(from.clone());
        }
        self.homes.asks(id, from);
    }

    /// Whether what a scheduler says is to be heard: of a task, only its home speaks.
    pub(super) fn is_heard(&self, from: &SchedulerName, message: &SchedulerMessage) -> bool {
        match message {
            SchedulerMessage::Neighbours { task, .. }
            | SchedulerMessage::Revoked { task, .. }
            | SchedulerMessage::Mismatch { task, .. }
            | SchedulerMessage::Unavailable { task, .. } => self.is_home(from, task),
            SchedulerMessage::Welcome { .. }
            | SchedulerMessage::Heartbeat
            | SchedulerMessage::Grant(_)
            | SchedulerMessage::Fetch { .. }
            | SchedulerMessage::Found { .. }
            | SchedulerMessage::Public { .. }
            | SchedulerMessage::Preheat(_)
            | SchedulerMessage::Errand(_)
            | SchedulerMessage::Size { .. }
            | SchedulerMessage::ExcerptsFrom { .. } => true,
        }
    }
}

/// Where it is kept what was observed: of a content, at its home, where those who want it
/// are known; of a tag, where a task of the repository's name would be.
fn key(upstream: &UpstreamName, repository: &Repository, reference: &Reference) -> TaskId {
    TaskId::of_content(match reference {
        Reference::Digest(digest) => *digest,
        Reference::Tag(_) => Digest::sha256(format!("{upstream}/{repository}").as_bytes()),
    })
}
