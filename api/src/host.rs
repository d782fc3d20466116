//! Who a node is: an Ed25519 key whose public half is its name.

use std::{fmt, str::FromStr};

use aws_lc_rs::{
    encoding::AsDer,
    signature::{self, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};

/// A node's Ed25519 public key (RFC 8032), which is its name everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId([u8; 32]);

/// Why a text or bytes are no host id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a host id is 32 bytes, written as 64 hex digits")]
pub struct HostIdError;

impl HostId {
    /// From the raw public key.
    pub const fn from_bytes(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    /// The raw public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `signature` over `message` was made by this node's key.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&signature::ED25519, &self.0)
            .verify(message, signature)
            .is_ok()
    }

    /// The first 8 hex digits, for logs.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

impl TryFrom<&[u8]> for HostId {
    type Error = HostIdError;

    fn try_from(raw: &[u8]) -> Result<Self, HostIdError> {
        raw.try_into().map(Self).map_err(|_| HostIdError)
    }
}

impl FromStr for HostId {
    type Err = HostIdError;

    fn from_str(text: &str) -> Result<Self, HostIdError> {
        let raw = hex::decode(text).map_err(|_| HostIdError)?;
        Self::try_from(raw.as_slice())
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostId({})", self.short())
    }
}

/// A node's private key. Never printed.
pub struct NodeKey {
    pair: Ed25519KeyPair,
}

/// A key could not be made or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The system gave no randomness.
    #[error("no key could be generated")]
    Generate,
    /// The stored form is not a PKCS#8 Ed25519 key.
    #[error("not an Ed25519 key in PKCS#8 form")]
    Parse,
}

impl NodeKey {
    /// A fresh key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Generate)?;
        Ok(Self { pair })
    }

    /// A key from 32 bytes of seed, for simulations and tests that must repeat.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("every 32 bytes are a seed");
        Self { pair }
    }

    /// Reads the form that [`NodeKey::to_pkcs8`] writes.
    ///
    /// # Errors
    /// When the bytes are not such a key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8(der).map_err(|_| KeyError::Parse)?;
        Ok(Self { pair })
    }

    /// The key as PKCS#8 DER (RFC 5958), to be stored with mode 0600.
    ///
    /// # Errors
    /// When it can't be encoded.
    pub fn to_pkcs8(&self) -> Result<Vec<u8>, KeyError> {
        let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> =
            self.pair.as_der().map_err(|_| KeyError::Generate)?;
        Ok(der.as_ref().to_vec())
    }

    /// The public half: the node's name.
    pub fn id(&self) -> HostId {
        let raw = self.pair.public_key().as_ref();
        HostId::try_from(raw).expect("an Ed25519 public key has 32 bytes")
    }

    /// Signs a message: 64 bytes.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.pair.sign(message);
        let mut raw = [0; 64];
        raw.copy_from_slice(signature.as_ref());
        raw
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey(of {})", self.id().short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_key_signs_as_the_same_host() {
        let key = NodeKey::generate().expect("randomness");
        let again = NodeKey::from_pkcs8(&key.to_pkcs8().expect("encodes")).expect("parses");
        assert_eq!(key.id(), again.id());
        let signature = again.sign(b"hello");
        assert!(key.id().verify(b"hello", &signature));
        assert!(!key.id().verify(b"hallo", &signature));
        assert!(!key.id().verify(b"hello", b"short"));
        assert_eq!(key.id().to_string().parse(), Ok(key.id()));
    }
}
