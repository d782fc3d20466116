//! Having contents without reading them: for a preheat, for other hosts' sake.

use std::sync::Arc;

use darter_api::{Lengths, Origin, TaskId, session::Purpose};

use super::{
    Shared, Swarm,
    contents::{Joined, join},
};
use crate::content::{OpenError, ReadError, Sizing, Want};

/// The store does not get a content.
#[derive(Debug, thiserror::Error)]
pub enum HaveError {
    /// It can't be had.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its download failed.
    #[error(transparent)]
    Read(ReadError),
    /// The store did not take it: it is full, or fails.
    #[error("the store does not take it")]
    NotStored,
}

impl Swarm {
    /// Has a content in the store, whole and committed, when it returns. Dropping the future
    /// gives up.
    ///
    /// # Errors
    /// Why the store does not have it.
    pub async fn have(&self, want: Want) -> Result<(), HaveError> {
        let (shared, task) = (&self.0, want.task);
        let ended = match join(shared, want).await? {
            Joined::Empty => return Ok(()),
            Joined::Stored(..) => None,
            Joined::Through(_) | Joined::Held(_) => return Err(HaveError::NotStored),
            Joined::Growing(hold, download) => {
                download.settled().await;
                drop(hold);
                download.ended()
            }
        };
        match ended {
            _ if shared.store.stat(&task).is_some() => Ok(()),
            Some(error) => Err(HaveError::Read(error)),
            None => Err(HaveError::NotStored),
        }
    }
}

/// Has a content without reading it, for a scheduler that asked for it: all of it for a preheat,
/// and for pulls as long as another host waits for it.
pub(super) async fn fetch(shared: Arc<Shared>, want: Want) {
    let (task, purpose) = (want.task, want.purpose);
    match join(&shared, want).await {
        Ok(Joined::Growing(hold, download)) => {
            tokio::select! {
                _ = download.judged() => {}
                () = download.forsaken(), if purpose == Purpose::Seed => {}
            }
            drop(hold);
        }
        Ok(_) => {}
        Err(error) => {
            let cause = &error as &dyn std::error::Error;
            tracing::info!(%task, ?purpose, cause, "what was asked for can't be fetched");
        }
    }
}

/// A want of the scheduler's.
pub(super) fn asked_for(task: TaskId, lengths: Lengths, origin: Origin, purpose: Purpose) -> Want {
    Want {
        task,
        origin,
        size: Some(lengths.size()),
        credential: None,
        purpose,
        excerpt: None,
        sizing: Sizing::Unneeded,
    }
}
