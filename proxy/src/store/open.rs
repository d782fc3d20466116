//! Opening a directory: who owns it, what is in it, what of it can be trusted.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::UNIX_EPOCH,
};

use darter_api::{PieceSet, TaskId};
use dashmap::DashMap;
use parking_lot::Mutex;
use rustix::fs::FlockOperation;

use super::{
    Entry, Found, Inner, Metrics, Options, Store,
    blob::Whole,
    is_manifest,
    journal::Ledger,
    layout::{Layout, make_private},
    partial::Growing,
    pins::Pins,
    room::Room,
    unix_seconds,
};

/// Says which boot of the machine the files are from.
const BOOT: &str = "boot";

/// The store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process owns it.
    #[error("the data directory {0} is in use by another process")]
    Locked(PathBuf),
    /// It can't be used.
    #[error("the data directory {path} can't be used")]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

/// The machine's boot id; a constant where there is none, so that nothing is hashed again
/// for want of it.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".into(), |id| id.trim().to_owned())
}

pub(super) fn open(
    directory: &Path,
    options: &Options,
    metrics: Metrics,
    boot_id: &str,
) -> Result<(Store, Vec<Found>), OpenError> {
    let io = |cause| OpenError::Io {
        path: directory.to_owned(),
        cause,
    };
    make_private(directory).map_err(io)?;
    let lock = lock(directory)?;
    let layout = Layout::create(directory).map_err(io)?;
    let same_boot = last_boot(directory) == boot_id;
    let pins = Pins::open(directory.join("pins"), unix_seconds()).map_err(io)?;
    let store = Store(Arc::new(Inner {
        layout,
        options: options.clone(),
        index: DashMap::new(),
        blob_bytes: AtomicU64::new(0),
        manifest_bytes: AtomicU64::new(0),
        room: Room::default(),
        pins: Mutex::new(pins),
        gone: Mutex::default(),
        fresh: Mutex::default(),
        metrics,
        _lock: lock,
    }));
    let mut found = Vec::new();
    for task in store.0.layout.list(true).map_err(io)? {
        found.extend(store.adopt_whole(task, same_boot).map_err(io)?);
    }
    for task in store.0.layout.list(false).map_err(io)? {
        found.extend(store.adopt_partial(task, same_boot).map_err(io)?);
    }
    if !same_boot {
        // Only now: a start that is cut short must not make the next one trust what this
        // one has not hashed. Unwritten, it only makes the next one hash again.
        if let Err(cause) = fs::write(directory.join(BOOT), boot_id) {
            tracing::warn!(%cause, "the boot id can't be noted");
        }
    }
    Ok((store, found))
}

fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    let file = file.map_err(|cause| OpenError::Io {
        path: directory.to_owned(),
        cause,
    })?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| OpenError::Locked(directory.to_owned()))?;
    Ok(file)
}

/// The boot id under which the directory was last used; empty where there is none.
fn last_boot(directory: &Path) -> String {
    fs::read_to_string(directory.join(BOOT)).unwrap_or_default()
}

impl Store {
    fn adopt_whole(&self, task: TaskId, same_boot: bool) -> io::Result<Option<Found>> {
        let files = self.0.layout.files(&task, true);
        let Ok(metadata) = fs::metadata(&files.data) else {
            // A commit was cut between its two renames: its data still lies in `partial`, and its
            // journal no more. Where there is one, the data is another download's, and this journal
            // that of a content whose size was not known, which is lost.
            let back = self.0.layout.files(&task, false);
            if back.data.is_file() && !back.journal.is_file() {
                fs::rename(&files.journal, &back.journal)?;
            } else {
                drop(self.0.layout.remove(&task, true)?);
            }
            return Ok(None);
        };
        let bytes = fs::read(&files.journal).unwrap_or_default();
        let replayed = Ledger::replay(&bytes);
        let usable = replayed.and_then(|(header, ledger, _)| {
            let lengths = header.lengths()?;
            let right = header.task() == Some(task) && metadata.len() == lengths.size();
            right.then_some((header, lengths, ledger))
        });
        let Some((header, lengths, ledger)) = usable else {
            tracing::warn!(%task, "a stored blob has no usable journal; it is dropped");
            drop(self.0.layout.remove(&task, true)?);
            return Ok(None);
        };
        if task.is_file() && !same_boot && !ledger.durable {
            // Nothing could tell that all of it reached the disk.
            drop(self.0.layout.remove(&task, true)?);
            return Ok(None);
        }
        let used = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let media_type = header.media_type().map(str::to_owned);
        let manifest = is_manifest(header.origin().as_ref(), header.media_type());
        let whole = Whole::new(
            task,
            lengths,
            media_type,
            manifest,
            used.map_or(0, |time| time.as_secs()),
        );
        self.0.index.insert(task, Entry::Whole(Arc::new(whole)));
        self.account(lengths.size(), manifest);
        if !ledger.durable {
            if !same_boot && !self.scrub(&task) {
                return Ok(None);
            }
            self.0.fresh.lock().push(task);
        }
        Ok(Some(Found {
            task,
            lengths,
            held: PieceSet::full(lengths.pieces()),
            origin: header.origin(),
            whole: true,
        }))
    }

    fn adopt_partial(&self, task: TaskId, same_boot: bool) -> io::Result<Option<Found>> {
        let resumed = if same_boot && !self.0.index.contains_key(&task) {
            Growing::resume(&self.0.layout, task)?
        } else {
            None
        };
        let Some(growing) = resumed else {
            drop(self.0.layout.remove(&task, false)?);
            return Ok(None);
        };
        let (lengths, held) = (growing.lengths, growing.held());
        let origin = growing.origin.clone();
        let manifest = growing.is_manifest();
        self.0.index.insert(task, Entry::Growing(Arc::new(growing)));
        self.account(lengths.size(), manifest);
        Ok(Some(Found {
            task,
            lengths,
            held,
            origin,
            whole: false,
        }))
    }
}
