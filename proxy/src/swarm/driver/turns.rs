//! Requests of pieces that nobody waits for give way to downloads that somebody waits for.
//!
//! The core has so many requests under way for all downloads of the host; those of a preheat,
//! slowed down by the limits, would hold them against a pull. Owner of state: [`Turns`]
//! counts the urgent downloads. Invariant: while there is one, at most [`FEW`] requests of
//! others go on; the rest end as if the parent were busy, and are asked again later.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

/// Enough to go on with, few enough to be in nobody's way.
const FEW: usize = 2;

/// See the module. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    urgent: watch::Sender<usize>,
    few: Arc<Semaphore>,
}

/// A download that somebody waits for, until dropped.
#[derive(Debug)]
pub(super) struct Urgent(watch::Sender<usize>);

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            urgent: watch::Sender::new(0),
            few: Arc::new(Semaphore::new(FEW)),
        }
    }

    /// One more urgent download.
    pub(super) fn urgent(&self) -> Urgent {
        self.urgent.send_modify(|urgent| *urgent += 1);
        Urgent(self.urgent.clone())
    }

    /// Does work that nobody waits for; `None` when it gave way. Cancel-safe if the work is.
    pub(super) async fn behind<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let one_of_few = self.few.try_acquire().ok();
        let mut urgent = self.urgent.subscribe();
        tokio::select! {
            biased;
            // The sender is here.
            _ = urgent.wait_for(|urgent| *urgent > 0), if one_of_few.is_none() => None,
            done = work => Some(done),
        }
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        self.0.send_modify(|urgent| *urgent -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn all_but_a_few_give_way() {
        let turns = Turns::new();
        let mut works: Vec<_> = (0..5)
            .map(|_| Box::pin(turns.behind(pending::<()>())))
            .collect();
        let mut ended = |wanted: usize| {
            let ends = works.iter_mut().map(|work| work.as_mut().now_or_never());
            assert_eq!(ends.flatten().count(), wanted);
        };
        ended(0);
        let urgent = turns.urgent();
        ended(5 - FEW);
        assert_eq!(turns.behind(ready(1)).await, None);
        drop(urgent);
        assert_eq!(turns.behind(ready(1)).await, Some(1));
    }
}
