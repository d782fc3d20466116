//! What is being distributed.

use std::{fmt, str::FromStr};

use crate::digest::{Digest, DigestError};

/// One content being distributed, whatever registry or repository it is asked from.
///
/// A blob or manifest is its own digest. (Other URLs will be a digest of the URL,
/// with a mark of their own in the text form.)
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(Digest);

impl TaskId {
    /// The task of a blob or manifest.
    pub const fn of_content(digest: Digest) -> Self {
        Self(digest)
    }

    /// The digest that the whole content must have.
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
        text.parse().map(Self)
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
