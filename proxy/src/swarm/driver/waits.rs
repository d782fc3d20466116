//! Who waits for a download, and so how urgent it is.
//!
//! Owner of state: one [`Waits`] a download counts those who wait. Invariants: a download is as
//! urgent as it began, and more only as long as somebody waits for it; others give way to it
//! until it is whole or given up.

use std::sync::Arc;

use darter_api::session::Purpose;
use parking_lot::Mutex;

use super::turns::{Turns, Urgent};
use crate::limits::Class;

/// See the module.
#[derive(Debug)]
pub(super) struct Waits {
    /// While nobody waits.
    class: Class,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    over: bool,
    /// Somebody waits, and it is not over.
    urgent: Option<Urgent>,
    /// Where who waits is known.
    turns: Option<Turns>,
}

impl State {
    fn be_urgent(&mut self) {
        if self.waiting > 0 && !self.over && self.urgent.is_none() {
            self.urgent = self.turns.as_ref().map(Turns::urgent);
        }
    }
}

/// Somebody who waits, until dropped.
#[derive(Debug)]
pub(super) struct Waiter(Arc<Waits>);

impl Waits {
    /// Of a download that begins for this.
    pub(super) fn new(purpose: Purpose) -> Self {
        Self {
            class: class_of(purpose),
            state: Mutex::default(),
        }
    }

    /// Somebody joins for this; `None` if it can wait.
    pub(super) fn join(self: &Arc<Self>, purpose: Purpose, turns: &Turns) -> Option<Waiter> {
        if class_of(purpose) == Class::Background {
            return None;
        }
        let mut state = self.state.lock();
        state.waiting += 1;
        state.turns.get_or_insert_with(|| turns.clone());
        state.be_urgent();
        Some(Waiter(Arc::clone(self)))
    }

    /// How urgent it is now.
    pub(super) fn class(&self) -> Class {
        if self.state.lock().waiting > 0 {
            Class::Foreground
        } else {
            self.class
        }
    }

    /// It is whole, or given up: nobody gives way to it any more.
    pub(super) fn over(&self) {
        let mut state = self.state.lock();
        state.over = true;
        state.urgent = None;
    }

    /// It was wrong, and is fetched again.
    pub(super) fn again(&self) {
        let mut state = self.state.lock();
        state.over = false;
        state.be_urgent();
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.waiting -= 1;
        if state.waiting == 0 {
            state.urgent = None;
        }
    }
}

/// For a seed others wait, so that only what was asked for ahead of time can wait.
pub(super) const fn class_of(purpose: Purpose) -> Class {
    match purpose {
        Purpose::Pull | Purpose::Seed => Class::Foreground,
        Purpose::Preheat => Class::Background,
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[tokio::test]
    async fn it_is_urgent_as_long_as_somebody_waits() {
        let turns = Turns::new();
        let gives_way = async || {
            let few = [(); 2].map(|()| turns.behind(std::future::pending::<()>()));
            let mut few = few.map(Box::pin);
            for one in &mut few {
                assert!(futures::poll!(one.as_mut()).is_pending());
            }
            turns.behind(ready(())).await.is_none()
        };
        let waits = Arc::new(Waits::new(Purpose::Preheat));
        assert!(waits.join(Purpose::Preheat, &turns).is_none());
        assert_eq!(waits.class(), Class::Background);
        let one = waits.join(Purpose::Pull, &turns);
        let other = waits.join(Purpose::Seed, &turns);
        drop(one);
        assert_eq!(waits.class(), Class::Foreground);
        assert!(gives_way().await);
        drop(other);
        assert_eq!(waits.class(), Class::Background);
        assert!(!gives_way().await);
        let late = waits.join(Purpose::Pull, &turns);
        waits.over();
        assert!(!gives_way().await);
        assert_eq!(waits.class(), Class::Foreground);
        waits.again();
        assert!(gives_way().await);
        drop(late);
        assert!(!gives_way().await);
        let pulled = Waits::new(Purpose::Pull);
        assert_eq!(pulled.class(), Class::Foreground);
    }
}
