//! Who signed what turned out to be wrong.
//!
//! When a content does not match its digest although every piece came with its proof, one of
//! those who signed has lied; which one is known only with the right bytes. So what others
//! stated of pieces that are taken back, and of where the content ends, is kept, and held against
//! the same pieces of the next reading once that one matches.
//!
//! Owner of state: [`Signers`], one a download, at most one statement a piece and one of the end.
//! Failure: a content that can't be read again leaves its liars without a name.

use std::collections::{BTreeMap, BTreeSet};

use darter_api::{HostId, PieceDigest, PieceIndex};
use parking_lot::Mutex;

use crate::store::Partial;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Signers(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    pieces: BTreeMap<u32, (HostId, PieceDigest)>,
    /// Who stated which size.
    end: Option<(HostId, u64)>,
}

impl Signers {
    /// Keeps what hosts other than `own` stated of all pieces, before these are taken back. The
    /// first time counts: afterwards only the source is read.
    pub(super) fn keep(&self, partial: &Partial, own: &HostId) {
        self.keep_end(partial, own);
        let mut kept = self.0.lock();
        // From there on nobody stated anything but the end itself.
        let end = partial.end().map(|end| end.piece().0);
        let is_before = |piece: &u32| end.is_none_or(|end| *piece < end);
        for piece in partial.held().iter().take_while(is_before) {
            let stored = partial.piece(PieceIndex(piece)).ok().flatten();
            if let Some(proof) = stored.as_ref().and_then(|stored| stored.proof())
                && proof.grant.holder != *own
            {
                let stated = (proof.grant.holder, proof.statement.digest);
                kept.pieces.entry(piece).or_insert(stated);
            }
        }
    }

    /// Keeps what another host stated of where it ends, before another end is known.
    pub(super) fn keep_end(&self, partial: &Partial, own: &HostId) {
        if let Some(end) = partial.end()
            && end.proof.grant.holder != *own
        {
            let stated = (end.proof.grant.holder, end.size);
            self.0.lock().end.get_or_insert(stated);
        }
    }

    /// Who stated pieces or the end otherwise than they are in `partial`, whose digest was right.
    /// They are named once.
    pub(super) fn liars(&self, partial: &Partial) -> BTreeSet<HostId> {
        let kept = std::mem::take(&mut *self.0.lock());
        let lied = kept.pieces.into_iter().filter(|(piece, (_, stated))| {
            let stored = partial.piece(PieceIndex(*piece)).ok().flatten();
            stored.is_some_and(|stored| PieceDigest::of(stored.groups()) != *stated)
        });
        let size = partial.end().map(|end| end.size);
        let ended = kept.end.filter(|(_, stated)| Some(*stated) != size);
        let lied = lied.map(|(_, (host, _))| host);
        lied.chain(ended.map(|(host, _)| host)).collect()
    }
}
