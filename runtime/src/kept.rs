//! Small files in a node's data directory: what a manager said last, for a start without it.

use std::{io, path::Path, path::PathBuf};

/// The bytes of a file that has `most` at most; a larger one, or none, is `None`.
pub(crate) fn read(file: &Path, most: u64) -> Option<Vec<u8>> {
    let size = std::fs::metadata(file).ok()?.len();
    (size <= most).then(|| std::fs::read(file).ok())?
}

/// Puts `bytes` in the place of what the file had. A crash leaves the one or the other.
pub(crate) async fn write(file: PathBuf, bytes: Vec<u8>) -> io::Result<()> {
    let write = move || {
        let temporary = file.with_extension("new");
        std::fs::write(&temporary, bytes)?;
        std::fs::rename(&temporary, &file)
    };
    tokio::task::spawn_blocking(write).await?
}
