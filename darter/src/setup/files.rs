//! Files below a root directory: whole or not at all, with the mode and owner they had.
//!
//! Paths are absolute as seen from inside the root. A link that leads out of it is an error,
//! so that setting up another system never touches this one.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

/// Of a configuration file; more is somebody's mistake.
const MOST_BYTES: u64 = 4 << 20;

/// The root directory of a system.
#[derive(Debug)]
pub(crate) struct Root(PathBuf);

impl Root {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let real = fs::canonicalize(dir)
            .with_context(|| format!("--root {}: no such directory", dir.display()))?;
        ensure!(real.is_dir(), "--root {} is not a directory", dir.display());
        Ok(Self(real))
    }

    /// Waits until no other `setup` works below this root, and keeps others waiting until the
    /// file is dropped. Nothing is made for it: the directory itself is locked.
    pub(super) fn lock(&self) -> Result<fs::File> {
        let dir = fs::File::open(&self.0)?;
        rustix::fs::flock(&dir, rustix::fs::FlockOperation::LockExclusive)
            .with_context(|| format!("can't lock {}", self.0.display()))?;
        Ok(dir)
    }

    /// The path as people see it from outside.
    pub(crate) fn shown(&self, path: &str) -> String {
        self.0
            .join(path.trim_start_matches('/'))
            .display()
            .to_string()
    }

    /// Where a path really is, its links followed as far as it exists.
    fn resolve(&self, path: &str) -> Result<PathBuf> {
        let relative = Path::new(path.trim_start_matches('/'));
        let mut real = self.0.clone();
        for part in relative.components() {
            let Component::Normal(name) = part else {
                bail!("{path} is not a plain absolute path");
            };
            real.push(name);
            if let Ok(found) = fs::canonicalize(&real) {
                real = found;
                ensure!(
                    real.starts_with(&self.0),
                    "{} leads out of {}, to {}",
                    self.shown(path),
                    self.0.display(),
                    real.display()
                );
            } else if fs::symlink_metadata(&real).is_ok() {
                bail!("{} is a link that leads nowhere", real.display());
            }
        }
        Ok(real)
    }

    /// A file's text, if there is one.
    pub(crate) fn read(&self, path: &str) -> Result<Option<String>> {
        let real = self.resolve(path)?;
        let size = match fs::metadata(&real) {
            Ok(found) => found.len(),
            Err(cause) if is_missing(&cause) => return Ok(None),
            Err(cause) => return Err(cause).with_context(|| format!("can't read {path}")),
        };
        ensure!(
            size <= MOST_BYTES,
            "{} has {size} bytes, too many for a configuration",
            self.shown(path)
        );
        let text = fs::read_to_string(&real);
        text.map(Some)
            .with_context(|| format!("can't read {}", self.shown(path)))
    }

    /// The names in a directory, in order; none if it is not there.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<String>> {
        let entries = match fs::read_dir(self.resolve(path)?) {
            Ok(entries) => entries,
            Err(cause) if is_missing(&cause) => return Ok(Vec::new()),
            Err(cause) => {
                return Err(cause).with_context(|| format!("can't list {}", self.shown(path)));
            }
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    pub(crate) fn is_dir(&self, path: &str) -> bool {
        self.resolve(path).is_ok_and(|real| real.is_dir())
    }

    /// The directories above `path` that are not there, the outermost first.
    pub(crate) fn missing_above(&self, path: &str) -> Vec<String> {
        let above = Path::new(path).ancestors().skip(1);
        let mut missing: Vec<String> = above
            .filter_map(Path::to_str)
            .take_while(|dir| *dir != "/" && !self.is_dir(dir))
            .map(str::to_owned)
            .collect();
        missing.reverse();
        missing
    }

    /// Puts `content` in the place of a file, or makes one with `mode`.
    pub(crate) fn write(&self, path: &str, content: &str, mode: u32) -> Result<()> {
        let real = self.resolve(path)?;
        replace(&real, content.as_bytes(), mode).with_context(|| self.cannot("write", path))
    }

    pub(crate) fn remove(&self, path: &str) -> Result<()> {
        fs::remove_file(self.resolve(path)?).with_context(|| self.cannot("remove", path))
    }

    /// Removes a directory if it is empty; whether it is gone.
    pub(crate) fn remove_empty(&self, path: &str) -> bool {
        let Ok(real) = self.resolve(path) else {
            return false;
        };
        match fs::remove_dir(real) {
            Ok(()) => true,
            Err(cause) => is_missing(&cause),
        }
    }

    fn cannot(&self, what: &str, path: &str) -> String {
        let hint = if rustix::process::geteuid().is_root() {
            ""
        } else {
            " (you are not root: try sudo)"
        };
        format!("can't {what} {}{hint}", self.shown(path))
    }
}

fn is_missing(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Temporary file, mode and owner of what is replaced, fsync, rename.
fn replace(real: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let dir = real.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let name = real.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(dir)?;
    let temporary = dir.join(format!(
        ".{}.{}.tmp",
        name.to_string_lossy(),
        std::process::id()
    ));
    let written = fill(&temporary, real, content, mode)
        .and_then(|()| fs::rename(&temporary, real))
        .and_then(|()| fs::File::open(dir)?.sync_all());
    if written.is_err() {
        // The error that is told is the first one.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn fill(temporary: &Path, real: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temporary)?;
    file.write_all(content)?;
    let mode = match fs::metadata(real) {
        Ok(old) => {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
            old.mode() & 0o7777
        }
        Err(_) => mode,
    };
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_out_of_the_root_is_refused_and_one_within_is_followed() {
        let outside = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("out")).unwrap();
        let error = root.write("/out/file", "x", 0o644).unwrap_err();
        assert!(format!("{error:#}").contains("leads out of"), "{error:#}");
        assert!(root.read("/out/file").is_err());

        fs::write(dir.path().join("real"), "old").unwrap();
        fs::set_permissions(dir.path().join("real"), fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        root.write("/link", "new", 0o644).unwrap();
        assert_eq!(root.read("/real").unwrap().as_deref(), Some("new"));
        let link = fs::symlink_metadata(dir.path().join("link")).unwrap();
        assert!(link.is_symlink());
        let real = fs::metadata(dir.path().join("real")).unwrap();
        assert_eq!(real.mode() & 0o7777, 0o640);
    }

    #[test]
    fn missing_directories_are_named_from_the_outermost() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(root.missing_above("/a/b/file"), ["/a", "/a/b"]);
        fs::create_dir(dir.path().join("a")).unwrap();
        assert_eq!(root.missing_above("/a/b/file"), ["/a/b"]);
        assert_eq!(root.read("/a/b/file").unwrap(), None);
    }
}
