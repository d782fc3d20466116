//! Fetching one piece from one parent, believing nothing.
//!
//! The proof is checked first, then the group digests against its statement, then every
//! group as it arrives; only verified groups leave this module. A small task's piece
//! leaves it only whole, checked against the content's own digest. Dropping a fetch
//! closes its connection.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::{Buf as _, Bytes, BytesMut};
use darter_api::{
    Grant, HostId, Lengths, PieceDigest, PieceIndex, Proof, ProofError, TaskId,
    proof::GroupDigest,
    wire::{WireError, v1},
};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use prost::Message as _;

use super::{HOST_HEADER, MAX_PROOF_BYTES, MEDIA_TYPE_HEADER, PREHEAT, PURPOSE_HEADER, piece_path};
use crate::limits::{Class, Direction, Limits};

/// For a connection to a parent to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A piece did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// All its slots and its queue are full.
    #[error("the parent is busy")]
    Busy,
    /// It does not hold the piece.
    #[error("the parent does not hold the piece ({0})")]
    NotHeld(StatusCode),
    /// It can't be reached, or the connection broke.
    #[error("the parent can't be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No byte came in time.
    #[error("the parent sent nothing for {0:?}")]
    Stalled(Duration),
    /// What it sent is wrong.
    #[error("the parent sent what can't be believed: {0}")]
    Rot(#[source] Rot),
    /// The own store did not take it.
    #[error("the piece can't be stored")]
    Store(#[source] io::Error),
}

/// What is wrong with a piece.
#[derive(Debug, thiserror::Error)]
pub enum Rot {
    /// The proof does not hold.
    #[error("its proof does not hold")]
    Proof(#[source] ProofError),
    /// The proof can't be read.
    #[error("its proof can't be read")]
    Wire(#[source] WireError),
    /// The head or the body has another length than the geometry says.
    #[error("it has the wrong length")]
    Length,
    /// The group digests are not what was stated.
    #[error("its group digests are not those of the statement")]
    Groups,
    /// A group does not match its digest.
    #[error("group {0} does not match its digest")]
    Group(u32),
    /// A small content does not match its own digest.
    #[error("the content does not match its digest")]
    Content,
}

/// A piece that came, whole and verified.
#[derive(Debug)]
pub struct Fetched {
    /// What proves it; `None` for small tasks.
    pub proof: Option<Proof>,
    /// Its groups' digests.
    pub groups: Vec<GroupDigest>,
    /// Media type of a manifest.
    pub media_type: Option<String>,
    /// Its bytes.
    pub bytes: u64,
    /// From the request to the last byte.
    pub elapsed: Duration,
}

/// What is to be fetched.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The parent's peer port.
    pub address: SocketAddr,
    /// The task.
    pub task: TaskId,
    /// Its geometry.
    pub lengths: Lengths,
    /// The piece.
    pub index: PieceIndex,
    /// Give up when no byte arrives for so long.
    pub stall_after: Duration,
    /// Whether somebody waits for it.
    pub class: Class,
}

/// Takes what arrives: the offset in the content, and verified bytes.
pub trait Sink: Send {
    /// The parent has answered.
    fn begun(&mut self) {}
    /// The next verified bytes.
    ///
    /// # Errors
    /// When they can't be stored.
    fn verified(&mut self, offset: u64, bytes: Bytes) -> io::Result<()>;
}

/// Fetches pieces over kept connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PieceClient {
    client: Client<HttpConnector, Empty<Bytes>>,
    own: String,
    limits: Limits,
}

impl PieceClient {
    /// For this host, within its limits.
    pub fn new(own: HostId, limits: Limits) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(16)
            .build(connector);
        Self {
            client,
            own: own.to_string(),
            limits,
        }
    }

    /// Fetches a piece; verified groups go to `sink` as they arrive. `trusted` says
    /// whether a grant's granter counts.
    ///
    /// # Errors
    /// Why it did not come, or not whole.
    pub async fn fetch(
        &self,
        wanted: &Wanted,
        trusted: impl FnOnce(&Grant) -> bool + Send,
        sink: &mut impl Sink,
    ) -> Result<Fetched, FetchError> {
        let begin = Instant::now();
        let mut body = Reply {
            body: self.request(wanted).await?,
            pending: BytesMut::new(),
            stall_after: wanted.stall_after,
            limits: &self.limits,
            class: wanted.class,
        };
        let media_type = body.media_type();
        sink.begun();
        let (proof, groups) = match body.head(wanted, trusted).await? {
            Some((proof, groups)) => {
                body.groups(wanted, &groups, sink).await?;
                (Some(proof), groups)
            }
            None => {
                body.small(wanted, sink).await?;
                (None, Vec::new())
            }
        };
        Ok(Fetched {
            proof,
            groups,
            media_type,
            bytes: wanted.lengths.piece_bytes(wanted.index),
            elapsed: begin.elapsed(),
        })
    }

    async fn request(&self, wanted: &Wanted) -> Result<http::Response<Incoming>, FetchError> {
        let path = piece_path(&wanted.task, wanted.index, &wanted.lengths);
        let uri: Uri = format!("http://{}{path}", wanted.address)
            .parse()
            .map_err(|cause| FetchError::Unreachable(Box::new(cause)))?;
        let mut request = Request::get(uri).header(HOST_HEADER, &self.own);
        if wanted.class == Class::Background {
            request = request.header(PURPOSE_HEADER, PREHEAT);
        }
        let request = request
            .body(Empty::new())
            .map_err(|cause| FetchError::Unreachable(Box::new(cause)))?;
        let reply = tokio::time::timeout(wanted.stall_after, self.client.request(request))
            .await
            .map_err(|_| FetchError::Stalled(wanted.stall_after))?
            .map_err(|cause| FetchError::Unreachable(Box::new(cause)))?;
        match reply.status() {
            StatusCode::OK => Ok(reply),
            StatusCode::SERVICE_UNAVAILABLE => Err(FetchError::Busy),
            other => Err(FetchError::NotHeld(other)),
        }
    }
}

/// A reply that is read in exact portions.
struct Reply<'a> {
    body: http::Response<Incoming>,
    pending: BytesMut,
    stall_after: Duration,
    limits: &'a Limits,
    class: Class,
}

impl Reply<'_> {
    fn media_type(&self) -> Option<String> {
        let value = self.body.headers().get(MEDIA_TYPE_HEADER)?;
        value
            .to_str()
            .ok()
            .filter(|text| text.len() <= 255)
            .map(str::to_owned)
    }

    /// Exactly `length` bytes, without a copy where a frame has them all.
    async fn take(&mut self, length: usize) -> Result<Bytes, FetchError> {
        while self.pending.len() < length {
            let frame = tokio::time::timeout(self.stall_after, self.body.frame())
                .await
                .map_err(|_| FetchError::Stalled(self.stall_after))?
                .ok_or(FetchError::Rot(Rot::Length))?
                .map_err(|cause| FetchError::Unreachable(Box::new(cause)))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            // Nothing more is read until these have passed, so that the parent waits.
            self.limits
                .pass(Direction::Download, self.class, data.len() as u64)
                .await;
            if self.pending.is_empty() {
                self.pending = BytesMut::from(data);
            } else {
                self.pending.extend_from_slice(&data);
            }
        }
        Ok(self.pending.split_to(length).freeze())
    }

    /// Returns when so many bytes may be written.
    async fn write_soon(&self, bytes: usize) {
        self.limits
            .pass(Direction::Disk, self.class, bytes as u64)
            .await;
    }

    async fn head(
        &mut self,
        wanted: &Wanted,
        trusted: impl FnOnce(&Grant) -> bool,
    ) -> Result<Option<(Proof, Vec<GroupDigest>)>, FetchError> {
        let rot = FetchError::Rot;
        let length = self.take(4).await?.get_u32() as usize;
        if length == 0 && wanted.lengths.is_small() {
            return Ok(None);
        }
        if length == 0 || length > MAX_PROOF_BYTES {
            return Err(rot(Rot::Length));
        }
        let proof = self.take(length).await?;
        let proof =
            v1::Proof::decode(proof).map_err(|_| rot(Rot::Wire(WireError::Invalid("proof"))))?;
        let proof = Proof::try_from(proof).map_err(|cause| rot(Rot::Wire(cause)))?;
        let stated = proof
            .verify(&wanted.task, &wanted.lengths, wanted.index, trusted)
            .map_err(|cause| rot(Rot::Proof(cause)))?;
        let raw = self
            .take(wanted.lengths.groups(wanted.index) as usize * 32)
            .await?;
        let (groups, _) = raw.as_chunks::<32>();
        let groups: Vec<GroupDigest> = groups.iter().map(|raw| GroupDigest(*raw)).collect();
        if PieceDigest::of(&groups) != stated {
            return Err(rot(Rot::Groups));
        }
        Ok(Some((proof, groups)))
    }

    async fn groups(
        &mut self,
        wanted: &Wanted,
        groups: &[GroupDigest],
        sink: &mut impl Sink,
    ) -> Result<(), FetchError> {
        for (number, digest) in groups.iter().enumerate() {
            let range = wanted.lengths.group_range(wanted.index, number as u32);
            let bytes = self.take((range.end - range.start) as usize).await?;
            if GroupDigest::of(&bytes) != *digest {
                return Err(FetchError::Rot(Rot::Group(number as u32)));
            }
            self.write_soon(bytes.len()).await;
            sink.verified(range.start, bytes)
                .map_err(FetchError::Store)?;
        }
        Ok(())
    }

    async fn small(&mut self, wanted: &Wanted, sink: &mut impl Sink) -> Result<(), FetchError> {
        let length = wanted.lengths.piece_bytes(wanted.index) as usize;
        let bytes = self.take(length).await?;
        let digest = wanted.task.digest();
        if darter_api::Digest::of(digest.algorithm(), &bytes) != *digest {
            return Err(FetchError::Rot(Rot::Content));
        }
        self.write_soon(bytes.len()).await;
        sink.verified(0, bytes).map_err(FetchError::Store)
    }
}
