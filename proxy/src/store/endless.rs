//! Contents that grow though nobody knows how large they will be ([`Lengths::open`]).
//!
//! Room is asked for as they grow, a step at a time. They are worth less than what is here already,
//! since nothing says that they end: once all of them together have a share of what the store can
//! reach they evict nothing more, and have what is free. Once the end is known and the digest matches, the file becomes that of a content with a
//! size, by rename; what its pieces were as long as they had no end can still be had for [`LINGER`],
//! for those who are behind. A killed process loses them: the next start drops what it finds.
//!
//! Owner of state: [`Endless`], one a growing content of this kind.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use darter_api::{
    End, Lengths, PieceIndex, PieceSet, Proof, TaskId, lengths::OPEN_PIECE_BYTES,
    proof::GroupDigest,
};
use dashmap::Entry as Slot;
use parking_lot::Mutex;

use super::{
    Entry, Store,
    journal::{Header, Ledger, Record},
    partial::Partial,
};

/// Room is asked for in such steps, or smaller ones where the store is small.
const STEP: u64 = 16 << 20;
const LEAST_STEP: u64 = 64 << 10;
/// Contents of untold size evict others for so much of what the store can reach at most, all of them
/// together, one part in these.
const SHARE: u64 = 4;
/// Its pieces can be had for so long after it became whole.
pub(super) const LINGER: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Endless {
    /// Bytes that the store has given it room for.
    reserved: AtomicU64,
    end: Mutex<Option<Arc<End>>>,
    /// Bytes of pieces that were sealed shorter than a whole one, since it was said to end there.
    cut: Mutex<BTreeMap<u32, u64>>,
    /// It was refused room.
    refused: AtomicBool,
    /// When it became a content with a size.
    closed: Mutex<Option<Instant>>,
}

/// A piece of a content with a size: its groups, and what proves it.
pub struct Resealed {
    /// Which.
    pub index: PieceIndex,
    /// Its groups' digests; none for what its own digest proves.
    pub groups: Vec<GroupDigest>,
    /// Whose word it is.
    pub proof: Option<Proof>,
}

impl Endless {
    /// Bytes that it counts for.
    pub(super) fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Relaxed)
    }

    pub(super) fn end(&self) -> Option<Arc<End>> {
        self.end.lock().clone()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.lock().is_some()
    }

    fn is_over(&self, now: Instant) -> bool {
        let closed = *self.closed.lock();
        closed.is_some_and(|since| now.saturating_duration_since(since) >= LINGER)
    }

    /// What lies past its end is held by whoever knows the end.
    pub(super) fn past(&self) -> PieceSet {
        let end = self.end();
        end.map_or_else(PieceSet::new, |end| {
            PieceSet::from_range(end.piece().0..Lengths::open().pieces())
        })
    }

    /// A piece is sealed with so many bytes.
    pub(super) fn seals(&self, index: PieceIndex, bytes: u64) {
        let mut cut = self.cut.lock();
        match bytes < OPEN_PIECE_BYTES {
            true => cut.insert(index.0, bytes),
            false => cut.remove(&index.0),
        };
    }

    /// Bytes of which a sealed piece has its groups.
    pub(super) fn sealed(&self, index: PieceIndex) -> u64 {
        let cut = self.cut.lock();
        cut.get(&index.0).copied().unwrap_or(OPEN_PIECE_BYTES)
    }

    /// These are taken back: where it ends is not known either, if it is one of them.
    pub(super) fn take_back(&self, pieces: &PieceSet) {
        self.cut.lock().retain(|index, _| !pieces.contains(*index));
        let mut end = self.end.lock();
        if end
            .as_ref()
            .is_some_and(|end| pieces.contains(end.piece().0))
        {
            *end = None;
        }
    }

    /// Sees to it that there is room up to this byte. Writers of several pieces take turns.
    pub(super) fn make_room(&self, store: &Store, until: u64) -> io::Result<()> {
        if until <= self.reserved() {
            return Ok(());
        }
        let step = (store.capacity() / 64).clamp(LEAST_STEP, STEP);
        let made = store.reserve_more(&self.reserved, until.next_multiple_of(step));
        made.inspect_err(|_| self.refused.store(true, Ordering::Relaxed))
    }
}

impl Store {
    /// Accounts for a content that grows to `size` bytes beyond what was known, if there is room
    /// or, for a part of the capacity, can be made.
    fn reserve_more(&self, reserved: &AtomicU64, size: u64) -> io::Result<()> {
        self.with_room(|| {
            let before = reserved.load(Ordering::Relaxed);
            let more = size.saturating_sub(before);
            if self.untold() + more <= self.reach()? / SHARE {
                self.make_room(more, false)?;
            } else if self.over(more, false) > 0 || self.short_of(more)? > 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.account(more, false);
            reserved.fetch_max(size, Ordering::Relaxed);
            Ok(())
        })
    }

    /// Bytes that the store has given to contents of untold size.
    fn untold(&self) -> u64 {
        let given = self.0.index.iter().map(|entry| match entry.value() {
            Entry::Growing(growing) => growing.endless.as_ref().map_or(0, Endless::reserved),
            Entry::Whole(_) => 0,
        });
        given.sum()
    }

    /// Drops what nobody is behind with any more by `now`.
    pub(super) fn drop_closed(&self, now: Instant) {
        let over = |entry: &Entry| match entry {
            Entry::Growing(growing) => {
                let endless = growing.endless.as_ref();
                entry.is_free() && endless.is_some_and(|endless| endless.is_over(now))
            }
            Entry::Whole(_) => false,
        };
        let all = self.0.index.iter();
        let due: Vec<TaskId> = all
            .filter(|entry| over(entry.value()))
            .map(|entry| *entry.key())
            .collect();
        for task in due {
            self.take_out(&task, over);
        }
    }
}

impl Partial {
    /// Where it ends, if that was not known when it began and is by now.
    pub fn end(&self) -> Option<Arc<End>> {
        self.growing.endless.as_ref()?.end()
    }

    /// Whether the store had no room for more of it, which says nothing of other contents.
    pub fn was_refused(&self) -> bool {
        let endless = self.growing.endless.as_ref();
        endless.is_some_and(|endless| endless.refused.load(Ordering::Relaxed))
    }

    /// It ends there, says somebody whose word was checked.
    pub fn ends(&self, end: End) {
        if let Some(endless) = &self.growing.endless {
            *endless.end.lock() = Some(Arc::new(end));
        }
    }

    /// Digests of all groups of a content whose size was told when it ended, in order.
    ///
    /// # Errors
    /// When a piece or the end is not known.
    pub fn groups(&self) -> io::Result<Vec<GroupDigest>> {
        let unknown = || io::Error::other("not all of it is known");
        let end = self.end().ok_or_else(unknown)?;
        let mut groups = Vec::new();
        for piece in 0..end.piece().0 {
            let piece = self.piece(PieceIndex(piece))?.ok_or_else(unknown)?;
            groups.extend_from_slice(piece.groups());
        }
        Ok(groups)
    }

    /// Makes a content whose size was not known one that has it, and whole. The caller has checked
    /// its digest, and says what its pieces are then.
    ///
    /// # Errors
    /// When it is here already ([`io::ErrorKind::AlreadyExists`]), or somebody who knew its size
    /// downloads it ([`io::ErrorKind::ResourceBusy`]): what grew stays as long as what was closed
    /// does. Or when the files can't be written or renamed.
    pub fn close(&self, lengths: Lengths, pieces: Vec<Resealed>) -> io::Result<()> {
        let task = self.growing.task.closed();
        let (Some(endless), Some(end)) = (&self.growing.endless, self.end()) else {
            return Err(io::Error::other("a content without an end"));
        };
        if self.store.stat(&task).is_some() {
            self.give_way(endless)?;
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if end.size != lengths.size() {
            return Err(io::Error::other("a content of another size"));
        }
        // More may have been written before somebody knew better.
        self.growing.set_size(lengths.size())?;
        let from = self.store.0.layout.files(&self.growing.task, false);
        let sidecar = from.data.with_extension("sidecar");
        self.write_sidecar(&sidecar, &task, &lengths, pieces)?;
        if !self.replace(task, lengths, &sidecar)? {
            fs::remove_file(&sidecar)?;
            self.give_way(endless)?;
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        // Of no use to anybody any more; the next start would remove it.
        let _ = fs::remove_file(&from.journal);
        *endless.closed.lock() = Some(Instant::now());
        let reserved = endless.reserved.swap(0, Ordering::Relaxed);
        self.store.unaccount(reserved, false);
        self.store.0.fresh.lock().push(task);
        self.store.0.metrics.committed();
        Ok(())
    }

    /// What others made of the content, or are about to, stays. Who is behind reads the file that is
    /// open; who begins it anew has another one.
    fn give_way(&self, endless: &Endless) -> io::Result<()> {
        drop(self.store.0.layout.remove(&self.growing.task, false)?);
        *endless.closed.lock() = Some(Instant::now());
        Ok(())
    }

    /// Makes it the whole `task`, in place of what others began knowing its size and left; not where
    /// somebody is at it.
    fn replace(&self, task: TaskId, lengths: Lengths, sidecar: &Path) -> io::Result<bool> {
        let inner = &self.store.0;
        let slot = inner.index.entry(task);
        if matches!(&slot, Slot::Occupied(slot) if !slot.get().is_free()) {
            return Ok(false);
        }
        let whole = self.make_whole(task, lengths, sidecar)?;
        self.store.account(lengths.size(), whole.manifest);
        let Slot::Occupied(mut slot) = slot else {
            slot.insert(Entry::Whole(whole));
            return Ok(true);
        };
        let before = slot.insert(Entry::Whole(whole));
        self.store.unaccount(before.size(), before.is_manifest());
        if let Err(cause) = inner.layout.remove(&task, false) {
            tracing::warn!(%task, %cause, "a download's files remain until the next start");
        }
        Ok(true)
    }

    /// The journal that goes with the whole content.
    fn write_sidecar(
        &self,
        path: &Path,
        task: &TaskId,
        lengths: &Lengths,
        pieces: Vec<Resealed>,
    ) -> io::Result<()> {
        let file = File::create(path)?;
        let (mut ledger, mut at) = (Ledger::default(), 0);
        let mut write = |record: Record| {
            let bytes = record.encode();
            file.write_all_at(&bytes, at)?;
            at += bytes.len() as u64;
            ledger.apply(record, lengths);
            io::Result::Ok(())
        };
        let media_type = self.growing.media_type.as_deref();
        let header = Header::new(task, lengths, self.growing.origin.as_ref(), media_type);
        write(Record::Header(header))?;
        let mut grant = None;
        for piece in pieces {
            let Resealed {
                index,
                groups,
                proof,
            } = piece;
            let stated = match proof {
                Some(proof) => {
                    if grant.is_none() {
                        write(Record::Grant((*proof.grant).clone()))?;
                    }
                    let same = grant.get_or_insert_with(|| Arc::clone(&proof.grant));
                    if *same != proof.grant {
                        return Err(io::Error::other("pieces by several grants"));
                    }
                    Some((0, proof.statement))
                }
                None => None,
            };
            write(Record::Piece {
                index,
                stated,
                groups,
            })?;
        }
        Ok(())
    }
}

/// Drops what an earlier process left of them.
pub(super) fn clear(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}
