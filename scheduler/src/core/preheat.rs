//! Contents that hosts are asked to have before anybody pulls them.
//!
//! Nothing is remembered of it: a host that is asked joins like any other, for a purpose that
//! gives way to pulls. Who is not here now is not asked later.

use darter_api::{
    HostId, Lengths, Origin, TaskId,
    configuration::Priority,
    preheat::Present,
    session::{Purpose, SchedulerMessage},
};

use super::{Cluster, Command, task::Task};

/// A wish that hosts have a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preheat {
    /// Which.
    pub task: TaskId,
    /// Its geometry.
    pub lengths: Lengths,
    /// Where it can be read.
    pub origin: Origin,
    /// Names or ids of hosts; all that are no seeds, where there are none.
    pub hosts: Vec<String>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Preheated {
    /// Names of the hosts that were asked.
    pub asked: Vec<String>,
    /// Those that hold all of it.
    pub held: Vec<String>,
    /// Those that a rule forbids it.
    pub forbidden: Vec<String>,
    /// Hosts that are not here.
    pub unknown: Vec<String>,
}

impl Cluster {
    /// All hosts with a session, by name.
    pub fn present(&self) -> Vec<Present> {
        let hosts = self
            .hosts
            .iter()
            .filter(|(_, known)| known.resting.is_none());
        let mut present: Vec<Present> = hosts
            .map(|(host, known)| Present {
                host: *host,
                name: known.hello.name.clone(),
                ip: known.hello.address.ip(),
                seed: self.seeds.contains(host),
            })
            .collect();
        present.sort_by(|a, b| a.name.cmp(&b.name).then(a.host.cmp(&b.host)));
        present
    }

    /// Whether a rule forbids a host contents of this origin.
    pub fn is_forbidden(&self, host: &HostId, origin: &Origin) -> bool {
        self.priority(host, Some(origin)) == Priority::Forbid
    }

    /// Asks hosts to have a content; what is to be said, and what became of it. `None` where
    /// the task is known with another geometry.
    pub fn preheat(&mut self, wish: &Preheat) -> Option<(Vec<Command>, Preheated)> {
        self.doubt_lengths(&wish.task, wish.lengths);
        let task = self.tasks.get(&wish.task);
        if task.is_some_and(|task| task.lengths != wish.lengths) {
            return None;
        }
        let mut done = Preheated::default();
        for host in self.chosen(wish, &mut done) {
            let Some(known) = self.hosts.get(&host) else {
                continue;
            };
            let name = known.hello.name.clone();
            let (task, pieces) = (self.tasks.get(&wish.task), wish.lengths.pieces());
            let is_whole =
                |task: &Task| task.members.contains_key(&host) && task.held(&host).len() == pieces;
            if task.is_some_and(|task| is_whole(task)) {
                done.held.push(name);
            } else if self.priority(&host, Some(&wish.origin)) == Priority::Forbid {
                done.forbidden.push(name);
            } else {
                done.asked.push(name);
                let message = SchedulerMessage::Fetch {
                    task: wish.task,
                    lengths: wish.lengths,
                    origin: wish.origin.clone(),
                    purpose: Purpose::Preheat,
                };
                self.send(host, message);
            }
        }
        Some((std::mem::take(&mut self.commands), done))
    }

    fn chosen(&self, wish: &Preheat, done: &mut Preheated) -> Vec<HostId> {
        if wish.hosts.is_empty() {
            let mut all: Vec<HostId> = self.hosts.keys().copied().collect();
            all.retain(|host| !self.seeds.contains(host));
            all.sort_unstable();
            return all;
        }
        let mut chosen = Vec::new();
        for wanted in &wish.hosts {
            let is_meant = |id: &HostId, name: &str| name == wanted || id.to_string() == *wanted;
            let all = self.hosts.iter();
            let meant = all.filter(|(id, host)| is_meant(id, &host.hello.name));
            let before = chosen.len();
            chosen.extend(meant.map(|(id, _)| *id));
            if chosen.len() == before {
                done.unknown.push(wanted.clone());
            }
        }
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }
}
