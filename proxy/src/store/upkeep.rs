//! What a store needs done behind the pulls' backs: syncing commits, and keeping room.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::Store;

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(2);

/// Keeps a store until it is dropped. Blocks no worker; a round that has begun is ended.
pub async fn upkeep(store: Store) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let store = store.clone();
        // Blocking on the disk is what this is for.
        let round = tokio::task::spawn_blocking(move || {
            store.make_durable();
            store.tidy();
        });
        if round.await.is_err() {
            tracing::error!("keeping the store has panicked");
        }
    }
}
