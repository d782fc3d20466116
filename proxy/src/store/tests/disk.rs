//! A small disk of a test's own.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    process::Command,
};

use tempfile::TempDir;

/// A tmpfs; unmounted when dropped.
pub(crate) struct SmallDisk(TempDir);

impl SmallDisk {
    /// One of so many bytes; `None`, and loudly, where nothing can be mounted.
    pub(crate) fn mount(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(dir.path())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: a tmpfs can't be mounted; this test needs root");
            return None;
        }
        Some(Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Somebody else takes all the space that is left.
    pub(crate) fn fill(&self) {
        let mut file = File::create(self.path().join("others")).unwrap();
        let zeros = vec![0; 64 * 1024];
        loop {
            match file.write(&zeros) {
                Ok(_) => {}
                Err(cause) if cause.kind() == io::ErrorKind::StorageFull => return,
                Err(cause) => panic!("{cause}"),
            }
        }
    }

    /// And gives it back.
    pub(crate) fn empty(&self) {
        fs::remove_file(self.path().join("others")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: files may still be open.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
