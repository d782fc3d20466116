//! How downloads end: committed, refuted, failed, or wanted by nobody.

use std::{io, sync::Arc};

use darter_api::{
    NodeKey, PieceSet, TaskId,
    session::{Complaint, LeaseEnd, PeerMessage},
};

use super::Actor;
use crate::{
    content::ReadError,
    source::SourceError,
    swarm::{
        core::event::{DownloadFailure, Event},
        driver::{
            Completion, Input, blocking, closing::close, download::Download, growth::Verdict,
            metrics::Reason,
        },
    },
};

impl Actor {
    pub(super) fn released(&mut self, task: TaskId) {
        let Some(download) = self.shared.live.download(&task) else {
            return;
        };
        // What is all there is committed, wanted or not.
        let completes = download.is_whole() && download.verdict() != Verdict::Bad;
        if !completes && self.shared.live.stop_if_unwanted(&task) {
            self.handle(Event::Stop { task });
        }
    }

    pub(super) fn store_failed(&mut self, download: &Arc<Download>) {
        let task = download.task;
        tracing::warn!(%task, "the store does not take a download; its clients are served without");
        self.shared.metrics.failed(Reason::Store);
        self.shared.live.remove(download);
        if self.sources.contains_key(&task) {
            self.stop_source(&task);
            let why = LeaseEnd::NotNeeded;
            self.handle(Event::SourceFailed { task, why });
        }
        self.handle(Event::Stop { task });
    }

    pub(super) fn complete(&mut self, task: &TaskId) {
        let Some(download) = self.shared.live.download(task) else {
            return;
        };
        self.shared.verifiers.advance(&download);
        let (inbox, tasks) = (self.shared.inbox.clone(), self.shared.tasks.clone());
        let key = Arc::clone(&self.shared.key);
        self.shared.tasks.spawn("complete", async move {
            let result = match download.judged().await {
                Verdict::Good => {
                    let (key, one) = (Arc::clone(&key), Arc::clone(&download));
                    let commit = blocking(&tasks, "commit", move || commit(&key, &one));
                    match commit.await {
                        Ok(stored) => Completion::Committed(stored),
                        Err(cause) => Completion::Failed(cause),
                    }
                }
                Verdict::Bad => Completion::Corrupt,
                Verdict::Pending => Completion::Void,
            };
            let _ = inbox.send(Input::Completed { download, result }).await;
        });
    }

    pub(super) fn completed(&mut self, download: &Arc<Download>, result: Completion) {
        let task = download.task;
        match result {
            Completion::Committed(stored) => {
                self.shared.metrics.completed.inc();
                self.shared.live.remove(download);
                download.settle();
                self.handle(Event::Committed { task });
                if let Some(size) = download.size().filter(|_| task.is_open()) {
                    let claims = &self.shared.claims;
                    claims.put(task.closed(), &download.origin, size);
                }
                // With a size it is another task.
                stored.into_iter().for_each(|stored| self.handle(*stored));
                self.name_liars(download);
            }
            Completion::Failed(cause) => {
                tracing::error!(%task, %cause, "a download can't be committed");
                self.shared.metrics.failed(Reason::Store);
                self.shared.live.remove(download);
                download.settle();
                let tasks = vec![task];
                self.handle(Event::Evicted { tasks });
            }
            Completion::Corrupt => self.corrupt(download),
            Completion::Void => {}
        }
    }

    /// What is here is not the content: all of it is read afresh, a few times.
    pub(super) fn corrupt(&mut self, download: &Arc<Download>) {
        let task = download.task;
        tracing::error!(%task, "a download does not match its digest; all of it is taken back");
        let pieces = PieceSet::full(download.lengths.pieces());
        let own = self.shared.key.id();
        download.signers.keep(&download.partial, &own);
        if let Err(cause) = download.partial.unseal(&pieces) {
            tracing::error!(%task, %cause, "the store does not take pieces back");
        }
        download.taken_back(&pieces);
        self.handle(Event::Corrupt { task, pieces });
        self.released(task);
    }

    /// Tells who signed what the right bytes refute.
    fn name_liars(&mut self, download: &Download) {
        let task = download.task;
        for neighbour in download.signers.liars(&download.partial) {
            tracing::warn!(%task, host = %neighbour, "a host signed pieces that are not the content's");
            self.shared.metrics.liars.inc();
            self.handle(Event::Say(PeerMessage::Report {
                neighbour,
                task,
                complaint: Complaint::Rot,
            }));
        }
    }

    pub(super) fn fail(&mut self, task: &TaskId, why: DownloadFailure) {
        self.stop_source(task);
        let Some(download) = self.shared.live.download(task) else {
            return;
        };
        let (reason, error) = match why {
            DownloadFailure::Corrupt => (Reason::Corrupt, ReadError::Corrupt),
            DownloadFailure::Forbidden => {
                let cause = Arc::new(SourceError::Forbidden);
                (Reason::Refused, ReadError::Download(cause))
            }
            DownloadFailure::Source(end) => {
                let cause = download.source_error();
                let cause = cause.unwrap_or_else(|| {
                    Arc::new(SourceError::Protocol(
                        "no peer gives it, and the source was not read",
                    ))
                });
                (reason(end), ReadError::Download(cause))
            }
        };
        self.shared.metrics.failed(reason);
        self.shared.live.remove(&download);
        if download.is_doubted() {
            self.drop_doubted(&download);
        }
        download.end(error);
    }

    /// Who begins it again is not to go on with what may be why it failed.
    fn drop_doubted(&mut self, download: &Download) {
        let task = download.task;
        let pieces = PieceSet::full(download.lengths.pieces());
        if let Err(cause) = download.partial.unseal(&pieces) {
            tracing::warn!(%task, %cause, "the store does not take pieces back");
        }
        let tasks = vec![task];
        self.pending.push_back(Event::Evicted { tasks });
    }
}

/// What else the core is told once a good download is committed.
fn commit(key: &NodeKey, download: &Download) -> io::Result<Option<Box<Event>>> {
    match download.task.is_open() {
        true => close(key, download).map(|stored| stored.map(Box::new)),
        false => download.partial.clone().commit().map(|()| None),
    }
}

fn reason(end: LeaseEnd) -> Reason {
    match end {
        LeaseEnd::Refused => Reason::Refused,
        LeaseEnd::Missing => Reason::Missing,
        LeaseEnd::WrongSize => Reason::WrongSize,
        LeaseEnd::Unreachable | LeaseEnd::NotNeeded => Reason::Unreachable,
    }
}
