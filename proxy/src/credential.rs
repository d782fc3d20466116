//! A client's Authorization header: relayed, never shown. And secrets of the configuration.

use std::fmt;

use aws_lc_rs::digest;
use http::HeaderValue;
use serde::{Deserialize, Serialize, Serializer};

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

/// A password or token of a configuration: neither printed nor written anywhere.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// What it is, to be shown to whom it was meant for.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(secret)")
    }
}
