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
}
