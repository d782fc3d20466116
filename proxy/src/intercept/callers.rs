//! Who may use the port as an HTTP proxy: the users of a file, by Basic authentication
//! (RFC 9110, section 11.7; RFC 7617).
//!
//! Passwords are kept as digests only, compared in constant time, and never logged. An address
//! has [`MOST_GUESSES`] wrong ones a minute, then it waits, with right ones, too; the same wrong
//! one again is no guess. Owner of state: [`Callers`]: the users, as they were at the start, and
//! bounded counts and digests of what was wrong.

use std::{
    collections::HashMap,
    fmt, io,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use darter_api::Digest;
use darter_runtime::attempts::{Attempts, WINDOW};
use http::{HeaderMap, HeaderValue, header::PROXY_AUTHORIZATION};
use moka::sync::Cache;
use tokio::time::Instant;

use super::refusal::Refusal;
use crate::clients::MOST_GUESSES;

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
    Callers::read(path).map(|callers| callers.users.len())
}

/// What was wrong is remembered for so long, and for so many.
const REMEMBERED: Duration = WINDOW;
const MOST_REMEMBERED: u64 = 10_000;

/// Users and what proves that somebody is one.
pub(super) struct Callers {
    users: HashMap<String, Digest>,
    guesses: Attempts,
    wrong: Cache<Digest, ()>,
    began: Instant,
}

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Callers({})", self.users.len())
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
        let wrong = Cache::builder().max_capacity(MOST_REMEMBERED);
        Ok(Self {
            users,
            guesses: Attempts::new(MOST_GUESSES),
            wrong: wrong.time_to_live(REMEMBERED).build(),
            began: Instant::now(),
        })
    }

    /// Lets a request pass that shows a user's password.
    ///
    /// # Errors
    /// What the client is told instead.
    pub(super) fn admit(&self, headers: &HeaderMap, from: IpAddr) -> Result<(), Refusal> {
        let value = headers.get(PROXY_AUTHORIZATION);
        let Some((value, (user, password))) = value.and_then(|value| Some((value, basic(value)?)))
        else {
            return Err(Refusal::Stranger);
        };
        let shown = Digest::sha256(value.as_bytes());
        if self.wrong.contains_key(&shown) {
            return Err(Refusal::Stranger);
        }
        let now = self.began.elapsed();
        // Whether or not it is right: else it could be guessed meanwhile.
        if self.guesses.are_spent(from, now) {
            return Err(Refusal::Spent);
        }
        if self.is_right(&user, &password) {
            return Ok(());
        }
        self.guesses.begin(from, now);
        self.wrong.insert(shown, ());
        Err(Refusal::Stranger)
    }

    fn is_right(&self, user: &str, password: &str) -> bool {
        let shown = Digest::sha256(password.as_bytes());
        // A user that is not there takes as long as one that is.
        let wanted = self.users.get(user);
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

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

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
        callers.admit(&headers, HERE).is_ok()
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
        assert!(callers.admit(&HeaderMap::new(), HERE).is_err());
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

    #[tokio::test(start_paused = true)]
    async fn who_guesses_has_to_wait_and_nobody_elsewhere_has() {
        let users = file("ann:right\n", 0o600);
        let callers = Callers::read(users.path()).unwrap();
        let elsewhere = IpAddr::from([10, 0, 0, 1]);
        let admit = |password: &str, from| {
            let value = format!("Basic {}", STANDARD.encode(format!("ann:{password}")));
            let mut headers = HeaderMap::new();
            headers.insert(PROXY_AUTHORIZATION, value.parse().unwrap());
            callers.admit(&headers, from)
        };
        for guess in 0..MOST_GUESSES {
            assert_eq!(admit("right", HERE), Ok(()));
            assert_eq!(admit(&guess.to_string(), HERE), Err(Refusal::Stranger));
            // Who has an old password shows it again and again, and finds out nothing by it.
            assert_eq!(admit("0", HERE), Err(Refusal::Stranger));
        }
        assert_eq!(
            callers.admit(&HeaderMap::new(), HERE),
            Err(Refusal::Stranger)
        );
        for password in ["new", "right"] {
            assert_eq!(admit(password, HERE), Err(Refusal::Spent), "{password}");
        }
        assert_eq!(admit("right", elsewhere), Ok(()));
        tokio::time::advance(WINDOW).await;
        assert_eq!(admit("right", HERE), Ok(()));
        assert_eq!(admit("new", HERE), Err(Refusal::Stranger));
    }
}
