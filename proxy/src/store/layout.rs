//! Where things lie in the directory. The only place that makes paths.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use darter_api::{Algorithm, TaskId};

use super::endless;

/// The directory of a store.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
    /// Names what is put to the trash.
    removals: Arc<AtomicU64>,
}

/// Makes a directory into which nobody else on this host may look, and one that is there such a
/// one: who may read a content is not for its file's mode to say. Where this process may not (the
/// directory is another user's, or on a file system without modes), others are warned of.
pub(crate) fn make_private(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mode = fs::metadata(directory)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    if let Err(cause) = fs::set_permissions(directory, fs::Permissions::from_mode(0o700)) {
        tracing::warn!(directory = %directory.display(), %cause, "others on this host may read what is stored: chmod 700 it");
    }
    Ok(())
}

/// The two files of one content.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) data: PathBuf,
    pub(super) journal: PathBuf,
}

/// Files that are out of the way; dropping frees their space, which takes a file system
/// up to seconds for a large one.
#[derive(Debug)]
#[must_use]
pub(super) struct Removed(Vec<PathBuf>);

impl Drop for Removed {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(cause) = fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %cause, "a dropped content's file remains until the next start");
            }
        }
    }
}

const ALGORITHMS: [Algorithm; 3] = [Algorithm::Sha256, Algorithm::Sha512, Algorithm::File];

impl Layout {
    /// Makes the folders, and empties the trash.
    pub(super) fn create(root: &Path) -> io::Result<Self> {
        let layout = Self {
            root: root.to_owned(),
            removals: Arc::default(),
        };
        match fs::remove_dir_all(layout.trash()) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => fs::create_dir_all(layout.trash())?,
        }
        endless::clear(&layout.open_folder())?;
        for algorithm in ALGORITHMS {
            for whole in [true, false] {
                fs::create_dir_all(layout.folder(whole, algorithm))?;
            }
            fs::create_dir_all(layout.open_folder().join(algorithm.as_str()))?;
        }
        Ok(layout)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    fn folder(&self, whole: bool, algorithm: Algorithm) -> PathBuf {
        let kind = if whole { "blobs" } else { "partial" };
        self.root.join(kind).join(algorithm.as_str())
    }

    /// Of contents whose size is not known.
    fn open_folder(&self) -> PathBuf {
        self.root.join("partial").join("open")
    }

    /// A digest's text is hex of a fixed length, so it can't leave the folder.
    pub(super) fn files(&self, task: &TaskId, whole: bool) -> Files {
        let digest = task.digest();
        let folder = match task.is_open() {
            true => self.open_folder().join(digest.algorithm().as_str()),
            false => self.folder(whole, digest.algorithm()),
        };
        let data = folder.join(digest.hex());
        let journal = data.with_extension("journal");
        Files { data, journal }
    }

    /// Takes a content's files out of the way at once, whatever their size; the disk has
    /// its space back when the [`Removed`] is dropped. That they are gone already is fine.
    pub(super) fn remove(&self, task: &TaskId, whole: bool) -> io::Result<Removed> {
        let files = self.files(task, whole);
        let mut removed = Removed(Vec::new());
        // The journal goes last: without it data is garbage, which the next start removes.
        for path in [files.data, files.journal] {
            let number = self.removals.fetch_add(1, Ordering::Relaxed);
            let to = self.trash().join(number.to_string());
            match fs::rename(&path, &to) {
                Ok(()) => removed.0.push(to),
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                // A full disk may have no room for a name.
                Err(_) => fs::remove_file(&path)?,
            }
        }
        Ok(removed)
    }

    /// All tasks with a data file or a journal.
    pub(super) fn list(&self, whole: bool) -> io::Result<Vec<TaskId>> {
        let mut tasks = Vec::new();
        for algorithm in ALGORITHMS {
            for entry in fs::read_dir(self.folder(whole, algorithm))? {
                let name = entry?.file_name();
                let Some(hex) = name.to_str().map(|name| name.trim_end_matches(".journal")) else {
                    continue;
                };
                tasks.extend(format!("{}:{hex}", algorithm.as_str()).parse::<TaskId>());
            }
        }
        tasks.sort_unstable();
        tasks.dedup();
        Ok(tasks)
    }
}
