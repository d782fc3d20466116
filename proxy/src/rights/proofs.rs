//! What has been shown of who may read what: by a right that was asked for, by a source that
//! gave a content, and, of what anybody may read, by another member's word.
//!
//! Owner of state: [`Proofs`], bounded; what it holds expires. Invariants: a proof is for the
//! one repository, content and credential that it was given for, and holds no longer than
//! [`Options::allowed_for`](super::Options) after the upstream gave it, however it came here (and
//! the three seconds for which a question is one for all who ask it); that a repository is public
//! proves nothing of a content.

use std::{sync::Arc, time::Duration};

use darter_api::{
    Digest, Origin, OriginKind, Repository, UpstreamName,
    session::{Observation, PublicContent, Reference},
};
use moka::sync::Cache;
use tokio::{sync::Notify, time::Instant};

use super::{Allowed, Key, MAX_REMEMBERED, Options};
use crate::{credential::Credential, source::Stat};

/// Public repositories remembered.
const MAX_REPOSITORIES: u64 = 50_000;

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Proofs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    allowed: Cache<Key, Fresh>,
    grace: Cache<Key, Allowed>,
    public: Cache<(UpstreamName, Repository), ()>,
    allowed_for: Duration,
    /// Wakes who waits for a word.
    news: Notify,
}

#[derive(Debug, Clone)]
struct Fresh {
    allowed: Allowed,
    until: Instant,
}

impl Proofs {
    /// None yet.
    pub fn new(options: &Options) -> Self {
        let most = |most: u64| Cache::<Key, Fresh>::builder().max_capacity(most);
        Self(Arc::new(Inner {
            allowed: most(MAX_REMEMBERED)
                .time_to_live(options.allowed_for)
                .build(),
            grace: Cache::builder()
                .max_capacity(MAX_REMEMBERED)
                .time_to_live(options.grace)
                .build(),
            public: Cache::builder()
                .max_capacity(MAX_REPOSITORIES)
                .time_to_live(options.allowed_for)
                .build(),
            allowed_for: options.allowed_for,
            news: Notify::new(),
        }))
    }

    /// The source gave the content, or its size, to this credential, or to anybody. Whether
    /// that was not known.
    pub(crate) fn given(
        &self,
        origin: &Origin,
        digest: &Digest,
        credential: Option<&Credential>,
        stat: Stat,
    ) -> bool {
        let who = credential.map(Credential::fingerprint);
        let allowed = Allowed {
            stat,
            public: who.is_none(),
        };
        let key = (of_anybody(origin), *digest, who);
        let is_new = self.get(&key).is_none();
        self.insert(key, allowed, self.0.allowed_for);
        self.0.news.notify_waiters();
        is_new
    }

    /// A member has read these blobs, as anybody could.
    pub(crate) fn told(
        &self,
        upstream: &UpstreamName,
        repository: &Repository,
        contents: &[PublicContent],
    ) {
        let origin = Origin {
            upstream: upstream.clone(),
            repository: repository.clone(),
            kind: OriginKind::Blob,
            private: false,
        };
        for content in contents {
            let age = Duration::from_millis(content.age_ms);
            let Some(left) = self.0.allowed_for.checked_sub(age) else {
                continue;
            };
            let stat = Stat {
                size: content.size,
                media_type: None,
            };
            let allowed = Allowed { stat, public: true };
            self.insert((origin.clone(), content.digest, None), allowed, left);
        }
        self.0.news.notify_waiters();
    }

    fn insert(&self, key: Key, allowed: Allowed, lasts: Duration) {
        if allowed.public {
            let repository = (key.0.upstream.clone(), key.0.repository.clone());
            self.0.public.insert(repository, ());
        }
        let until = Instant::now() + lasts;
        self.0.grace.insert(key.clone(), allowed.clone());
        let known = self.0.allowed.get(&key);
        if known.is_none_or(|known| known.until < until) {
            self.0.allowed.insert(key, Fresh { allowed, until });
        }
    }

    /// What was shown, while it holds.
    pub(super) fn get(&self, key: &Key) -> Option<Allowed> {
        let fresh = self.0.allowed.get(key)?;
        (Instant::now() < fresh.until).then_some(fresh.allowed)
    }

    /// What was shown within the grace.
    pub(super) fn within_grace(&self, key: &Key) -> Option<Allowed> {
        self.0.grace.get(key)
    }

    /// The upstream says otherwise now: nothing of it holds, not even within the grace.
    pub(super) fn withdraw(&self, key: &Key) {
        self.0.allowed.invalidate(key);
        self.0.grace.invalidate(key);
    }

    /// Nobody in particular may read something of the repository any more.
    pub(super) fn withdraw_public(&self, key: &Key) {
        self.withdraw(key);
        let repository = (key.0.upstream.clone(), key.0.repository.clone());
        self.0.public.invalidate(&repository);
    }

    /// Whether anybody could read something of the repository a moment ago.
    pub(super) fn is_public(&self, origin: &Origin) -> bool {
        let repository = (origin.upstream.clone(), origin.repository.clone());
        self.0.public.contains_key(&repository)
    }

    /// Waits until it is shown that anybody may read the content. Cancel-safe.
    pub(super) async fn word(&self, origin: &Origin, digest: &Digest) -> Allowed {
        let key = (origin.clone(), *digest, None);
        loop {
            let mut news = std::pin::pin!(self.0.news.notified());
            // From here on none is missed.
            news.as_mut().enable();
            if let Some(allowed) = self.get(&key) {
                return allowed;
            }
            news.await;
        }
    }
}

/// What a repository is called does not depend on whom it is private to.
pub(super) fn of_anybody(origin: &Origin) -> Origin {
    Origin {
        private: false,
        ..origin.clone()
    }
}

/// What the other members are told of a content that anybody could read.
pub(crate) fn observation(origin: &Origin, digest: &Digest, stat: &Stat) -> Observation {
    let media_type = match origin.kind {
        OriginKind::Manifest => stat.media_type.clone().unwrap_or_default(),
        OriginKind::Blob => String::new(),
    };
    Observation {
        upstream: origin.upstream.clone(),
        repository: origin.repository.clone(),
        reference: Reference::Digest(*digest),
        digest: *digest,
        media_type,
        size: stat.size,
        public: true,
        age_ms: 0,
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use http::HeaderValue;

    use super::*;

    fn origin(repository: &str) -> Origin {
        Origin {
            upstream: "docker.io".parse().unwrap(),
            repository: repository.parse().unwrap(),
            kind: OriginKind::Blob,
            private: false,
        }
    }

    fn told(proofs: &Proofs, digest: Digest, age_ms: u64) {
        let of = origin("library/app");
        let content = PublicContent {
            digest,
            size: Some(7),
            age_ms,
        };
        proofs.told(&of.upstream, &of.repository, &[content]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_word_is_for_one_content_of_one_repository_and_ages() {
        let proofs = Proofs::new(&Options::default());
        let (one, other) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
        let app = origin("library/app");
        assert!(!proofs.is_public(&app));
        let mut waits = Box::pin(proofs.word(&app, &one));
        assert!(waits.as_mut().now_or_never().is_none());
        told(&proofs, one, 299_000);
        let word = waits.await;
        assert!(word.public);
        assert_eq!(word.stat.size, Some(7));
        assert!(proofs.is_public(&app));
        assert!(proofs.word(&app, &other).now_or_never().is_none());
        let elsewhere = origin("library/other");
        assert!(proofs.word(&elsewhere, &one).now_or_never().is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(proofs.word(&app, &one).now_or_never().is_none());
        told(&proofs, one, 301_000);
        assert!(proofs.word(&app, &one).now_or_never().is_none());
    }

    #[tokio::test]
    async fn what_a_credential_was_given_is_nobody_elses() {
        let proofs = Proofs::new(&Options::default());
        let digest = Digest::sha256(b"1");
        let app = Origin {
            private: true,
            ..origin("library/app")
        };
        let credential = Credential::new(HeaderValue::from_static("Bearer 1"));
        let stat = Stat {
            size: Some(7),
            media_type: None,
        };
        assert!(proofs.given(&app, &digest, Some(&credential), stat.clone()));
        assert!(!proofs.given(&app, &digest, Some(&credential), stat));
        let app = of_anybody(&app);
        assert!(!proofs.is_public(&app));
        assert!(proofs.word(&app, &digest).now_or_never().is_none());
        let own = (app, digest, Some(credential.fingerprint()));
        assert!(!proofs.get(&own).unwrap().public);
    }
}
