//! The vocabulary that all services share.

use std::{str::FromStr, sync::Arc};

use super::{WireError, v1};
use crate::{
    Digest, Grant, HostId, Lengths, Origin, OriginKind, PieceDigest, PieceIndex, PieceSet, Proof,
    Statement, TaskId, lengths::MAX_PIECES,
};

/// More runs than this in one set would not fit a task of [`MAX_PIECES`] anyway.
const MAX_RUNS: usize = 1 << 19;

pub(super) fn parse<T: FromStr>(text: &str, field: &'static str) -> Result<T, WireError> {
    text.parse().map_err(|_| WireError::Invalid(field))
}

pub(super) fn required<T>(value: Option<T>, field: &'static str) -> Result<T, WireError> {
    value.ok_or(WireError::Missing(field))
}

/// A text of so many bytes at most: others keep it.
pub(super) fn short(text: String, most: usize, field: &'static str) -> Result<String, WireError> {
    let fits = text.len() <= most;
    fits.then_some(text).ok_or(WireError::Invalid(field))
}

pub(super) fn task(text: &str) -> Result<TaskId, WireError> {
    parse(text, "task")
}

pub(super) fn digest(text: &str) -> Result<Digest, WireError> {
    parse(text, "digest")
}

pub(super) fn host(raw: &[u8]) -> Result<HostId, WireError> {
    HostId::try_from(raw).map_err(|_| WireError::Invalid("host"))
}

fn lengths(value: Option<v1::Lengths>) -> Result<Lengths, WireError> {
    let value = required(value, "lengths")?;
    Lengths::checked(value.size, value.piece_length).map_err(|_| WireError::Invalid("lengths"))
}

/// A task and a geometry that can be its.
pub(super) fn sized(
    text: &str,
    value: Option<v1::Lengths>,
) -> Result<(TaskId, Lengths), WireError> {
    let (task, lengths) = (task(text)?, lengths(value)?);
    let fits = task.fits(&lengths);
    fits.then_some((task, lengths))
        .ok_or(WireError::Invalid("lengths"))
}

pub(super) fn origin(value: Option<v1::Origin>) -> Result<Origin, WireError> {
    required(value, "origin")?.try_into()
}

pub(super) fn pieces(value: Option<v1::PieceSet>) -> Result<PieceSet, WireError> {
    value.unwrap_or_default().try_into()
}

pub(super) fn some<T>(value: T) -> Option<T> {
    Some(value)
}

fn signature(raw: &[u8]) -> Result<[u8; 64], WireError> {
    raw.try_into().map_err(|_| WireError::Invalid("signature"))
}

impl From<&PieceSet> for v1::PieceSet {
    fn from(set: &PieceSet) -> Self {
        let mut gaps_and_lengths = Vec::with_capacity(set.runs().len() * 2);
        let mut at = 0;
        for run in set.runs() {
            gaps_and_lengths.extend([run.start - at, run.end - run.start]);
            at = run.end;
        }
        Self { gaps_and_lengths }
    }
}

impl TryFrom<v1::PieceSet> for PieceSet {
    type Error = WireError;

    fn try_from(value: v1::PieceSet) -> Result<Self, WireError> {
        let (pairs, rest) = value.gaps_and_lengths.as_chunks::<2>();
        if !rest.is_empty() || pairs.len() > MAX_RUNS {
            return Err(WireError::Invalid("pieces"));
        }
        let (mut set, mut at) = (Self::new(), 0u32);
        for [gap, length] in pairs {
            let start = at.checked_add(*gap);
            let end = start.and_then(|start| start.checked_add(*length));
            match (start, end) {
                (Some(start), Some(end)) if start < end && end <= MAX_PIECES => {
                    set.insert_range(start..end);
                    at = end;
                }
                _ => return Err(WireError::Invalid("pieces")),
            }
        }
        Ok(set)
    }
}

impl From<&Lengths> for v1::Lengths {
    fn from(lengths: &Lengths) -> Self {
        Self {
            size: lengths.size(),
            piece_length: lengths.piece_length(),
        }
    }
}

impl From<&Origin> for v1::Origin {
    fn from(origin: &Origin) -> Self {
        Self {
            upstream: origin.upstream.to_string(),
            repository: origin.repository.to_string(),
            manifest: origin.kind == OriginKind::Manifest,
            private: origin.private,
        }
    }
}

impl TryFrom<v1::Origin> for Origin {
    type Error = WireError;

    fn try_from(value: v1::Origin) -> Result<Self, WireError> {
        Ok(Self {
            upstream: parse(&value.upstream, "upstream")?,
            repository: parse(&value.repository, "repository")?,
            kind: if value.manifest {
                OriginKind::Manifest
            } else {
                OriginKind::Blob
            },
            private: value.private,
        })
    }
}

impl From<&Grant> for v1::Grant {
    fn from(grant: &Grant) -> Self {
        Self {
            task: grant.task.to_string(),
            lengths: some((&grant.lengths).into()),
            first_piece: grant.pieces.start,
            end_piece: grant.pieces.end,
            holder: grant.holder.as_bytes().to_vec().into(),
            granter: grant.granter.as_bytes().to_vec().into(),
            issued_unix_ms: grant.issued_unix_ms,
            signature: grant.signature.to_vec().into(),
        }
    }
}

impl TryFrom<v1::Grant> for Grant {
    type Error = WireError;

    fn try_from(value: v1::Grant) -> Result<Self, WireError> {
        let (task, lengths) = sized(&value.task, value.lengths)?;
        if value.first_piece >= value.end_piece || value.end_piece > lengths.pieces() {
            return Err(WireError::Invalid("pieces"));
        }
        Ok(Self {
            task,
            lengths,
            pieces: value.first_piece..value.end_piece,
            holder: host(&value.holder)?,
            granter: host(&value.granter)?,
            issued_unix_ms: value.issued_unix_ms,
            signature: signature(&value.signature)?,
        })
    }
}

impl From<&Proof> for v1::Proof {
    fn from(proof: &Proof) -> Self {
        Self {
            grant: some(proof.grant.as_ref().into()),
            statement: some(v1::Statement {
                index: proof.statement.index.0,
                digest: proof.statement.digest.0.to_vec().into(),
                signature: proof.statement.signature.to_vec().into(),
            }),
        }
    }
}

impl TryFrom<v1::Proof> for Proof {
    type Error = WireError;

    fn try_from(value: v1::Proof) -> Result<Self, WireError> {
        let grant = required(value.grant, "grant")?;
        let statement = required(value.statement, "statement")?;
        let digest: [u8; 32] = statement.digest[..]
            .try_into()
            .map_err(|_| WireError::Invalid("digest"))?;
        Ok(Self {
            grant: Arc::new(grant.try_into()?),
            statement: Statement {
                index: PieceIndex(statement.index),
                digest: PieceDigest(digest),
                signature: signature(&statement.signature)?,
            },
        })
    }
}
