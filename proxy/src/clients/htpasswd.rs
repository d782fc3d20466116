//! An htpasswd file of bcrypt hashes, as `htpasswd -B` writes it.
//!
//! Invariant: at most [`AT_A_TIME`] hashes are computed at the same time, off the runtime's
//! threads, and none twice within [`REMEMBERED`] for the same header.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use moka::future::Cache;
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};

/// Hashes that are computed at a time; each takes tens of milliseconds of a CPU.
const AT_A_TIME: usize = 2;
/// Answers are believed so long, at most until the file changes.
const REMEMBERED: Duration = Duration::from_secs(60);
const MOST_REMEMBERED: u64 = 10_000;
/// Between two looks at the file.
const LOOK: Duration = Duration::from_secs(1);
/// Of the file, in bytes.
const MOST_BYTES: u64 = 1 << 20;
/// Of nobody's password: who asks for a name that is not there waits as long as others.
const NOBODY: &str = "$2b$10$abcdefghijklmnopqrstuuKPmMxMmrCQpyIBOBtFA6P1PeIIvPdFu";

/// A file of users that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// It can't be read.
    #[error("the file of users {} can't be read", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// A line is no `name:$2..`.
    #[error("line {line} of {} is no `name:` with a bcrypt hash (htpasswd -B)", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
}

/// The users of a file.
pub(super) struct Users {
    path: PathBuf,
    state: Mutex<State>,
    answers: Cache<[u8; 32], bool>,
    turns: Arc<Semaphore>,
}

struct State {
    hashes: Arc<HashMap<String, String>>,
    changed: Option<SystemTime>,
    looked: Instant,
}

impl Users {
    pub(super) fn load(path: &Path) -> Result<Self, UsersError> {
        let changed = changed(path);
        let hashes = Arc::new(read(path)?);
        let answers = Cache::builder()
            .max_capacity(MOST_REMEMBERED)
            .time_to_live(REMEMBERED);
        Ok(Self {
            path: path.to_owned(),
            state: Mutex::new(State {
                hashes,
                changed,
                looked: Instant::now(),
            }),
            answers: answers.build(),
            turns: Arc::new(Semaphore::new(AT_A_TIME)),
        })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.hashes().contains_key(name)
    }

    /// Whether the password is the user's. One computation a header, however many wait.
    pub(super) async fn admit(&self, shown: [u8; 32], name: String, password: String) -> bool {
        let hash = self.hashes().get(&name).cloned();
        let turns = Arc::clone(&self.turns);
        let compute = async move {
            // The semaphore is never closed.
            let _turn = turns.acquire().await.ok();
            let known = hash.is_some();
            let hash = hash.unwrap_or_else(|| NOBODY.to_owned());
            let computed = tokio::task::spawn_blocking(move || bcrypt::verify(&password, &hash));
            known && matches!(computed.await, Ok(Ok(true)))
        };
        self.answers.get_with(shown, compute).await
    }

    fn hashes(&self) -> Arc<HashMap<String, String>> {
        let mut state = self.state.lock();
        if state.looked.elapsed() >= LOOK {
            state.looked = Instant::now();
            let changed = changed(&self.path);
            if changed != state.changed {
                match read(&self.path) {
                    Ok(hashes) => {
                        state.hashes = Arc::new(hashes);
                        state.changed = changed;
                        self.answers.invalidate_all();
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the users stay as they were");
                    }
                }
            }
        }
        Arc::clone(&state.hashes)
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path)
        .and_then(|data| data.modified())
        .ok()
}

fn read(path: &Path) -> Result<HashMap<String, String>, UsersError> {
    let wrong = |cause| UsersError::File {
        path: path.to_owned(),
        cause,
    };
    let length = std::fs::metadata(path).map_err(wrong)?.len();
    if length > MOST_BYTES {
        return Err(wrong(std::io::Error::other("it is too long")));
    }
    parse(&std::fs::read_to_string(path).map_err(wrong)?).map_err(|line| UsersError::Line {
        path: path.to_owned(),
        line,
    })
}

/// The hashes by name, or the number of the first line that is none.
fn parse(text: &str) -> Result<HashMap<String, String>, usize> {
    let mut hashes = HashMap::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, hash) = line.split_once(':').ok_or(at + 1)?;
        let is_bcrypt = ["$2a$", "$2b$", "$2y$"]
            .iter()
            .any(|kind| hash.starts_with(kind));
        if name.is_empty() || !is_bcrypt || hash.len() != 60 {
            return Err(at + 1);
        }
        hashes.insert(name.to_owned(), hash.to_owned());
    }
    Ok(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_htpasswd_writes_them() {
        let hash = bcrypt::hash("x", 4).unwrap();
        let text = format!(
            "# people\nme:{hash}\n\nyou:{}\n",
            hash.replacen("$2b$", "$2y$", 1)
        );
        assert_eq!(parse(&text).unwrap().len(), 2);
        for wrong in [
            "me",
            "me:plain",
            "me:$apr1$x$y",
            ":$2y$05$x",
            "me:$2y$05$short",
        ] {
            let text = format!("you:{hash}\n{wrong}\n");
            assert_eq!(parse(&text), Err(2), "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_counts_and_a_broken_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        let write = |text: String, seconds: u64| {
            std::fs::write(&path, text).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            file.set_modified(time).unwrap();
        };
        write(format!("me:{}\n", bcrypt::hash("one", 4).unwrap()), 1);
        let users = Users::load(&path).unwrap();
        let admit = |password: &str| {
            let shown = *blake3::hash(password.as_bytes()).as_bytes();
            users.admit(shown, "me".to_owned(), password.to_owned())
        };
        assert!(admit("one").await && !admit("two").await);
        write(format!("me:{}\n", bcrypt::hash("two", 4).unwrap()), 2);
        tokio::time::advance(LOOK).await;
        assert!(admit("two").await && !admit("one").await);
        write("nonsense".to_owned(), 3);
        tokio::time::advance(LOOK).await;
        assert!(admit("two").await);
        assert!(Users::load(&path).is_err());
    }
}
