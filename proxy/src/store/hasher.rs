//! The digest of a content that follows its contiguous prefix.

use std::io;

use darter_api::{Digest, Hasher, TaskId};

use super::Partial;

/// Bytes read at once: few enough that they are hashed out of the processor's cache.
const STEP: usize = 64 * 1024;

/// Hashes a growing content from its beginning, as far as it is there, so that the
/// digest is done when the last piece is. Blocks while it reads and hashes.
#[derive(Debug, Clone)]
pub struct PrefixHasher {
    hasher: Hasher,
    at: u64,
}

impl PrefixHasher {
    /// At the beginning.
    pub fn new(task: &TaskId) -> Self {
        Self {
            hasher: Hasher::new(task.digest().algorithm()),
            at: 0,
        }
    }

    /// Bytes hashed so far.
    pub const fn position(&self) -> u64 {
        self.at
    }

    /// Goes on to `end`; all bytes before it must be on disk.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn advance(&mut self, partial: &Partial, end: u64) -> io::Result<()> {
        let mut buffer = vec![0; STEP];
        while self.at < end {
            let left = usize::try_from(end - self.at).unwrap_or(usize::MAX);
            let bytes = &mut buffer[..left.min(STEP)];
            partial.read_into(self.at, bytes)?;
            self.hasher.update(bytes);
            self.at += bytes.len() as u64;
        }
        Ok(())
    }

    /// Takes the bytes at its position, from memory.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.at += bytes.len() as u64;
    }

    /// The hasher alone, for who takes the bytes after its position from elsewhere.
    pub fn into_hasher(self) -> Hasher {
        self.hasher
    }

    /// The digest of all bytes so far.
    pub fn finish(self) -> Digest {
        self.hasher.finish()
    }
}
