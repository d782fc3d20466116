//! What is being distributed.

use std::{fmt, str::FromStr};

use crate::{
    digest::{Algorithm, Digest, DigestError},
    lengths::Lengths,
};

/// Before the digest of a content whose size nobody knows.
const OPEN: &str = "open:";

/// One content being distributed, whatever registry or repository it is asked from.
///
/// A blob or manifest is its own digest. A version of a file has a name of its own,
/// `file:<hex>`, which no digest of an image can be, and no digest that its whole content
/// must have: what proves it are the statements of who read it. While nobody knows how large a
/// content is, it is distributed as a task of its own, `open:<digest>`, whose geometry has no end
/// ([`Lengths::open`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId {
    digest: Digest,
    open: bool,
}

impl TaskId {
    /// The task of a blob or manifest.
    pub const fn of_content(digest: Digest) -> Self {
        let open = false;
        Self { digest, open }
    }

    /// The task that the same content is as long as nobody knows its size.
    #[must_use]
    pub const fn opened(self) -> Self {
        let open = true;
        Self { open, ..self }
    }

    /// The task that the same content is once its size is known.
    #[must_use]
    pub const fn closed(self) -> Self {
        Self::of_content(self.digest)
    }

    /// Whether nobody knew its size when it began.
    pub const fn is_open(&self) -> bool {
        self.open
    }

    /// Whether a geometry can be this task's: one without an end is for tasks of untold size.
    pub const fn fits(&self, lengths: &Lengths) -> bool {
        self.open == lengths.is_open()
    }

    /// The task of one version of a file. `identity` says where it is and which version.
    pub fn of_file(identity: &[u8]) -> Self {
        Self::of_content(Digest::of(Algorithm::File, identity))
    }

    /// Whether it is a version of a file: it has no digest to hold its content against.
    pub fn is_file(&self) -> bool {
        self.digest.algorithm() == Algorithm::File
    }

    /// Whether a content of these lengths is proved by its own digest alone, so that it needs no
    /// groups and no statement: it is one piece, and no file.
    pub fn proves_itself(&self, lengths: &Lengths) -> bool {
        lengths.is_small() && !self.is_file()
    }

    /// The digest that the whole content must have; of a file its name.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl From<Digest> for TaskId {
    fn from(digest: Digest) -> Self {
        Self::of_content(digest)
    }
}

impl FromStr for TaskId {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        if let Some(content) = text.strip_prefix(OPEN) {
            return Ok(Self::of_content(content.parse()?).opened());
        }
        match text.strip_prefix("file:") {
            Some(digits) => Digest::of_hex(Algorithm::File, digits),
            None => text.parse(),
        }
        .map(Self::of_content)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.open {
            f.write_str(OPEN)?;
        }
        fmt::Display::fmt(&self.digest, f)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_no_blob() {
        let file = TaskId::of_file(b"http://host/path 1");
        let text = file.to_string();
        assert!(file.is_file() && text.starts_with("file:"), "{text}");
        assert_eq!(text.parse(), Ok(file));
        assert!(text.parse::<Digest>().is_err());
        assert!("file:../x".parse::<TaskId>().is_err());
        assert!(!TaskId::of_content(Digest::sha256(b"")).is_file());
        let small = Lengths::of(9).unwrap();
        let large = Lengths::of(9_000_000).unwrap();
        let blob = TaskId::of_content(Digest::sha256(b"content"));
        assert!(
            blob.proves_itself(&small)
                && !blob.proves_itself(&large)
                && !file.proves_itself(&small)
        );
    }
    #[test]
    fn an_open_content_is_another_task_than_the_same_with_a_size() {
        let blob = TaskId::of_content(Digest::sha256(b"content"));
        let open = blob.opened();
        assert!(open.is_open() && open != blob && open.closed() == blob);
        assert_eq!(open.digest(), blob.digest());
        assert_eq!(open.to_string(), format!("open:{blob}"));
        assert_eq!(open.to_string().parse(), Ok(open));
        let endless = Lengths::open();
        assert!(open.fits(&endless) && !blob.fits(&endless) && !open.proves_itself(&endless));
        assert!(!open.fits(&Lengths::of(9).unwrap()));
        let file = TaskId::of_file(b"name");
        for bad in [
            format!("open:{file}"),
            format!("open:{open}"),
            "open:".into(),
        ] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad}");
        }
    }
}
