//! Manifests whose size nobody tells: they are short, so that they are read whole before anything
//! else is done with them.
//!
//! Only when a body matched its digest does it become a content like others, stated by this host,
//! so that peers can have it. Its size is remembered then. Failure: what the store does not take is
//! given from memory to those who wait. Nothing of what is wrong is kept; the next client tries
//! afresh.

use std::{io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use darter_api::{Digest, Lengths, PieceSet};
use futures::StreamExt as _;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    FULL_FOR, Input, Shared, blocking,
    body::{begin, skip_to},
    cutter::{Chunk, Cutter, self_lease},
    download::Download,
    live::{Entry, Phase},
    metrics::From,
    order::Order,
    waits::class_of,
};
use crate::{
    content::{MAX_MANIFEST_BYTES, OpenError, Want},
    limits::Direction,
    source::SourceError,
    swarm::core::event::Event,
};

/// Bytes that are written at once; pieces are a multiple of it.
const STEP: usize = 64 * 1024;

/// So many are in memory at a time, those among them that the store does not take: 256 MiB of the
/// largest.
pub(super) const MOST_HELD: usize = 64;
/// For others to be read, for who comes when there are as many as may be.
const PATIENCE: Duration = Duration::from_secs(5);

/// A content that matches its digest, in memory.
#[derive(Debug, Clone)]
pub(super) struct Held {
    _place: Arc<OwnedSemaphorePermit>,
    pub(super) bytes: Bytes,
    pub(super) media_type: Option<String>,
}

impl Shared {
    /// Reads all of a manifest.
    pub(super) async fn read_alone(
        &self,
        want: &Want,
        entry: &Entry,
        media_type: Option<String>,
    ) -> Result<Phase, OpenError> {
        let place = self.place().await?;
        let digest = *want.task.digest();
        let source = |error| OpenError::Source(Arc::new(error));
        self.metrics.source_reads.inc();
        let body = begin(
            &*self.source,
            &digest,
            None,
            None,
            &entry.askers,
            &self.proven,
        );
        let body = body.await.map_err(source)?;
        let media_type = body.stat.media_type.clone().or(media_type);
        let mut stream = skip_to(body, 0);
        let class = class_of(want.purpose);
        let mut bytes = BytesMut::new();
        while let Some(item) = stream.next().await {
            let more = item.map_err(source)?;
            if (bytes.len() + more.len()) as u64 > MAX_MANIFEST_BYTES {
                return Err(source(SourceError::Protocol("it is too large")));
            }
            let length = more.len() as u64;
            self.limits.pass(Direction::Source, class, length).await;
            self.metrics.bytes(From::Source, length);
            bytes.extend_from_slice(&more);
        }
        if Digest::of(digest.algorithm(), &bytes) != digest {
            let what = "the body does not match its digest";
            return Err(source(SourceError::Protocol(what)));
        }
        let length = bytes.len() as u64;
        self.claims.put(want.task, &want.origin, length);
        let bytes = bytes.freeze();
        Ok(Phase::Held(Held {
            _place: Arc::new(place),
            bytes,
            media_type,
        }))
    }

    /// A place in memory for a manifest.
    async fn place(&self) -> Result<OwnedSemaphorePermit, OpenError> {
        let place = Arc::clone(&self.manifests).acquire_owned();
        match tokio::time::timeout(PATIENCE, place).await {
            Ok(place) => place.map_err(|_| OpenError::ShuttingDown),
            Err(_) => Err(OpenError::Store(Arc::new(io::Error::other(
                "as many manifests of unknown size are in memory as may be",
            )))),
        }
    }

    /// Makes it one of the store's, if that takes it. It is not given up in the middle: who begins
    /// the same content again would write to the same file.
    pub(super) async fn keep(self: &Arc<Self>, want: Want, entry: &Entry, held: Held) -> Phase {
        let given = Phase::Held(held.clone());
        if self.store.is_closed() {
            return given;
        }
        let (class, length) = (class_of(want.purpose), held.bytes.len() as u64);
        self.limits.pass(Direction::Disk, class, length).await;
        let (shared, askers) = (Arc::clone(self), Arc::clone(&entry.askers));
        let task = want.task;
        let written = blocking(&self.tasks, "keeping", move || {
            shared.write(want, askers, &held)
        });
        match written.await {
            Ok(stored) => {
                self.metrics.completed.inc();
                let _ = self.inbox.send(Input::Event(stored)).await;
                Phase::Stored
            }
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Phase::Stored,
            Err(cause) => {
                tracing::warn!(%task, %cause, "the store does not take a content; it is given without");
                given
            }
        }
    }

    fn write(&self, want: Want, askers: Arc<super::Askers>, held: &Held) -> io::Result<Event> {
        let Want {
            task,
            origin,
            purpose,
            ..
        } = want;
        let lengths = Lengths::of(held.bytes.len() as u64).map_err(io::Error::other)?;
        let media_type = held.media_type.as_deref();
        let partial = self.store.begin(task, lengths, Some(&origin), media_type)?;
        let download = Arc::new(Download::new(
            task,
            lengths,
            origin.clone(),
            purpose,
            partial,
            askers,
            held.media_type.clone(),
        ));
        let written = self.cut(&download, &held.bytes);
        written.inspect_err(|_| self.store.close_for(FULL_FOR))?;
        download.partial.clone().commit()?;
        Ok(Event::Stored {
            task,
            lengths,
            held: PieceSet::full(lengths.pieces()),
            origin: Some(origin),
        })
    }

    fn cut(&self, download: &Arc<Download>, bytes: &Bytes) -> io::Result<()> {
        let pieces = download.lengths.pieces();
        let grant = Arc::new(self_lease(&self.key, download, 0..pieces));
        let order = Arc::new(Order::new(PieceSet::full(pieces), grant));
        let (key, limits) = (Arc::clone(&self.key), self.limits.clone());
        let mut cutter = Cutter::new(Arc::clone(download), order, key, limits);
        for start in (0..bytes.len()).step_by(STEP) {
            cutter.take(&Chunk {
                offset: start as u64,
                bytes: bytes.slice(start..bytes.len().min(start + STEP)),
            })?;
        }
        Ok(())
    }
}
