//! What is being distributed.

use std::{fmt, str::FromStr};

use crate::{
    digest::{Algorithm, Digest, DigestError},
    lengths::Lengths,
};

/// One content being distributed, whatever registry or repository it is asked from.
///
/// A blob or manifest is its own digest. A version of a file has a name of its own,
/// `file:<hex>`, which no digest of an image can be, and no digest that its whole content
/// must have: what proves it are the statements of who read it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(Digest);

impl TaskId {
    /// The task of a blob or manifest.
    pub const fn of_content(digest: Digest) -> Self {
        Self(digest)
    }

    /// The task of one version of a file. `identity` says where it is and which version.
    pub fn of_file(identity: &[u8]) -> Self {
        Self(Digest::of(Algorithm::File, identity))
    }

    /// Whether it is a version of a file: it has no digest to hold its content against.
    pub fn is_file(&self) -> bool {
        self.0.algorithm() == Algorithm::File
    }

    /// Whether a content of these lengths is proved by its own digest alone, so that it needs no
    /// groups and no statement: it is one piece, and no file.
    pub fn proves_itself(&self, lengths: &Lengths) -> bool {
        lengths.is_small() && !self.is_file()
    }

    /// The digest that the whole content must have; of a file its name.
    pub const fn digest(&self) -> &Digest {
        &self.0
    }
}

impl From<Digest> for TaskId {
    fn from(digest: Digest) -> Self {
        Self(digest)
    }
}

impl FromStr for TaskId {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text.strip_prefix("file:") {
            Some(digits) => Digest::of_hex(Algorithm::File, digits),
            None => text.parse(),
        }
        .map(Self)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
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
}
