//! What is held in memory for clients: manifests, and the beginnings of lists.
//!
//! Owner of state: [`Held`], a count of bytes. Invariant: all replies together hold no more than
//! it has; each gives back what it took when the last byte of it was given to the kernel, or its
//! client has gone. Failure: who finds no room waits for [`PATIENCE`], and is then told to come
//! again: its client goes on to the registry meanwhile.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Failure;

/// Bytes held for all clients, unless they are to be had again from the store.
pub(super) const MOST_BYTES: usize = 256 << 20;
/// For others' clients to take what they were given.
const PATIENCE: Duration = Duration::from_secs(1);
const FULL: Failure = Failure::Later {
    why: "this mirror holds as much for other clients as it may",
    after: PATIENCE,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Held {
    room: Arc<Semaphore>,
    most: usize,
}

/// Some bytes' room, until dropped.
#[derive(Debug)]
pub(super) struct Room {
    permit: OwnedSemaphorePermit,
}

impl Held {
    /// Room for so many bytes in all.
    pub(super) fn new(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self {
            room: Arc::new(Semaphore::new(most)),
            most,
        }
    }

    /// Room for so many bytes, within [`PATIENCE`]. Who comes first is served first.
    /// Cancel-safe.
    pub(super) async fn room(&self, bytes: usize) -> Result<Room, Failure> {
        let bytes = u32::try_from(bytes.min(self.most)).map_err(|_| FULL)?;
        let permit = Arc::clone(&self.room).acquire_many_owned(bytes);
        match tokio::time::timeout(PATIENCE, permit).await {
            Ok(Ok(permit)) => Ok(Room { permit }),
            // Nobody closes it.
            Ok(Err(_)) | Err(_) => Err(FULL),
        }
    }
}

impl Room {
    /// A body of bytes, which have this room until they are gone.
    pub(super) fn body(mut self, bytes: Bytes) -> Body {
        let over = self.permit.num_permits().saturating_sub(bytes.len());
        drop(self.permit.split(over));
        Body::from(Bytes::from_owner(Holding { bytes, _room: self }))
    }
}

/// Bytes with their room.
struct Holding {
    bytes: Bytes,
    _room: Room,
}

impl AsRef<[u8]> for Holding {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_than_there_is_room_for_and_all_of_it_comes_back() {
        let held = Held::new(100);
        let given = |held: &Held| held.room.available_permits();
        // What is larger than all of it has all of it.
        drop(held.room(1000).await.unwrap());
        let body = held.room(80).await.unwrap().body(vec![7; 60].into());
        assert_eq!(given(&held), 40, "what it does not need is another's");
        let began = Instant::now();
        assert!(matches!(held.room(41).await, Err(Failure::Later { .. })));
        assert_eq!(began.elapsed(), PATIENCE);
        let waits = held.room(41);
        let read = async {
            tokio::time::sleep(PATIENCE / 2).await;
            let bytes = body.collect().await.unwrap().to_bytes();
            assert_eq!(bytes, vec![7; 60]);
        };
        let (room, ()) = tokio::join!(waits, read);
        assert_eq!(given(&held), 59);
        drop(room.unwrap().body(Bytes::new()));
        assert_eq!(given(&held), 100);
    }
}
