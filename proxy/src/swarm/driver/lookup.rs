//! What any host has observed of a name, as a scheduler tells it.
//!
//! Owner of state: the lookups under way, bounded; the actor answers them.

use std::time::Duration;

use darter_api::{
    Repository, UpstreamName,
    session::{Observation, PeerMessage, Reference},
};
use tokio::sync::oneshot;

use super::{Input, Shared};
use crate::swarm::core::event::Event;

/// For a scheduler to answer a lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);
/// Lookups under way; more find nothing.
const MOST_LOOKUPS: usize = 1024;

impl Shared {
    /// Asks for it; `None` without an answer in time. Cancel-safe.
    pub(super) async fn lookup(
        &self,
        upstream: UpstreamName,
        repository: Repository,
        reference: Reference,
    ) -> Option<Observation> {
        self.session.as_ref()?;
        let id = self.next_id();
        let (answer, answered) = oneshot::channel();
        {
            let mut lookups = self.lookups.lock();
            if lookups.len() >= MOST_LOOKUPS {
                return None;
            }
            lookups.insert(id, answer);
        }
        let _forget = Forget(self, id);
        let lookup = PeerMessage::Lookup {
            id,
            upstream,
            repository,
            reference,
        };
        let lookup = Input::Event(Event::Say(lookup));
        self.inbox.send(lookup).await.ok()?;
        tokio::time::timeout(LOOKUP_TIMEOUT, answered)
            .await
            .ok()?
            .ok()?
    }
}

/// Takes an unanswered lookup out of the map.
struct Forget<'a>(&'a Shared, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.lookups.lock().remove(&self.1);
    }
}
