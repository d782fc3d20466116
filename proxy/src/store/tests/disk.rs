//! A small disk of a test's own.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// A tmpfs; unmounted when dropped.
pub(crate) struct SmallDisk(TempDir);

impl SmallDisk {
    /// One of so many bytes; `None`, and loudly, where nothing can be mounted. By a system call: a child process
    /// would hold, until it has become `mount`, the locks of all stores that other tests have open.
    pub(crate) fn mount(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = CString::new(format!("size={bytes}")).unwrap();
        let flags = MountFlags::empty();
        if let Err(cause) = mount("tmpfs", dir.path(), "tmpfs", flags, Some(size.as_c_str())) {
            eprintln!("SKIPPED: a tmpfs can't be mounted ({cause}); this test needs root");
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
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}
