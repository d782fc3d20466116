//! Credentials of the proxy's own for one upstream: written down, in files that others replace,
//! in Docker's configuration, or from a credential helper.
//!
//! Owner of state: [`Own`] keeps what it read last, for moments, so that a rotated file or a
//! helper's next answer is used soon; what the upstream refused is read anew at once. A reading
//! is a task that all share who wait for it, and ends although they leave. Invariant:
//! nothing of it is ever printed, and it leaves only for the upstream and its token server.
//! Failure: says which file or helper, and what was wrong with it, for [`FAILURE_LIFE`].

mod docker;
mod helper;
mod place;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use darter_runtime::Tasks;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use http::HeaderValue;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::credential::Secret;
#[cfg(any(test, fuzzing))]
pub(super) use docker::{Found, in_docker_config};
#[cfg(any(test, fuzzing))]
pub(super) use helper::{Answer, answered};
use place::{OwnOrigin, Place};

/// That it can't be had is.
const FAILURE_LIFE: Duration = Duration::from_secs(5);
/// Between two readings because of what the upstream refuses.
const REFUSAL_PAUSE: Duration = Duration::from_secs(5);
/// Of a file or a helper's answer, in bytes.
const MOST: u64 = 1 << 20;

/// Where the proxy's own credentials for an upstream are; one of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OwnOptions {
    /// A user's name, with one of the next two.
    pub username: Option<String>,
    /// The password. Better in a file.
    pub password: Option<Secret>,
    /// A file with the password, or the token that stands for one; read anew when it changes.
    pub password_file: Option<PathBuf>,
    /// A file with a token that the registry itself takes; read anew when it changes.
    pub token_file: Option<PathBuf>,
    /// Docker's `config.json`, with its helpers.
    pub docker_config: Option<PathBuf>,
    /// A credential helper: `ecr-login` is `docker-credential-ecr-login`.
    pub helper: Option<String>,
}

/// Credentials that can't be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum OwnError {
    #[error("{} can't be read", path.display())]
    File {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("{} has nothing of use for `{server}`", path.display())]
    Nothing { path: PathBuf, server: String },
    #[error("the helper docker-credential-{name} {what}")]
    Helper { name: String, what: &'static str },
    #[error("the proxy ends")]
    Ended,
}

/// What is shown to the upstream or its token server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Login {
    /// `Authorization: Basic ..`
    Basic(HeaderValue),
    /// `Authorization: Bearer ..`, for the upstream itself.
    Bearer(HeaderValue),
    /// An OAuth refresh token, for the token server.
    Identity(Secret),
}

impl Login {
    fn basic(username: &str, password: &str) -> Option<Self> {
        let pair = STANDARD.encode(format!("{username}:{password}"));
        header("Basic", &pair).map(Self::Basic)
    }
}

fn header(scheme: &str, text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("{scheme} {text}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

type Outcome = Result<Login, Arc<OwnError>>;
type Reading = Shared<BoxFuture<'static, Outcome>>;

#[derive(Debug, Default)]
struct State {
    /// What was read last, and until when it is believed.
    kept: Option<(Outcome, Instant)>,
    reading: Option<Reading>,
    /// When something was last read because the upstream refused what was kept.
    refused: Option<Instant>,
}

impl State {
    /// What need not be read anew.
    fn known(&mut self, refused: Option<&Login>, now: Instant) -> Option<Outcome> {
        let (outcome, until) = self.kept.as_ref()?;
        if now >= *until {
            return None;
        }
        if refused.is_some() && outcome.as_ref().ok() == refused {
            let last = self.refused;
            if last.is_none_or(|last| now >= last + REFUSAL_PAUSE) {
                self.refused = Some(now);
                return None;
            }
        }
        Some(outcome.clone())
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Own {
    origin: Arc<OwnOrigin>,
    state: Arc<Mutex<State>>,
    tasks: Tasks,
    /// Whether the upstream asked for Basic the last time.
    pub(super) speaks_basic: AtomicBool,
}

impl Own {
    /// What `options` say, of an upstream with these names; it is read in `tasks`.
    pub(super) fn new(
        options: &OwnOptions,
        names: Vec<String>,
        tasks: &Tasks,
    ) -> Result<Self, String> {
        let mut places = Vec::new();
        match (&options.username, &options.password, &options.password_file) {
            (Some(name), Some(password), None) => {
                let login = Login::basic(name, password.reveal());
                places.push(Place::Said(login.ok_or("the password makes no header")?));
            }
            (Some(name), None, Some(file)) => {
                places.push(Place::Password(name.clone(), file.clone()));
            }
            (None, None, None) => {}
            _ => return Err("`username` goes with `password` or `password_file`".to_owned()),
        }
        places.extend(options.token_file.clone().map(Place::Token));
        places.extend(options.docker_config.clone().map(Place::Docker));
        if let Some(helper) = &options.helper {
            if !helper::is_helper(helper) {
                return Err(format!("`{helper}` is no credential helper's name"));
            }
            places.push(Place::Helper(helper.clone()));
        }
        match (places.pop(), places.is_empty()) {
            (Some(place), true) => Ok(Self {
                origin: Arc::new(OwnOrigin { place, names }),
                state: Arc::default(),
                tasks: tasks.clone(),
                speaks_basic: AtomicBool::new(false),
            }),
            (None, _) => Err("`credentials` names none".to_owned()),
            _ => Err("`credentials` names more than one".to_owned()),
        }
    }

    /// What to show now; read anew where it is old, or is what was `refused`. Those who come
    /// meanwhile wait for the same answer. Cancel-safe.
    pub(super) async fn login(&self, refused: Option<&Login>) -> Outcome {
        let reading = {
            let mut state = self.state.lock();
            if let Some(outcome) = state.known(refused, Instant::now()) {
                return outcome;
            }
            let under_way = state.reading.as_ref();
            let under_way = under_way
                .filter(|reading| reading.peek().is_none())
                .cloned();
            let reading = under_way.unwrap_or_else(|| self.begin());
            state.reading = Some(reading.clone());
            reading
        };
        reading.await
    }

    fn begin(&self) -> Reading {
        let (origin, state) = (Arc::clone(&self.origin), Arc::clone(&self.state));
        let task = self.tasks.spawn("own credentials", async move {
            let (outcome, life) = match origin.read().await {
                Ok((login, life)) => (Ok(login), life),
                Err(error) => (Err(Arc::new(error)), FAILURE_LIFE),
            };
            let mut state = state.lock();
            state.kept = Some((outcome.clone(), Instant::now() + life));
            state.reading = None;
            outcome
        });
        let ended = async move {
            match task.await {
                Ok(Some(outcome)) => outcome,
                _ => Err(Arc::new(OwnError::Ended)),
            }
        };
        ended.boxed().shared()
    }

    /// What the upstream may be shown before it asks.
    pub(super) fn beforehand(&self, login: &Login) -> Option<HeaderValue> {
        match login {
            Login::Bearer(value) => Some(value.clone()),
            Login::Basic(value) if self.speaks_basic.load(Ordering::Relaxed) => Some(value.clone()),
            Login::Basic(_) | Login::Identity(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{helper::TIMEOUT, place::FILE_LIFE, *};

    fn own(options: OwnOptions) -> Own {
        Own::new(
            &options,
            vec!["r.test".to_owned(), "r.test:5000".to_owned()],
            &Tasks::new(),
        )
        .unwrap()
    }

    fn basic(username: &str, password: &str) -> Login {
        Login::basic(username, password).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_rotate_are_read_anew_when_they_are_old_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "one\n").unwrap();
        let own = own(OwnOptions {
            username: Some("me".to_owned()),
            password_file: Some(path.clone()),
            ..OwnOptions::default()
        });
        let one = own.login(None).await.unwrap();
        assert_eq!(one, basic("me", "one"));
        std::fs::write(&path, "two\n").unwrap();
        assert_eq!(own.login(None).await.unwrap(), one, "it is young");
        let two = own.login(Some(&one)).await.unwrap();
        assert_eq!(two, basic("me", "two"));
        std::fs::write(&path, "three\n").unwrap();
        tokio::time::advance(FILE_LIFE).await;
        assert_eq!(own.login(None).await.unwrap(), basic("me", "three"));
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(FILE_LIFE).await;
        let error = own.login(None).await.unwrap_err().to_string();
        assert!(error.contains("password can't be read"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_and_refusals_are_not_asked_about_all_the_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let own = own(OwnOptions {
            username: Some("me".to_owned()),
            password_file: Some(path.clone()),
            ..OwnOptions::default()
        });
        own.login(None).await.unwrap_err();
        std::fs::write(&path, "one").unwrap();
        own.login(None).await.unwrap_err();
        tokio::time::advance(FAILURE_LIFE).await;
        let one = own.login(None).await.unwrap();
        std::fs::write(&path, "two").unwrap();
        let two = own.login(Some(&one)).await.unwrap();
        assert_eq!(two, basic("me", "two"));
        std::fs::write(&path, "three").unwrap();
        assert_eq!(own.login(Some(&two)).await.unwrap(), two);
        tokio::time::advance(REFUSAL_PAUSE).await;
        assert_eq!(own.login(Some(&two)).await.unwrap(), basic("me", "three"));
    }

    #[tokio::test]
    async fn a_slow_reading_goes_on_when_all_who_waited_have_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let own = own(OwnOptions {
            username: Some("me".to_owned()),
            password_file: Some(path.clone()),
            ..OwnOptions::default()
        });
        for _ in 0..2 {
            // Nobody writes yet; who asks loses patience.
            let asked = Box::pin(own.login(None));
            assert!(futures::poll!(asked).is_pending());
        }
        let written = tokio::task::spawn_blocking(move || std::fs::write(path, "one"));
        let login = tokio::time::timeout(TIMEOUT, own.login(None)).await;
        assert_eq!(login.expect("it was read").unwrap(), basic("me", "one"));
        written.await.unwrap().unwrap();
    }

    #[test]
    fn one_place_and_no_paths_for_helpers() {
        let mistake =
            |options: OwnOptions| Own::new(&options, Vec::new(), &Tasks::new()).unwrap_err();
        let file = Some(PathBuf::from("x"));
        assert!(mistake(OwnOptions::default()).contains("names none"));
        let both = OwnOptions {
            token_file: file.clone(),
            docker_config: file.clone(),
            ..OwnOptions::default()
        };
        assert!(mistake(both).contains("more than one"));
        let half = OwnOptions {
            password_file: file,
            ..OwnOptions::default()
        };
        assert!(mistake(half).contains("username"));
        let path = OwnOptions {
            helper: Some("../../bin/sh".to_owned()),
            ..OwnOptions::default()
        };
        assert!(mistake(path).contains("no credential helper"));
    }

    #[test]
    fn nothing_of_it_is_printed() {
        let options = OwnOptions {
            username: Some("me".to_owned()),
            password: Some(Secret::from("s3cret")),
            ..OwnOptions::default()
        };
        let shown = format!("{options:?} {:?}", own(options.clone()));
        assert!(
            !shown.contains("s3cret") && !shown.contains("bWU6"),
            "{shown}"
        );
        let written = serde_json::to_string(&options).unwrap();
        assert!(!written.contains("s3cret"), "{written}");
    }
}
