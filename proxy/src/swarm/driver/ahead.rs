//! Small contents are got before a client asks for them.
//!
//! Clients pull a few layers at a time (containerd's CRI and dockerd three). Of small ones that is
//! too little to keep a swarm's links busy: each takes as long as its round trips do. So while a
//! client reads one, those that its manifest names after it are on their way already.
//!
//! Owner of state: [`Ahead`] has the places. Invariants: only what is small is got, and no more
//! than so many contents after the one that a client with a right to it has just been given a part
//! of; with that client's own credential. Failure: what can't be had is left for the client to ask,
//! and is not tried ahead again before its manifest comes anew: whoever reads one layer over and over
//! makes nobody ask a registry for others over and over.

use std::sync::Arc;

use darter_api::{Origin, TaskId, session::Purpose};
use tokio::sync::Semaphore;

use super::{HaveError, Shared, Swarm};
use crate::{
    content::{Sizing, Want},
    credential::Credential,
};

/// Contents that are got ahead at the same time, for all clients.
const MOST: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Contents looked at after the one that is read.
    window: usize,
    places: Arc<Semaphore>,
}

impl Ahead {
    pub(super) fn new(window: u32) -> Self {
        Self {
            window: window as usize,
            places: Arc::new(Semaphore::new(MOST)),
        }
    }
}

impl Shared {
    /// A client reads a content: gets what it will ask for next.
    pub(super) fn get_ahead(
        self: &Arc<Self>,
        read: &TaskId,
        origin: &Origin,
        credential: Option<&Credential>,
    ) {
        let next = self.claims.small_after(read, origin, self.ahead.window);
        for (task, lengths) in next {
            if self.live.is_known(&task) || self.store.stat(&task).is_some() {
                continue;
            }
            let Ok(place) = Arc::clone(&self.ahead.places).try_acquire_owned() else {
                return;
            };
            let want = Want {
                task,
                origin: origin.clone(),
                size: Some(lengths.size()),
                credential: credential.cloned(),
                purpose: Purpose::Pull,
                excerpt: None,
                sizing: Sizing::Unneeded,
            };
            let swarm = Swarm(Arc::clone(self));
            self.tasks.spawn("ahead", async move {
                let _place = place;
                let origin = want.origin.clone();
                let Err(error) = swarm.have(want).await else {
                    return;
                };
                let cause = &error as &dyn std::error::Error;
                tracing::debug!(%task, cause, "what a client may ask for next is not got ahead");
                if !matches!(error, HaveError::NotStored) {
                    swarm.0.claims.refute(task, &origin);
                }
            });
        }
    }
}
