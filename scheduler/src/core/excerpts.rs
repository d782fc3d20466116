//! Contents that are read in small parts, not whole: which seed reads them for all.
//!
//! Nothing is remembered of them: such a content has no swarm. A host is told a seed, the same
//! one as anybody else, with a grant that makes the seed's word count; groups then go from the
//! seed to whoever asks it. Failure: without a seed that may read it each host reads for itself,
//! where the operator's rules let it.

use darter_api::{
    Grant, HostId, Lengths, Origin, TaskId, Timestamp,
    configuration::Priority,
    session::{ExcerptSeed, SchedulerMessage},
};

use super::Cluster;

impl Cluster {
    pub(super) fn excerpts_wanted(
        &mut self,
        now: Timestamp,
        host: HostId,
        task: TaskId,
        lengths: Lengths,
        origin: &Origin,
    ) {
        let (asks, source) = match self.priority(&host, Some(origin)) {
            _ if self.is_made_seed(&host) => (true, true),
            Priority::Forbid => (false, false),
            Priority::NeverSource => (true, false),
            Priority::PeerFirst => (false, true),
            Priority::SeedFirst => (true, true),
        };
        let seed = asks.then(|| self.excerpt_seed(now, &host, (&task, lengths), origin));
        let seed = seed.flatten();
        let answer = SchedulerMessage::ExcerptsFrom { task, seed, source };
        self.send(host, answer);
    }

    /// The best seed for the content that has not failed to read it lately; none where that is
    /// the host that asks, which reads for the others then.
    fn excerpt_seed(
        &self,
        now: Timestamp,
        host: &HostId,
        (id, lengths): (&TaskId, Lengths),
        origin: &Origin,
    ) -> Option<ExcerptSeed> {
        let known = self.tasks.get(id);
        if lengths.pieces() == 0
            || lengths.is_open()
            || known.is_some_and(|task| task.lengths != lengths)
        {
            return None;
        }
        let reads = |seed: &HostId| {
            let priority = self.priority(seed, Some(origin));
            !self.is_kept_from(seed, priority)
                && known.is_none_or(|task| self.may_read(now, task, seed))
        };
        let seed = self.ranked_seeds(id).into_iter().find(reads)?;
        if seed == *host {
            return None;
        }
        let unix_ms = self.unix_ms + now.as_micros() / 1000;
        let pieces = 0..lengths.pieces();
        Some(ExcerptSeed {
            neighbour: self.neighbour(&seed)?,
            grant: Grant::sign(&self.key, seed, *id, lengths, pieces, unix_ms),
        })
    }
}
