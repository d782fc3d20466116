//! Which blobs anybody may read, told to the hosts that will want them.
//!
//! A blob of a public repository that one member has read there need not be asked for by
//! all the others: hosts that pull from a repository follow it, and hear in batches what
//! members have read in it. Only blobs: manifests are asked for anyway.
//!
//! Owner of state: [`Followed`], bounded; who has not pulled for a while follows no more.
//! Invariant: only what a host says that it has read itself is told, with its age. Failure:
//! a host that is not told asks the upstream itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use darter_api::{
    Digest, HostId, Origin, OriginKind, Repository, TaskId, Timestamp, UpstreamName,
    session::{Observation, PublicContent, Reference, SchedulerMessage},
};

use super::Cluster;

/// Between two tellings: a reader of many small blobs has them all at once. The first of them is
/// told as it comes, since clients may wait for it.
const GATHER: Duration = Duration::from_millis(20);
/// What was read so long ago is not told: proxies believe their own rights no longer.
const LASTS: Duration = Duration::from_secs(300);
/// Blobs in one message, of a hundred bytes each.
const MOST_CONTENTS: usize = 4096;
/// Repositories that are followed at the same time.
const MOST_REPOSITORIES: usize = 10_000;

type Key = (UpstreamName, Repository);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Followed {
    repositories: BTreeMap<Key, BTreeMap<HostId, Timestamp>>,
    news: BTreeMap<Key, BTreeSet<Digest>>,
    /// When the first of the news came.
    since: Option<Timestamp>,
    /// When news were last told.
    told: Option<Timestamp>,
}

impl Followed {
    /// When the news are to be told.
    pub(super) fn due(&self) -> Option<Timestamp> {
        let rested = self.told.map(|told| told + GATHER);
        self.since
            .map(|since| rested.map_or(since, |at| at.max(since)))
    }

    /// Whether the host did not follow the repository.
    fn follow(&mut self, now: Timestamp, key: Key, host: HostId) -> bool {
        if !self.repositories.contains_key(&key) && self.repositories.len() >= MOST_REPOSITORIES {
            let recent = |at: &Timestamp| now.since(*at) < LASTS;
            self.repositories
                .retain(|_, hosts| hosts.values().any(recent));
            if self.repositories.len() >= MOST_REPOSITORIES {
                return true;
            }
        }
        let hosts = self.repositories.entry(key).or_default();
        hosts.insert(host, now).is_none()
    }

    /// A member has read this.
    fn add(&mut self, now: Timestamp, key: Key, digest: Digest) {
        if self.repositories.contains_key(&key) {
            self.news.entry(key).or_default().insert(digest);
            self.since.get_or_insert(now);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.repositories.values().map(BTreeMap::len).sum()
    }
}

impl Cluster {
    /// A host has read something at an upstream itself.
    pub(super) fn observed(&mut self, now: Timestamp, seen: Observation) {
        if seen.public
            && seen.media_type.is_empty()
            && let Reference::Digest(digest) = seen.reference
        {
            let key = (seen.upstream.clone(), seen.repository.clone());
            self.followed.add(now, key, digest);
        }
        self.observations.insert(now, seen);
    }

    /// A host will want these blobs, or one that it did not say so of: from now on it hears
    /// of the repository, and at once of what is known.
    pub(super) fn follows(
        &mut self,
        now: Timestamp,
        host: HostId,
        origin: &Origin,
        tasks: impl Iterator<Item = TaskId>,
        announced: bool,
    ) {
        if origin.kind != OriginKind::Blob || !self.hosts.contains_key(&host) {
            return;
        }
        let key = (origin.upstream.clone(), origin.repository.clone());
        let is_new = self.followed.follow(now, key.clone(), host);
        if announced || is_new {
            let digests = tasks.map(|task| *task.digest());
            let contents = self.public(now, &key, digests);
            self.tell_public(host, &key, contents);
        }
    }

    fn public(
        &self,
        now: Timestamp,
        (upstream, repository): &Key,
        digests: impl Iterator<Item = Digest>,
    ) -> Vec<PublicContent> {
        let fresh = |digest| {
            let reference = Reference::Digest(digest);
            let seen = self
                .observations
                .find(now, upstream, repository, &reference)?;
            let is_fresh = u128::from(seen.age_ms) < LASTS.as_millis();
            is_fresh.then_some(PublicContent {
                digest,
                size: seen.size,
                age_ms: seen.age_ms,
            })
        };
        digests.filter_map(fresh).take(MOST_CONTENTS).collect()
    }

    fn tell_public(&mut self, host: HostId, key: &Key, contents: Vec<PublicContent>) {
        if !contents.is_empty() {
            let (upstream, repository) = key.clone();
            let message = SchedulerMessage::Public {
                upstream,
                repository,
                contents,
            };
            self.send(host, message);
        }
    }

    /// Tells the news that have been gathered, once they are due.
    pub(super) fn tell_news(&mut self, now: Timestamp) {
        if self.followed.due().is_none_or(|due| due > now) {
            return;
        }
        self.followed.since = None;
        self.followed.told = Some(now);
        for (key, digests) in std::mem::take(&mut self.followed.news) {
            let contents = self.public(now, &key, digests.into_iter());
            let Some(mut hosts) = self.followed.repositories.remove(&key) else {
                continue;
            };
            hosts.retain(|host, at| now.since(*at) < LASTS && self.hosts.contains_key(host));
            for host in hosts.keys() {
                self.tell_public(*host, &key, contents.clone());
            }
            if !hosts.is_empty() {
                self.followed.repositories.insert(key, hosts);
            }
        }
    }
}
