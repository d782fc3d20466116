//! A way back in for who has the manager's database, and not the administrator's password.
//!
//! Nothing here owns state. The manager may be running: it reads a password at each sign-in.

use time::OffsetDateTime;

use crate::{
    Options,
    accounts::{Accounts, PASSWORD},
    database::{Database, OpenError},
    metrics::Metrics,
};

/// The password stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// It would be guessed, or is no password.
    #[error("a password has {} to {} bytes", PASSWORD.start(), PASSWORD.end())]
    Password,
    /// The database's URL is none.
    #[error("database: a URL of PostgreSQL begins with postgres://")]
    DatabaseUrl,
    /// The database can't be opened.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// The database does not answer.
    #[error("the manager's database fails")]
    Query(#[from] sqlx::Error),
}

/// Gives the administrator the password that is `given`, or a random one, which is returned.
///
/// # Errors
/// What is wrong with the password or the database.
pub async fn reset_root(
    options: &Options,
    given: Option<String>,
) -> Result<Option<String>, RecoveryError> {
    let fits = |password: &String| PASSWORD.contains(&password.len());
    if !given.as_ref().is_none_or(fits) {
        return Err(RecoveryError::Password);
    }
    let url = options.database.as_ref();
    if url.is_some_and(|url| !url.is_valid()) {
        return Err(RecoveryError::DatabaseUrl);
    }
    let database = Database::open(url, &options.data, Metrics::default()).await?;
    let accounts = Accounts::new(database);
    Ok(accounts
        .reset_root(given, OffsetDateTime::now_utc())
        .await?)
}
