//! Who may read what.
//!
//! The right to read is the right to the repository and the digest's membership in it: a
//! 2xx to a HEAD of that content there. An anonymous one makes it public to all for some
//! minutes; else the caller's own credential asks. What a manifest merely names proves
//! nothing.
//!
//! Owner of state: [`Rights`]; all memory is bounded and expires. Failure: an upstream
//! that can't be reached leaves what was confirmed within the grace, and what other hosts
//! observed of public repositories.

use std::{sync::Arc, time::Duration};

use darter_api::{
    Digest, Origin, OriginKind,
    session::{Observation, Reference},
};
use moka::sync::Cache;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use serde::{Deserialize, Serialize};

use crate::{
    content::Contents,
    credential::Credential,
    source::{Source, SourceError, Stat},
};

/// Rights remembered of each kind.
const MAX_REMEMBERED: u64 = 200_000;

/// How long answers hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// A right that was confirmed. Default 5 min. A revoked token works so long.
    #[serde(with = "humantime_serde")]
    pub allowed_for: Duration,
    /// A refusal. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub refused_for: Duration,
    /// A confirmed right while the upstream can't be reached. Default 1 h.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            allowed_for: Duration::from_secs(300),
            refused_for: Duration::from_secs(2),
            grace: Duration::from_secs(3600),
        }
    }
}

/// The caller may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// What the upstream said of the content.
    pub stat: Stat,
    /// Whether anybody may.
    pub public: bool,
}

/// How often the question was answered how.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    answer: &'static str,
}

/// Whose right it is: anybody's, or one credential's.
type Who = Option<[u8; 32]>;
type Key = (Origin, Digest, Who);

/// The memory of who may read what. Cheap to clone.
#[derive(Clone)]
pub struct Rights(Arc<Inner>);

struct Inner {
    source: Arc<dyn Source>,
    contents: Arc<dyn Contents>,
    allowed: Cache<Key, Allowed>,
    grace: Cache<Key, Allowed>,
    refused: Cache<Key, Arc<SourceError>>,
    answers: Family<Answer, Counter>,
    options: Options,
}

impl Rights {
    /// Rights at the sources behind `source`.
    pub fn new(
        options: Options,
        source: Arc<dyn Source>,
        contents: Arc<dyn Contents>,
        registry: &mut Registry,
    ) -> Self {
        let cache = |time| {
            Cache::builder()
                .max_capacity(MAX_REMEMBERED)
                .time_to_live(time)
                .build()
        };
        let answers = Family::<Answer, Counter>::default();
        registry.register(
            "rights_answers",
            "Questions whether a caller may read",
            answers.clone(),
        );
        Self(Arc::new(Inner {
            source,
            contents,
            allowed: cache(options.allowed_for),
            grace: cache(options.grace),
            refused: Cache::builder()
                .max_capacity(MAX_REMEMBERED)
                .time_to_live(options.refused_for)
                .build(),
            answers,
            options,
        }))
    }

    /// Whether the caller may read a content of a repository. Cancel-safe.
    ///
    /// # Errors
    /// The upstream's own refusal, or why it can't be asked.
    pub async fn check(
        &self,
        origin: &Origin,
        digest: &Digest,
        credential: Option<&Credential>,
    ) -> Result<Allowed, Arc<SourceError>> {
        // What a repository is called does not depend on whom it is private to.
        let origin = Origin {
            private: false,
            ..origin.clone()
        };
        let (answer, result) = match self.remembered(&origin, digest, credential) {
            Some(result) => ("remembered", result),
            None => self.ask(&origin, digest, credential).await,
        };
        self.0.answers.get_or_create(&Answer { answer }).inc();
        tracing::debug!(upstream = %origin.upstream, repository = %origin.repository, %digest, answer, allowed = result.is_ok(), "right to read");
        result
    }

    fn remembered(
        &self,
        origin: &Origin,
        digest: &Digest,
        credential: Option<&Credential>,
    ) -> Option<Result<Allowed, Arc<SourceError>>> {
        let anybody = (origin.clone(), *digest, None);
        if let Some(allowed) = self.0.allowed.get(&anybody) {
            return Some(Ok(allowed));
        }
        let who = credential.map(Credential::fingerprint);
        let key = (origin.clone(), *digest, who);
        if let Some(allowed) = self.0.allowed.get(&key) {
            return Some(Ok(allowed));
        }
        self.0.refused.get(&key).map(Err)
    }

    async fn ask(
        &self,
        origin: &Origin,
        digest: &Digest,
        credential: Option<&Credential>,
    ) -> (&'static str, Result<Allowed, Arc<SourceError>>) {
        let anybody = (origin.clone(), *digest, None);
        let mut refusal = self.0.refused.get(&anybody);
        if refusal.is_none() {
            match self.0.source.stat(origin, digest, None).await {
                Ok(stat) => {
                    let allowed = Allowed { stat, public: true };
                    self.remember(anybody, &allowed);
                    self.observed(origin, digest, &allowed.stat);
                    return ("public", Ok(allowed));
                }
                Err(SourceError::Refused(refused)) => {
                    let error = Arc::new(SourceError::Refused(refused));
                    self.0.refused.insert(anybody, Arc::clone(&error));
                    refusal = Some(error);
                }
                // Some registries say 404 to whoever may not know: a credential may do better.
                Err(SourceError::Missing) => refusal = Some(Arc::new(SourceError::Missing)),
                Err(error) => return self.unreachable(origin, digest, credential, error).await,
            }
        }
        let Some(credential) = credential else {
            let error = refusal.unwrap_or_else(|| Arc::new(SourceError::Missing));
            return ("refused", Err(error));
        };
        let key = (origin.clone(), *digest, Some(credential.fingerprint()));
        match self.0.source.stat(origin, digest, Some(credential)).await {
            Ok(stat) => {
                let allowed = Allowed {
                    stat,
                    public: false,
                };
                self.remember(key, &allowed);
                ("own", Ok(allowed))
            }
            Err(error @ (SourceError::Refused(_) | SourceError::Missing)) => {
                let error = Arc::new(error);
                self.0.grace.invalidate(&key);
                self.0.refused.insert(key, Arc::clone(&error));
                ("refused", Err(error))
            }
            Err(error) => {
                self.unreachable(origin, digest, Some(credential), error)
                    .await
            }
        }
    }

    fn remember(&self, key: Key, allowed: &Allowed) {
        self.0.allowed.insert(key.clone(), allowed.clone());
        self.0.grace.insert(key, allowed.clone());
    }

    /// What holds while the upstream can't be asked.
    async fn unreachable(
        &self,
        origin: &Origin,
        digest: &Digest,
        credential: Option<&Credential>,
        error: SourceError,
    ) -> (&'static str, Result<Allowed, Arc<SourceError>>) {
        for who in [None, credential.map(Credential::fingerprint)] {
            if let Some(allowed) = self.0.grace.get(&(origin.clone(), *digest, who)) {
                return ("grace", Ok(allowed));
            }
        }
        let reference = Reference::Digest(*digest);
        let seen = self
            .0
            .contents
            .lookup(
                origin.upstream.clone(),
                origin.repository.clone(),
                reference,
            )
            .await;
        let grace = self.0.options.grace.as_millis();
        match seen.filter(|seen| seen.public && u128::from(seen.age_ms) <= grace) {
            Some(seen) => {
                let stat = Stat {
                    size: seen.size,
                    media_type: Some(seen.media_type).filter(|text| !text.is_empty()),
                };
                ("observed", Ok(Allowed { stat, public: true }))
            }
            None => ("unreachable", Err(Arc::new(error))),
        }
    }

    fn observed(&self, origin: &Origin, digest: &Digest, stat: &Stat) {
        let media_type = match origin.kind {
            OriginKind::Manifest => stat.media_type.clone().unwrap_or_default(),
            OriginKind::Blob => String::new(),
        };
        self.0.contents.observed(Observation {
            upstream: origin.upstream.clone(),
            repository: origin.repository.clone(),
            reference: Reference::Digest(*digest),
            digest: *digest,
            media_type,
            size: stat.size,
            public: true,
            age_ms: 0,
        });
    }
}
