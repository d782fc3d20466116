//! That something goes on, for people at a terminal; nothing elsewhere.

use std::time::Duration;

use indicatif::ProgressBar;

/// Turns on standard error until it drops.
pub(crate) struct Turning(ProgressBar);

impl Turning {
    /// Says what goes on.
    pub(crate) fn new(what: &'static str) -> Self {
        let bar = ProgressBar::new_spinner().with_message(what);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }
}

impl Drop for Turning {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
