//! Getting contents into the store.

use std::time::{Duration, SystemTime};

use darter_api::{
    Digest, Origin, SchedulerName, TaskId,
    preheat::{Content, Have, Report, cut},
    session::Purpose,
};
use futures::{StreamExt as _, stream};

use super::{Preheater, SignIn, resolve::is_called};
use crate::{
    content::{Sizing, Want},
    mirror::chain,
};

/// Contents of one order that are got at the same time, unless it says otherwise; and at most.
const AT_ONCE: (usize, usize) = (4, 32);
/// Contents in one report.
const REPORTED: usize = 64;
/// For an order that says nothing of its time; and at most.
const TIMEOUT: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));

impl Preheater {
    /// Gets all of an order, and says of each content what became of it. Cancel-safe.
    pub(super) async fn have(&self, name: &SchedulerName, run: u64, have: Have) {
        let timeout = match have.timeout_seconds {
            0 => TIMEOUT.0,
            seconds => Duration::from_secs(seconds).min(TIMEOUT.1),
        };
        let all = self.have_all(name, run, have);
        if tokio::time::timeout(timeout, all).await.is_err() {
            let why = format!("it did not come within {} s", timeout.as_secs());
            self.report(name, run, Report::Lacks { digest: None, why });
        }
    }

    async fn have_all(&self, name: &SchedulerName, run: u64, have: Have) {
        let lacks = |digest, why| {
            self.report(
                name,
                run,
                Report::Lacks {
                    digest,
                    why: cut(why),
                },
            )
        };
        let sign_in = match self.sign_in(&have) {
            Ok(sign_in) => sign_in,
            Err(why) => {
                lacks(None, why);
                return;
            }
        };
        let private = have.private || sign_in.is_some();
        let pin = Some(have.pin_seconds).filter(|seconds| *seconds > 0);
        let until = pin.map(|seconds| SystemTime::now().checked_add(Duration::from_secs(seconds)));
        if until == Some(None) {
            lacks(None, "nothing can be pinned for so long".to_owned());
            return;
        }
        let until = until.flatten();
        let at_once = match have.at_once as usize {
            0 => AT_ONCE.0,
            most => most.min(AT_ONCE.1),
        };
        let one = |content: &Content| {
            let origin = Origin {
                upstream: have.upstream.clone(),
                repository: have.repository.clone(),
                kind: content.kind,
                private,
            };
            self.have_one(content.clone(), origin, sign_in.as_ref(), until)
        };
        let work: Vec<_> = have.contents.iter().map(one).collect();
        let mut ends = stream::iter(work)
            .buffer_unordered(at_once)
            .ready_chunks(REPORTED);
        while let Some(ends) = ends.next().await {
            let mut held = Vec::new();
            for (digest, end) in ends {
                match end {
                    Ok(()) => held.push(digest),
                    Err(why) => {
                        tracing::info!(%digest, why, "what is to be preheated can't be had");
                        self.metrics.ended("failed", 1);
                        lacks(Some(digest), why);
                    }
                }
            }
            if !held.is_empty() {
                self.metrics.ended("held", held.len());
                self.report(name, run, Report::Held(held));
            }
        }
    }

    /// What the order brings, for the registry that the wish names and no other: who found out
    /// what there is to have is a host like this one. Files are of no registry.
    fn sign_in(&self, have: &Have) -> Result<Option<SignIn>, String> {
        if have.contents.iter().all(|content| content.url.is_some()) {
            return Ok(None);
        }
        let Some(upstream) = self.upstreams.resolve(have.upstream.as_str()) else {
            let why = "is not on the host's list of registries";
            return Err(format!("{} {why}", have.upstream));
        };
        if let Some(named) = &have.registry
            && !is_called(&self.upstreams, upstream, named)
        {
            return Err(format!("{named} is not {} on this host", have.upstream));
        }
        let (repository, brought) = (&have.repository, &have.authorization);
        Ok(SignIn::new(upstream, repository, brought))
    }

    async fn have_one(
        &self,
        content: Content,
        origin: Origin,
        sign_in: Option<&SignIn>,
        until: Option<SystemTime>,
    ) -> (Digest, Result<(), String>) {
        let task = TaskId::of_content(content.digest);
        let (origin, credential) = match (&content.url, sign_in) {
            (Some(url), _) => match self.same_file(url, task).await {
                Ok(origin) => (origin, None),
                Err(why) => return (content.digest, Err(why)),
            },
            (None, Some(sign_in)) => (origin, Some(sign_in.credential().await)),
            (None, None) => (origin, None),
        };
        let want = Want {
            task,
            origin,
            size: Some(content.size),
            credential,
            purpose: Purpose::Preheat,
            excerpt: None,
            sizing: Sizing::Unneeded,
        };
        // It must not be evicted between its commit and its pin.
        if let Some(until) = until
            && let Err(why) = self.pin(task, until).await
        {
            return (content.digest, Err(why));
        }
        let end = self.swarm.have(want).await;
        if end.is_err() && until.is_some() {
            let store = self.store.clone();
            // It expires by itself if this fails.
            let _ = tokio::task::spawn_blocking(move || store.unpin(&task)).await;
        }
        (content.digest, end.map_err(|error| chain(&error)))
    }

    /// Where a file is, if it still is the version that was found.
    async fn same_file(&self, url: &str, task: TaskId) -> Result<Origin, String> {
        match self.files.ahead(url).await {
            Ok(file) if file.task == task => Ok(file.origin),
            Ok(_) => Err("the file has changed since the preheat began".to_owned()),
            Err(error) => Err(chain(&error)),
        }
    }

    async fn pin(&self, task: TaskId, until: SystemTime) -> Result<(), String> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || store.pin(task, until)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(cause)) => Err(format!("it can't be pinned: {}", chain(&cause))),
            Err(_) => Err("the node is shutting down".to_owned()),
        }
    }
}
