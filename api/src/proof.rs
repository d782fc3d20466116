//! Grants and statements: why a piece may be believed before its blob is complete.
//!
//! A scheduler signs each lease as a [`Grant`]; the holder signs a [`Statement`] for
//! every piece that it read from the source. Both travel with the piece from peer to
//! peer as its [`Proof`] and are stored beside the content, so they outlive holder
//! and scheduler. A signer can make a pull fail; it can't make it wrong, since the
//! content's own digest has the last word.

use std::ops::Range;

use crate::{
    host::{HostId, NodeKey},
    lengths::{GROUP_BYTES, Lengths, OPEN_PIECE_BYTES, OPEN_PIECES, PieceIndex},
    task::TaskId,
};

/// Separates what is signed here from every other use of a node's key.
const GRANT_DOMAIN: &[u8] = b"darter grant v1\0";
const STATEMENT_DOMAIN: &[u8] = b"darter statement v1\0";
const EXCERPT_DOMAIN: &[u8] = b"darter excerpt v1\0";
const END_DOMAIN: &[u8] = b"darter end v1\0";

/// The BLAKE3 of a 64 KiB group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GroupDigest(pub [u8; 32]);

/// The BLAKE3 of the digests of a piece's groups, one behind the other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PieceDigest(pub [u8; 32]);

impl GroupDigest {
    /// Of the bytes of one group.
    pub fn of(group: &[u8]) -> Self {
        debug_assert!(
            group.len() as u64 <= GROUP_BYTES,
            "a group is at most 64 KiB"
        );
        Self(*blake3::hash(group).as_bytes())
    }
}

impl PieceDigest {
    /// Of a piece's group digests, in order.
    pub fn of(groups: &[GroupDigest]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for group in groups {
            hasher.update(&group.0);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// What is stated of the first piece past a content's end, instead of a digest of its bytes:
    /// that the content is so long.
    pub fn of_end(size: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(END_DOMAIN);
        hasher.update(&size.to_be_bytes());
        Self(*hasher.finalize().as_bytes())
    }
}

/// The right to read a run of pieces from the source, signed by a scheduler, or by
/// the holder itself where no scheduler answers (a self-lease).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What is read.
    pub task: TaskId,
    /// Its geometry, which the first grant fixes.
    pub lengths: Lengths,
    /// First piece and one past the last.
    pub pieces: Range<u32>,
    /// Who may read, and whose statements count for these pieces.
    pub holder: HostId,
    /// Who granted it: a scheduler, or the holder.
    pub granter: HostId,
    /// When, in milliseconds since the Unix epoch.
    pub issued_unix_ms: u64,
    /// The granter's Ed25519 signature.
    pub signature: [u8; 64],
}

impl Grant {
    /// A grant signed by `granter`.
    pub fn sign(
        granter: &NodeKey,
        holder: HostId,
        task: TaskId,
        lengths: Lengths,
        pieces: Range<u32>,
        issued_unix_ms: u64,
    ) -> Self {
        let mut grant = Self {
            task,
            lengths,
            pieces,
            holder,
            granter: granter.id(),
            issued_unix_ms,
            signature: [0; 64],
        };
        grant.signature = granter.sign(&grant.signed_bytes());
        grant
    }

    /// Whether the holder granted it to itself.
    pub fn is_self_lease(&self) -> bool {
        self.holder == self.granter
    }

    /// Whether the signature is the granter's.
    pub fn is_authentic(&self) -> bool {
        self.granter.verify(&self.signed_bytes(), &self.signature)
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = GRANT_DOMAIN.to_vec();
        push_task(&mut bytes, &self.task, &self.lengths);
        bytes.extend(self.pieces.start.to_be_bytes());
        bytes.extend(self.pieces.end.to_be_bytes());
        bytes.extend(self.holder.as_bytes());
        bytes.extend(self.issued_unix_ms.to_be_bytes());
        bytes
    }
}

/// What a piece's digest is, signed by the grant's holder, who read it from the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The piece.
    pub index: PieceIndex,
    /// Its digest.
    pub digest: PieceDigest,
    /// The holder's Ed25519 signature.
    pub signature: [u8; 64],
}

impl Statement {
    /// Signed by the holder of a grant for this task.
    pub fn sign(
        holder: &NodeKey,
        task: &TaskId,
        lengths: &Lengths,
        index: PieceIndex,
        digest: PieceDigest,
    ) -> Self {
        let signature = holder.sign(&Self::signed_bytes(task, lengths, index, digest));
        Self {
            index,
            digest,
            signature,
        }
    }

    fn signed_bytes(
        task: &TaskId,
        lengths: &Lengths,
        index: PieceIndex,
        digest: PieceDigest,
    ) -> Vec<u8> {
        let mut bytes = STATEMENT_DOMAIN.to_vec();
        push_task(&mut bytes, task, lengths);
        bytes.extend(index.0.to_be_bytes());
        bytes.extend(digest.0);
        bytes
    }
}

fn push_task(bytes: &mut Vec<u8>, task: &TaskId, lengths: &Lengths) {
    let text = task.to_string();
    bytes.extend((text.len() as u32).to_be_bytes());
    bytes.extend(text.as_bytes());
    bytes.extend(lengths.size().to_be_bytes());
    bytes.extend(lengths.piece_length().to_be_bytes());
}

/// What a group's digest is, signed by the grant's holder, who read it from the source: for who
/// reads small parts of a content and has no whole piece of it. It is believed by whoever asked
/// for it, and not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExcerptStatement {
    /// The group, counted from the content's beginning.
    pub group: u32,
    /// Its digest.
    pub digest: GroupDigest,
    /// The holder's Ed25519 signature.
    pub signature: [u8; 64],
}

impl ExcerptStatement {
    /// Signed by the holder of a grant for this task.
    pub fn sign(
        holder: &NodeKey,
        task: &TaskId,
        lengths: &Lengths,
        group: u32,
        digest: GroupDigest,
    ) -> Self {
        let signature = holder.sign(&Self::signed_bytes(task, lengths, group, digest));
        Self {
            group,
            digest,
            signature,
        }
    }

    /// Whether it is the word of the grant's holder on the grant's content. Whether the grant
    /// counts is the caller's to know.
    pub fn is_authentic(&self, grant: &Grant) -> bool {
        let Self { group, digest, .. } = *self;
        let bytes = Self::signed_bytes(&grant.task, &grant.lengths, group, digest);
        grant.holder.verify(&bytes, &self.signature)
    }

    fn signed_bytes(task: &TaskId, lengths: &Lengths, group: u32, digest: GroupDigest) -> Vec<u8> {
        let mut bytes = EXCERPT_DOMAIN.to_vec();
        push_task(&mut bytes, task, lengths);
        bytes.extend(group.to_be_bytes());
        bytes.extend(digest.0);
        bytes
    }
}

/// A piece's statement and the grant that makes it count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The lease under which the piece was read. Shared by many pieces.
    pub grant: std::sync::Arc<Grant>,
    /// The holder's word for this piece.
    pub statement: Statement,
}

/// Where a content of untold size ends, as who read it to its end has stated it, of the first
/// piece that is not there any more. It counts as the statement of a piece does: who signs a wrong
/// one makes a pull fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Bytes of the whole content.
    pub size: u64,
    /// Whose word it is.
    pub proof: Proof,
}

impl End {
    /// The piece that is stated of a content of this size: the first one without bytes. `None`
    /// for sizes that no content of untold size may have.
    pub fn piece_of(size: u64) -> Option<PieceIndex> {
        let piece = u32::try_from(size.div_ceil(OPEN_PIECE_BYTES)).ok()?;
        (0 < piece && piece < OPEN_PIECES).then_some(PieceIndex(piece))
    }

    /// The first piece that is not there any more.
    pub const fn piece(&self) -> PieceIndex {
        self.proof.statement.index
    }

    /// The bytes of a piece of this content; none past its end.
    pub fn piece_range(&self, piece: PieceIndex) -> Range<u64> {
        let whole = Lengths::open().piece_range(piece);
        whole.start.min(self.size)..whole.end.min(self.size)
    }

    /// As [`Proof::verify_beside`], of an end.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify_beside(
        &self,
        task: &TaskId,
        trusted: impl FnOnce(&Grant) -> bool,
        is_authentic: impl FnOnce(&Grant) -> bool,
    ) -> Result<(), ProofError> {
        let piece = Self::piece_of(self.size).ok_or(ProofError::End)?;
        let lengths = Lengths::open();
        let stated = self
            .proof
            .verify_beside(task, &lengths, piece, trusted, is_authentic)?;
        let right = stated == PieceDigest::of_end(self.size);
        right.then_some(()).ok_or(ProofError::End)
    }
}

/// Why a proof does not make a piece believable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// It speaks of another task or another geometry.
    #[error("the proof is for another task or geometry")]
    OtherTask,
    /// It speaks of another piece.
    #[error("the proof is for piece {given}, not for piece {wanted}")]
    OtherPiece {
        /// The statement's piece.
        given: PieceIndex,
        /// The piece that was asked for.
        wanted: PieceIndex,
    },
    /// The piece lies outside the grant's run.
    #[error("the grant does not cover piece {0}")]
    NotGranted(PieceIndex),
    /// Neither a trusted scheduler nor a member in its own name granted it.
    #[error("the granter {0:?} is not trusted")]
    Untrusted(HostId),
    /// It is not what is stated of a content of that size.
    #[error("the proof is not that of a content's end")]
    End,
    /// A signature is not its signer's.
    #[error("the signature of {0:?} is wrong")]
    Signature(HostId),
}

impl Proof {
    /// Checks everything but the bytes: whose word it is, that it was theirs to give,
    /// and that they gave it. `trusted` answers whether a grant's granter counts.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(
        &self,
        task: &TaskId,
        lengths: &Lengths,
        index: PieceIndex,
        trusted: impl FnOnce(&Grant) -> bool,
    ) -> Result<PieceDigest, ProofError> {
        self.verify_beside(task, lengths, index, trusted, Grant::is_authentic)
    }

    /// As [`Self::verify`], for who may know the grant's signature already from another piece:
    /// `is_authentic` answers whether it is the granter's.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify_beside(
        &self,
        task: &TaskId,
        lengths: &Lengths,
        index: PieceIndex,
        trusted: impl FnOnce(&Grant) -> bool,
        is_authentic: impl FnOnce(&Grant) -> bool,
    ) -> Result<PieceDigest, ProofError> {
        let Self { grant, statement } = self;
        if grant.task != *task || grant.lengths != *lengths {
            return Err(ProofError::OtherTask);
        }
        if statement.index != index {
            return Err(ProofError::OtherPiece {
                given: statement.index,
                wanted: index,
            });
        }
        if !grant.pieces.contains(&index.0) {
            return Err(ProofError::NotGranted(index));
        }
        if !trusted(grant) {
            return Err(ProofError::Untrusted(grant.granter));
        }
        if !is_authentic(grant) {
            return Err(ProofError::Signature(grant.granter));
        }
        let signed = Statement::signed_bytes(task, lengths, index, statement.digest);
        if !grant.holder.verify(&signed, &statement.signature) {
            return Err(ProofError::Signature(grant.holder));
        }
        Ok(statement.digest)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Digest;

    fn key(seed: u8) -> NodeKey {
        NodeKey::from_seed([seed; 32])
    }

    fn proof() -> (Proof, TaskId, Lengths) {
        let task = TaskId::from(Digest::sha256(b"content"));
        let lengths = Lengths::of(10_000_000).expect("small");
        let (scheduler, holder) = (key(1), key(2));
        let grant = Grant::sign(&scheduler, holder.id(), task, lengths, 0..10, 7);
        let statement = Statement::sign(
            &holder,
            &task,
            &lengths,
            PieceIndex(3),
            PieceDigest([9; 32]),
        );
        let grant = Arc::new(grant);
        (Proof { grant, statement }, task, lengths)
    }

    #[test]
    fn believed_only_for_what_was_signed() {
        let (good, task, lengths) = proof();
        let third = PieceIndex(3);
        assert_eq!(
            good.verify(&task, &lengths, third, |_| true),
            Ok(PieceDigest([9; 32]))
        );

        let other = TaskId::from(Digest::sha256(b"other"));
        assert_eq!(
            good.verify(&other, &lengths, third, |_| true),
            Err(ProofError::OtherTask)
        );
        assert!(matches!(
            good.verify(&task, &lengths, PieceIndex(4), |_| true),
            Err(ProofError::OtherPiece { .. })
        ));
        assert_eq!(
            good.verify(&task, &lengths, third, |grant| grant.is_self_lease()),
            Err(ProofError::Untrusted(key(1).id()))
        );

        let mut wider = good.clone();
        Arc::make_mut(&mut wider.grant).pieces = 0..11;
        assert_eq!(
            wider.verify(&task, &lengths, third, |_| true),
            Err(ProofError::Signature(key(1).id()))
        );
        let mut altered = good.clone();
        altered.statement.digest = PieceDigest([8; 32]);
        assert_eq!(
            altered.verify(&task, &lengths, third, |_| true),
            Err(ProofError::Signature(key(2).id()))
        );
        let mut outside = good;
        outside.statement = Statement::sign(
            &key(2),
            &task,
            &lengths,
            PieceIndex(12),
            PieceDigest([9; 32]),
        );
        assert_eq!(
            outside.verify(&task, &lengths, PieceIndex(12), |_| true),
            Err(ProofError::NotGranted(PieceIndex(12)))
        );
    }

    #[test]
    fn an_excerpt_is_the_holders_word_on_one_group_of_one_content() {
        let (proof, task, lengths) = proof();
        let grant = &proof.grant;
        let digest = GroupDigest::of(b"bytes");
        let sign = |signer: u8, task: &TaskId| {
            ExcerptStatement::sign(&key(signer), task, &lengths, 4, digest)
        };
        let good = sign(2, &task);
        assert!(good.is_authentic(grant));
        assert!(!sign(3, &task).is_authentic(grant));
        assert!(!sign(2, &TaskId::from(Digest::sha256(b"other"))).is_authentic(grant));
        assert!(!ExcerptStatement { group: 5, ..good }.is_authentic(grant));
        let digest = GroupDigest::of(b"other");
        assert!(!ExcerptStatement { digest, ..good }.is_authentic(grant));
    }
    #[test]
    fn an_end_is_the_holders_word_on_one_size() {
        let task = TaskId::from(Digest::sha256(b"content")).opened();
        let lengths = Lengths::open();
        let holder = key(2);
        let grant = Grant::sign(&key(1), holder.id(), task, lengths, 0..OPEN_PIECES, 7);
        let grant = Arc::new(grant);
        let end = |size: u64, digest| {
            let piece = PieceIndex(size.div_ceil(OPEN_PIECE_BYTES) as u32);
            let statement = Statement::sign(&holder, &task, &lengths, piece, digest);
            let grant = Arc::clone(&grant);
            let proof = Proof { grant, statement };
            End { size, proof }
        };
        let verify = |end: &End| end.verify_beside(&task, |_| true, Grant::is_authentic);
        let stated = |size| end(size, PieceDigest::of_end(size));
        let good = stated(OPEN_PIECE_BYTES + 1);
        assert_eq!(verify(&good), Ok(()));
        assert_eq!(good.piece(), PieceIndex(2));
        assert_eq!(
            good.piece_range(PieceIndex(1)),
            OPEN_PIECE_BYTES..OPEN_PIECE_BYTES + 1
        );
        assert!(good.piece_range(PieceIndex(2)).is_empty());
        assert_eq!(verify(&stated(OPEN_PIECE_BYTES)), Ok(()));
        // Another size of as many pieces, a piece's own digest, nothing at all, and too much.
        let size = OPEN_PIECE_BYTES + 2;
        let other = End {
            size,
            ..good.clone()
        };
        assert_eq!(verify(&other), Err(ProofError::End));
        assert_eq!(verify(&end(9, PieceDigest::of(&[]))), Err(ProofError::End));
        for size in [0, lengths.size()] {
            assert_eq!(verify(&stated(size)), Err(ProofError::End), "{size}");
        }
        assert_eq!(verify(&stated(lengths.size() - OPEN_PIECE_BYTES)), Ok(()));
        let of_another = task.closed();
        let verified = good.verify_beside(&of_another.opened(), |_| true, Grant::is_authentic);
        assert_eq!(verified, Ok(()));
        let verified = good.verify_beside(&of_another, |_| true, Grant::is_authentic);
        assert_eq!(verified, Err(ProofError::OtherTask));
        let mut forged = good;
        forged.proof.statement.signature[0] ^= 1;
        assert_eq!(verify(&forged), Err(ProofError::Signature(holder.id())));
    }
}
