//! A client's Authorization header: relayed, never shown.

use std::fmt;

use aws_lc_rs::digest;
use http::HeaderValue;

/// The value of an `Authorization` header. Printing it yields a placeholder.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(HeaderValue);

impl Credential {
    /// From the header as it came.
    pub fn new(mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        Self(value)
    }

    /// The header to send to the upstream it was meant for, and nowhere else.
    pub const fn header(&self) -> &HeaderValue {
        &self.0
    }

    /// A key for caches of what this credential may do; the credential can't be had
    /// back from it.
    pub fn fingerprint(&self) -> [u8; 32] {
        let hash = digest::digest(&digest::SHA256, self.0.as_bytes());
        hash.as_ref().try_into().expect("a SHA-256 has 32 bytes")
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(..)")
    }
}
