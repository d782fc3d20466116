//! Who may call, as what: people by password, programs by tokens, and what they wrote.
//!
//! Owner of state: the tables, and in memory the failed sign-ins of each address. A password is
//! kept as its argon2id hash, a token as its SHA-256, and is shown when it is made and never
//! again. Failure: a database that fails lets nobody in who has to show something.

mod audit;
mod tokens;

use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr, sync::Arc, time::Duration};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use darter_runtime::attempts::Attempts;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use crate::database::{Database, millis};
pub(crate) use audit::Entry;
pub(crate) use tokens::{NewToken, Shown};

/// The administrator's name.
pub(crate) const ROOT: &str = "root";
/// Passwords that are looked at the same time: each takes 7 MiB and some of a core.
const HASHES: usize = 2;
/// Wrong passwords after which an address has to wait.
const MOST_FAILURES: u32 = 10;
/// For one's turn to have a password looked at.
const HASH_TURN: Duration = Duration::from_secs(1);
/// Bytes of a password or token at most.
pub(crate) const MOST_SECRET: usize = 1024;
/// Bytes of a password that somebody sets.
pub(crate) const PASSWORD: RangeInclusive<usize> = 12..=MOST_SECRET;
/// Bytes of a name at most.
pub(crate) const MOST_NAME: usize = 128;

/// Whether a user or token may be called so. PostgreSQL takes no 0 in a text.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=MOST_NAME).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// What somebody may do; each may what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Nothing.
    #[default]
    None,
    /// Look.
    Guest,
    /// Have things done.
    Operator,
    /// Say who may what.
    Root,
}

impl Role {
    const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Guest => "guest",
            Self::Operator => "operator",
            Self::Root => "root",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = sqlx::Error;

    fn from_str(text: &str) -> Result<Self, sqlx::Error> {
        let all = [Self::None, Self::Guest, Self::Operator, Self::Root];
        let known = all.into_iter().find(|role| role.as_str() == text);
        known.ok_or_else(|| sqlx::Error::Decode("no role has this name".into()))
    }
}

/// Somebody who may be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// For people: `root`, `token harbor`, `local`.
    pub(crate) name: String,
    pub(crate) role: Role,
}

/// Somebody is not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignInError {
    #[error("the token or password is not valid")]
    Wrong,
    #[error("too many attempts failed; come again in a minute")]
    TooMany,
    #[error("too many sign in at the moment; come again in a while")]
    Busy,
    #[error("the database fails")]
    Database(#[from] sqlx::Error),
}

/// What a caller shows.
pub(crate) enum Credential {
    Token(String),
    Password { user: String, password: String },
}

impl Credential {
    /// From an `Authorization` header: `Bearer TOKEN`, `Basic user:password`, or, as Harbor's
    /// webhooks send it, a token alone. A token is taken for a password, too.
    pub(crate) fn of_header(value: &str) -> Option<Self> {
        if value.len() > 2 * MOST_SECRET {
            return None;
        }
        let Some((scheme, rest)) = value.split_once(' ') else {
            return Some(Self::Token(value.to_owned()));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Some(Self::Token(rest.trim().to_owned())),
            "basic" => {
                let text = BASE64_STANDARD.decode(rest.trim()).ok()?;
                let text = String::from_utf8(text).ok()?;
                let (user, password) = text.split_once(':')?;
                Some(if tokens::is_token(password) {
                    Self::Token(password.to_owned())
                } else {
                    let (user, password) = (user.to_owned(), password.to_owned());
                    Self::Password { user, password }
                })
            }
            _ => None,
        }
    }
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Accounts {
    database: Database,
    attempts: Arc<Attempts>,
    hashes: Arc<Semaphore>,
}

impl Accounts {
    pub(crate) fn new(database: Database) -> Self {
        Self {
            database,
            attempts: Arc::new(Attempts::new(MOST_FAILURES)),
            hashes: Arc::new(Semaphore::new(HASHES)),
        }
    }

    /// Makes the administrator where there is none, with the password that is `given` or a
    /// random one, which is returned for somebody to be told.
    pub(crate) async fn ensure_root(
        &self,
        given: Option<String>,
        now: OffsetDateTime,
    ) -> Result<Option<String>, sqlx::Error> {
        if self.password_of(ROOT).await?.is_some() {
            return Ok(None);
        }
        let is_given = given.is_some();
        let password = given.unwrap_or_else(random_text);
        let cost = if is_given { usual() } else { of_random() };
        let hash = hashed(password.clone(), cost).await?;
        let made = sqlx::query(
            "INSERT INTO users (name, role, password, created_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (name) DO NOTHING",
        )
        .bind(ROOT)
        .bind(Role::Root.as_str())
        .bind(hash)
        .bind(millis(now))
        .execute(self.database.pool());
        let made = self.database.run(made).await?.rows_affected() > 0;
        Ok(Some(password).filter(|_| made && !is_given))
    }

    /// Who shows this, from that address.
    pub(crate) async fn sign_in(
        &self,
        credential: Credential,
        from: IpAddr,
        now: OffsetDateTime,
    ) -> Result<Caller, SignInError> {
        // Nobody guesses a token; where others share the address of one who tries passwords,
        // theirs go on to count.
        let (user, password) = match credential {
            Credential::Token(token) => {
                let caller = self.token_caller(&token, now).await?;
                return caller.ok_or(SignInError::Wrong);
            }
            Credential::Password { user, password } => (user, password),
        };
        // It counts before it is looked at: also those that are under way, or hung up.
        let since = Duration::from_millis(u64::try_from(millis(now)).unwrap_or_default());
        if !self.attempts.begin(from, since) {
            return Err(SignInError::TooMany);
        }
        let signed = self.user(&user, password).await;
        if !matches!(signed, Err(SignInError::Wrong)) {
            self.attempts.take_back(from);
        }
        signed
    }

    async fn user(&self, name: &str, password: String) -> Result<Caller, SignInError> {
        if password.len() > MOST_SECRET || !is_name(name) {
            return Err(SignInError::Wrong);
        }
        let known = self.password_of(name).await?;
        let turn = Arc::clone(&self.hashes).acquire_owned();
        let Ok(Ok(turn)) = tokio::time::timeout(HASH_TURN, turn).await else {
            return Err(SignInError::Busy);
        };
        // Nobody learns from the time it takes whether there is such a user.
        let hash = known.as_ref().map(|(_, hash)| hash.clone());
        let checked = tokio::task::spawn_blocking(move || {
            // The work has the turn, not its request, which may hang up.
            let _turn = turn;
            match hash {
                Some(hash) => PasswordHash::new(&hash).is_ok_and(|hash| {
                    let argon = Argon2::default();
                    argon.verify_password(password.as_bytes(), &hash).is_ok()
                }),
                None => {
                    let _ = usual().hash_password(password.as_bytes());
                    false
                }
            }
        });
        let is_right = checked.await.unwrap_or(false);
        let known = known.filter(|_| is_right).ok_or(SignInError::Wrong);
        known.map(|(role, _)| Caller {
            name: name.to_owned(),
            role,
        })
    }

    /// Another password for a user; whether there is one of this name.
    pub(crate) async fn set_password(
        &self,
        user: &str,
        password: String,
    ) -> Result<bool, sqlx::Error> {
        let hash = hashed(password, usual()).await?;
        let done = sqlx::query("UPDATE users SET password = $2 WHERE name = $1")
            .bind(user.to_owned())
            .bind(hash)
            .execute(self.database.pool());
        Ok(self.database.run(done).await?.rows_affected() > 0)
    }

    /// Gives the administrator the password that is `given`, or a random one, which is returned.
    pub(crate) async fn reset_root(
        &self,
        given: Option<String>,
        now: OffsetDateTime,
    ) -> Result<Option<String>, sqlx::Error> {
        let made_up = given.is_none().then(random_text);
        let password = given.or_else(|| made_up.clone()).unwrap_or_default();
        if !self.set_password(ROOT, password.clone()).await? {
            self.ensure_root(Some(password), now).await?;
        }
        Ok(made_up)
    }

    async fn password_of(&self, user: &str) -> Result<Option<(Role, String)>, sqlx::Error> {
        let row = sqlx::query_as("SELECT role, password FROM users WHERE name = $1")
            .bind(user.to_owned())
            .fetch_optional(self.database.pool());
        let row: Option<(String, String)> = self.database.run(row).await?;
        row.map(|(role, password)| Ok((role.parse()?, password)))
            .transpose()
    }

    /// Forgets what is over.
    pub(crate) async fn sweep(&self, now: OffsetDateTime) -> Result<(), sqlx::Error> {
        self.forget_audit(now).await?;
        self.forget_tokens(now).await
    }
}

/// For passwords that people think of. Of the settings that OWASP's Password Storage Cheat Sheet
/// has for equal, that with the least memory: what was taken once may stay with the process.
fn usual() -> Argon2<'static> {
    argon(7 * 1024, 5)
}

/// For 160 random bits, which nobody guesses however cheap a guess is: one MiB once.
fn of_random() -> Argon2<'static> {
    argon(1024, 1)
}

fn argon(kib: u32, passes: u32) -> Argon2<'static> {
    let params = Params::new(kib, passes, 1, None);
    let params = params.expect("numbers within Argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

async fn hashed(password: String, cost: Argon2<'static>) -> Result<String, sqlx::Error> {
    let hash = tokio::task::spawn_blocking(move || {
        let hash = cost.hash_password(password.as_bytes());
        hash.map(|hash| hash.to_string())
    });
    let failed = || sqlx::Error::Encode("the password can't be hashed".into());
    hash.await.ok().and_then(Result::ok).ok_or_else(failed)
}

/// 160 random bits.
fn random_text() -> String {
    let mut bytes = [0u8; 20];
    rand::rng().fill(&mut bytes);
    hex::encode(bytes)
}

#[cfg(test)]
mod tests;
