//! Who is told of which pieces.
//!
//! What came from peers is announced to all subscribers, in batches. What came fresh
//! from the source is announced to one subscriber first (super-seeding): if all were told
//! at once, all would ask for the same piece, and the swarm would get no faster than
//! this host's uplink. The others are told when the first one passes it on, or when that
//! takes too long.

use darter_api::{HostId, Lengths, PieceSet, TaskId, Timestamp, link::LinkMessage};

use super::{
    Node,
    event::Command,
    state::{Announcer, Fresh, Subscriber},
};

/// Tasks that others may subscribe to before this host knows them.
const MAX_EARLY: usize = 10_000;

impl Announcer {
    pub(super) fn has_pending(&self) -> bool {
        self.subscribers
            .values()
            .any(|subscriber| !subscriber.pending.is_empty())
    }

    /// Tells all but one.
    fn tell_all(&mut self, piece: u32, but: Option<HostId>) {
        for (host, subscriber) in &mut self.subscribers {
            if Some(*host) != but {
                subscriber.pending.insert(piece);
            }
        }
    }

    /// A piece from the source: to one subscriber, if there are several.
    fn tell_one(&mut self, now: Timestamp, piece: u32, knows: impl Fn(&HostId) -> bool) {
        let wanting = self.subscribers.iter_mut().filter(|(host, _)| !knows(host));
        let Some((host, subscriber)) = wanting.min_by_key(|(_, subscriber)| subscriber.served)
        else {
            return;
        };
        let host = *host;
        subscriber.served += 1;
        subscriber.pending.insert(piece);
        if self.subscribers.len() > 1 {
            self.fresh.insert(
                piece,
                Fresh {
                    to: host,
                    since: now,
                },
            );
        }
    }

    /// A host announced pieces: what was fresh of them is known to all now.
    fn echo(&mut self, now: Timestamp, host: &HostId, pieces: &PieceSet) {
        let echoed: Vec<u32> = self
            .fresh
            .keys()
            .copied()
            .filter(|piece| pieces.contains(*piece))
            .collect();
        for piece in &echoed {
            if let Some(fresh) = self.fresh.remove(piece) {
                if fresh.to == *host
                    && let Some(subscriber) = self.subscribers.get_mut(host)
                {
                    subscriber.echoed = now;
                }
                self.tell_all(*piece, Some(fresh.to));
            }
        }
        if let Some(subscriber) = self.subscribers.get_mut(host) {
            subscriber.pending.subtract(pieces);
        }
    }

    /// Tells all of fresh pieces that their first subscriber does not pass on.
    fn reveal(&mut self, now: Timestamp, after: std::time::Duration) {
        let late = |fresh: &Fresh| match self.subscribers.get(&fresh.to) {
            Some(first) => now.since(fresh.since.max(first.echoed)) >= after,
            None => true,
        };
        let late: Vec<(u32, HostId)> = self
            .fresh
            .iter()
            .filter(|(_, fresh)| late(fresh))
            .map(|(piece, fresh)| (*piece, fresh.to))
            .collect();
        for (piece, first) in late {
            self.fresh.remove(&piece);
            self.tell_all(piece, Some(first));
        }
    }
}

impl Node {
    pub(super) fn has_pending(&self, id: &TaskId) -> bool {
        self.state
            .tasks
            .get(id)
            .is_some_and(|task| task.announcer.has_pending())
    }

    /// Announces a piece that came from a peer.
    pub(super) fn announce(&mut self, id: &TaskId, piece: u32, from: HostId) {
        if let Some(task) = self.state.tasks.get_mut(id) {
            task.announcer.tell_all(piece, Some(from));
            self.state.busy.insert(*id);
        }
    }

    /// Announces a piece that came from the source.
    pub(super) fn announce_fresh(&mut self, now: Timestamp, id: &TaskId, piece: u32) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        let available = task.download.as_ref().map(|download| &download.available);
        let knows = |host: &HostId| {
            available
                .and_then(|sets| sets.get(host))
                .is_some_and(|set| set.contains(piece))
        };
        task.announcer.tell_one(now, piece, knows);
        self.state.busy.insert(*id);
        self.flush(id);
    }

    pub(super) fn reveal_stale(&mut self, now: Timestamp, id: &TaskId) {
        let after = self.options.reveal_after;
        if let Some(task) = self.state.tasks.get_mut(id) {
            task.announcer.reveal(now, after);
        }
    }

    pub(super) fn echoed(&mut self, now: Timestamp, id: &TaskId, host: &HostId, pieces: &PieceSet) {
        if let Some(task) = self.state.tasks.get_mut(id) {
            task.announcer.echo(now, host, pieces);
        }
    }

    /// Sends what is to be told.
    pub(super) fn flush(&mut self, id: &TaskId) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        for (host, subscriber) in &mut task.announcer.subscribers {
            if subscriber.pending.is_empty() {
                continue;
            }
            let pieces = std::mem::take(&mut subscriber.pending);
            self.commands.push(Command::Link {
                host: *host,
                message: LinkMessage::Have { task: *id, pieces },
            });
        }
    }

    /// A neighbour wants to hear of a task.
    pub(super) fn subscribed(&mut self, host: HostId, id: TaskId, lengths: Lengths) {
        let Some(task) = self.state.tasks.get_mut(&id) else {
            if self.state.early.len() < MAX_EARLY || self.state.early.contains_key(&id) {
                self.state.early.entry(id).or_default().insert(host);
            }
            return;
        };
        if task.lengths != lengths {
            return;
        }
        let mut pieces = task.held.clone();
        for (piece, fresh) in &task.announcer.fresh {
            if fresh.to != host {
                pieces.remove(*piece);
            }
        }
        let least = task
            .announcer
            .subscribers
            .values()
            .map(|other| other.served)
            .min()
            .unwrap_or(0);
        let subscriber = Subscriber {
            served: least,
            ..Subscriber::default()
        };
        task.announcer.subscribers.insert(host, subscriber);
        let reading = task.reading.clone();
        if !pieces.is_empty() {
            self.tell(host, LinkMessage::Have { task: id, pieces });
        }
        if !reading.is_empty() {
            self.tell(
                host,
                LinkMessage::Reading {
                    task: id,
                    pieces: reading,
                },
            );
        }
        self.subscribe_back(host, &id);
    }

    pub(super) fn unsubscribed(&mut self, host: &HostId, id: &TaskId) {
        if let Some(task) = self.state.tasks.get_mut(id) {
            task.announcer.subscribers.remove(host);
        }
        if let Some(hosts) = self.state.early.get_mut(id) {
            hosts.remove(host);
        }
    }

    /// Those who subscribed before the task was known.
    pub(super) fn adopt_early_subscribers(&mut self, id: &TaskId) {
        let Some(lengths) = self.state.tasks.get(id).map(|task| task.lengths) else {
            return;
        };
        for host in self.state.early.remove(id).unwrap_or_default() {
            self.subscribed(host, *id, lengths);
        }
    }

    /// Tells all subscribers what is read from the source.
    pub(super) fn tell_reading(&mut self, id: &TaskId) {
        let Some(task) = self.state.tasks.get(id) else {
            return;
        };
        let hosts: Vec<HostId> = task.announcer.subscribers.keys().copied().collect();
        let pieces = task.reading.clone();
        for host in hosts {
            self.tell(
                host,
                LinkMessage::Reading {
                    task: *id,
                    pieces: pieces.clone(),
                },
            );
        }
    }

    pub(super) fn tell(&mut self, host: HostId, message: LinkMessage) {
        self.commands.push(Command::Link { host, message });
    }
}
