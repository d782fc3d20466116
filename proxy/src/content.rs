//! Contents as the fronts see them: something with a size that can be read from.
//!
//! [`crate::mirror`] and [`crate::intercept`] know the swarm and the store only by
//! [`Contents`].

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use darter_api::{
    Lengths, Origin, Repository, TaskId, UpstreamName,
    session::{Observation, Purpose, Reference},
};
use darter_runtime::server::span::Span;
use futures::{
    future::BoxFuture,
    stream::{BoxStream, StreamExt as _},
};

use crate::{credential::Credential, source::SourceError};

/// A wish to read a content.
#[derive(Debug, Clone)]
pub struct Want {
    /// Which.
    pub task: TaskId,
    /// Where it can be read, if it has to be.
    pub origin: Origin,
    /// Its size, where the caller knows it.
    pub size: Option<u64>,
    /// The caller's own credential for the origin.
    pub credential: Option<Credential>,
    /// Why.
    pub purpose: Purpose,
    /// How little of it will be read, where that is known beforehand; `None` is all of it, or all
    /// from some place on.
    pub excerpt: Option<Excerpt>,
    /// Whether the caller waits for the size, where nobody tells it.
    pub sizing: Sizing,
}

/// Whether who opens a content waits for a size that is not known before all of it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizing {
    /// It does without.
    Unneeded,
    /// It can do without, but better with it, and waits for so long.
    Within(Duration),
    /// It can do nothing without, and waits for as long as it takes.
    Needed,
}

/// Some ranges of a content, all of them with an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Excerpt {
    /// How many ranges.
    pub ranges: usize,
    /// How many bytes in all of them.
    pub bytes: u64,
}

/// Where the bytes of a response came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provenance {
    /// The store held it whole before anyone asked.
    Cache,
    /// It is, or was, being downloaded.
    Download,
}

/// A content that is being given.
#[derive(Clone)]
pub struct Content {
    /// Size in bytes, as far as anybody knows it: always, where the want says [`Sizing::Needed`].
    pub size: Option<u64>,
    /// Media type of a manifest.
    pub media_type: Option<String>,
    /// Where its bytes come from.
    pub provenance: Provenance,
    /// Gives the bytes; keeps the content from being evicted and its download going.
    pub reader: Arc<dyn Reader>,
}

impl Content {
    /// All its bytes, however many they turn out to be.
    pub fn all(&self) -> Range<u64> {
        0..self.size.unwrap_or(u64::MAX)
    }
}

/// What those who wait for a content's bytes may hope for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Bytes of it came within the last two seconds.
    Arriving,
    /// Peers are asked for it.
    Peers,
    /// Nothing but a source that gives nothing, or it is not being got at all.
    Nothing,
}

/// Manifests are no larger (containerd's limit); more is not read.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// Reads ranges of a content, as it grows.
pub trait Reader: Send + Sync + 'static {
    /// The bytes of `range`, in order, each as soon as it is verified (or came from the
    /// source itself). The last 64 KiB of the content wait for its own digest. An error ends
    /// the stream: what came before it was right. Dropping the stream is how a reader
    /// goes away.
    fn spans(&self, range: Range<u64>) -> BoxStream<'static, Result<Span, ReadError>>;

    /// The same, in memory.
    fn read(&self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, ReadError>> {
        let spans = self.spans(range);
        let read = |span: Span| {
            span.read()
                .map_err(|cause| ReadError::Store(Arc::new(cause)))
        };
        spans.map(move |span| span.and_then(read)).boxed()
    }

    /// Whether all of it lies on this node's disk, so that reading it again costs nobody
    /// anything.
    fn is_here(&self) -> bool {
        false
    }
}

/// A content can't be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// Nobody has it and the source does not give it.
    #[error("neither a peer nor the source gives it")]
    Source(#[source] Arc<SourceError>),
    /// The node can't take it: the store fails and it can't be streamed.
    #[error("the store can't take it")]
    Store(#[source] Arc<std::io::Error>),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// A body ends before its end.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The download failed for good.
    #[error("the download failed")]
    Download(#[source] Arc<SourceError>),
    /// The content does not match its digest.
    #[error("the content does not match its digest")]
    Corrupt,
    /// The store can't be read.
    #[error("the store can't be read")]
    Store(#[source] Arc<std::io::Error>),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// All contents this node can get.
pub trait Contents: Send + Sync + 'static {
    /// Opens a content: from the store, or by joining its download, or by starting
    /// one. Returns as soon as it is known that there is such a content, and how large it is where
    /// its source tells, or the want waits for it. Dropping the future gives up.
    fn open(&self, want: Want) -> BoxFuture<'static, Result<Content, OpenError>>;

    /// Whether the store holds it whole: its size and media type.
    fn stored(&self, task: &TaskId) -> Option<(u64, Option<String>)>;

    /// How the getting of a content goes that was opened, or is being opened.
    fn progress(&self, task: &TaskId) -> Progress;

    /// These will be wanted soon; nothing is downloaded yet, but their sizes and their order
    /// are remembered and the scheduler is told. The first blob is a manifest's configuration.
    fn interest(&self, tasks: Vec<(TaskId, Lengths)>, origin: Origin);

    /// A client that may read this content does: small contents that its manifest names after
    /// it ([`Contents::interest`]) are got before the client asks for them.
    fn ahead(&self, read: &TaskId, origin: &Origin, credential: Option<&Credential>);

    /// Tells the scheduler what an upstream said.
    fn observed(&self, observation: Observation);

    /// Asks the scheduler what any host has observed, at most a second; for when the
    /// upstream can't be reached.
    fn lookup(
        &self,
        upstream: UpstreamName,
        repository: Repository,
        reference: Reference,
    ) -> BoxFuture<'static, Option<Observation>>;
}
