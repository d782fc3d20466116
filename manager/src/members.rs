//! The members in the database.
//!
//! Owner of state: the SQLite file; nothing is kept beside it. A member is active from a
//! beat until its stream's end or the grace after its last beat, and the grace is looked at
//! when it is read, too: nobody is handed a member that expired. Of several streams of one
//! member the newest speaks; the end of an older one changes nothing. A restart keeps the
//! rows: who was active has what is left of the grace to come back. A crash may lose the
//! last beats, which come again.

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use darter_api::{HostId, Member, MemberKind};
use serde::Serialize;
use sqlx::{
    Row as _, SqlitePool,
    migrate::MigrateError,
    sqlite::{
        SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
    },
};
use time::OffsetDateTime;

use crate::metrics::{Group, Metrics};

/// The database's file in the data directory.
const FILE: &str = "manager.db";
/// Connections to the database: reads go on beside the one writer.
const CONNECTIONS: u32 = 4;
/// For a connection or a lock.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);
/// Members that are remembered; further ones are refused.
const MOST_MEMBERS: i64 = 10_000;
/// A member that was silent for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// The database can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its directory can't be made.
    #[error("the manager's directory {path} can't be made")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The file can't be opened.
    #[error("the manager's database {path} can't be opened")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: sqlx::Error,
    },
    /// Its tables can't be brought up to date: it is damaged, or a newer version's.
    #[error("the tables of the manager's database {path} can't be brought up to date")]
    Tables {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: MigrateError,
    },
}

/// A beat is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeatError {
    #[error("a newer stream speaks for this member")]
    Superseded,
    #[error("no more than {MOST_MEMBERS} members are remembered")]
    Full,
    #[error("the database fails")]
    Database(#[from] sqlx::Error),
}

/// A member as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Known {
    /// Its public key in hex.
    pub(crate) host: String,
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) version: String,
    pub(crate) active: bool,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) seen_at: OffsetDateTime,
}

/// Which stream of beats; a newer one is greater, over restarts too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamId(i64);

/// The table of members.
#[derive(Debug)]
pub(crate) struct Members {
    pool: SqlitePool,
    last_stream: AtomicI64,
    grace: Duration,
    metrics: Metrics,
}

impl Members {
    /// Opens the database in `dir`, or makes it there. A member is active for `grace` after
    /// a beat.
    pub(crate) async fn open(
        dir: &Path,
        grace: Duration,
        metrics: Metrics,
    ) -> Result<Self, OpenError> {
        std::fs::create_dir_all(dir).map_err(|cause| OpenError::Directory {
            path: dir.to_owned(),
            cause,
        })?;
        let path = dir.join(FILE);
        let database = |cause| OpenError::Database {
            path: path.clone(),
            cause,
        };
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(DATABASE_TIMEOUT);
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(DATABASE_TIMEOUT)
            .connect_with(options)
            .await
            .map_err(database)?;
        let migrated = sqlx::migrate!("migrations/sqlite").run(&pool).await;
        migrated.map_err(|cause| OpenError::Tables {
            path: path.clone(),
            cause,
        })?;
        let last: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(stream), 0) FROM members")
            .fetch_one(&pool)
            .await
            .map_err(database)?;
        Ok(Self {
            pool,
            last_stream: AtomicI64::new(last),
            grace,
            metrics,
        })
    }

    /// A stream of beats begins.
    pub(crate) fn new_stream(&self) -> StreamId {
        StreamId(self.last_stream.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// `member` lives.
    pub(crate) async fn beat(
        &self,
        member: &Member,
        stream: StreamId,
        now: OffsetDateTime,
    ) -> Result<(), BeatError> {
        if self.update(member, stream, now).await? || self.insert(member, stream, now).await? {
            return Ok(());
        }
        let known = sqlx::query("SELECT 1 FROM members WHERE kind = $1 AND host = $2")
            .bind(member.kind.as_str())
            .bind(member.host.to_string())
            .fetch_optional(&self.pool)
            .await;
        match self.counted(known)? {
            Some(_) => Err(BeatError::Superseded),
            None => Err(BeatError::Full),
        }
    }

    async fn update(
        &self,
        member: &Member,
        stream: StreamId,
        now: OffsetDateTime,
    ) -> Result<bool, sqlx::Error> {
        let updated = sqlx::query(
            "UPDATE members SET name = $3, address = $4, version = $5, stream = $6, \
             seen_at = $7, active = TRUE WHERE kind = $1 AND host = $2 AND stream <= $6",
        )
        .bind(member.kind.as_str())
        .bind(member.host.to_string())
        .bind(&member.name)
        .bind(&member.address)
        .bind(&member.version)
        .bind(stream.0)
        .bind(millis(now))
        .execute(&self.pool)
        .await;
        Ok(self.counted(updated)?.rows_affected() > 0)
    }

    async fn insert(
        &self,
        member: &Member,
        stream: StreamId,
        now: OffsetDateTime,
    ) -> Result<bool, sqlx::Error> {
        let inserted = sqlx::query(
            "INSERT INTO members (kind, host, name, address, version, stream, seen_at, active) \
             SELECT $1, $2, $3, $4, $5, $6, $7, TRUE \
             WHERE (SELECT COUNT(*) FROM members) < $8 ON CONFLICT (kind, host) DO NOTHING",
        )
        .bind(member.kind.as_str())
        .bind(member.host.to_string())
        .bind(&member.name)
        .bind(&member.address)
        .bind(&member.version)
        .bind(stream.0)
        .bind(millis(now))
        .bind(MOST_MEMBERS)
        .execute(&self.pool)
        .await;
        Ok(self.counted(inserted)?.rows_affected() > 0)
    }

    /// A stream of beats has ended; if it still spoke for its member, that is gone.
    pub(crate) async fn end(
        &self,
        kind: MemberKind,
        host: HostId,
        stream: StreamId,
    ) -> Result<(), sqlx::Error> {
        let ended = sqlx::query(
            "UPDATE members SET active = FALSE WHERE kind = $1 AND host = $2 AND stream = $3",
        )
        .bind(kind.as_str())
        .bind(host.to_string())
        .bind(stream.0)
        .execute(&self.pool)
        .await;
        self.counted(ended)?;
        Ok(())
    }

    /// All members of a kind, in the order in which they became known.
    pub(crate) async fn list(
        &self,
        kind: MemberKind,
        now: OffsetDateTime,
    ) -> Result<Vec<Known>, sqlx::Error> {
        let rows = sqlx::query(
            "SELECT host, name, address, version, seen_at, active FROM members \
             WHERE kind = $1 ORDER BY id",
        )
        .bind(kind.as_str())
        .fetch_all(&self.pool)
        .await;
        let oldest = self.oldest(now);
        let rows = self.counted(rows)?;
        rows.iter().map(|row| known(row, oldest)).collect()
    }

    /// Makes the expired inactive, forgets the long gone, and counts the rest.
    pub(crate) async fn sweep(&self, now: OffsetDateTime) -> Result<(), sqlx::Error> {
        let expired =
            sqlx::query("UPDATE members SET active = FALSE WHERE active AND seen_at <= $1")
                .bind(self.oldest(now))
                .execute(&self.pool)
                .await;
        let expired = self.counted(expired)?.rows_affected();
        if expired > 0 {
            tracing::info!(expired, "members have gone silent");
        }
        let forgotten = sqlx::query("DELETE FROM members WHERE NOT active AND seen_at <= $1")
            .bind(millis(now - FORGOTTEN_AFTER))
            .execute(&self.pool)
            .await;
        self.counted(forgotten)?;
        self.count().await
    }

    async fn count(&self) -> Result<(), sqlx::Error> {
        for kind in [MemberKind::Scheduler, MemberKind::SeedPeer] {
            let sizes = sqlx::query_as(
                "SELECT COUNT(*), COUNT(CASE WHEN active THEN 1 END) FROM members WHERE kind = $1",
            )
            .bind(kind.as_str())
            .fetch_one(&self.pool)
            .await;
            let (all, active): (i64, i64) = self.counted(sizes)?;
            for (state, size) in [("active", active), ("inactive", all - active)] {
                let kind = kind.as_str();
                let gauge = self.metrics.members.get_or_create(&Group { kind, state });
                gauge.set(size);
            }
        }
        Ok(())
    }

    /// Whether the database answers.
    pub(crate) async fn check(&self) -> Result<(), sqlx::Error> {
        let answer = sqlx::query("SELECT 1 FROM members LIMIT 1")
            .fetch_optional(&self.pool)
            .await;
        self.counted(answer)?;
        Ok(())
    }

    /// Who was seen then, or before, has expired.
    fn oldest(&self, now: OffsetDateTime) -> i64 {
        millis(now - self.grace)
    }

    fn counted<T>(&self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        result.inspect_err(|cause| {
            self.metrics.database_failures.inc();
            let cause = cause as &dyn std::error::Error;
            tracing::error!(cause, "the database fails");
        })
    }
}

fn known(row: &SqliteRow, oldest: i64) -> Result<Known, sqlx::Error> {
    let seen_at: i64 = row.try_get("seen_at")?;
    let active: bool = row.try_get("active")?;
    Ok(Known {
        host: row.try_get("host")?,
        name: row.try_get("name")?,
        address: row.try_get("address")?,
        version: row.try_get("version")?,
        active: active && seen_at > oldest,
        seen_at: OffsetDateTime::from_unix_timestamp_nanos(i128::from(seen_at) * 1_000_000)
            .map_err(|cause| sqlx::Error::Decode(cause.into()))?,
    })
}

/// Since 1970.
fn millis(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
