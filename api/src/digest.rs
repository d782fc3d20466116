//! Content digests as OCI registries write them.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest as backend;

/// A digest algorithm registered by the OCI image specification.
///
/// <https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md#registered-algorithms>
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
    /// No digest of a content, but the name of one version of a file: SHA-256 of where it is
    /// and of what tells its versions apart. Only a [`crate::TaskId`] has it.
    File,
}

impl Algorithm {
    /// The name before the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::File => "file",
        }
    }

    /// Length of the digest in bytes.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Sha256 | Self::File => 32,
            Self::Sha512 => 64,
        }
    }

    fn backend(self) -> &'static backend::Algorithm {
        match self {
            Self::Sha256 | Self::File => &backend::SHA256,
            Self::Sha512 => &backend::SHA512,
        }
    }
}

/// A validated content digest, `sha256:<64 hex>` or `sha512:<128 hex>`.
///
/// Its text form is canonical (lower case), so it is safe as a file name and as a
/// map key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: [u8; 64],
}

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:hex` in it.
    #[error("a digest is `algorithm:hex`")]
    Shape,
    /// The algorithm is not one of the registered ones.
    #[error("the digest algorithm is neither sha256 nor sha512")]
    Algorithm,
    /// The hex part is of the wrong length or has other characters than 0-9a-f.
    #[error("the hex part of a {0} digest is not {1} lower-case hex digits")]
    Hex(&'static str, usize),
}

impl Digest {
    /// From raw bytes, which must be of the algorithm's length.
    pub fn from_bytes(algorithm: Algorithm, raw: &[u8]) -> Option<Self> {
        if raw.len() != algorithm.digest_len() {
            return None;
        }
        let mut bytes = [0; 64];
        bytes[..raw.len()].copy_from_slice(raw);
        Some(Self { algorithm, bytes })
    }

    /// The digest of `content`.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(content);
        hasher.finish()
    }

    /// The SHA-256 of `content`, the field's default.
    pub fn sha256(content: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, content)
    }

    /// The algorithm it was made with.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.digest_len()]
    }

    /// The part behind the colon, in lower case.
    pub fn hex(&self) -> String {
        hex::encode(self.as_bytes())
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, digits) = text.split_once(':').ok_or(DigestError::Shape)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(DigestError::Algorithm),
        };
        Self::of_hex(algorithm, digits)
    }
}

impl Digest {
    /// The part behind the colon, in its one canonical form.
    pub(crate) fn of_hex(algorithm: Algorithm, digits: &str) -> Result<Self, DigestError> {
        let wrong = DigestError::Hex(algorithm.as_str(), algorithm.digest_len() * 2);
        let canonical = digits.len() == algorithm.digest_len() * 2
            && digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !canonical {
            return Err(wrong);
        }
        let raw = hex::decode(digits).map_err(|_| wrong.clone())?;
        Self::from_bytes(algorithm, &raw).ok_or(wrong)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An incremental digest.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    context: backend::Context,
}

impl Hasher {
    /// An empty hasher.
    pub fn new(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            context: backend::Context::new(algorithm.backend()),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> Digest {
        let raw = self.context.finish();
        let mut bytes = [0; 64];
        bytes[..self.algorithm.digest_len()].copy_from_slice(raw.as_ref());
        Digest {
            algorithm: self.algorithm,
            bytes,
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hasher({})", self.algorithm.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answer_and_round_trip() {
        let empty = Digest::sha256(b"");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(empty.to_string(), text);
        assert_eq!(text.parse(), Ok(empty));
        let long = Digest::of(Algorithm::Sha512, b"darter");
        assert_eq!(long.to_string().parse(), Ok(long));
    }

    fn text_of_a_file() -> String {
        Digest::of(Algorithm::File, b"").to_string()
    }

    #[test]
    fn rejects_what_could_become_a_path_or_an_alias() {
        let upper = Digest::sha256(b"").to_string().replace('e', "E");
        for bad in [
            "",
            &text_of_a_file(),
            "sha256",
            "sha256:",
            "sha256:../../etc/passwd",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            "sha256:ab",
            upper.as_str(),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
