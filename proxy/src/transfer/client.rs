//! Fetching one piece from one parent, believing nothing.
//!
//! The proof is checked first, then the group digests against its statement, then every
//! group as it arrives; only verified groups leave this module. What its own digest proves
//! ([`TaskId::proves_itself`]) comes without a proof, and leaves it only whole, checked against that
//! digest. Of a content whose size was not known when it began, where it ends comes between the
//! piece's proof and its group digests, and is checked before these; what lies past it is empty.
//! Dropping a fetch closes its connection.

use std::{
    io,
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use bytes::Buf as _;
use darter_api::{
    End, Grant, HostId, Lengths, PieceDigest, PieceIndex, Proof, ProofError, TaskId,
    lengths::GROUP_BYTES,
    proof::GroupDigest,
    wire::{WireError, v1},
};
use darter_runtime::tls::Connector;
use http::StatusCode;
use prost::Message as _;
use tokio::time::timeout;

mod groups;

use super::{
    HOST_HEADER, MAX_PROOF_BYTES, PREHEAT, PURPOSE_HEADER,
    grants::Grants,
    parents::{Connection, Head, Parents},
    piece_path,
};
use crate::limits::{Class, Direction, Limits};

pub use groups::{GroupsReply, GroupsWanted};

/// For what the kernel has to reach us.
const A_MOMENT: Duration = Duration::from_millis(100);

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
    /// By its signer's word the content ends elsewhere than by another's.
    #[error("the content ends elsewhere by another signer's word")]
    OtherEnd,
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
    /// What proves it; `None` where its own digest does.
    pub proof: Option<Proof>,
    /// Its groups' digests.
    pub groups: Vec<GroupDigest>,
    /// Where the content ends, of one whose size was not known when it began: verified.
    pub end: Option<End>,
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
    fn verified(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

/// Fetches pieces over kept connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PieceClient {
    parents: Parents,
    own: String,
    limits: Limits,
    grants: Grants,
}

impl PieceClient {
    /// For this host, which connects to others so, within its limits.
    pub fn new(own: HostId, connector: Connector, limits: Limits) -> Self {
        Self {
            parents: Parents::new(connector),
            own: own.to_string(),
            limits,
            grants: Grants::default(),
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
        trusted: impl Fn(&Grant) -> bool + Send + Sync,
        sink: &mut impl Sink,
    ) -> Result<Fetched, FetchError> {
        let begin = Instant::now();
        let (connection, head) = self.request(wanted).await?;
        let mut body = Reply {
            connection,
            left: head.length,
            stall_after: wanted.stall_after,
            limits: self.limits.clone(),
            class: wanted.class,
        };
        sink.begun();
        let Stated {
            proof,
            end,
            groups,
            range,
        } = body.head(wanted, trusted, &self.grants).await?;
        let bytes = range.end - range.start;
        match &proof {
            Some(_) => body.groups(range, &groups, sink).await?,
            None if wanted.task.is_open() => {}
            None => body.small(wanted, sink).await?,
        }
        if body.left == 0 {
            self.parents
                .give_back(wanted.address, body.connection, &head);
        }
        Ok(Fetched {
            proof,
            groups,
            end,
            media_type: head.media_type,
            bytes,
            elapsed: begin.elapsed(),
        })
    }

    /// Connects to a parent's peer port ahead of the first request, unless a connection is kept.
    ///
    /// # Errors
    /// When it can't be reached.
    pub async fn prepare(&self, address: SocketAddr) -> io::Result<()> {
        self.parents.prepare(address).await
    }

    async fn request(&self, wanted: &Wanted) -> Result<(Connection, Head), FetchError> {
        let purpose = match wanted.class {
            Class::Foreground => String::new(),
            Class::Background => format!("{PURPOSE_HEADER}: {PREHEAT}\r\n"),
        };
        let request = format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\n{HOST_HEADER}: {}\r\n{purpose}\r\n",
            piece_path(&wanted.task, wanted.index, &wanted.lengths),
            wanted.address,
            self.own,
        );
        self.ask(wanted.address, wanted.stall_after, &request).await
    }

    /// Sends a request, and reads the head of a reply that is not a refusal.
    async fn ask(
        &self,
        address: SocketAddr,
        stall_after: Duration,
        request: &str,
    ) -> Result<(Connection, Head), FetchError> {
        let ask = self.parents.ask(address, request);
        let (mut connection, head) = timeout(stall_after, ask)
            .await
            .map_err(|_| FetchError::Stalled(stall_after))?
            .map_err(|cause| FetchError::Unreachable(Box::new(cause)))?;
        if head.status == StatusCode::OK {
            return Ok((connection, head));
        }
        let away = connection.read_away(&head);
        if let Ok(true) = timeout(stall_after, away).await {
            self.parents.give_back(address, connection, &head);
        }
        Err(match head.status {
            StatusCode::SERVICE_UNAVAILABLE => FetchError::Busy,
            other => FetchError::NotHeld(other),
        })
    }
}

/// What a parent says of a piece before its bytes: believed.
struct Stated {
    /// None where the content's own digest proves it, and past the content's end.
    proof: Option<Proof>,
    end: Option<End>,
    groups: Vec<GroupDigest>,
    /// The bytes that follow.
    range: Range<u64>,
}

/// A reply that is read in exact portions.
struct Reply {
    connection: Connection,
    /// Bytes of the body that were not taken.
    left: u64,
    stall_after: Duration,
    limits: Limits,
    class: Class,
}

impl Reply {
    /// Exactly `length` bytes, where they were received.
    async fn take(&mut self, length: usize) -> Result<&[u8], FetchError> {
        let left = self.left.checked_sub(length as u64);
        self.left = left.ok_or(FetchError::Rot(Rot::Length))?;
        loop {
            let got = self.read_towards(length).await?;
            if got == 0 {
                return Ok(self.connection.next(length));
            }
            // Nothing more is read until these have passed, so that the parent waits.
            self.limits.pass(Direction::Download, self.class, got).await;
        }
    }

    async fn read_towards(&mut self, length: usize) -> Result<u64, FetchError> {
        let read = self.connection.read_towards(length);
        let got = match timeout(self.stall_after, read).await {
            Ok(got) => got,
            // A few bytes don't wake us, but whoever sends them does not stall.
            Err(_) => timeout(A_MOMENT, self.connection.read_any(length))
                .await
                .map_err(|_| FetchError::Stalled(self.stall_after))?,
        };
        got.map_err(|cause| FetchError::Unreachable(Box::new(cause)))
    }

    /// Returns when so many bytes may be written.
    async fn write_soon(&self, bytes: u64) {
        self.limits.pass(Direction::Disk, self.class, bytes).await;
    }

    async fn head(
        &mut self,
        wanted: &Wanted,
        trusted: impl Fn(&Grant) -> bool,
        grants: &Grants,
    ) -> Result<Stated, FetchError> {
        let rot = FetchError::Rot;
        let Wanted {
            task,
            lengths,
            index,
            ..
        } = wanted;
        let proof = self.proof().await?;
        let end = match task.is_open() {
            true => self.end(task, &trusted, grants).await?,
            false => None,
        };
        let range = match &end {
            Some(end) => end.piece_range(*index),
            None => lengths.piece_range(*index),
        };
        let needs_none = task.proves_itself(lengths) || range.is_empty();
        let proof = match proof {
            None if needs_none => {
                return Ok(Stated {
                    proof: None,
                    end,
                    groups: Vec::new(),
                    range,
                });
            }
            Some(proof) if !needs_none => proof,
            _ => return Err(rot(Rot::Length)),
        };
        let stated = proof
            .verify_beside(task, lengths, *index, &trusted, |grant| {
                grants.is_authentic(grant)
            })
            .map_err(|cause| rot(Rot::Proof(cause)))?;
        let groups = (range.end - range.start).div_ceil(GROUP_BYTES);
        let raw = self.take(groups as usize * 32).await?;
        let (groups, _) = raw.as_chunks::<32>();
        let groups: Vec<GroupDigest> = groups.iter().map(|raw| GroupDigest(*raw)).collect();
        if PieceDigest::of(&groups) != stated {
            return Err(rot(Rot::Groups));
        }
        Ok(Stated {
            proof: Some(proof),
            end,
            groups,
            range,
        })
    }

    /// The next proof, if there is one; nothing of it has been checked.
    async fn proof(&mut self) -> Result<Option<Proof>, FetchError> {
        let rot = FetchError::Rot;
        let length = self.take(4).await?.get_u32() as usize;
        match length {
            0 => return Ok(None),
            1..=MAX_PROOF_BYTES => {}
            _ => return Err(rot(Rot::Length)),
        }
        let proof = self.take(length).await?;
        let proof =
            v1::Proof::decode(proof).map_err(|_| rot(Rot::Wire(WireError::Invalid("proof"))))?;
        let proof = Proof::try_from(proof).map_err(|cause| rot(Rot::Wire(cause)))?;
        Ok(Some(proof))
    }

    /// Where the content ends, if the parent knows.
    async fn end(
        &mut self,
        task: &TaskId,
        trusted: impl Fn(&Grant) -> bool,
        grants: &Grants,
    ) -> Result<Option<End>, FetchError> {
        let proof = self.proof().await?;
        let size = self.take(8).await?.get_u64();
        let Some(proof) = proof else {
            return Ok(None);
        };
        let end = End { size, proof };
        let verified = end.verify_beside(task, trusted, |grant| grants.is_authentic(grant));
        verified.map_err(|cause| FetchError::Rot(Rot::Proof(cause)))?;
        Ok(Some(end))
    }

    /// The groups that these bytes are made of.
    async fn groups(
        &mut self,
        bytes: Range<u64>,
        groups: &[GroupDigest],
        sink: &mut impl Sink,
    ) -> Result<(), FetchError> {
        let mut at = bytes.start;
        for (number, digest) in groups.iter().enumerate() {
            let length = GROUP_BYTES.min(bytes.end - at);
            self.write_soon(length).await;
            let group = self.take(length as usize).await?;
            if GroupDigest::of(group) != *digest {
                return Err(FetchError::Rot(Rot::Group(number as u32)));
            }
            sink.verified(at, group).map_err(FetchError::Store)?;
            at += length;
        }
        Ok(())
    }

    async fn small(&mut self, wanted: &Wanted, sink: &mut impl Sink) -> Result<(), FetchError> {
        let length = wanted.lengths.piece_bytes(wanted.index);
        self.write_soon(length).await;
        let bytes = self.take(length as usize).await?;
        let digest = wanted.task.digest();
        if darter_api::Digest::of(digest.algorithm(), bytes) != *digest {
            return Err(FetchError::Rot(Rot::Content));
        }
        sink.verified(0, bytes).map_err(FetchError::Store)
    }
}
