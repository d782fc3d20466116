//! Contents of one piece: who has it wants to hear no more of it, without saying so.
//!
//! Who subscribes unsubscribes once it has all. Of a content of one piece, of which an image may
//! have hundreds, that is as much as all else that is said of it. But to announce the only piece
//! says the same: whoever hears that a subscriber has it tells it nothing more, and whoever has
//! it keeps nobody whom it told. Who gives the piece out is to hear what becomes of it, as ever:
//! it has promised it before ([`super::announce`]).
//!
//! Peers of a version that does not know this unsubscribe as well, and remember for longer who
//! was told.

use std::collections::BTreeSet;

use darter_api::{HostId, TaskId};

use super::{
    Node,
    state::{Download, Task},
};

/// The only piece.
const ONE: u32 = 0;

impl Download {
    /// Whether a neighbour gives the only piece out, or is about to.
    fn is_promised_by(&self, host: &HostId) -> bool {
        let read = self.read_by.get(host);
        read.is_some_and(|pieces| pieces.contains(ONE))
    }

    /// Whether a neighbour has the only piece, and told everybody.
    fn is_had_by(&self, host: &HostId) -> bool {
        let has = self.available.get(host);
        has.is_some_and(|pieces| pieces.contains(ONE)) && !self.is_promised_by(host)
    }
}

impl Node {
    /// A subscriber that has all has nothing to hear. Who gives out counts those who have it
    /// until all do.
    pub(super) fn part_with(&mut self, id: &TaskId, host: &HostId) {
        let task = self.state.tasks.get_mut(id);
        let Some(task) = task.filter(|task| task.lengths.is_small()) else {
            return;
        };
        let announcer = &mut task.announcer;
        if !announcer.offers.own.is_empty() {
            let mut others = announcer.subscribers.values();
            if others.all(|other| other.known.contains(ONE)) {
                announcer.leave_all();
            }
            return;
        }
        let download = task.download.as_ref();
        let gives = download.is_some_and(|download| download.is_promised_by(host));
        let subscriber = announcer.subscribers.get(host);
        if !gives && subscriber.is_some_and(|one| one.known.contains(ONE)) {
            announcer.subscribers.remove(host);
        }
    }

    /// Those who know, of all that was subscribed to, that nothing more is to be told here.
    pub(super) fn parted(&self, id: &TaskId) -> BTreeSet<HostId> {
        let task = self.state.tasks.get(id);
        let Some(task) = task.filter(|task| task.lengths.is_small()) else {
            return BTreeSet::new();
        };
        let told = task.announcer.subscribers.iter();
        let told = told.filter(|(_, other)| other.told.contains(ONE));
        let have = task.download.iter().flat_map(|download| {
            let hosts = download.available.keys();
            hosts.filter(|host| download.is_had_by(host))
        });
        told.map(|(host, _)| host).chain(have).copied().collect()
    }

    /// Whoever was told of all that there is here is told nothing more.
    pub(super) fn part(&mut self, id: &TaskId) {
        let over = |task: &&mut Task| {
            let gives = !task.announcer.offers.own.is_empty();
            task.lengths.is_small() && task.download.is_none() && !gives
        };
        if let Some(task) = self.state.tasks.get_mut(id).filter(over) {
            let subscribers = &mut task.announcer.subscribers;
            subscribers.retain(|_, other| !other.told.contains(ONE) || !other.pending.is_empty());
        }
    }
}
