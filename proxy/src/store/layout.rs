//! Where things lie in the directory. The only place that makes paths.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use darter_api::{Algorithm, Digest, TaskId};

/// The directory of a store.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

/// The two files of one content.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) data: PathBuf,
    pub(super) journal: PathBuf,
}

const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

impl Layout {
    /// Makes the folders.
    pub(super) fn create(root: &Path) -> io::Result<Self> {
        let layout = Self {
            root: root.to_owned(),
        };
        for whole in [true, false] {
            for algorithm in ALGORITHMS {
                fs::create_dir_all(layout.folder(whole, algorithm))?;
            }
        }
        Ok(layout)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn folder(&self, whole: bool, algorithm: Algorithm) -> PathBuf {
        let kind = if whole { "blobs" } else { "partial" };
        self.root.join(kind).join(algorithm.as_str())
    }

    /// A digest's text is hex of a fixed length, so it can't leave the folder.
    pub(super) fn files(&self, task: &TaskId, whole: bool) -> Files {
        let digest = task.digest();
        let data = self.folder(whole, digest.algorithm()).join(digest.hex());
        let journal = data.with_extension("journal");
        Files { data, journal }
    }

    /// Removes a content's files; that they are gone already is fine.
    pub(super) fn remove(&self, task: &TaskId, whole: bool) -> io::Result<()> {
        let files = self.files(task, whole);
        // The journal goes last: without it data is garbage, which the next start removes.
        for path in [files.data, files.journal] {
            match fs::remove_file(path) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
                _ => {}
            }
        }
        Ok(())
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
                let digest = format!("{}:{hex}", algorithm.as_str()).parse::<Digest>();
                tasks.extend(digest.ok().map(TaskId::from));
            }
        }
        tasks.sort_unstable();
        tasks.dedup();
        Ok(tasks)
    }
}
