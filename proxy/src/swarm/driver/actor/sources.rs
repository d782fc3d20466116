//! Which sources are being read, and by which order.

use std::sync::Arc;

use darter_api::{PieceSet, TaskId, session::LeaseEnd};
use tokio::task::AbortHandle;

use super::Actor;
use crate::swarm::{
    core::event::{Authority, Event},
    driver::{
        Input,
        cutter::self_lease,
        download::Download,
        order::Order,
        source::{RunError, SourceRun},
    },
};

/// A source being read.
pub(super) struct Reading {
    id: u64,
    order: Arc<Order>,
    download: Arc<Download>,
    worker: AbortHandle,
}

impl Actor {
    pub(super) fn read_source(&mut self, task: TaskId, pieces: PieceSet, authority: Authority) {
        let Some(download) = self.shared.live.download(&task) else {
            let why = LeaseEnd::NotNeeded;
            self.pending.push_back(Event::SourceFailed { task, why });
            return;
        };
        let Some(first) = pieces.first() else {
            self.stop_source(&task);
            return;
        };
        let grant = match authority {
            Authority::Granted(grant) => grant,
            Authority::Own => {
                Arc::new(self_lease(&self.shared.key, &download, first..pieces.end()))
            }
        };
        if let Some(reading) = self.sources.get(&task)
            && Arc::ptr_eq(&reading.download, &download)
        {
            reading.order.change(pieces, grant);
            return;
        }
        self.stop_source(&task);
        self.start_source(&download, Arc::new(Order::new(pieces, grant)));
    }

    fn start_source(&mut self, download: &Arc<Download>, order: Arc<Order>) {
        let id = self.shared.next_id();
        let task = download.task;
        let run = SourceRun {
            source: Arc::clone(&self.shared.source),
            proven: self.shared.proven.clone(),
            download: Arc::clone(download),
            order: Arc::clone(&order),
            key: Arc::clone(&self.shared.key),
            limits: self.shared.limits.clone(),
            metrics: self.shared.metrics.clone(),
            verifiers: self.shared.verifiers.clone(),
            inbox: self.shared.inbox.clone(),
        };
        let inbox = self.shared.inbox.clone();
        let worker = self.shared.tasks.spawn("source", async move {
            let result = run.run().await;
            let _ = inbox.send(Input::SourceEnded { task, id, result }).await;
        });
        let reading = Reading {
            id,
            order,
            download: Arc::clone(download),
            worker: worker.abort_handle(),
        };
        self.sources.insert(task, reading);
    }

    pub(super) fn stop_source(&mut self, task: &TaskId) {
        if let Some(reading) = self.sources.remove(task) {
            reading.worker.abort();
        }
    }

    pub(super) fn source_ended(&mut self, task: TaskId, id: u64, result: Result<(), RunError>) {
        if self
            .sources
            .get(&task)
            .is_none_or(|reading| reading.id != id)
        {
            return;
        }
        let Some(Reading {
            order, download, ..
        }) = self.sources.remove(&task)
        else {
            return;
        };
        match result {
            // More was ordered when the last piece had just been read.
            Ok(()) if order.next(0).is_some() => self.start_source(&download, order),
            Ok(()) => {}
            Err(RunError::Source(why)) => self.handle(Event::SourceFailed { task, why }),
            // Its digest is about to say so.
            Err(RunError::Refuted) if download.is_whole() => {}
            Err(RunError::Refuted) => self.corrupt(&download),
            Err(RunError::Store(cause)) => {
                tracing::warn!(%task, %cause, "a piece from the source can't be stored");
                self.shared.store_failed(&download);
                // Its readers go on by themselves: the core's failure is not theirs.
                self.shared.live.remove(&download);
                let why = LeaseEnd::NotNeeded;
                self.handle(Event::SourceFailed { task, why });
            }
        }
    }
}
