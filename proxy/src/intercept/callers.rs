//! Who may use the port as an HTTP proxy: the users of a file, by Basic authentication
//! (RFC 9110, section 11.7; RFC 7617).
//!
//! Passwords are kept as digests only, compared in constant time, and never logged.

use std::{
    collections::HashMap,
    fmt, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use darter_api::Digest;
use http::{HeaderMap, HeaderValue, header::PROXY_AUTHORIZATION};

/// Of the file: as many users as nobody keeps by hand.
const MOST_BYTES: u64 = 1 << 20;

/// The users can't be read.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// The file can't be used.
    #[error("the users of the HTTP proxy: can't read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Others than the owner can read it.
    #[error("the users of the HTTP proxy: others can read {0}: chmod 600 it")]
    Open(PathBuf),
    /// A line is no user, or there is none at all.
    #[error("the users of the HTTP proxy: {path}: line {line} is no `user:password`")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
}

/// Reads the users of a file, as the start of a proxy does; how many they are.
///
/// # Errors
/// When it can't be read, others can read it, or a line is something else.
pub fn count_users(path: &Path) -> Result<usize, UsersError> {
    Callers::read(path).map(|callers| callers.0.len())
}

/// Users and what proves that somebody is one.
pub(super) struct Callers(HashMap<String, Digest>);

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Callers({})", self.0.len())
    }
}

impl Callers {
    /// From a file of `user:password` lines, which only its owner can read. Empty lines and
    /// those that begin with `#` say nothing.
    ///
    /// # Errors
    /// When it can't be read, others can read it, or a line is something else.
    pub(super) fn read(path: &Path) -> Result<Self, UsersError> {
        let file = |cause| UsersError::File {
            path: path.to_owned(),
            cause,
        };
        let found = std::fs::metadata(path).map_err(file)?;
        if found.permissions().mode() & 0o077 != 0 {
            return Err(UsersError::Open(path.to_owned()));
        }
        if found.len() > MOST_BYTES {
            return Err(file(io::ErrorKind::FileTooLarge.into()));
        }
        let text = std::fs::read_to_string(path).map_err(file)?;
        let mut users = HashMap::new();
        let mut lines = 0;
        for (index, line) in text.lines().enumerate() {
            lines = index + 1;
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let named = line.split_once(':');
            let named = named.filter(|(user, password)| !user.is_empty() && !password.is_empty());
            let (user, password) = named.ok_or_else(|| UsersError::Line {
                path: path.to_owned(),
                line: lines,
            })?;
            users.insert(user.to_owned(), Digest::sha256(password.as_bytes()));
        }
        if users.is_empty() {
            return Err(UsersError::Line {
                path: path.to_owned(),
                line: lines + 1,
            });
        }
        Ok(Self(users))
    }

    /// Whether a request shows a user's password.
    pub(super) fn admit(&self, headers: &HeaderMap) -> bool {
        let Some((user, password)) = headers.get(PROXY_AUTHORIZATION).and_then(basic) else {
            return false;
        };
        let shown = Digest::sha256(password.as_bytes());
        // A user that is not there takes as long as one that is.
        let wanted = self.0.get(&user);
        let compared = wanted.unwrap_or(&shown);
        let same = verify_slices_are_equal(compared.as_bytes(), shown.as_bytes());
        wanted.is_some() && same.is_ok()
    }
}

/// User and password of a Basic credential.
fn basic(value: &HeaderValue) -> Option<(String, String)> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(token.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(file.path(), mode).unwrap();
        file
    }

    fn admits(callers: &Callers, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(PROXY_AUTHORIZATION, value.parse().unwrap());
        callers.admit(&headers)
    }

    #[test]
    fn users_of_the_file_and_nobody_else() {
        let users = file("# people\n\nann:with:colons\nbob:x\n", 0o600);
        let callers = Callers::read(users.path()).unwrap();
        assert_eq!(format!("{callers:?}"), "Callers(2)");
        let basic = |text: &str| format!("basic {}", STANDARD.encode(text));
        assert!(admits(&callers, &basic("ann:with:colons")));
        assert!(admits(&callers, &basic("bob:x")));
        for wrong in ["ann:x", "ann:", "eve:x", "bob", "", ":"] {
            assert!(!admits(&callers, &basic(wrong)), "{wrong}");
        }
        for odd in ["Basic", "Basic !", "Bearer Ym9iOng=", "Ym9iOng="] {
            assert!(!admits(&callers, odd), "{odd}");
        }
        assert!(!callers.admit(&HeaderMap::new()));
    }

    #[test]
    fn a_file_that_is_none() {
        let open = file("ann:x\n", 0o644);
        let open = Callers::read(open.path()).unwrap_err();
        assert!(matches!(open, UsersError::Open(_)), "{open}");
        for (content, number) in [("", 1), ("ann:x\nbob\n", 2), (":x\n", 1), ("ann:\n", 1)] {
            let users = file(content, 0o600);
            assert!(count_users(users.path()).is_err(), "{content}");
            match Callers::read(users.path()).unwrap_err() {
                UsersError::Line { line, .. } => assert_eq!(line, number, "{content}"),
                other => panic!("{other}"),
            }
        }
    }
}
