//! The record of what is known of a content's pieces: append-only, one file.
//!
//! The journal of a partial download is the sidecar of the whole blob: committing renames
//! both files. Records are framed by length and checksum; a torn tail (a crash in the
//! middle of an append) ends the reading, and what stood before it holds.
//!
//! Order is what makes it true: data is written before the record that vouches for it,
//! so a killed process leaves no record without its bytes. A machine that loses power
//! may; records are then trusted only behind a [`Record::Durable`].

use std::sync::Arc;

use darter_api::{
    Grant, Lengths, Origin, PieceDigest, PieceIndex, PieceSet, Proof, Statement, TaskId,
    proof::GroupDigest, wire::v1,
};
use prost::Message as _;
use serde::{Deserialize, Serialize};

/// Length and checksum in front of each record.
const FRAME: usize = 8;
/// No record is longer: a piece of 8 MiB has 128 groups, 4 KiB of digests.
const MAX_RECORD: usize = 64 * 1024;

/// The first record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    task: String,
    size: u64,
    media_type: Option<String>,
    /// Protobuf of the origin, in hex.
    origin: Option<String>,
}

impl Header {
    pub(super) fn new(
        task: &TaskId,
        lengths: &Lengths,
        origin: Option<&Origin>,
        media_type: Option<&str>,
    ) -> Self {
        Self {
            task: task.to_string(),
            size: lengths.size(),
            media_type: media_type.map(str::to_owned),
            origin: origin.map(|origin| hex::encode(v1::Origin::from(origin).encode_to_vec())),
        }
    }

    pub(super) fn task(&self) -> Option<TaskId> {
        self.task.parse().ok()
    }

    pub(super) fn lengths(&self) -> Option<Lengths> {
        Lengths::of(self.size).ok()
    }

    pub(super) fn media_type(&self) -> Option<&str> {
        self.media_type.as_deref()
    }

    pub(super) fn origin(&self) -> Option<Origin> {
        let raw = hex::decode(self.origin.as_ref()?).ok()?;
        v1::Origin::decode(&raw[..]).ok()?.try_into().ok()
    }
}

/// One thing that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// What the content is.
    Header(Header),
    /// A grant that later pieces refer to by its place among the grants.
    Grant(Grant),
    /// A piece is verified and on disk.
    Piece {
        index: PieceIndex,
        /// The grant's place, and the statement made under it.
        stated: Option<(u32, Statement)>,
        groups: Vec<GroupDigest>,
    },
    /// Pieces taken back.
    Lost(PieceSet),
    /// All before this, and the data it speaks of, has reached the disk.
    Durable,
}

impl Record {
    /// The record with its frame.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        match self {
            Self::Header(header) => {
                body.push(1);
                let json = serde_json::to_vec(header).expect("a header is plain text");
                body.extend(json);
            }
            Self::Grant(grant) => {
                body.push(2);
                body.extend(v1::Grant::from(grant).encode_to_vec());
            }
            Self::Piece {
                index,
                stated,
                groups,
            } => {
                body.push(3);
                body.extend(index.0.to_be_bytes());
                let place = stated.as_ref().map_or(u32::MAX, |(place, _)| *place);
                body.extend(place.to_be_bytes());
                if let Some((_, statement)) = stated {
                    body.extend(statement.digest.0);
                    body.extend(statement.signature);
                }
                for group in groups {
                    body.extend(group.0);
                }
            }
            Self::Lost(pieces) => {
                body.push(4);
                body.extend(v1::PieceSet::from(pieces).encode_to_vec());
            }
            Self::Durable => body.push(5),
        }
        let mut framed = Vec::with_capacity(FRAME + body.len());
        framed.extend((body.len() as u32).to_be_bytes());
        framed.extend(&blake3::hash(&body).as_bytes()[..4]);
        framed.extend(body);
        framed
    }

    /// The first record of `bytes` and its framed length; `None` at a torn or foreign tail.
    pub(super) fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        if length > MAX_RECORD {
            return None;
        }
        let body = bytes.get(FRAME..FRAME + length)?;
        if blake3::hash(body).as_bytes()[..4] != bytes[4..FRAME] {
            return None;
        }
        Some((Self::decode_body(body)?, FRAME + length))
    }

    pub(super) fn decode_body(body: &[u8]) -> Option<Self> {
        let (kind, rest) = body.split_first()?;
        match kind {
            1 => serde_json::from_slice(rest).ok().map(Self::Header),
            2 => v1::Grant::decode(rest)
                .ok()?
                .try_into()
                .ok()
                .map(Self::Grant),
            3 => Self::decode_piece(rest),
            4 => v1::PieceSet::decode(rest)
                .ok()?
                .try_into()
                .ok()
                .map(Self::Lost),
            5 => Some(Self::Durable),
            _ => None,
        }
    }

    fn decode_piece(rest: &[u8]) -> Option<Self> {
        let (index, rest) = rest.split_first_chunk::<4>()?;
        let (place, mut rest) = rest.split_first_chunk::<4>()?;
        let (index, place) = (
            PieceIndex(u32::from_be_bytes(*index)),
            u32::from_be_bytes(*place),
        );
        let mut stated = None;
        if place != u32::MAX {
            let (digest, after) = rest.split_first_chunk::<32>()?;
            let (signature, after) = after.split_first_chunk::<64>()?;
            let statement = Statement {
                index,
                digest: PieceDigest(*digest),
                signature: *signature,
            };
            stated = Some((place, statement));
            rest = after;
        }
        let (groups, odd) = rest.as_chunks::<32>();
        odd.is_empty().then(|| Self::Piece {
            index,
            stated,
            groups: groups.iter().map(|raw| GroupDigest(*raw)).collect(),
        })
    }
}

/// A verified piece as the journal knows it.
#[derive(Debug, Clone)]
pub(super) struct Sealed {
    pub(super) proof: Option<Proof>,
    pub(super) groups: Arc<[GroupDigest]>,
}

/// The journal's content, replayed.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) held: PieceSet,
    pieces: std::collections::HashMap<u32, Sealed>,
    grants: Vec<Arc<Grant>>,
    pub(super) durable: bool,
}

impl Ledger {
    /// Replays a journal: its header, the ledger, and how many bytes of it hold.
    /// `None` when not even the header does.
    pub(super) fn replay(bytes: &[u8]) -> Option<(Header, Self, usize)> {
        let (first, mut at) = Record::decode(bytes)?;
        let Record::Header(header) = first else {
            return None;
        };
        let lengths = header.lengths()?;
        let mut ledger = Self::default();
        while let Some((record, length)) = Record::decode(&bytes[at..]) {
            ledger.apply(record, &lengths);
            at += length;
        }
        Some((header, ledger, at))
    }

    /// Takes in what a record says. It stands in the journal by then.
    pub(super) fn apply(&mut self, record: Record, lengths: &Lengths) {
        match record {
            Record::Header(_) => {}
            Record::Grant(grant) => self.grants.push(Arc::new(grant)),
            Record::Piece {
                index,
                stated,
                groups,
            } => {
                if index.0 >= lengths.pieces() {
                    return;
                }
                let proof = stated.and_then(|(place, statement)| {
                    let grant = Arc::clone(self.grants.get(place as usize)?);
                    Some(Proof { grant, statement })
                });
                self.insert(index, proof, groups.into());
                self.durable = false;
            }
            Record::Lost(pieces) => {
                self.remove(&pieces);
                self.durable = false;
            }
            Record::Durable => self.durable = true,
        }
    }

    fn insert(&mut self, index: PieceIndex, proof: Option<Proof>, groups: Arc<[GroupDigest]>) {
        self.held.insert(index.0);
        self.pieces.insert(index.0, Sealed { proof, groups });
    }

    pub(super) fn get(&self, index: PieceIndex) -> Option<&Sealed> {
        self.pieces.get(&index.0)
    }

    /// The records that a verified piece is to be noted with: its grant's, if it is a new one, and its own.
    pub(super) fn sealing(
        &self,
        index: PieceIndex,
        groups: &[GroupDigest],
        proof: Option<&Proof>,
    ) -> Vec<Record> {
        let mut records = Vec::new();
        let stated = proof.map(|proof| {
            let known = self.grants.iter().position(|grant| **grant == *proof.grant);
            let place = known.unwrap_or_else(|| {
                records.push(Record::Grant((*proof.grant).clone()));
                self.grants.len()
            });
            (place as u32, proof.statement.clone())
        });
        records.push(Record::Piece {
            index,
            stated,
            groups: groups.to_vec(),
        });
        records
    }

    fn remove(&mut self, pieces: &PieceSet) {
        self.held.subtract(pieces);
        self.pieces.retain(|index, _| !pieces.contains(*index));
    }
}
