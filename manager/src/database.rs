//! The database: SQLite in the data directory, or PostgreSQL by URL for several managers.
//!
//! Owner of state: the database itself; nothing of it is kept here. Both are spoken to through
//! one driver with the same queries, but for [`Database::skip_locked`] and
//! [`Database::one_by_one`]. No query reads first and writes later: a writer never waits for a lock that it has half. Failure: a query that
//! fails, or takes more than ten seconds, is logged and counted, and whoever asked says so; the
//! next one may succeed.

use std::{
    fmt,
    fs::{OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sqlx::{
    AnyPool, Executor as _,
    any::{AnyPoolOptions, install_default_drivers},
    migrate::MigrateError,
};
use time::OffsetDateTime;

use crate::metrics::Metrics;

/// The SQLite file in the data directory.
pub(crate) const FILE: &str = "manager.db";
/// Connections to the database: reads go on beside the one writer.
const CONNECTIONS: u32 = 4;
/// For a connection or a lock.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);
/// Readers do not wait for the writer; a crash of the machine may lose the last words, not the
/// file. A writer waits two seconds for another. What signed in at a registry is written over
/// when it is deleted.
const PRAGMAS: &str = "PRAGMA busy_timeout = 2000; PRAGMA journal_mode = WAL; \
    PRAGMA synchronous = NORMAL; PRAGMA secure_delete = ON";

/// PostgreSQL gives a query up after five seconds, and a lock that another one has after two: a
/// query that waits for ever would keep one of few connections.
const LIMITS: &str = "SET statement_timeout = '5s'; SET lock_timeout = '2s'";
/// For a query as a whole, a connection counted: a server that is gone without a word says
/// nothing of its own limits. Its connections are taken back when the kernel gives them up.
const PATIENCE: Duration = Duration::from_secs(10);
/// For all tables to be brought up to date.
const MIGRATIONS: Duration = Duration::from_secs(60);

/// The database can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its directory or file can't be made.
    #[error("the manager's database {path} can't be made")]
    File {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// It can't be opened.
    #[error("the manager's database {name} can't be opened")]
    Database {
        /// The file, or `postgres`.
        name: String,
        /// Why.
        #[source]
        cause: sqlx::Error,
    },
    /// Its tables can't be brought up to date: it is damaged, or a newer version's.
    #[error("the tables of the manager's database {name} can't be brought up to date")]
    Tables {
        /// The file, or `postgres`.
        name: String,
        /// Why.
        #[source]
        cause: MigrateError,
    },
}

/// Where a PostgreSQL database is; its password is not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// From `postgres://user:password@host:port/name`.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// Whether it is one of PostgreSQL.
    pub fn is_valid(&self) -> bool {
        let schemes = ["postgres://", "postgresql://"];
        schemes.iter().any(|scheme| self.0.starts_with(scheme))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl(..)")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Sqlite,
    Postgres,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pool: AnyPool,
    dialect: Dialect,
    metrics: Metrics,
}

impl Database {
    /// Opens PostgreSQL at `url`; else the SQLite file in `dir`, or makes it there. Its tables
    /// are up to date afterwards.
    pub(crate) async fn open(
        url: Option<&DatabaseUrl>,
        dir: &Path,
        metrics: Metrics,
    ) -> Result<Self, OpenError> {
        install_default_drivers();
        let (dialect, name, url) = match url {
            Some(url) => (Dialect::Postgres, "postgres".to_owned(), url.0.clone()),
            None => {
                let file = make_file(dir)?;
                (
                    Dialect::Sqlite,
                    file.display().to_string(),
                    sqlite_url(&file),
                )
            }
        };
        let options = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(DATABASE_TIMEOUT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    connection
                        .execute(match dialect {
                            Dialect::Sqlite => PRAGMAS,
                            Dialect::Postgres => LIMITS,
                        })
                        .await?;
                    Ok(())
                })
            });
        let database = |cause| OpenError::Database {
            name: name.clone(),
            cause,
        };
        let pool = options.connect(&url).await.map_err(database)?;
        let migrations = match dialect {
            Dialect::Sqlite => sqlx::migrate!("migrations/sqlite"),
            Dialect::Postgres => sqlx::migrate!("migrations/postgres"),
        };
        let migrated = tokio::time::timeout(MIGRATIONS, migrations.run(&pool)).await;
        let migrated = migrated.unwrap_or_else(|_| Err(late().into()));
        migrated.map_err(|cause| OpenError::Tables { name, cause })?;
        Ok(Self {
            pool,
            dialect,
            metrics,
        })
    }

    pub(crate) const fn pool(&self) -> &AnyPool {
        &self.pool
    }

    pub(crate) const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What lets several managers take rows at the same time; SQLite has one writer anyway.
    pub(crate) const fn skip_locked(&self) -> &'static str {
        match self.dialect {
            Dialect::Sqlite => "",
            Dialect::Postgres => " FOR UPDATE SKIP LOCKED",
        }
    }

    /// What lets one writer at a time see what is there before it adds to it; SQLite has one
    /// writer anyway. To be asked first in a transaction.
    pub(crate) const fn one_by_one(&self) -> Option<&'static str> {
        match self.dialect {
            Dialect::Sqlite => None,
            // The row that is always there.
            Dialect::Postgres => {
                Some("SELECT version FROM clusters WHERE name = 'default' FOR UPDATE")
            }
        }
    }

    /// Waits for a query, for [`PATIENCE`] at most; logs and counts a failure.
    pub(crate) async fn run<T>(
        &self,
        query: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        self.run_within(PATIENCE, query).await
    }

    async fn run_within<T>(
        &self,
        patience: Duration,
        query: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let answered = tokio::time::timeout(patience, query).await;
        answered
            .unwrap_or_else(|_| Err(late()))
            .inspect_err(|cause| {
                self.metrics.database_failures.inc();
                let cause = cause as &dyn std::error::Error;
                tracing::error!(cause, "the database fails");
            })
    }
}

/// Nothing came within the time that is given.
fn late() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "it gave no answer"))
}

/// Nobody else on the machine reads it: it has hashes of tokens, and what running jobs need
/// to sign in with.
fn make_file(dir: &Path) -> Result<PathBuf, OpenError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |cause| OpenError::File { path, cause }
    };
    std::fs::create_dir_all(dir).map_err(failed(dir))?;
    let file = dir.join(FILE);
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&file)
        .and_then(|opened| opened.set_permissions(Permissions::from_mode(0o600)))
        .map_err(failed(&file))?;
    // SQLite makes them as the file itself is; those that a crash left may be older.
    for rest in ["-wal", "-shm"] {
        let path = dir.join(format!("{FILE}{rest}"));
        match std::fs::set_permissions(&path, Permissions::from_mode(0o600)) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                return Err(OpenError::File { path, cause });
            }
            _ => {}
        }
    }
    Ok(file)
}

/// A path may have any byte but 0 in it, a URL few (RFC 3986, section 2.3).
fn sqlite_url(file: &Path) -> String {
    let mut url = "sqlite://".to_owned();
    for byte in file.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                url.push(char::from(*byte));
            }
            other => url.push_str(&format!("%{other:02X}")),
        }
    }
    url
}

/// Since 1970.
pub(crate) fn millis(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// From milliseconds since 1970.
pub(crate) fn at_millis(millis: i64) -> Result<OffsetDateTime, sqlx::Error> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000)
        .map_err(|cause| sqlx::Error::Decode(cause.into()))
}

#[cfg(test)]
pub(crate) mod tests;
