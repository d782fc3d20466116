//! What no log of Darter's may have, whatever test made it write.
//!
//! [`Part`](crate::darter::Part) searches its own log when it ends, and
//! [`output`](crate::process::output) what a command of Darter's says beside its result; so that
//! every log of the whole suite is searched, and `hack/test.sh` says how many were. Owner of
//! state: [`keep`] remembers, for this process, what was made up at run time.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Tests call their passwords `s3cret`, tokens begin like JSON in Base64, Darter's own by its
/// name, and signed URLs have a signature.
const ALWAYS: [&str; 6] = [
    "s3cret",
    "czNjcmV0",
    "Bearer ey",
    "Bearer darter.",
    "X-Amz-Signature=",
    "PRIVATE KEY",
];
/// Shorter ones are found by chance.
const SHORTEST: usize = 8;

static KEPT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Something that was made up while a test runs: a token, a signature, a password.
pub fn keep(secret: &str) {
    let secret = secret.trim();
    if secret.len() >= SHORTEST {
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(secret.to_owned());
        // As it stands in an `Authorization`.
        kept.insert(STANDARD.encode(secret));
    }
}

/// A line of `log` that has any of them.
pub fn line_in(log: &[u8]) -> Option<String> {
    let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let all = ALWAYS.into_iter().chain(kept.iter().map(String::as_str));
    first_line_with(log, all)
}

/// The line with the first of these texts that is in a log.
pub(crate) fn first_line_with<'a>(
    log: &[u8],
    mut texts: impl Iterator<Item = &'a str>,
) -> Option<String> {
    texts.find_map(|text| {
        // Logs at trace level are long: this search is fast in a debug build, too.
        let at = memchr::memmem::find(log, text.as_bytes())?;
        let start = memchr::memrchr(b'\n', &log[..at]).map_or(0, |start| start + 1);
        let end = memchr::memchr(b'\n', &log[at..]).map_or(log.len(), |end| at + end);
        Some(String::from_utf8_lossy(&log[start..end]).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_and_so_is_its_base64() {
        keep(" root:0123456789abcdef\n");
        keep("short");
        for line in [
            "a root:0123456789abcdef b".to_owned(),
            format!("Basic {}", STANDARD.encode("root:0123456789abcdef")),
            "password s3cret-of-alice".to_owned(),
            "Authorization: Bearer darter.1.x".to_owned(),
        ] {
            let log = format!("fine\n{line}\nfine\n");
            assert_eq!(line_in(log.as_bytes()), Some(line));
        }
        assert_eq!(line_in(b"short\nBearer\n"), None);
    }
}
