//! How long a client waits for its status line.
//!
//! Clients go on to the next host after a 502 or 503, so that nobody is helped by a long
//! wait for an upstream that gives nothing: whatever only the upstream can give has one
//! deadline, counted from the request's beginning, however many questions, tokens and
//! redirects that takes; an upstream that is busy answering others gets more time. Peers that are at work are waited for longer, since giving up on
//! them sends the client, and all like it, to the upstream. Bytes that arrive are waited
//! for as long as they do: the end of a cold content is known only when all of it is here.

use std::{future::Future, pin::pin, time::Duration};

use darter_api::TaskId;
use tokio::time::{Instant, timeout_at};

use super::{Call, Failure};
use crate::content::Progress;

/// Between two looks at a content that is waited for longer.
const LOOK: Duration = Duration::from_millis(250);

impl Call<'_> {
    /// Bounds what the upstream alone can give. The work is looked at once even when the
    /// time is over: what is remembered is known at once.
    pub(super) async fn of_upstream<F: Future>(&self, work: F) -> Result<F::Output, Failure> {
        self.of_upstream_from(self.began(), work).await
    }

    /// The same for what is asked of it later.
    pub(super) async fn of_upstream_from<F: Future>(
        &self,
        began: Instant,
        work: F,
    ) -> Result<F::Output, Failure> {
        let options = &self.mirror.options;
        let mut until = began + options.upstream_timeout;
        let mut work = pin!(work);
        loop {
            if let Ok(output) = timeout_at(until, &mut work).await {
                return Ok(output);
            }
            // It would be no faster for a client that went past this mirror.
            let waits = self.upstream.is_busy() && began.elapsed() < options.first_byte_timeout;
            if !waits {
                return Err(gave_up("the registry gave nothing", began));
            }
            until = Instant::now() + LOOK;
        }
    }

    /// Bounds what comes of a content, from wherever.
    pub(super) async fn of_content<F: Future>(
        &self,
        task: &TaskId,
        work: F,
    ) -> Result<F::Output, Failure> {
        let options = &self.mirror.options;
        let mut until = self.began() + options.upstream_timeout;
        let mut work = pin!(work);
        loop {
            if let Ok(output) = timeout_at(until, &mut work).await {
                return Ok(output);
            }
            let has_time = self.began.elapsed() < options.first_byte_timeout;
            let waits = match self.mirror.contents.progress(task) {
                Progress::Arriving => true,
                Progress::Peers => has_time,
                Progress::Nothing => has_time && self.upstream.is_busy(),
            };
            if !waits {
                return Err(gave_up("nothing came", self.began()));
            }
            until = Instant::now() + LOOK;
        }
    }

    fn began(&self) -> Instant {
        Instant::from_std(self.began)
    }
}

fn gave_up(what: &str, began: Instant) -> Failure {
    let waited = began.elapsed().as_secs_f32();
    Failure::Unavailable(format!("{what} within {waited:.1} s"))
}
