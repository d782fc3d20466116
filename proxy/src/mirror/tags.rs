//! What tags stand for: believed for a short time, asked again by HEAD, and remembered
//! for when the upstream can't be reached. That there is no such tag is believed for seconds.

use std::{sync::Arc, time::Duration};

use darter_api::{
    Algorithm, Digest, Hasher, Repository, UpstreamName,
    session::{Observation, Reference},
};
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::{BodyExt as _, Limited};
use moka::future::Cache;

use super::{Call, Failure, Options, blobs::may_be_elsewhere};
use crate::{content::MAX_MANIFEST_BYTES, source::SourceError, upstream::Ask};

/// Tags remembered.
const MAX_TAGS: u64 = 100_000;
/// Of the merged Accept header.
const MAX_ACCEPT: usize = 2048;

type Tag = (UpstreamName, Repository, String);
/// A tag, the hash of what the client accepts, and who it is.
type Key = (UpstreamName, Repository, String, [u8; 32], Option<[u8; 32]>);

/// The memory of tags.
#[derive(Debug)]
pub(super) struct Tags {
    fresh: Cache<Key, Digest>,
    old: Cache<Key, Digest>,
    /// What the registry said it does not have.
    missing: Cache<Key, ()>,
}

impl Tags {
    pub(super) fn new(options: &Options) -> Self {
        fn cache<V: Clone + Send + Sync + 'static>(time: Duration) -> Cache<Key, V> {
            Cache::builder()
                .max_capacity(MAX_TAGS)
                .time_to_live(time)
                .support_invalidation_closures()
                .build()
        }
        Self {
            fresh: cache(options.tag_ttl),
            old: cache(options.tag_grace),
            missing: cache(options.tag_missing),
        }
    }

    /// What this tag stood for, whoever asked for it how.
    pub(super) fn remembered(
        &self,
        upstream: &UpstreamName,
        repository: &Repository,
        tag: &str,
    ) -> Vec<Digest> {
        let all = self
            .old
            .iter()
            .filter(|(key, _)| (&key.0, &key.1, key.2.as_str()) == (upstream, repository, tag));
        let mut digests: Vec<Digest> = all.map(|(_, digest)| digest).collect();
        digests.sort_unstable();
        digests.dedup();
        digests
    }

    /// Nothing is remembered of this tag any more, whoever asked for it how.
    pub(super) fn forget(&self, upstream: &UpstreamName, repository: &Repository, tag: &str) {
        fn forget<V: Clone + Send + Sync + 'static>(cache: &Cache<Key, V>, one: &Tag) {
            let one = one.clone();
            // It only fails for caches that were built without closures.
            let _ = cache.invalidate_entries_if(move |key, _| {
                (&key.0, &key.1, &key.2) == (&one.0, &one.1, &one.2)
            });
        }
        let one = (upstream.clone(), repository.clone(), tag.to_owned());
        forget(&self.fresh, &one);
        forget(&self.old, &one);
        forget(&self.missing, &one);
    }
}

impl Call<'_> {
    /// The digest that a tag stands for now.
    pub(super) async fn resolve_tag(
        &self,
        repository: &Repository,
        tag: &str,
    ) -> Result<Digest, Failure> {
        let accept = merged_accept(self.headers);
        let who = self
            .credential
            .as_ref()
            .map(|credential| credential.fingerprint());
        let key: Key = (
            self.upstream.name().clone(),
            repository.clone(),
            tag.to_owned(),
            // It may be long, and clients make it up.
            *blake3::hash(accept.as_bytes()).as_bytes(),
            who,
        );
        let tags = &self.mirror.tags;
        if self.anew {
            tags.fresh.invalidate(&key).await;
            tags.missing.invalidate(&key).await;
        } else if tags.missing.contains_key(&key) {
            return Err(Failure::ManifestUnknown);
        }
        let asked = tags
            .fresh
            .try_get_with_by_ref(&key, Box::pin(self.ask_tag(repository, tag, &accept)));
        match self.of_upstream(asked).await? {
            Ok(digest) => {
                tags.old.insert(key, digest).await;
                Ok(digest)
            }
            Err(error) if may_be_elsewhere(&error) => self
                .remembered_tag(&key, repository, tag)
                .await
                .ok_or_else(|| Failure::from_source(&error, true)),
            Err(error) => {
                if matches!(*error, SourceError::Missing) {
                    tags.old.invalidate(&key).await;
                    Box::pin(tags.missing.insert(key, ())).await;
                }
                Err(tag_failure(error))
            }
        }
    }

    async fn ask_tag(
        &self,
        repository: &Repository,
        tag: &str,
        accept: &str,
    ) -> Result<Digest, SourceError> {
        let ask = |method: Method| {
            let mut headers = HeaderMap::new();
            if let Ok(accept) = HeaderValue::from_str(accept) {
                headers.insert(header::ACCEPT, accept);
            }
            Ask {
                method,
                path: format!("/v2/{repository}/manifests/{tag}"),
                headers,
                repository: Some(repository),
                credential: self.credential.as_ref(),
                insists: false,
            }
        };
        let head = self.upstream.ask(ask(Method::HEAD)).await;
        let reply = match head {
            Ok(reply) => reply,
            Err(error) if error.is_of_the_method() => self.upstream.ask(ask(Method::GET)).await?,
            Err(error) => return Err(error),
        };
        let digest = reply
            .headers()
            .get("docker-content-digest")
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let digest = match digest {
            Some(digest) => {
                let credential = self.credential.as_ref();
                let told = self
                    .upstream
                    .told_by_tag(repository, &digest, credential, &reply);
                told.await;
                digest
            }
            None => self.digest_by_get(ask(Method::GET)).await?,
        };
        if !self.is_private() {
            self.tell_tag(repository, tag, digest);
        }
        Ok(digest)
    }

    /// A registry that does not name the digest has to give the manifest.
    async fn digest_by_get(&self, ask: Ask<'_>) -> Result<Digest, SourceError> {
        let reply = self.upstream.ask(ask).await?;
        let mut body = Limited::new(reply.into_body(), MAX_MANIFEST_BYTES as usize);
        let mut hasher = Hasher::new(Algorithm::Sha256);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|cause| SourceError::broken("the manifest", cause))?;
            if let Some(bytes) = frame.data_ref() {
                hasher.update(bytes);
            }
        }
        Ok(hasher.finish())
    }

    fn tell_tag(&self, repository: &Repository, tag: &str, digest: Digest) {
        self.mirror.contents.observed(Observation {
            upstream: self.upstream.name().clone(),
            repository: repository.clone(),
            reference: Reference::Tag(tag.to_owned()),
            digest,
            media_type: String::new(),
            size: None,
            public: true,
            age_ms: 0,
        });
    }

    /// The own memory first, then the other hosts'.
    async fn remembered_tag(
        &self,
        key: &Key,
        repository: &Repository,
        tag: &str,
    ) -> Option<Digest> {
        if let Some(digest) = self.mirror.tags.old.get(key).await {
            return Some(digest);
        }
        let (name, repository) = (self.upstream.name().clone(), repository.clone());
        let seen = self
            .mirror
            .contents
            .lookup(name, repository, Reference::Tag(tag.to_owned()))
            .await?;
        let grace = self.mirror.options.tag_grace.as_millis();
        (u128::from(seen.age_ms) <= grace).then_some(seen.digest)
    }
}

fn tag_failure(error: Arc<SourceError>) -> Failure {
    Failure::from_source(&error, true)
}

/// All Accept lines as one; dockerd sends six, in random order.
fn merged_accept(headers: &HeaderMap) -> String {
    let mut types: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .collect();
    types.sort_unstable();
    types.dedup();
    let merged = types.join(", ");
    if merged.is_empty() || merged.len() > MAX_ACCEPT || types == ["*/*"] {
        return crate::upstream::MANIFEST_TYPES.to_owned();
    }
    merged
}
