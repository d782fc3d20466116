//! An htpasswd file of bcrypt hashes, as `htpasswd -B` writes it.
//!
//! Invariant: at most [`AT_A_TIME`] hashes are computed at the same time, off the runtime's
//! threads and whoever goes away meanwhile, and none twice within [`REMEMBERED`] for the same
//! header. An address has [`MOST_GUESSES`] wrong ones a minute, then it waits, with right ones,
//! too; the same wrong one again is no guess. Failure: who would be one of more than
//! [`MOST_WAITING`] whose hashes wait is told that it is busy here.

use std::{
    collections::HashMap,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use darter_runtime::attempts::Attempts;
use moka::future::Cache;
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};

/// Hashes that are computed at a time; each takes tens of milliseconds of a CPU.
const AT_A_TIME: usize = 2;
/// Hashes that clients wait for at a time, those that are computed counted: the last one takes
/// some seconds.
const MOST_WAITING: usize = 64;
/// Wrong passwords of one address within a minute, those that are looked at counted.
pub(crate) const MOST_GUESSES: u32 = 20;
/// Answers are believed so long, at most until the file changes.
const REMEMBERED: Duration = Duration::from_secs(60);
const MOST_REMEMBERED: u64 = 10_000;
/// Between two looks at the file.
const LOOK: Duration = Duration::from_secs(1);
/// Of the file, in bytes.
const MOST_BYTES: u64 = 1 << 20;
/// Of nobody's password, for a file without users.
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
    /// By the file's edition and the header.
    answers: Cache<(u64, [u8; 32]), bool>,
    turns: Arc<Semaphore>,
    waiting: Semaphore,
    guesses: Attempts,
    began: Instant,
}

/// A password is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotNow {
    /// Too many wait for a hash already.
    Busy,
    /// Too many wrong ones came from that address.
    Spent,
}

struct State {
    hashes: Arc<HashMap<String, String>>,
    /// Grows when the file has changed: what was asked of the one before is no answer of this.
    edition: u64,
    changed: Option<Stamp>,
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
                edition: 0,
                changed,
                looked: Instant::now(),
            }),
            answers: answers.build(),
            turns: Arc::new(Semaphore::new(AT_A_TIME)),
            waiting: Semaphore::new(MOST_WAITING),
            guesses: Attempts::new(MOST_GUESSES),
            began: Instant::now(),
        })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.hashes().1.contains_key(name)
    }

    /// Whether the password is the user's, as somebody at that address says. One computation a
    /// header, however many wait. Cancel-safe.
    pub(super) async fn admit(
        &self,
        shown: [u8; 32],
        name: String,
        password: String,
        from: IpAddr,
    ) -> Result<bool, NotNow> {
        let (edition, hashes) = self.hashes();
        let shown_to = (edition, shown);
        let known = hashes.contains_key(&name);
        let hash = hashes.get(&name).or_else(|| stand_in(&hashes, &shown));
        let hash = hash.map_or_else(|| NOBODY.to_owned(), String::clone);
        if self.answers.get(&shown_to).await == Some(false) {
            return Ok(false);
        }
        // Also what is remembered to be right: else it could be guessed meanwhile.
        if self.guesses.are_spent(from, self.began.elapsed()) {
            return Err(NotNow::Spent);
        }
        let compute = async {
            let _place = self.waiting.try_acquire().map_err(|_| NotNow::Busy)?;
            // It counts before it is looked at, and where its client hangs up.
            if !self.guesses.begin(from, self.began.elapsed()) {
                return Err(NotNow::Spent);
            }
            let is_right = known && self.verify(password, hash).await;
            if is_right {
                self.guesses.take_back(from);
            }
            Ok(is_right)
        };
        let answer = self.answers.try_get_with(shown_to, compute).await;
        answer.map_err(|not_now| *not_now)
    }

    async fn verify(&self, password: String, hash: String) -> bool {
        // The semaphore is never closed.
        let turn = Arc::clone(&self.turns).acquire_owned().await.ok();
        let computed = tokio::task::spawn_blocking(move || {
            // Given back when the work is done, whether or not anybody still waits for it.
            let _turn = turn;
            bcrypt::verify(&password, &hash)
        });
        matches!(computed.await, Ok(Ok(true)))
    }

    /// The file's edition, and what is in it.
    fn hashes(&self) -> (u64, Arc<HashMap<String, String>>) {
        let mut state = self.state.lock();
        if state.looked.elapsed() >= LOOK {
            state.looked = Instant::now();
            let changed = changed(&self.path);
            if changed != state.changed {
                match read(&self.path) {
                    Ok(hashes) => {
                        state.hashes = Arc::new(hashes);
                        state.edition += 1;
                        state.changed = changed;
                        self.answers.invalidate_all();
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the users stay as they were");
                    }
                }
            }
        }
        (state.edition, Arc::clone(&state.hashes))
    }
}

/// Another user's hash, for a name that is not there: it takes as long as a hash of this file
/// does, so that the time does not tell names. Which one is the header's to say, always.
fn stand_in<'a>(hashes: &'a HashMap<String, String>, shown: &[u8; 32]) -> Option<&'a String> {
    let mut all: Vec<&String> = hashes.values().collect();
    all.sort_unstable();
    let number = usize::from(u16::from_le_bytes([shown[0], shown[1]]));
    all.get(number % all.len().max(1)).copied()
}

/// Device, inode, bytes, and the changes of content and of anything, in nanoseconds: a file that
/// is put in another's place within a moment has another one.
type Stamp = (u64, u64, u64, i128, i128);

fn changed(path: &Path) -> Option<Stamp> {
    let data = std::fs::metadata(path).ok()?;
    let nanoseconds =
        |seconds: i64, more: i64| i128::from(seconds) * 1_000_000_000 + i128::from(more);
    Some((
        data.dev(),
        data.ino(),
        data.size(),
        nanoseconds(data.mtime(), data.mtime_nsec()),
        nanoseconds(data.ctime(), data.ctime_nsec()),
    ))
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
pub(super) fn parse(text: &str) -> Result<HashMap<String, String>, usize> {
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
    use std::time::SystemTime;

    use darter_runtime::attempts::WINDOW;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

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
            let admitted = users.admit(shown, "me".to_owned(), password.to_owned(), HERE);
            async move { admitted.await.unwrap() }
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

    #[tokio::test(start_paused = true)]
    async fn an_answer_of_the_file_before_is_no_answer_of_this_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        let write = |password: &str, cost: u32| {
            let hash = bcrypt::hash(password, cost).unwrap();
            std::fs::write(&path, format!("me:{hash}\n")).unwrap();
        };
        write("old", 10);
        let users = Users::load(&path).unwrap();
        let admit = || users.admit([1; 32], "me".to_owned(), "old".to_owned(), HERE);
        let mut early = Box::pin(admit());
        while users.turns.available_permits() == AT_A_TIME {
            assert!(futures::poll!(early.as_mut()).is_pending());
        }
        write("new", 4);
        tokio::time::advance(LOOK).await;
        assert_eq!(admit().await, Ok(false));
        assert_eq!(early.await, Ok(true), "it was when it was asked");
        assert_eq!(admit().await, Ok(false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_takes_the_place_of_another_within_its_time_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        let write = |password: &str| {
            let fresh = dir.path().join("fresh");
            std::fs::write(
                &fresh,
                format!("me:{}\n", bcrypt::hash(password, 4).unwrap()),
            )
            .unwrap();
            let file = std::fs::File::options().write(true).open(&fresh).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            std::fs::rename(fresh, &path).unwrap();
        };
        write("one");
        let users = Users::load(&path).unwrap();
        write("two");
        tokio::time::advance(LOOK).await;
        let admitted = users.admit([1; 32], "me".to_owned(), "two".to_owned(), HERE);
        assert_eq!(admitted.await, Ok(true));
    }

    #[test]
    fn who_is_not_there_has_a_hash_of_the_file() {
        let hash = |cost| bcrypt::hash("x", cost).unwrap();
        let hashes: HashMap<String, String> =
            [("me".to_owned(), hash(4)), ("you".to_owned(), hash(5))].into();
        for shown in 0..20 {
            let one = stand_in(&hashes, &[shown; 32]).unwrap();
            assert!(hashes.values().any(|hash| hash == one));
            assert_eq!(
                stand_in(&hashes, &[shown; 32]),
                Some(one),
                "always the same"
            );
        }
        assert_eq!(stand_in(&HashMap::new(), &[0; 32]), None);
    }

    #[tokio::test]
    async fn hashes_keep_their_turns_when_clients_leave_and_few_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        // Far longer than the test takes to look.
        std::fs::write(&path, format!("me:{}\n", bcrypt::hash("x", 10).unwrap())).unwrap();
        let users = Users::load(&path).unwrap();
        let ask = |at: u8| {
            let from = IpAddr::from([10, 0, 0, at]);
            users.admit([at; 32], "me".to_owned(), "guess".to_owned(), from)
        };
        for at in 0..2 {
            let mut left = Box::pin(ask(at));
            // Until its work has begun: then it is dropped.
            while users.turns.available_permits() + usize::from(at) >= AT_A_TIME {
                assert!(futures::poll!(left.as_mut()).is_pending());
            }
        }
        assert_eq!(users.turns.available_permits(), 0, "the work goes on");
        assert_eq!(users.waiting.available_permits(), MOST_WAITING);
        let mut waiting: Vec<_> = (0..64).map(|at| Box::pin(ask(2 + at))).collect();
        for one in &mut waiting {
            assert!(futures::poll!(one.as_mut()).is_pending());
        }
        assert_eq!(ask(99).await, Err(NotNow::Busy));
        drop(waiting);
        assert_eq!(ask(99).await, Ok(false));
    }

    #[tokio::test(start_paused = true)]
    async fn who_guesses_has_to_wait_and_nobody_elsewhere_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        std::fs::write(&path, format!("me:{}\n", bcrypt::hash("right", 4).unwrap())).unwrap();
        let users = Users::load(&path).unwrap();
        let elsewhere = IpAddr::from([10, 0, 0, 1]);
        let admit = |password: &str, from| {
            let shown = *blake3::hash(password.as_bytes()).as_bytes();
            users.admit(shown, "me".to_owned(), password.to_owned(), from)
        };
        for guess in 0..MOST_GUESSES {
            assert_eq!(admit("right", HERE).await, Ok(true));
            assert_eq!(admit(&guess.to_string(), HERE).await, Ok(false));
            // Who has an old password shows it again and again, and finds out nothing by it.
            assert_eq!(admit("0", HERE).await, Ok(false));
        }
        assert_eq!(admit("0", HERE).await, Ok(false));
        assert_eq!(admit("new", HERE).await, Err(NotNow::Spent));
        assert_eq!(admit("right", HERE).await, Err(NotNow::Spent));
        assert_eq!(admit("right", elsewhere).await, Ok(true));
        tokio::time::advance(WINDOW).await;
        assert_eq!(admit("right", HERE).await, Ok(true));
        assert_eq!(admit("new", HERE).await, Ok(false));
    }
}
