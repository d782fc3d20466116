//! What lets a node into a cluster: a secret, and how to know the cluster by.

use std::{fmt, str::FromStr};

use darter_api::Digest;
use serde::{Deserialize, Serialize};

/// What every token begins with.
const PREFIX: &str = "darter";

/// SHA-256 of an authority's certificate (DER).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of this certificate.
    pub fn of(der: &[u8]) -> Self {
        let mut raw = [0; 32];
        raw.copy_from_slice(Digest::sha256(der).as_bytes());
        Self(raw)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// A text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no token: one is `darter.`, 64 hex digits, a dot, and 32 more")]
pub struct TokenError;

/// A token, `darter.<fingerprint>.<secret>`. Its secret is never shown but by
/// [`Token::reveal`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token {
    fingerprint: Fingerprint,
    secret: [u8; 16],
}

impl Token {
    /// A fresh one for the cluster with this authority.
    pub fn generate(fingerprint: Fingerprint) -> Self {
        Self {
            fingerprint,
            secret: rand::random(),
        }
    }

    /// Of the authority that it is for.
    pub const fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The whole text, for who is to have it.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}.{}.{}", self.fingerprint, hex::encode(self.secret))
    }

    pub(super) fn secret(&self) -> String {
        hex::encode(self.secret)
    }
}

/// The name under which a secret is kept: its SHA-256, from which nobody gets it back.
pub(super) fn stored_name(secret: &str) -> String {
    Digest::sha256(secret.as_bytes()).hex()
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split('.');
        let mut next = || parts.next().ok_or(TokenError);
        if next()? != PREFIX {
            return Err(TokenError);
        }
        let (mut fingerprint, mut secret) = ([0; 32], [0; 16]);
        hex::decode_to_slice(next()?, &mut fingerprint).map_err(|_| TokenError)?;
        hex::decode_to_slice(next()?, &mut secret).map_err(|_| TokenError)?;
        if parts.next().is_some() {
            return Err(TokenError);
        }
        Ok(Self {
            fingerprint: Fingerprint(fingerprint),
            secret,
        })
    }
}

impl TryFrom<String> for Token {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Self, TokenError> {
        text.parse()
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.reveal()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(for {:?})", self.fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_as_written_and_not_shown() {
        let token = Token::generate(Fingerprint::of(b"certificate"));
        assert_eq!(token.reveal().parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(&token.secret()));
        let fingerprint = token.fingerprint().to_string();
        for wrong in [
            String::new(),
            "darter".to_owned(),
            format!("darter.{fingerprint}"),
            format!("darter.{fingerprint}.12"),
            format!("other.{fingerprint}.{}", token.secret()),
            format!("{}.more", token.reveal()),
        ] {
            assert_eq!(wrong.parse::<Token>(), Err(TokenError), "{wrong}");
        }
    }
}
