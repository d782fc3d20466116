//! Making commits durable behind the pulls' backs: a pull never waits for fsync.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
};

use darter_api::TaskId;

use super::{Store, journal::Record};

/// Why a content is not durable.
enum Unsynced {
    /// Its files can't be had now, or are gone.
    Files(io::Error),
    /// The disk did not take it. Linux says so once and counts the pages as written: another try would be told that all
    /// is well (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
    Disk(io::Error),
}

impl Store {
    /// Syncs what was committed since the last call, and notes that it was. What the disk did
    /// not take is never called durable: it is hashed again once the machine has restarted. Blocks as
    /// long as the disk takes; for a slow background loop.
    pub fn make_durable(&self) {
        let fresh = std::mem::take(&mut *self.0.fresh.lock());
        for task in fresh {
            match self.sync(&task) {
                Ok(()) => {}
                Err(Unsynced::Files(cause)) if cause.kind() == io::ErrorKind::NotFound => {}
                Err(Unsynced::Files(cause)) => {
                    tracing::warn!(%task, %cause, "a commit is not durable yet");
                    self.0.fresh.lock().push(task);
                }
                Err(Unsynced::Disk(cause)) => {
                    tracing::error!(%task, %cause, "the disk did not take a commit; it is hashed again after the machine restarts");
                }
            }
        }
    }

    fn sync(&self, task: &TaskId) -> Result<(), Unsynced> {
        let files = self.0.layout.files(task, true);
        let open = |path: &Path| File::open(path).map_err(Unsynced::Files);
        let (data, folder) = (
            open(&files.data)?,
            files.data.parent().map(open).transpose()?,
        );
        let journal = File::options().append(true).open(&files.journal);
        let mut journal = journal.map_err(Unsynced::Files)?;
        let mut synced = data.sync_all().and_then(|()| journal.sync_all());
        if let Some(folder) = folder {
            synced = synced.and_then(|()| folder.sync_all());
        }
        synced.map_err(Unsynced::Disk)?;
        let noted = journal.write_all(&Record::Durable.encode());
        noted
            .and_then(|()| journal.sync_data())
            .map_err(Unsynced::Disk)
    }
}
