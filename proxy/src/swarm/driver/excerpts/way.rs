//! Who is asked for the groups of a content: a seed, or its source.
//!
//! The scheduler names the seed, with a grant that makes its word count. Owner of state:
//! [`Asked`] holds who waits for an answer, one a content, and whether the scheduler is silent;
//! each content knows its way for a while. Failure: without an answer the source is read, as it
//! is while a seed that failed is left alone.

use std::{collections::HashMap, sync::Arc, time::Duration};

use darter_api::{
    Origin, TaskId,
    session::{ExcerptSeed, PeerMessage},
};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::file::GroupFile;
use crate::swarm::{
    core::event::Event,
    driver::{Input, Shared},
};

/// For a scheduler to answer: as long as for a join.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// A scheduler that did not is not waited for again before.
const SILENCE: Duration = Duration::from_secs(10);
/// A seed that was named is asked for so long.
const NAMED: Duration = Duration::from_secs(60);
/// Where none was named, the source is read for so long.
const UNNAMED: Duration = Duration::from_secs(10);
/// The same where the seed failed, which may have taken as long as it is waited for.
const FAILED: Duration = Duration::from_secs(30);

/// Who is asked.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// This seed.
    Seed(Arc<ExcerptSeed>),
    /// The source itself.
    Source,
    /// Nobody: the rules forbid the source, and there is no seed.
    Nobody,
}

/// A content's way, for as long as it counts.
#[derive(Debug)]
pub(super) struct Known {
    way: Way,
    may_read_source: bool,
    until: Instant,
}

/// What the scheduler said.
struct Answer {
    seed: Option<ExcerptSeed>,
    source: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Asked {
    waiting: Mutex<HashMap<TaskId, oneshot::Sender<Answer>>>,
    silent_until: Mutex<Option<Instant>>,
}

impl Asked {
    /// The scheduler has answered.
    pub(super) fn answered(&self, task: &TaskId, seed: Option<ExcerptSeed>, source: bool) {
        if let Some(waiting) = self.waiting.lock().remove(task) {
            // Who asked may have left.
            let _ = waiting.send(Answer { seed, source });
        }
    }

    fn is_silent(&self) -> bool {
        let until = *self.silent_until.lock();
        until.is_some_and(|until| Instant::now() < until)
    }
}

struct Forget<'a>(&'a Asked, TaskId);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.waiting.lock().remove(&self.1);
    }
}

/// Who is to be asked for a content's groups. Cancel-safe.
pub(super) async fn way(shared: &Shared, file: &GroupFile, origin: &Origin) -> Way {
    // Others who read the same wait for the same answer.
    let mut known = file.way.lock().await;
    if let Some(known) = known.as_ref().filter(|one| Instant::now() < one.until) {
        return known.way.clone();
    }
    let answer = ask(shared, file, origin).await;
    let may_read_source = answer.as_ref().is_none_or(|answer| answer.source);
    let seed = answer.and_then(|answer| answer.seed);
    let seed = seed.filter(|seed| counts(shared, file, seed));
    let (way, time) = match seed {
        Some(seed) => (Way::Seed(Arc::new(seed)), NAMED),
        None if may_read_source => (Way::Source, UNNAMED),
        None => (Way::Nobody, UNNAMED),
    };
    *known = Some(Known {
        way: way.clone(),
        may_read_source,
        until: Instant::now() + time,
    });
    way
}

/// The seed does not give them: it is left alone for a while.
pub(super) async fn seed_failed(file: &GroupFile) {
    if let Some(known) = file.way.lock().await.as_mut() {
        known.until = Instant::now() + FAILED;
        known.way = if known.may_read_source {
            Way::Source
        } else {
            Way::Nobody
        };
    }
}

async fn ask(shared: &Shared, file: &GroupFile, origin: &Origin) -> Option<Answer> {
    let asked = &shared.excerpts.asked;
    if shared.session.is_none() || asked.is_silent() {
        return None;
    }
    let (answer, answered) = oneshot::channel();
    asked.waiting.lock().insert(file.task, answer);
    let _forget = Forget(asked, file.task);
    let asks = Event::Say(PeerMessage::ExcerptsWanted {
        task: file.task,
        lengths: file.lengths,
        origin: origin.clone(),
    });
    shared.inbox.send(Input::Event(asks)).await.ok()?;
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, answered).await;
    if answer.is_err() {
        *asked.silent_until.lock() = Some(Instant::now() + SILENCE);
    }
    answer.ok()?.ok()
}

/// Whether the grant is what it has to be for the seed's word to count.
fn counts(shared: &Shared, file: &GroupFile, seed: &ExcerptSeed) -> bool {
    let ExcerptSeed { neighbour, grant } = seed;
    grant.task == file.task
        && grant.lengths == file.lengths
        && grant.holder == neighbour.host
        && grant.pieces == (0..file.lengths.pieces())
        && shared.trust.covers(grant)
        && grant.is_authentic()
}
