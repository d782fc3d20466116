//! Contents that grow.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use darter_api::{Lengths, Origin, PieceIndex, PieceSet, Proof, TaskId, proof::GroupDigest};
use darter_runtime::server::span::FileSpan;
use parking_lot::Mutex;

use super::{
    Entry, Store,
    blob::{Keep, StoredPiece, Whole, read_range, write_at},
    endless::Endless,
    is_manifest,
    journal::{Header, Ledger, Record},
    layout::Layout,
    unix_seconds,
};

/// A download on disk: the data file, and the journal of its verified pieces.
#[derive(Debug)]
pub(super) struct Growing {
    pub(super) task: TaskId,
    pub(super) lengths: Lengths,
    pub(super) media_type: Option<String>,
    pub(super) origin: Option<Origin>,
    file: Arc<File>,
    journal: Mutex<Journal>,
    /// What it became: who still reads the growing content keeps the whole one.
    committed: OnceLock<Arc<Whole>>,
    /// What there is to know of one whose size was not known when it began.
    pub(super) endless: Option<Endless>,
}

/// The journal's file and what it says. A record is written before it counts; one that the disk took
/// only in part is written over by the next, since nothing behind a torn one would ever be read.
#[derive(Debug)]
struct Journal {
    file: File,
    /// Where the next record goes.
    end: u64,
    ledger: Ledger,
}

impl Journal {
    fn append(&mut self, records: Vec<Record>, lengths: &Lengths) -> io::Result<()> {
        let bytes: Vec<Vec<u8>> = records.iter().map(Record::encode).collect();
        let bytes = bytes.concat();
        if let Err(cause) = self.file.write_all_at(&bytes, self.end) {
            // Not worth more than a try: what remains is written over.
            let _ = self.file.set_len(self.end);
            return Err(cause);
        }
        self.end += bytes.len() as u64;
        for record in records {
            self.ledger.apply(record, lengths);
        }
        Ok(())
    }
}

impl Growing {
    pub(super) fn create(
        layout: &Layout,
        task: TaskId,
        lengths: Lengths,
        origin: Option<&Origin>,
        media_type: Option<&str>,
    ) -> io::Result<Self> {
        let files = layout.files(&task, false);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        // The old journal goes before the data it spoke of does.
        let mut journal = Journal {
            file: options.open(&files.journal)?,
            end: 0,
            ledger: Ledger::default(),
        };
        let file = options.open(&files.data)?;
        if !lengths.is_open() {
            file.set_len(lengths.size())?;
        }
        let header = Header::new(&task, &lengths, origin, media_type);
        journal.append(vec![Record::Header(header)], &lengths)?;
        Ok(Self {
            task,
            lengths,
            media_type: media_type.map(str::to_owned),
            origin: origin.cloned(),
            file: Arc::new(file),
            journal: Mutex::new(journal),
            committed: OnceLock::new(),
            endless: lengths.is_open().then(Endless::default),
        })
    }

    /// From what an earlier process left; `None` when it is of no use.
    pub(super) fn resume(layout: &Layout, task: TaskId) -> io::Result<Option<Self>> {
        let files = layout.files(&task, false);
        let bytes = match fs::read(&files.journal) {
            Ok(bytes) => bytes,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(cause),
        };
        let Some((header, ledger, good)) = Ledger::replay(&bytes) else {
            return Ok(None);
        };
        let Some(lengths) = header.lengths().filter(|_| header.task() == Some(task)) else {
            return Ok(None);
        };
        let open = |path| File::options().read(true).write(true).open(path);
        let (Ok(file), journal) = (
            open(&files.data),
            File::options().write(true).open(&files.journal)?,
        ) else {
            return Ok(None);
        };
        if file.metadata()?.len() != lengths.size() {
            return Ok(None);
        }
        journal.set_len(good as u64)?;
        Ok(Some(Self {
            task,
            lengths,
            media_type: header.media_type().map(str::to_owned),
            origin: header.origin(),
            file: Arc::new(file),
            journal: Mutex::new(Journal {
                file: journal,
                end: good as u64,
                ledger,
            }),
            committed: OnceLock::new(),
            endless: None,
        }))
    }

    pub(super) fn is_manifest(&self) -> bool {
        is_manifest(self.origin.as_ref(), self.media_type.as_deref())
    }

    pub(super) fn held(&self) -> PieceSet {
        let mut held = self.journal.lock().ledger.held.clone();
        if let Some(endless) = &self.endless {
            held.union_with(&endless.past());
        }
        held
    }

    /// Cuts the file.
    pub(super) fn set_size(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }

    /// Bytes that it counts for.
    pub(super) fn size(&self) -> u64 {
        let endless = self.endless.as_ref();
        endless.map_or(self.lengths.size(), Endless::reserved)
    }

    /// Whether a download of this geometry can go on with it.
    pub(super) fn goes_on_as(&self, lengths: Lengths) -> bool {
        let endless = self.endless.as_ref();
        self.lengths == lengths && !endless.is_some_and(Endless::is_closed)
    }

    /// Bytes of pieces that are not sealed yet.
    pub(super) fn missing_bytes(&self) -> u64 {
        let sealed = self.journal.lock().ledger.held.len();
        let sealed = u64::from(sealed) * u64::from(self.lengths.piece_length());
        self.size().saturating_sub(sealed)
    }

    pub(super) fn piece(self: &Arc<Self>, index: PieceIndex) -> io::Result<Option<StoredPiece>> {
        let end = self.endless.as_ref().and_then(Endless::end);
        let piece = |range, proof, groups| StoredPiece {
            range,
            proof,
            groups,
            end: end.clone(),
            media_type: self.media_type.clone(),
            file: Arc::clone(&self.file),
            keep: Keep::Growing(Arc::clone(self)),
        };
        let range = match &end {
            Some(end) => end.piece_range(index),
            None => self.lengths.piece_range(index),
        };
        if range.is_empty() && end.is_some() {
            return Ok(Some(piece(range, None, Arc::new([]))));
        }
        let journal = self.journal.lock();
        // What was sealed by the word for another end is not what the range says: who gets it would
        // find its groups wrong.
        let fits = |endless: &Endless| endless.sealed(index) == range.end - range.start;
        let sealed = journal.ledger.get(index);
        let sealed = sealed.filter(|_| self.endless.as_ref().is_none_or(fits));
        Ok(sealed.map(|sealed| piece(range, sealed.proof.clone(), Arc::clone(&sealed.groups))))
    }
}

/// A download, open for writing. Cheap to clone; while one is held it is not evicted.
#[derive(Debug, Clone)]
pub struct Partial {
    pub(super) growing: Arc<Growing>,
    pub(super) store: Store,
}

impl Partial {
    pub(super) const fn new(growing: Arc<Growing>, store: Store) -> Self {
        Self { growing, store }
    }

    /// The task.
    pub fn task(&self) -> TaskId {
        self.growing.task
    }

    /// Its geometry.
    pub fn lengths(&self) -> Lengths {
        self.growing.lengths
    }

    /// Where it can be read, as it was begun with.
    pub fn origin(&self) -> Option<&Origin> {
        self.growing.origin.as_ref()
    }

    /// Verified pieces on disk.
    pub fn held(&self) -> PieceSet {
        self.growing.held()
    }

    /// Writes bytes into their place. They count only when their piece is sealed.
    ///
    /// # Errors
    /// When the disk does not take them, or they lie outside the content.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset + bytes.len() as u64 > self.growing.lengths.size() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a write past the content's end",
            ));
        }
        if let Some(endless) = &self.growing.endless {
            endless.make_room(&self.store, offset + bytes.len() as u64)?;
        }
        write_at(&self.growing.file, offset, bytes)
    }

    /// Notes that a piece of so many bytes is verified and written.
    ///
    /// # Errors
    /// When the journal can't be appended to; the piece does not count then.
    pub fn seal(
        &self,
        index: PieceIndex,
        bytes: u64,
        groups: &[GroupDigest],
        proof: Option<&Proof>,
    ) -> io::Result<()> {
        let mut journal = self.growing.journal.lock();
        let records = journal.ledger.sealing(index, groups, proof);
        journal.append(records, &self.growing.lengths)?;
        if let Some(endless) = &self.growing.endless {
            endless.seals(index, bytes);
        }
        Ok(())
    }

    /// Takes pieces back.
    ///
    /// # Errors
    /// When the journal can't be appended to; they are still held then.
    pub fn unseal(&self, pieces: &PieceSet) -> io::Result<()> {
        let mut journal = self.growing.journal.lock();
        let record = Record::Lost(pieces.clone());
        journal.append(vec![record], &self.growing.lengths)?;
        if let Some(endless) = &self.growing.endless {
            endless.take_back(pieces);
        }
        Ok(())
    }

    /// Reads bytes, verified or not: the caller knows which are.
    ///
    /// # Errors
    /// When the file can't be read so far.
    pub fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        read_range(&self.growing.file, range)
    }

    /// Fills `bytes` with what lies at `offset`, verified or not.
    ///
    /// # Errors
    /// When the file can't be read so far.
    pub fn read_into(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.growing.file.read_exact_at(bytes, offset)
    }

    /// Where bytes lie, verified or not: the caller knows which are. They stay there until
    /// the span is dropped.
    pub fn span(&self, range: Range<u64>) -> FileSpan {
        FileSpan::new(Arc::clone(&self.growing.file), range).keeping(Arc::clone(&self.growing))
    }

    /// A sealed piece with what proves it.
    ///
    /// # Errors
    /// When the journal can't be read.
    pub fn piece(&self, index: PieceIndex) -> io::Result<Option<StoredPiece>> {
        self.growing.piece(index)
    }

    /// Makes the content whole, by rename. The caller has checked its digest.
    ///
    /// # Errors
    /// When the files can't be renamed.
    pub fn commit(self) -> io::Result<()> {
        let (task, lengths) = (self.growing.task, self.growing.lengths);
        let journal = self.store.0.layout.files(&task, false).journal;
        let whole = self.make_whole(task, lengths, &journal)?;
        self.store.0.index.insert(task, Entry::Whole(whole));
        self.store.0.fresh.lock().push(task);
        self.store.0.metrics.committed();
        Ok(())
    }

    /// Renames the files to those of a whole `task`, of which the journal speaks.
    pub(super) fn make_whole(
        &self,
        task: TaskId,
        lengths: Lengths,
        journal: &Path,
    ) -> io::Result<Arc<Whole>> {
        let layout = &self.store.0.layout;
        let from = layout.files(&self.growing.task, false);
        let to = layout.files(&task, true);
        // The journal first: a data file under `blobs` always has one.
        fs::rename(journal, &to.journal)?;
        if let Err(cause) = fs::rename(&from.data, &to.data) {
            // So that the download can still be gone on with.
            fs::rename(&to.journal, journal)?;
            return Err(cause);
        }
        let whole = Whole::new(
            task,
            lengths,
            self.growing.media_type.clone(),
            self.growing.is_manifest(),
            unix_seconds(),
        );
        let whole = Arc::new(whole);
        let _ = self.growing.committed.set(Arc::clone(&whole));
        Ok(whole)
    }
}
