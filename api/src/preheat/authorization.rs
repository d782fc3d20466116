//! What signs in at a registry, where a preheat brings it along.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;

/// Bytes of an Authorization header at most.
pub const MOST_AUTHORIZATION: usize = 16 * 1024;
/// Seconds of a token's life up to which it may go where no password does.
const SHORT_LIFE: u64 = 3600;

/// The value of an `Authorization` header that a preheat brings along. Printing it yields a
/// placeholder.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Authorization(Option<String>);

/// What a token says of its life (RFC 7519, section 4.1), in seconds since 1970.
#[derive(Deserialize)]
struct Life {
    iat: u64,
    exp: u64,
}

impl Authorization {
    /// None where the text is empty.
    pub fn new(text: String) -> Self {
        Self(Some(text).filter(|text| !text.is_empty()))
    }

    /// The same, if it makes a header of a bearable size.
    pub fn checked(text: String) -> Option<Self> {
        let fits = text.len() <= MOST_AUTHORIZATION && !text.chars().any(char::is_control);
        fits.then(|| Self::new(text))
    }

    /// Whether it is a token, and no password.
    pub fn is_token(&self) -> bool {
        self.token().is_some()
    }

    /// Whether it is a token that says itself that it lives for an hour at most, as those do that
    /// token servers give. Of others nobody knows: people's own tokens last for years.
    pub fn is_short_lived(&self) -> bool {
        let life = || {
            let claims = self.token()?.split('.').nth(1)?;
            let claims = claims.trim_end_matches('=');
            let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?;
            serde_json::from_slice::<Life>(&claims).ok()
        };
        life().is_some_and(|life| {
            let seconds = life.exp.checked_sub(life.iat);
            seconds.is_some_and(|seconds| seconds <= SHORT_LIFE)
        })
    }

    fn token(&self) -> Option<&str> {
        let (scheme, token) = self.0.as_deref()?.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then_some(token.trim())
    }

    /// The header's value, for the registry that it was meant for.
    pub fn reveal(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Authorization(..)"
        } else {
            "Authorization(none)"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Authorization {
        Authorization::new(text.to_owned())
    }

    #[test]
    fn secrets_do_not_show() {
        assert_eq!(format!("{:?}", of("Bearer abc")), "Authorization(..)");
        assert_eq!(of("").reveal(), None);
        for (text, is_token) in [("bearer x", true), ("Basic eA==", false), ("", false)] {
            assert_eq!(of(text).is_token(), is_token, "{text}");
        }
    }

    #[test]
    fn a_token_says_how_long_it_lives() {
        let is_short = |claims: &str| {
            let claims = BASE64_URL_SAFE_NO_PAD.encode(claims);
            of(&format!("Bearer e30.{claims}.c2ln")).is_short_lived()
        };
        assert!(is_short(r#"{"iat":1000,"exp":4600,"sub":"bob"}"#));
        for claims in [
            r#"{"iat":1000,"exp":4601}"#,
            r#"{"iat":1000,"exp":999}"#,
            r#"{"exp":1000}"#,
            r#"{"iat":-1,"exp":5}"#,
            "[]",
        ] {
            assert!(!is_short(claims), "{claims}");
        }
        for text in ["Bearer opaque", "Bearer a.b", "Basic e30.e30.e30", ""] {
            assert!(!of(text).is_short_lived(), "{text}");
        }
    }
}
