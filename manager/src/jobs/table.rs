//! The jobs in the database.
//!
//! Owner of state: the table. A job's row is changed by its owner while its lease lasts, and by
//! people who cancel it or want it again; a change that comes too late changes nothing. The
//! lease is by the clocks of the managers, which are to agree within a second or two.

mod row;
mod upkeep;

use std::time::Duration;

use sqlx::{AssertSqlSafe, Row as _};
use time::OffsetDateTime;

use super::{Forgotten, Progress, Secret, State, Wish};
use crate::database::{Database, at_millis, millis};
use row::{job, json, parsed};

/// A manager that does not say within this that it goes on with a job has lost it.
pub(super) const LEASE: Duration = Duration::from_secs(5);
/// Jobs that have not ended; further ones are refused.
const MOST_OPEN: i64 = 1000;
/// Jobs in one list.
const MOST_LISTED: i64 = 100;

/// A job as it is kept, without what is forgotten with its end.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) id: i64,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) updated_at: OffsetDateTime,
    pub(crate) version: i64,
    pub(crate) state: State,
    pub(crate) created_by: String,
    pub(crate) wish: Wish,
    pub(crate) progress: Progress,
}

/// A job to be run.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) id: i64,
    /// Of this claim: an earlier one of the same job is lost.
    pub(super) owner: String,
    pub(super) wish: Wish,
    pub(super) secret: Secret,
    pub(super) progress: Progress,
    pub(super) deadline: OffsetDateTime,
}

/// What the owner of a job learns when it says that it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lease {
    Holds,
    /// Somebody wants it to end.
    Cancelled,
    /// Another manager has it, or nobody.
    Lost,
}

/// A job is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    #[error("more than {MOST_OPEN} jobs have not ended")]
    Full,
    #[error("the database fails")]
    Database(#[from] sqlx::Error),
}

/// What became of a change that somebody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Done,
    /// There is no such job.
    Unknown,
    /// It has ended, or has not.
    Late,
    /// It is not the version any more that was known.
    Newer,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Jobs {
    database: Database,
}

const COLUMNS: &str = "id, created_at, updated_at, version, state, created_by, wish, progress";

impl Jobs {
    pub(crate) const fn new(database: Database) -> Self {
        Self { database }
    }

    /// Takes a job.
    pub(crate) async fn create(
        &self,
        wish: &Wish,
        secret: &Secret,
        created_by: &str,
        now: OffsetDateTime,
    ) -> Result<i64, CreateError> {
        let created = self.insert(wish, secret, created_by, now, false).await?;
        created.ok_or(CreateError::Full)
    }

    /// Takes a job unless one with the same wish has not ended: its number then.
    pub(crate) async fn create_once(
        &self,
        wish: &Wish,
        secret: &Secret,
        created_by: &str,
        now: OffsetDateTime,
    ) -> Result<i64, CreateError> {
        if let Some(id) = self.insert(wish, secret, created_by, now, true).await? {
            return Ok(id);
        }
        let query = "SELECT id FROM jobs WHERE state IN ('PENDING', 'RUNNING') \
                     AND cancelling = 0 AND wish = $1 ORDER BY id LIMIT 1";
        let open = sqlx::query_scalar(query)
            .bind(json(&wish.at_rest())?)
            .fetch_optional(self.database.pool());
        self.database.run(open).await?.ok_or(CreateError::Full)
    }

    async fn insert(
        &self,
        wish: &Wish,
        secret: &Secret,
        created_by: &str,
        now: OffsetDateTime,
        once: bool,
    ) -> Result<Option<i64>, sqlx::Error> {
        // Two managers that are told of one push at the same time make one job of it.
        let inserted = async {
            let mut transaction = self.database.pool().begin().await?;
            if let Some(queue) = self.database.one_by_one() {
                sqlx::query(queue).execute(&mut *transaction).await?;
            }
            let row = sqlx::query(
            "INSERT INTO jobs (created_at, updated_at, version, state, created_by, wish, secret, \
             progress, timeout_ms, deadline, cancelling, owner, lease_until) \
             SELECT $1, $1, 1, 'PENDING', $2, $3, $4, $5, $6, 0, 0, '', 0 \
             WHERE (SELECT COUNT(*) FROM jobs WHERE state IN ('PENDING', 'RUNNING')) < $7 \
             AND ($8 = 0 OR NOT EXISTS (SELECT 1 FROM jobs WHERE state IN ('PENDING', 'RUNNING') \
             AND cancelling = 0 AND wish = $3)) RETURNING id",
        )
        .bind(millis(now))
        .bind(created_by.to_owned())
        .bind(json(&wish.at_rest())?)
        .bind(Forgotten::of(wish, secret).reveal().to_owned())
        .bind(json(&Progress::default())?)
        .bind(i64::try_from(wish.timeout_seconds * 1000).unwrap_or(i64::MAX))
        .bind(MOST_OPEN)
        .bind(i64::from(once))
        .fetch_optional(&mut *transaction)
        .await?;
            transaction.commit().await?;
            Ok(row)
        };
        let row = self.database.run(inserted).await?;
        row.map(|row| row.try_get("id")).transpose()
    }

    pub(crate) async fn get(&self, id: i64) -> Result<Option<Job>, sqlx::Error> {
        let query = format!("SELECT {COLUMNS} FROM jobs WHERE id = $1");
        let row = sqlx::query(AssertSqlSafe(query))
            .bind(id)
            .fetch_optional(self.database.pool());
        self.database.run(row).await?.as_ref().map(job).transpose()
    }

    /// The version alone, for who waits for another one.
    pub(crate) async fn version(&self, id: i64) -> Result<Option<i64>, sqlx::Error> {
        let version = sqlx::query_scalar("SELECT version FROM jobs WHERE id = $1")
            .bind(id)
            .fetch_optional(self.database.pool());
        self.database.run(version).await
    }

    /// Jobs before `before`, the newest first, at most `most` and a hundred.
    pub(crate) async fn list(
        &self,
        state: Option<State>,
        before: i64,
        most: i64,
    ) -> Result<Vec<Job>, sqlx::Error> {
        let query = format!(
            "SELECT {COLUMNS} FROM jobs WHERE id < $1 AND (state = $2 OR $2 = '') \
             ORDER BY id DESC LIMIT $3"
        );
        let rows = sqlx::query(AssertSqlSafe(query))
            .bind(before)
            .bind(state.map_or("", State::as_str).to_owned())
            .bind(most.clamp(1, MOST_LISTED))
            .fetch_all(self.database.pool());
        self.database.run(rows).await?.iter().map(job).collect()
    }

    /// The oldest job that nobody runs is `owner`'s from now on.
    pub(super) async fn claim(
        &self,
        owner: &str,
        now: OffsetDateTime,
    ) -> Result<Option<Claimed>, sqlx::Error> {
        let query = format!(
            "UPDATE jobs SET state = 'RUNNING', owner = $1, lease_until = $2, updated_at = $3, \
             version = version + 1, \
             deadline = CASE WHEN deadline = 0 THEN $3 + timeout_ms ELSE deadline END \
             WHERE id = (SELECT id FROM jobs WHERE state IN ('PENDING', 'RUNNING') \
             AND lease_until <= $3 ORDER BY id LIMIT 1{}) \
             RETURNING id, wish, secret, progress, deadline",
            self.database.skip_locked()
        );
        let row = sqlx::query(AssertSqlSafe(query))
            .bind(owner.to_owned())
            .bind(millis(now + LEASE))
            .bind(millis(now))
            .fetch_optional(self.database.pool());
        let Some(row) = self.database.run(row).await? else {
            return Ok(None);
        };
        let kept = Forgotten::kept(row.try_get("secret")?);
        let restored = kept.restore(parsed(&row, "wish")?);
        let (wish, secret) = restored.map_err(|cause| sqlx::Error::Decode(cause.into()))?;
        Ok(Some(Claimed {
            id: row.try_get("id")?,
            owner: owner.to_owned(),
            wish,
            secret,
            progress: parsed(&row, "progress")?,
            deadline: at_millis(row.try_get("deadline")?)?,
        }))
    }

    /// `owner` goes on with a job, and may say how far it is.
    pub(super) async fn renew(
        &self,
        id: i64,
        owner: &str,
        progress: Option<&Progress>,
        now: OffsetDateTime,
    ) -> Result<Lease, sqlx::Error> {
        let row = sqlx::query(
            "UPDATE jobs SET lease_until = $3, \
             updated_at = CASE WHEN $4 = '' THEN updated_at ELSE $5 END, \
             version = CASE WHEN $4 = '' THEN version ELSE version + 1 END, \
             progress = CASE WHEN $4 = '' THEN progress ELSE $4 END \
             WHERE id = $1 AND owner = $2 AND state = 'RUNNING' RETURNING cancelling",
        )
        .bind(id)
        .bind(owner.to_owned())
        .bind(millis(now + LEASE))
        .bind(progress.map(json).transpose()?.unwrap_or_default())
        .bind(millis(now))
        .fetch_optional(self.database.pool());
        match self.database.run(row).await? {
            None => Ok(Lease::Lost),
            Some(row) if row.try_get::<i64, _>("cancelling")? != 0 => Ok(Lease::Cancelled),
            Some(_) => Ok(Lease::Holds),
        }
    }

    /// A job has ended, if it is still `owner`'s.
    pub(super) async fn finish(
        &self,
        id: i64,
        owner: &str,
        state: State,
        progress: &Progress,
        now: OffsetDateTime,
    ) -> Result<bool, sqlx::Error> {
        let done = sqlx::query(
            "UPDATE jobs SET state = $3, progress = $4, updated_at = $5, version = version + 1, \
             secret = '', owner = '', lease_until = 0 \
             WHERE id = $1 AND owner = $2 AND state = 'RUNNING'",
        )
        .bind(id)
        .bind(owner.to_owned())
        .bind(state.as_str().to_owned())
        .bind(json(progress)?)
        .bind(millis(now))
        .execute(self.database.pool());
        Ok(self.database.run(done).await?.rows_affected() > 0)
    }

    /// `owner` gives a job back, for whoever comes first.
    pub(super) async fn give_back(&self, id: i64, owner: &str) -> Result<(), sqlx::Error> {
        let done = sqlx::query(
            "UPDATE jobs SET owner = '', lease_until = 0 \
             WHERE id = $1 AND owner = $2 AND state = 'RUNNING'",
        )
        .bind(id)
        .bind(owner.to_owned())
        .execute(self.database.pool());
        self.database.run(done).await.map(drop)
    }

    /// A job is to end: at once where nobody runs it, else within a second or so.
    pub(crate) async fn cancel(
        &self,
        id: i64,
        known: Option<i64>,
        now: OffsetDateTime,
    ) -> Result<Change, sqlx::Error> {
        let done = sqlx::query(
            "UPDATE jobs SET cancelling = 1, updated_at = $2, version = version + 1, \
             secret = CASE WHEN state = 'PENDING' THEN '' ELSE secret END, \
             state = CASE WHEN state = 'PENDING' THEN 'CANCELLED' ELSE state END \
             WHERE id = $1 AND state IN ('PENDING', 'RUNNING') AND ($3 < 0 OR version = $3)",
        )
        .bind(id)
        .bind(millis(now))
        .bind(known.unwrap_or(-1))
        .execute(self.database.pool());
        let done = self.database.run(done).await?.rows_affected() > 0;
        self.change(id, done, known).await
    }

    /// A job that has ended without success is wanted again: what is there is not fetched twice.
    /// What was forgotten is said again.
    pub(crate) async fn retry(
        &self,
        id: i64,
        again: &Forgotten,
        known: Option<i64>,
        now: OffsetDateTime,
    ) -> Result<Change, sqlx::Error> {
        let done = sqlx::query(
            "UPDATE jobs SET state = 'PENDING', cancelling = 0, deadline = 0, lease_until = 0, \
             secret = $3, progress = $4, updated_at = $2, version = version + 1 \
             WHERE id = $1 AND state IN ('FAILURE', 'CANCELLED') AND ($5 < 0 OR version = $5)",
        )
        .bind(id)
        .bind(millis(now))
        .bind(again.reveal().to_owned())
        .bind(json(&Progress::default())?)
        .bind(known.unwrap_or(-1))
        .execute(self.database.pool());
        let done = self.database.run(done).await?.rows_affected() > 0;
        self.change(id, done, known).await
    }

    async fn change(&self, id: i64, done: bool, known: Option<i64>) -> Result<Change, sqlx::Error> {
        if done {
            return Ok(Change::Done);
        }
        Ok(match (self.version(id).await?, known) {
            (None, _) => Change::Unknown,
            (Some(version), Some(known)) if version != known => Change::Newer,
            (Some(_), _) => Change::Late,
        })
    }
}

#[cfg(test)]
mod tests;
