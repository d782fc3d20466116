//! The asynchronous shell of one bucket.
//!
//! Owner of state: a [`Gate`] owns its bucket under one short lock; who waits holds a place
//! that is given up when it is dropped. Everybody who waits sleeps until the bucket could
//! let somebody pass, and the first to wake lets all pass who may: there is no task behind
//! it that could be late or gone.

use std::{
    num::NonZeroU64,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::bucket::{Bucket, Class, Ticket};

/// See the module.
#[derive(Debug)]
pub(super) struct Gate {
    began: Instant,
    limited: AtomicBool,
    bucket: Mutex<Bucket>,
    /// Somebody else let others pass, or the rate has changed.
    changed: Notify,
}

impl Gate {
    pub(super) fn new(began: Instant, rate: Option<NonZeroU64>) -> Self {
        Self {
            began,
            limited: AtomicBool::new(rate.is_some()),
            bucket: Mutex::new(Bucket::new(began.elapsed(), rate)),
            changed: Notify::new(),
        }
    }

    /// Another rate from now on, for those who wait as well.
    pub(super) fn set_rate(&self, rate: Option<NonZeroU64>) {
        let now = self.began.elapsed();
        self.bucket.lock().set_rate(now, rate);
        self.limited.store(rate.is_some(), Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    pub(super) fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Relaxed)
    }

    /// What is best asked for at once.
    pub(super) fn portion(&self) -> u64 {
        self.bucket.lock().portion()
    }

    /// Passes with at most [`PORTION`](super::bucket::PORTION) bytes; whether it had to wait.
    /// `busy` as for [`Bucket::grant`]. Cancel-safe: the place is given up.
    pub(super) async fn pass(
        &self,
        class: Class,
        bytes: u64,
        busy: &impl Fn(Duration) -> Option<u64>,
    ) -> bool {
        let ticket = self.bucket.lock().enqueue(class, bytes);
        let place = Place {
            gate: self,
            class,
            ticket,
        };
        let mut waited = false;
        loop {
            let mut changed = pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let Some(due) = place.ask(busy) else {
                return waited;
            };
            waited = true;
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(self.began + due) => {}
            }
        }
    }
}

/// Somebody who waits.
struct Place<'a> {
    gate: &'a Gate,
    class: Class,
    ticket: Ticket,
}

impl Place<'_> {
    /// Lets pass who may; when to ask again, or `None` when this one has passed.
    fn ask(&self, busy: &impl Fn(Duration) -> Option<u64>) -> Option<Duration> {
        let now = self.gate.began.elapsed();
        let busy = busy(now);
        let mut bucket = self.gate.bucket.lock();
        let granted = bucket.grant(now, busy);
        if granted.iter().any(|ticket| *ticket != self.ticket) {
            self.gate.changed.notify_waiters();
        }
        if !bucket.is_waiting(self.class, self.ticket) {
            return None;
        }
        bucket.deadline(now, busy)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // Who stood behind it may pass earlier now.
        if self.gate.bucket.lock().cancel(self.class, self.ticket) {
            self.gate.changed.notify_waiters();
        }
    }
}
