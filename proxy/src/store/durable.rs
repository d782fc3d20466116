//! Making commits durable behind the pulls' backs: a pull never waits for fsync.

use std::{
    fs::File,
    io::{self, Write as _},
};

use darter_api::TaskId;

use super::{Store, journal::Record};

impl Store {
    /// Syncs what was committed since the last call, and notes that it was. Blocks as
    /// long as the disk takes; for a slow background loop.
    pub fn make_durable(&self) {
        let fresh = std::mem::take(&mut *self.0.fresh.lock());
        for task in fresh {
            match self.sync(&task) {
                Ok(()) => {}
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => {
                    tracing::warn!(%task, %cause, "a commit is not durable yet");
                    self.0.fresh.lock().push(task);
                }
            }
        }
    }

    fn sync(&self, task: &TaskId) -> io::Result<()> {
        let files = self.0.layout.files(task, true);
        File::open(&files.data)?.sync_all()?;
        let mut journal = File::options().append(true).open(&files.journal)?;
        journal.sync_all()?;
        if let Some(folder) = files.data.parent() {
            File::open(folder)?.sync_all()?;
        }
        journal.write_all(&Record::Durable.encode())?;
        journal.sync_data()
    }

    /// Hashes a whole content again; one that fails is dropped. Whether it is right.
    /// For a slow background scrub.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn scrub(&self, task: &TaskId) -> io::Result<bool> {
        let Some(blob) = self.whole(task) else {
            return Ok(true);
        };
        let whole = blob.downgrade();
        let mut hasher = darter_api::Hasher::new(task.digest().algorithm());
        let mut at = 0;
        while at < blob.size() {
            let next = (at + (1 << 20)).min(blob.size());
            hasher.update(&blob.read(at..next)?);
            at = next;
        }
        if hasher.finish() == *task.digest() {
            return Ok(true);
        }
        tracing::error!(%task, "a stored blob does not match its digest any more; it is dropped");
        self.0.metrics.rotten();
        self.drop_whole(&whole, task);
        Ok(false)
    }
}
