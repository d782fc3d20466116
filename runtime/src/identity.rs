//! The node's key on disk: made at first start, mode 0600.

use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use darter_api::{NodeKey, host::KeyError};

/// The key's file in a component's data directory.
const FILE: &str = "node.key";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file can't be read or made.
    #[error("the node's key {path} can't be read or written")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The file holds something else.
    #[error("{path} is not a node's key; move it away to have a new one made")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: KeyError,
    },
}

/// Reads the key in `dir`, or makes one there.
///
/// # Errors
/// When the file can't be read, written or understood.
pub fn load_or_create(dir: &Path) -> Result<NodeKey, IdentityError> {
    let path = dir.join(FILE);
    let io = |cause| IdentityError::Io {
        path: path.clone(),
        cause,
    };
    let key = |cause| IdentityError::Key {
        path: path.clone(),
        cause,
    };
    std::fs::create_dir_all(dir).map_err(io)?;
    match std::fs::read(&path) {
        Ok(der) => return NodeKey::from_pkcs8(&der).map_err(key),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
        Err(cause) => return Err(io(cause)),
    }
    let made = NodeKey::generate().map_err(key)?;
    let der = made.to_pkcs8().map_err(key)?;
    write_private(&path, &der).map_err(io)?;
    Ok(made)
}

/// Writes a file that only its owner can read, whole or not at all; it is durable then.
///
/// # Errors
/// When the directory can't be written to.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(directory) if directory != Path::new("") => File::open(directory)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// The system's host name, for people; empty where there is none.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_create(dir.path()).unwrap();
        let second = load_or_create(dir.path()).unwrap();
        assert_eq!(first.id(), second.id());
        let mode = std::fs::metadata(dir.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(dir.path().join(FILE), b"garbage").unwrap();
        assert!(matches!(
            load_or_create(dir.path()),
            Err(IdentityError::Key { .. })
        ));
    }
}
