//! What an upstream said a moment ago of a content's size and type, so that who asks for
//! the right to it and who begins to read it need one question between them.
//!
//! Owner of state: [`Stats`], bounded, for seconds. Invariants: a question is under way
//! once, however many wait, and goes on when the one that asked leaves; an answer is known
//! only to whom it was given: the credential is part of the question. Errors are shared by
//! those who wait, and not remembered.

use std::{future::Future, time::Duration};

use darter_api::{Digest, Origin, OriginKind, Repository};
use moka::future::Cache;

use crate::{
    credential::Credential,
    source::{SourceError, Stat},
};

/// Answers hold for so long: from a tag's HEAD, or the question for a right, to the reading
/// that follows it.
const LIFE: Duration = Duration::from_secs(3);
/// Answers remembered for one upstream.
const MOST: u64 = 10_000;

/// What was asked, by whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Question {
    repository: Repository,
    kind: OriginKind,
    digest: Digest,
    who: Option<[u8; 32]>,
}

impl Question {
    pub(super) fn new(origin: &Origin, digest: &Digest, credential: Option<&Credential>) -> Self {
        Self {
            repository: origin.repository.clone(),
            kind: origin.kind,
            digest: *digest,
            who: credential.map(Credential::fingerprint),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stats(Cache<Question, Stat>);

impl Stats {
    pub(super) fn new() -> Self {
        let cache = Cache::builder().max_capacity(MOST).time_to_live(LIFE);
        Self(cache.build())
    }

    /// The answer as it is remembered, else as `ask` brings it.
    pub(super) async fn once(
        &self,
        question: Question,
        ask: impl Future<Output = Result<Stat, SourceError>>,
    ) -> Result<Stat, SourceError> {
        let answer = self.0.try_get_with(question, ask).await;
        answer.map_err(|shared| (*shared).clone())
    }

    /// The upstream said so without being asked just that.
    pub(super) async fn told(&self, question: Question, stat: Stat) {
        self.0.insert(question, stat).await;
    }
}
