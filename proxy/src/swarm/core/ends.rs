//! Where contents end whose size was not known when they began.
//!
//! Such a content has as many pieces as it may have ([`darter_api::Lengths::open`]). Who learns where
//! it ends, from the source or with a piece of a parent's, holds all pieces from there on, which are
//! empty. It says so to neighbours and scheduler as of other pieces: nobody is to read them, and
//! whoever has all pieces has all of the content. A neighbour's word for it is worth what its word
//! for any piece is: the child asks for one of them, and gets the statement of the end.

use darter_api::{PieceSet, TaskId, Timestamp};

use super::{Node, event::Command, event::RequestId};

impl Node {
    /// Holds what lies past the end.
    pub(super) fn ends(&mut self, now: Timestamp, id: &TaskId, past: u32) {
        let Some(task) = self.state.tasks.get_mut(id) else {
            return;
        };
        let past = PieceSet::from_range(past..task.lengths.pieces());
        if !task.lengths.is_open() || past.is_within(&task.held) {
            return;
        }
        task.held.union_with(&past);
        task.announcer.tell_all(&past);
        let Some(download) = &mut task.download else {
            return;
        };
        download.last_gain = now;
        let from = past.first().unwrap_or_default();
        let asked = download.in_flight.range(from..);
        let asked: Vec<RequestId> = asked.flat_map(|(_, requests)| requests.clone()).collect();
        for request in asked {
            self.forget(&request);
            self.commands.push(Command::Cancel(request));
        }
        self.read_less(now, id, &past);
        self.flush(id);
        // Nobody else is to look for it there.
        self.say_progress(now, id);
        self.complete_if_whole(id);
        self.pick(now, id);
    }
}
