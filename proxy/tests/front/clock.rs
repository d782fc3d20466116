//! Time that stands still while the machine has none for this test.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use darter_runtime::Tasks;

/// How often it goes on.
const TICK: Duration = Duration::from_millis(10);
/// What a tick counts for at most: of a longer one the machine did something else, or this
/// test's tasks had so much to do.
const MOST: Duration = Duration::from_millis(20);

/// For what must come within a time, on a slow and busy machine too. What sleeps or waits for
/// somebody in vain takes as long here as on the wall; what has to wait for its turn does not.
#[derive(Debug, Clone)]
pub(crate) struct Clock(Arc<AtomicU64>);

impl Clock {
    /// One that goes on until the group ends, as a task among those that it is for.
    pub(crate) fn start(tasks: &Tasks) -> Self {
        let micros = Arc::new(AtomicU64::new(0));
        let shown = Arc::clone(&micros);
        tasks.spawn("clock", async move {
            let mut last = Instant::now();
            loop {
                tokio::time::sleep(TICK).await;
                let now = Instant::now();
                let passed = (now - last).min(MOST).as_micros();
                shown.fetch_add(passed as u64, Ordering::Relaxed);
                last = now;
            }
        });
        Self(micros)
    }

    /// Since it was started.
    pub(crate) fn now(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}
