//! The schedulers of a host: which of them has a task, and which sessions stand.
//!
//! A task's **home** is the first scheduler in its rendezvous order ([`SchedulerName`]) that
//! is not passed over. One is passed over that refuses connections, at once, or that had
//! no session for [`AWAY`]; as soon as its session stands its tasks come home.
//!
//! A refusal is reason enough because nobody listens there: who keeps no books of leases can't
//! contradict the next scheduler's. Hosts that see it differently for a while cost one
//! more reader of the source, not one each.
//!
//! Owner of state: [`Node`](super::Node) owns [`Homes`]. Invariant: with `on_demand` at most
//! [`MOST_OPEN`] sessions are wanted at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use darter_api::{SchedulerName, TaskId, Timestamp, session::PeerMessage};

/// A scheduler without a session for so long is passed over.
const AWAY: Duration = Duration::from_secs(3);
/// A scheduler is told so late that tasks went to another one: by then everybody who can
/// has gone there too, and nobody is left whom the news would disturb.
pub(super) const LEAVE_AFTER: Duration = Duration::from_secs(10);
/// A session on demand rests when nothing went on in it for so long.
const IDLE: Duration = Duration::from_secs(15);
/// A scheduler at which a session rests is told again so often what is held: a good while
/// before it forgets.
const REFRESH: Duration = Duration::from_secs(20 * 60);
/// Sessions on demand at a time. Downloads of more homes wait for their turn, and help
/// themselves meanwhile: an image of 300 layers is to have nearly all its homes.
pub(super) const MOST_OPEN: usize = 256;
/// Of these, sessions that are opened at a time only to tell what is held.
const MOST_OPENING: usize = 4;
/// Messages that wait for a session.
const MOST_WAITING: usize = 64;
/// Tasks that schedulers asked for which are not at home with them.
const MOST_ASKED: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Homes {
    known: BTreeMap<SchedulerName, Home>,
    /// Whether sessions stand only while something goes on.
    on_demand: bool,
    /// Tasks that a scheduler asked a seed for: until they are there it is their home,
    /// whoever it was.
    asked: BTreeMap<TaskId, SchedulerName>,
}

/// One scheduler.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) line: Line,
    /// When it left the list.
    unlisted: Option<Timestamp>,
    passed_over: bool,
    /// When something last went on there.
    pub(super) used: Timestamp,
    /// When it last answered about any task.
    answered: Timestamp,
    /// There is something to tell it as soon as a session is to be had.
    pub(super) owed: bool,
    /// What is said once the session stands.
    pub(super) waiting: Vec<PeerMessage>,
    /// Tasks that have another home now, and since when.
    left: BTreeMap<TaskId, Timestamp>,
}

/// How the session with a scheduler is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// There is none, and none is wanted.
    Closed,
    /// None is wanted since then; the scheduler remembers what it was told.
    Resting(Timestamp),
    /// It is being made since then.
    Opening(Timestamp),
    /// It stands.
    Up,
    /// It was lost then, and is being made again.
    Lost(Timestamp),
}

/// What [`Homes::tend`] wants done.
#[derive(Debug, Default)]
pub(super) struct Chores {
    /// Homes may have changed.
    pub(super) moves: bool,
    /// Schedulers to be told that tasks have left them.
    pub(super) leaves: Vec<(SchedulerName, Vec<TaskId>)>,
    /// Sessions to end.
    pub(super) closes: Vec<SchedulerName>,
    /// Sessions that may rest.
    pub(super) rests: Vec<SchedulerName>,
    /// Sessions to open, to tell what is owed.
    pub(super) opens: Vec<SchedulerName>,
}

impl Home {
    const fn new(now: Timestamp) -> Self {
        Self {
            line: Line::Closed,
            unlisted: None,
            passed_over: false,
            used: now,
            answered: Timestamp::ZERO,
            owed: false,
            waiting: Vec::new(),
            left: BTreeMap::new(),
        }
    }

    fn is_wanted(&self) -> bool {
        !matches!(self.line, Line::Closed | Line::Resting(_))
    }

    fn is_owed(&self) -> bool {
        self.owed && !self.is_wanted() && self.unlisted.is_none()
    }

    /// Whether it counts as one of those that may be open.
    fn is_open(&self) -> bool {
        self.is_wanted() && !self.passed_over
    }

    /// When it is passed over, if nothing happens.
    fn passed_over_at(&self) -> Option<Timestamp> {
        match self.line {
            Line::Opening(since) | Line::Lost(since) if !self.passed_over => Some(since + AWAY),
            _ => None,
        }
    }

    fn leaves_at(&self) -> Option<Timestamp> {
        self.left.values().min().map(|at| *at + LEAVE_AFTER)
    }

    fn refresh_at(&self) -> Option<Timestamp> {
        match self.line {
            Line::Resting(since) => Some(since + REFRESH),
            _ => None,
        }
    }
}

impl Homes {
    /// The list as it is now; those that are new, and are to be had at once.
    pub(super) fn list(
        &mut self,
        now: Timestamp,
        names: &[SchedulerName],
        on_demand: bool,
    ) -> Vec<SchedulerName> {
        self.on_demand = on_demand;
        for (name, home) in &mut self.known {
            if names.contains(name) {
                home.unlisted = None;
            } else {
                home.unlisted.get_or_insert(now);
            }
        }
        for name in names {
            let new = || Home::new(now);
            self.known.entry(name.clone()).or_insert_with(new);
        }
        if on_demand {
            return Vec::new();
        }
        let closed = self.known.iter().filter(|(_, home)| !home.is_wanted());
        let listed = closed.filter(|(_, home)| home.unlisted.is_none());
        listed.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn get_mut(&mut self, name: &SchedulerName) -> Option<&mut Home> {
        self.known.get_mut(name)
    }

    pub(super) fn line(&self, name: &SchedulerName) -> Line {
        self.known.get(name).map_or(Line::Closed, |home| home.line)
    }

    pub(super) fn is_up(&self, name: &SchedulerName) -> bool {
        self.line(name) == Line::Up
    }

    pub(super) const fn is_on_demand(&self) -> bool {
        self.on_demand
    }

    /// A scheduler has answered about a task.
    pub(super) fn answered(&mut self, now: Timestamp, name: &SchedulerName) {
        if let Some(home) = self.known.get_mut(name) {
            home.answered = now;
        }
    }

    /// When a scheduler last answered about any task.
    pub(super) fn last_answer(&self, name: &SchedulerName) -> Timestamp {
        let home = self.known.get(name);
        home.map_or(Timestamp::ZERO, |home| home.answered)
    }

    /// Schedulers whose session stands.
    pub(super) fn up(&self) -> impl Iterator<Item = &SchedulerName> {
        let known = self.known.iter();
        known
            .filter(|(_, home)| home.line == Line::Up)
            .map(|(name, _)| name)
    }

    /// The scheduler that has a task.
    pub(super) fn of(&self, task: &TaskId) -> Option<&SchedulerName> {
        if let Some(name) = self.asked.get(task).filter(|name| self.is_up(name)) {
            return Some(name);
        }
        self.first(task, |home| !home.passed_over)
            .or_else(|| self.owner(task))
    }

    /// The scheduler that would have it if all lived.
    pub(super) fn owner(&self, task: &TaskId) -> Option<&SchedulerName> {
        self.first(task, |_| true)
    }

    fn first(&self, task: &TaskId, fits: impl Fn(&Home) -> bool) -> Option<&SchedulerName> {
        let listed = self
            .known
            .iter()
            .filter(|(_, home)| home.unlisted.is_none());
        let fitting = listed.filter(|(_, home)| fits(home));
        fitting
            .map(|(name, _)| name)
            .min_by_key(|name| name.rank(task))
    }

    /// A scheduler asks for a task that may not be at home with it.
    pub(super) fn asks(&mut self, task: TaskId, name: &SchedulerName) {
        if self.of(&task) != Some(name) && self.asked.len() < MOST_ASKED {
            self.asked.insert(task, name.clone());
        }
    }

    /// What was asked for is there, or given up. Whether it was asked for.
    pub(super) fn no_longer_asked(&mut self, task: &TaskId) -> bool {
        self.asked.remove(task).is_some()
    }

    /// Notes that a session is being made; false if there are too many. With `on_demand`
    /// one that is idle may have to go: it is the second of the pair.
    pub(super) fn open(
        &mut self,
        now: Timestamp,
        name: &SchedulerName,
        busy: &BTreeSet<SchedulerName>,
    ) -> (bool, Option<SchedulerName>) {
        let wanted = self.known.values().filter(|home| home.is_open()).count();
        let mut idle = None;
        if self.on_demand && wanted >= MOST_OPEN {
            let standing = self.known.iter().filter(|(_, home)| home.line == Line::Up);
            let spare = standing.filter(|(name, _)| !busy.contains(name));
            idle = spare.min_by_key(|(_, home)| home.used);
            if idle.is_none() {
                return (false, None);
            }
        }
        let idle = idle.map(|(name, _)| name.clone());
        if let Some(home) = self.known.get_mut(name) {
            home.line = Line::Opening(now);
            home.used = now;
        }
        (true, idle)
    }

    /// The session stands, if it is wanted. Whether the scheduler was passed over before.
    pub(super) fn came_up(&mut self, now: Timestamp, name: &SchedulerName) -> Option<bool> {
        let home = self.known.get_mut(name).filter(|home| home.is_wanted())?;
        home.line = Line::Up;
        home.owed = false;
        home.used = now;
        Some(std::mem::replace(&mut home.passed_over, false))
    }

    pub(super) fn went_down(&mut self, now: Timestamp, name: &SchedulerName) {
        if let Some(home) = self.known.get_mut(name)
            && home.line == Line::Up
        {
            home.line = Line::Lost(now);
            home.left.clear();
        }
    }

    /// Nobody listens there. Whether this is news.
    pub(super) fn refused(&mut self, name: &SchedulerName) -> bool {
        let Some(home) = self.known.get_mut(name) else {
            return false;
        };
        let away = matches!(home.line, Line::Opening(_) | Line::Lost(_));
        away && !std::mem::replace(&mut home.passed_over, true)
    }

    /// Keeps a message until the session stands; beyond some it is forgotten.
    pub(super) fn remember(&mut self, name: &SchedulerName, message: PeerMessage) {
        if let Some(home) = self.known.get_mut(name)
            && matches!(home.line, Line::Opening(_))
            && home.waiting.len() < MOST_WAITING
        {
            home.waiting.push(message);
        }
    }

    /// A task has another home now.
    pub(super) fn leave(&mut self, now: Timestamp, name: &SchedulerName, task: TaskId) {
        if let Some(home) = self.known.get_mut(name)
            && home.line == Line::Up
        {
            home.left.insert(task, now);
        }
    }

    /// It is at home here (again).
    pub(super) fn arrive(&mut self, name: &SchedulerName, task: &TaskId) {
        if let Some(home) = self.known.get_mut(name) {
            home.left.remove(task);
        }
    }

    /// Something is to be told there, sooner or later.
    pub(super) fn owe(&mut self, name: &SchedulerName) {
        if let Some(home) = self.known.get_mut(name)
            && !home.is_wanted()
        {
            home.owed = true;
        }
    }

    /// The session ends; it `rests` if the scheduler is to remember.
    pub(super) fn close(&mut self, now: Timestamp, name: &SchedulerName, rests: bool) {
        let Some(home) = self.known.get_mut(name) else {
            return;
        };
        home.line = if rests {
            Line::Resting(now)
        } else {
            Line::Closed
        };
        home.left.clear();
        home.waiting.clear();
        if home.unlisted.is_some() {
            self.known.remove(name);
        }
    }

    /// What has become due. `busy` are those with something under way.
    pub(super) fn tend(&mut self, now: Timestamp, busy: &BTreeSet<SchedulerName>) -> Chores {
        let mut chores = Chores::default();
        let is_due = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
        for (name, home) in &mut self.known {
            if is_due(home.passed_over_at()) {
                home.passed_over = true;
                chores.moves = true;
            }
            if is_due(home.leaves_at()) {
                let left = std::mem::take(&mut home.left);
                chores
                    .leaves
                    .push((name.clone(), left.into_keys().collect()));
            }
            if is_due(home.unlisted.map(|at| at + LEAVE_AFTER)) {
                chores.closes.push(name.clone());
            } else if is_due(self.on_demand.then_some(home.used + IDLE))
                && home.line == Line::Up
                && home.left.is_empty()
                && !busy.contains(name)
            {
                chores.rests.push(name.clone());
            }
            home.owed |= is_due(home.refresh_at());
        }
        chores.opens = self.to_open();
        chores
    }

    /// Sessions that are to be opened to tell what is owed: a few at a time.
    fn to_open(&self) -> Vec<SchedulerName> {
        let homes = || self.known.values();
        let opening = |home: &&Home| home.passed_over_at().is_some();
        let under_way = homes().filter(opening).count();
        let room = MOST_OPEN.saturating_sub(homes().filter(|home| home.is_open()).count());
        let owed = self.known.iter().filter(|(_, home)| home.is_owed());
        owed.map(|(name, _)| name.clone())
            .take(MOST_OPENING.saturating_sub(under_way).min(room))
            .collect()
    }

    /// When [`Homes::tend`] is due.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        let of = |home: &Home| {
            let idle = self.on_demand && home.line == Line::Up;
            let due = [
                home.passed_over_at(),
                home.leaves_at(),
                home.refresh_at(),
                home.unlisted.map(|at| at + LEAVE_AFTER),
                idle.then(|| home.used + IDLE),
            ];
            due.into_iter().flatten().min()
        };
        let due = self.known.values().filter_map(of).min();
        let owes = self.known.values().any(Home::is_owed) && !self.to_open().is_empty();
        due.into_iter().chain(owes.then_some(Timestamp::ZERO)).min()
    }
}
