//! Cuts a stream of bytes from the source into groups and pieces, and states them.

use std::{
    io,
    ops::Range,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use darter_api::{
    End, GROUP_BYTES, Grant, NodeKey, PieceDigest, PieceIndex, Proof, Statement, proof::GroupDigest,
};

use super::{download::Download, order::Order};
use crate::limits::Limits;

/// Bytes of one piece, and where they lie in the content.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

/// The first piece past a content's end, and the last one, if it was sealed with it.
pub(super) type Ends = (PieceIndex, Option<PieceIndex>);

/// Writes chunks, shows them to readers and seals pieces. Blocks on the disk.
pub(super) struct Cutter {
    download: Arc<Download>,
    order: Arc<Order>,
    key: Arc<NodeKey>,
    limits: Limits,
    groups: Vec<GroupDigest>,
    group: blake3::Hasher,
    /// Bytes in `group`.
    filled: u64,
    /// Where the next byte is expected, for the piece at hand to be sealed.
    at: u64,
}

impl Cutter {
    pub(super) fn new(
        download: Arc<Download>,
        order: Arc<Order>,
        key: Arc<NodeKey>,
        limits: Limits,
    ) -> Self {
        Self {
            download,
            order,
            key,
            limits,
            groups: Vec::new(),
            group: blake3::Hasher::new(),
            filled: 0,
            at: 0,
        }
    }

    /// The content ends here, which nobody knew: states it, and seals the piece at hand, if it is
    /// the last one and all of it came this way. `checked` is whether the digest of all bytes
    /// matched. The first piece past the end, and the last one if it was sealed; nothing of it, if
    /// another end is known.
    pub(super) fn end(&mut self, size: u64, checked: bool) -> io::Result<Option<Ends>> {
        let piece = End::piece_of(size).ok_or_else(|| io::Error::other("no such end"))?;
        let proof = self.prove(piece, PieceDigest::of_end(size));
        if !self.download.ends(End { size, proof }, checked) {
            return Ok(None);
        }
        let last = PieceIndex(piece.0 - 1);
        let is_cut = self.at == size && size < self.download.lengths.piece_range(last).end;
        if !is_cut {
            return Ok(Some((piece, None)));
        }
        // Also if it is held: that may have been by the word for another end.
        self.hash(&[], true);
        self.seal(last)?;
        Ok(Some((piece, Some(last))))
    }

    /// Takes the next bytes, which must not cross a piece's end; the piece, if they
    /// complete one.
    pub(super) fn take(&mut self, chunk: &Chunk) -> io::Result<Option<PieceIndex>> {
        let lengths = self.download.lengths;
        let Some(piece) = lengths.piece_at(chunk.offset) else {
            return Ok(None);
        };
        let range = lengths.piece_range(piece);
        if chunk.offset == range.start {
            self.groups.clear();
            self.group.reset();
            self.filled = 0;
        } else if chunk.offset != self.at {
            return Err(io::Error::other("bytes of a piece came out of order"));
        }
        let end = chunk.offset + chunk.bytes.len() as u64;
        let begin = Instant::now();
        self.download.partial.write(chunk.offset, &chunk.bytes)?;
        self.limits.wrote(begin.elapsed());
        self.hash(&chunk.bytes, end == range.end);
        self.at = end;
        if end < range.end {
            self.download.readable(chunk.offset..end);
            return Ok(None);
        }
        self.seal(piece)?;
        Ok(Some(piece))
    }

    fn seal(&self, piece: PieceIndex) -> io::Result<()> {
        let Download { task, lengths, .. } = &*self.download;
        let is_stated = !task.proves_itself(lengths);
        let proof = is_stated.then(|| self.prove(piece, PieceDigest::of(&self.groups)));
        let groups: &[GroupDigest] = if proof.is_some() { &self.groups } else { &[] };
        let bytes = self.at - lengths.piece_range(piece).start;
        self.download
            .partial
            .seal(piece, bytes, groups, proof.as_ref())?;
        self.download.sealed(piece, false);
        Ok(())
    }

    fn hash(&mut self, mut bytes: &[u8], ends: bool) {
        while !bytes.is_empty() {
            let room = (GROUP_BYTES - self.filled).min(bytes.len() as u64);
            let (part, rest) = bytes.split_at(room as usize);
            self.group.update(part);
            self.filled += room;
            bytes = rest;
            if self.filled == GROUP_BYTES {
                self.end_group();
            }
        }
        if ends && self.filled > 0 {
            self.end_group();
        }
    }

    fn end_group(&mut self) {
        let digest = self.group.finalize();
        self.groups.push(GroupDigest(*digest.as_bytes()));
        self.group.reset();
        self.filled = 0;
    }

    fn prove(&self, piece: PieceIndex, digest: PieceDigest) -> Proof {
        let Download { task, lengths, .. } = &*self.download;
        // A lease may have moved on while its piece was on the way.
        let grant = self.order.grant(piece).unwrap_or_else(|| {
            let alone = piece.0..piece.0 + 1;
            Arc::new(self_lease(&self.key, &self.download, alone))
        });
        let statement = Statement::sign(&self.key, task, lengths, piece, digest);
        Proof { grant, statement }
    }
}

/// A host's own word that it may read these pieces.
pub(super) fn self_lease(key: &NodeKey, download: &Download, pieces: Range<u32>) -> Grant {
    let now = now_unix_ms();
    let Download { task, lengths, .. } = download;
    Grant::sign(key, key.id(), *task, *lengths, pieces, now)
}

/// Milliseconds since the Unix epoch.
pub(super) fn now_unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
