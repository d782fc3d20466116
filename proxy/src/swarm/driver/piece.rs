//! Fetching a piece from a parent into a download.

use std::{io, sync::Arc, time::Instant};

use darter_api::HostId;
use tokio::sync::mpsc;

use super::{Input, Shared, download::Download, metrics::From};
use crate::{
    limits::Class,
    swarm::core::event::{Event, PieceFailure, RequestId},
    transfer::{
        FetchError,
        client::{Sink, Wanted},
    },
};

/// One request.
pub(super) struct PieceRun {
    pub(super) shared: Arc<Shared>,
    pub(super) download: Arc<Download>,
    pub(super) request: RequestId,
    pub(super) host: HostId,
    pub(super) wanted: Wanted,
}

impl PieceRun {
    /// Fetches and seals; the event that ends the request. Cancel-safe: verified groups
    /// that were written stay written.
    pub(super) async fn run(self) -> Event {
        let request = self.request;
        let fetched = match self.wanted.class {
            Class::Foreground => self.fetch().await,
            Class::Background => {
                let fetched = self.shared.turns.behind(self.fetch()).await;
                fetched.unwrap_or(Err(FetchError::Busy))
            }
        };
        match fetched {
            Ok(()) => Event::PieceStored(request),
            Err(error) => {
                let parent = self.host.short();
                tracing::debug!(task = %self.wanted.task, piece = %self.wanted.index, parent, cause = &error as &dyn std::error::Error, "a piece did not come");
                if matches!(error, FetchError::Store(_)) {
                    self.shared.store_failed(&self.download);
                }
                let failure = failure(&error);
                Event::PieceFailed { request, failure }
            }
        }
    }

    async fn fetch(&self) -> Result<(), FetchError> {
        let mut sink = Writing {
            shared: &self.shared,
            download: &self.download,
            request: self.request,
            inbox: &self.shared.inbox,
        };
        let trust = &self.shared.trust;
        let fetched = self
            .shared
            .client
            .fetch(&self.wanted, |grant| trust.covers(grant), &mut sink)
            .await?;
        self.download.learn_media_type(fetched.media_type);
        let index = self.wanted.index;
        if let Some(end) = fetched.end {
            let (task, past) = (self.wanted.task, end.piece());
            // Where two signers contradict each other the digest will tell who is wrong; what both
            // have is kept.
            if self.download.ends(end, false) {
                let ends = Input::Event(Event::Ends { task, past });
                let _ = self.shared.inbox.send(ends).await;
                if index >= past {
                    self.shared.verifiers.advance(&self.download);
                    return Ok(());
                }
            }
        }
        let expected = self.download.piece_range(index);
        if fetched.bytes != expected.end - expected.start {
            self.shared.verifiers.advance(&self.download);
            return Err(FetchError::OtherEnd);
        }
        self.download
            .partial
            .seal(
                index,
                fetched.bytes,
                &fetched.groups,
                fetched.proof.as_ref(),
            )
            .map_err(FetchError::Store)?;
        let Wanted { task, lengths, .. } = &self.wanted;
        self.download.sealed(index, task.proves_itself(lengths));
        self.shared.metrics.piece(From::Peer);
        self.shared.verifiers.advance(&self.download);
        Ok(())
    }
}

fn failure(error: &FetchError) -> PieceFailure {
    match error {
        FetchError::Busy => PieceFailure::Busy,
        FetchError::NotHeld(_) => PieceFailure::NotHeld,
        FetchError::Unreachable(_) => PieceFailure::Unreachable,
        FetchError::Stalled(_) => PieceFailure::Stalled,
        // It has the word of a signer that this host has not met.
        FetchError::OtherEnd => PieceFailure::NotHeld,
        FetchError::Rot(_) => PieceFailure::Rot,
        FetchError::Store(_) => PieceFailure::Store,
    }
}

struct Writing<'a> {
    shared: &'a Shared,
    download: &'a Arc<Download>,
    request: RequestId,
    inbox: &'a mpsc::Sender<Input>,
}

impl Sink for Writing<'_> {
    fn begun(&mut self) {
        // A hint for the core; a full inbox has better things to do.
        let begun = Input::Event(Event::PieceBegun(self.request));
        let _ = self.inbox.try_send(begun);
    }

    fn verified(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let begin = Instant::now();
        self.download.partial.write(offset, bytes)?;
        self.shared.limits.wrote(begin.elapsed());
        let length = bytes.len() as u64;
        self.shared.metrics.bytes(From::Peer, length);
        self.download.readable(offset..offset + length);
        Ok(())
    }
}
