//! Who may read what.
//!
//! The right to read is the right to the repository and the digest's membership in it: a
//! 2xx to a HEAD or GET of that content there. An anonymous one, by this node or by another
//! member, makes it public to all for some minutes; else the caller's own credential asks.
//! What a manifest merely names proves nothing. Of an upstream that is asked with credentials
//! of the proxy's own, "anybody" is whom the mirror lets in, and no other member hears of it.
//!
//! Owner of state: [`Rights`] and its [`Proofs`]; all memory is bounded and expires. Failure: an upstream
//! that can't be reached leaves what was confirmed within the grace, and what other hosts
//! observed of public repositories.

mod proofs;

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use darter_api::{Digest, Origin, session::Reference};
use moka::sync::Cache;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use serde::{Deserialize, Serialize};

pub use proofs::Proofs;
pub(crate) use proofs::observation;

use crate::{
    content::Contents,
    credential::Credential,
    source::{Source, SourceError, Stat},
};
use proofs::of_anybody;

/// Rights remembered of each kind.
const MAX_REMEMBERED: u64 = 200_000;
/// Bytes of refusals remembered: each has its registry's own words, of up to 64 KiB.
const MAX_REFUSED_BYTES: u64 = 32 << 20;

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
    proofs: Proofs,
    refused: Cache<Key, Arc<SourceError>>,
    answers: Family<Answer, Counter>,
    took: Family<Answer, Histogram>,
    options: Options,
}

/// Remembers refusals for so long.
fn refusals(life: Duration) -> Cache<Key, Arc<SourceError>> {
    Cache::builder()
        .max_capacity(MAX_REFUSED_BYTES)
        .weigher(|_: &Key, error: &Arc<SourceError>| weight(error))
        .time_to_live(life)
        .build()
}

/// Bytes that a refusal takes, its key among them.
fn weight(error: &SourceError) -> u32 {
    const KEY: usize = 512;
    let said = match error {
        SourceError::Refused(refusal) => {
            let headers = refusal.headers.values().map(http::HeaderValue::len);
            refusal.body.len() + headers.sum::<usize>()
        }
        _ => 0,
    };
    u32::try_from(KEY + said).unwrap_or(u32::MAX)
}

/// Whether an upstream that answers so was reached and means it: it was not asked in vain, and
/// what it once confirmed is over. What a store says that it leads to is not its own word, a 407
/// is of a proxy on the way, and some answers only ask for another time.
fn is_final(error: &SourceError) -> bool {
    match error {
        SourceError::Missing => true,
        SourceError::Status(status) => {
            status.is_client_error()
                && !matches!(status.as_u16(), 401 | 403 | 407 | 408 | 421 | 425)
        }
        _ => false,
    }
}

fn histogram() -> Histogram {
    Histogram::new([0.000_03, 0.000_1, 0.000_3, 0.001, 0.01, 0.1, 1.0, 4.0])
}

impl Rights {
    /// Rights at the sources behind `source`; what reads show beside goes to `proofs`.
    pub fn new(
        options: Options,
        source: Arc<dyn Source>,
        contents: Arc<dyn Contents>,
        proofs: Proofs,
        registry: &mut Registry,
    ) -> Self {
        let answers = Family::<Answer, Counter>::default();
        registry.register(
            "rights_answers",
            "Questions whether a caller may read",
            answers.clone(),
        );
        let took = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register(
            "rights_seconds",
            "Until it was known whether a caller may read",
            took.clone(),
        );
        Self(Arc::new(Inner {
            source,
            contents,
            proofs,
            refused: refusals(options.refused_for),
            answers,
            took,
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
        let began = Instant::now();
        let origin = of_anybody(origin);
        let (answer, result) = match self.remembered(&origin, digest, credential) {
            Some(result) => ("remembered", result),
            None => self.ask(&origin, digest, credential).await,
        };
        self.count(answer, &origin, digest, result.is_ok());
        let took = began.elapsed().as_secs_f64();
        self.0.took.get_or_create(&Answer { answer }).observe(took);
        result
    }

    /// Waits for another's proof that anybody may read a content, where one can be hoped for:
    /// whoever reads the source of a public repository gives it to all. Ends with `enough`
    /// at the latest; then [`Rights::check`] asks. Cancel-safe.
    pub async fn word(
        &self,
        origin: &Origin,
        digest: &Digest,
        enough: impl Future<Output = ()>,
    ) -> Option<Allowed> {
        let origin = of_anybody(origin);
        if !self.0.proofs.is_public(&origin) {
            return None;
        }
        tokio::select! {
            biased;
            allowed = self.0.proofs.word(&origin, digest) => {
                self.count("word", &origin, digest, true);
                Some(allowed)
            }
            () = enough => None,
        }
    }

    fn count(&self, answer: &'static str, origin: &Origin, digest: &Digest, allowed: bool) {
        self.0.answers.get_or_create(&Answer { answer }).inc();
        tracing::debug!(upstream = %origin.upstream, repository = %origin.repository, %digest, answer, allowed, "right to read");
    }

    fn remembered(
        &self,
        origin: &Origin,
        digest: &Digest,
        credential: Option<&Credential>,
    ) -> Option<Result<Allowed, Arc<SourceError>>> {
        let anybody = (origin.clone(), *digest, None);
        if let Some(allowed) = self.0.proofs.get(&anybody) {
            return Some(Ok(allowed));
        }
        let who = credential.map(Credential::fingerprint);
        let key = (origin.clone(), *digest, who);
        if let Some(allowed) = self.0.proofs.get(&key) {
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
                    self.0.proofs.given(origin, digest, None, stat.clone());
                    if self.0.source.is_anonymous(&origin.upstream) {
                        let seen = observation(origin, digest, &stat);
                        self.0.contents.observed(seen);
                    }
                    return ("public", Ok(Allowed { stat, public: true }));
                }
                Err(SourceError::Refused(refused)) => {
                    let error = Arc::new(SourceError::Refused(refused));
                    self.0.proofs.withdraw_public(&anybody);
                    self.0.refused.insert(anybody, Arc::clone(&error));
                    refusal = Some(error);
                }
                // Some registries say 404 to whoever may not know: a credential may do better.
                Err(error) if is_final(&error) => {
                    self.0.proofs.withdraw(&anybody);
                    refusal = Some(Arc::new(error));
                }
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
                let proofs = &self.0.proofs;
                proofs.given(origin, digest, Some(credential), stat.clone());
                let allowed = Allowed {
                    stat,
                    public: false,
                };
                ("own", Ok(allowed))
            }
            Err(error) if matches!(error, SourceError::Refused(_)) || is_final(&error) => {
                let error = Arc::new(error);
                self.0.proofs.withdraw(&key);
                self.0.refused.insert(key, Arc::clone(&error));
                ("refused", Err(error))
            }
            Err(error) => {
                self.unreachable(origin, digest, Some(credential), error)
                    .await
            }
        }
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
            let key = (origin.clone(), *digest, who);
            if let Some(allowed) = self.0.proofs.within_grace(&key) {
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
}

#[cfg(test)]
mod tests {
    use darter_api::OriginKind;
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::source::Refusal;

    #[test]
    fn refusals_with_many_words_are_not_remembered_without_bound() {
        let refused = refusals(Duration::from_secs(60));
        let origin = Origin {
            upstream: "docker.io".parse().unwrap(),
            repository: "library/app".parse().unwrap(),
            kind: OriginKind::Blob,
            private: false,
        };
        for number in 0..2000_u32 {
            let refusal = Refusal {
                status: StatusCode::UNAUTHORIZED,
                headers: HeaderMap::new(),
                body: vec![b' '; 64 << 10].into(),
            };
            let digest = Digest::sha256(&number.to_be_bytes());
            let error = Arc::new(SourceError::Refused(Box::new(refusal)));
            refused.insert((origin.clone(), digest, None), error);
        }
        refused.run_pending_tasks();
        let bytes: usize = refused
            .iter()
            .map(|(_, error)| weight(&error) as usize)
            .sum();
        assert!(bytes as u64 <= MAX_REFUSED_BYTES, "{bytes} bytes");
        assert!(refused.iter().count() > 100, "they are remembered");
    }

    #[test]
    fn what_is_a_word_and_what_is_silence() {
        let status = |status| SourceError::Status(StatusCode::from_u16(status).unwrap());
        for status in [400, 402, 405, 410, 418, 451].map(status) {
            assert!(is_final(&status), "{status}");
        }
        for status in [401, 403, 407, 408, 425, 500, 502, 504, 511].map(status) {
            assert!(!is_final(&status), "{status}");
        }
        for status in [400, 401, 403, 404, 405, 410, 451] {
            let of_a_store = SourceError::Redirected(StatusCode::from_u16(status).unwrap());
            assert!(!is_final(&of_a_store), "{status}");
        }
        assert!(is_final(&SourceError::Missing));
        assert!(!is_final(&SourceError::Protocol("nonsense")));
    }
}
