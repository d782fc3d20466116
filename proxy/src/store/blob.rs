//! Whole, verified contents.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use darter_api::{End, Lengths, PieceIndex, Proof, TaskId, proof::GroupDigest};
use darter_runtime::server::span::FileSpan;
use parking_lot::Mutex;
use rustix::io::ReadWriteFlags;

use super::{journal::Ledger, layout::Layout, unix_seconds};

/// The file's time is set again when it is older than this, in seconds.
const TOUCH_AFTER: u64 = 60;

/// What the index knows of a whole content.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) task: TaskId,
    pub(super) lengths: Lengths,
    pub(super) media_type: Option<String>,
    pub(super) manifest: bool,
    /// Seconds since the Unix epoch.
    pub(super) used: AtomicU64,
    /// Read at the first request of a piece, and kept while the content is in use.
    ledger: Mutex<Option<Arc<Ledger>>>,
}

impl Whole {
    pub(super) fn new(
        task: TaskId,
        lengths: Lengths,
        media_type: Option<String>,
        manifest: bool,
        used: u64,
    ) -> Self {
        Self {
            task,
            lengths,
            media_type,
            manifest,
            used: AtomicU64::new(used),
            ledger: Mutex::new(None),
        }
    }

    /// Lets go of what proves its pieces: it is read again when one is asked for.
    pub(super) fn forget_ledger(&self) {
        *self.ledger.lock() = None;
    }

    #[cfg(test)]
    pub(super) fn keeps_ledger(&self) -> bool {
        self.ledger.lock().is_some()
    }
}

/// A whole content, open for reading. While it is held the content stays.
#[derive(Debug, Clone)]
pub struct Blob {
    whole: Arc<Whole>,
    file: Arc<File>,
    journal: std::path::PathBuf,
}

impl Blob {
    pub(super) fn open(whole: Arc<Whole>, layout: &Layout) -> io::Result<Self> {
        let files = layout.files(&whole.task, true);
        let file = File::open(&files.data)?;
        if file.metadata()?.len() != whole.lengths.size() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the file has another size",
            ));
        }
        let now = unix_seconds();
        if now.saturating_sub(whole.used.swap(now, Ordering::Relaxed)) > TOUCH_AFTER {
            // For the order of eviction after a restart; not worth failing for.
            let _ = File::options()
                .append(true)
                .open(&files.data)
                .and_then(|file| file.set_modified(SystemTime::now()));
        }
        Ok(Self {
            whole,
            file: Arc::new(file),
            journal: files.journal,
        })
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.whole.lengths.size()
    }

    /// Geometry.
    pub fn lengths(&self) -> Lengths {
        self.whole.lengths
    }

    /// Media type of a manifest.
    pub fn media_type(&self) -> Option<&str> {
        self.whole.media_type.as_deref()
    }

    /// Reads `range`, which must lie inside the content.
    ///
    /// # Errors
    /// When the file can't be read so far.
    pub fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        read_range(&self.file, range)
    }

    /// Where bytes lie, which must be inside the content. They stay there until the span is
    /// dropped.
    pub fn span(&self, range: Range<u64>) -> FileSpan {
        FileSpan::new(Arc::clone(&self.file), range).keeping(Arc::clone(&self.whole))
    }

    /// Whether the ends of `range` are in memory, so that sending it does not wait for the
    /// disk; a guess, since files are read ahead in order.
    pub fn is_cached(&self, range: &Range<u64>) -> bool {
        let now = |at: u64| {
            let mut byte = [0];
            let mut slices = [io::IoSliceMut::new(&mut byte)];
            let read = rustix::io::preadv2(&*self.file, &mut slices, at, ReadWriteFlags::NOWAIT);
            !matches!(read, Err(rustix::io::Errno::AGAIN))
        };
        now(range.start) && now(range.end.saturating_sub(1))
    }

    /// Brings bytes into memory; blocks.
    ///
    /// # Errors
    /// When the file can't be read so far.
    pub fn cache(&self, range: Range<u64>) -> io::Result<()> {
        read_range(&self.file, range).map(drop)
    }

    /// A piece with what proves it.
    ///
    /// # Errors
    /// When the journal can't be read.
    pub fn piece(&self, index: PieceIndex) -> io::Result<Option<StoredPiece>> {
        let lengths = self.lengths();
        if index.0 >= lengths.pieces() {
            return Ok(None);
        }
        let piece = StoredPiece {
            range: lengths.piece_range(index),
            end: None,
            media_type: self.whole.media_type.clone(),
            proof: None,
            groups: Arc::new([]),
            file: Arc::clone(&self.file),
            keep: Keep::Whole(Arc::clone(&self.whole)),
        };
        if self.whole.task.proves_itself(&lengths) {
            return Ok(Some(piece));
        }
        let ledger = self.ledger()?;
        Ok(ledger.get(index).map(|sealed| StoredPiece {
            proof: sealed.proof.clone(),
            groups: Arc::clone(&sealed.groups),
            ..piece
        }))
    }

    fn ledger(&self) -> io::Result<Arc<Ledger>> {
        let mut kept = self.whole.ledger.lock();
        if let Some(ledger) = &*kept {
            return Ok(Arc::clone(ledger));
        }
        let bytes = fs::read(&self.journal)?;
        let ledger = Ledger::replay(&bytes)
            .map(|(_, ledger, _)| Arc::new(ledger))
            .unwrap_or_default();
        *kept = Some(Arc::clone(&ledger));
        Ok(ledger)
    }
}

/// What keeps a piece's content in the store.
#[derive(Debug, Clone)]
pub(super) enum Keep {
    Whole(#[expect(dead_code, reason = "held, not read")] Arc<Whole>),
    Growing(#[expect(dead_code, reason = "held, not read")] Arc<super::partial::Growing>),
}

/// A verified piece, ready to be sent.
#[derive(Debug, Clone)]
pub struct StoredPiece {
    pub(super) range: Range<u64>,
    pub(super) end: Option<Arc<End>>,
    pub(super) media_type: Option<String>,
    pub(super) proof: Option<Proof>,
    pub(super) groups: Arc<[GroupDigest]>,
    pub(super) file: Arc<File>,
    pub(super) keep: Keep,
}

impl StoredPiece {
    /// Where the content ends, of one whose size was not known when it began and is by now.
    pub fn end(&self) -> Option<&End> {
        self.end.as_deref()
    }

    /// Media type of a manifest.
    pub fn media_type(&self) -> Option<&str> {
        self.media_type.as_deref()
    }

    /// Why it may be believed; `None` for what its own digest proves and for what was stored
    /// without a swarm.
    pub const fn proof(&self) -> Option<&Proof> {
        self.proof.as_ref()
    }

    /// Its groups' digests; none for what its own digest proves.
    pub fn groups(&self) -> &[GroupDigest] {
        &self.groups
    }

    /// The piece of a content that its own digest proves.
    #[must_use]
    pub fn without_proof(self) -> Self {
        Self {
            proof: None,
            groups: Arc::new([]),
            ..self
        }
    }

    /// The bytes of the content that it covers.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Where a part of the content lies. It stays there until the span is dropped.
    pub fn span(&self, range: Range<u64>) -> FileSpan {
        FileSpan::new(Arc::clone(&self.file), range).keeping(self.keep.clone())
    }
}

/// Reads a range of a file into a buffer that is not zeroed first.
pub(super) fn read_range(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let length =
        usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
    let mut buffer: Vec<u8> = Vec::with_capacity(length);
    let mut at = range.start;
    while buffer.len() < length {
        let got = rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), at);
        match got {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => at += got as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(cause) => return Err(cause.into()),
        }
    }
    buffer.truncate(length);
    Ok(buffer.into())
}

/// Writes all of `bytes` at `offset`.
pub(super) fn write_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}
