//! What was written, by whom, from where, and with which result.

use std::time::Duration;

use serde::Serialize;
use sqlx::{Row as _, any::AnyRow};
use time::OffsetDateTime;

use super::Accounts;
use crate::database::{at_millis, millis};

/// Entries are kept so long.
const KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 3600);
/// Entries in one list.
const MOST_LISTED: i64 = 500;
/// Bytes of a path that are kept.
const MOST_PATH: usize = 512;
/// Writes of those who were not let in that are noted within [`HOUR`]: else anybody fills the
/// database. Each is some 200 bytes, so that they take 45 MB at most.
const MOST_OF_STRANGERS: i64 = 100;
const HOUR: Duration = Duration::from_secs(3600);

/// One write.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Entry {
    pub(crate) id: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) at: OffsetDateTime,
    pub(crate) who: String,
    pub(crate) client: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) status: i64,
}

impl Accounts {
    /// Notes a write. One that can't be noted is logged: what was done is done. Of those who
    /// were not let in (`who` is empty) only some are noted, and all are logged.
    pub(crate) async fn note(
        &self,
        who: &str,
        client: String,
        method: &str,
        path: &str,
        status: u16,
        now: OffsetDateTime,
    ) {
        let path: String = path.chars().take(MOST_PATH).collect();
        if who.is_empty() {
            tracing::info!(client, method, path, status, "somebody was not let in");
        }
        let noted = sqlx::query(
            "INSERT INTO audit (at, who, client, method, path, status) \
             SELECT $1, $2, $3, $4, $5, $6 WHERE $2 <> '' \
             OR (SELECT COUNT(*) FROM audit WHERE at > $7 AND who = '') < $8",
        )
        .bind(millis(now))
        .bind(who.to_owned())
        .bind(client)
        .bind(method.to_owned())
        .bind(path.clone())
        .bind(i64::from(status))
        .bind(millis(now - HOUR))
        .bind(MOST_OF_STRANGERS)
        .execute(self.database.pool());
        if self.database.run(noted).await.is_err() {
            tracing::error!(who, method, path, status, "a write is not in the audit");
        }
    }

    /// Entries before `before`, the newest first.
    pub(crate) async fn audit(&self, before: i64, most: i64) -> Result<Vec<Entry>, sqlx::Error> {
        let rows = sqlx::query(
            "SELECT id, at, who, client, method, path, status FROM audit WHERE id < $1 \
             ORDER BY id DESC LIMIT $2",
        )
        .bind(before)
        .bind(most.clamp(1, MOST_LISTED))
        .fetch_all(self.database.pool());
        self.database.run(rows).await?.iter().map(entry).collect()
    }

    pub(super) async fn forget_audit(&self, now: OffsetDateTime) -> Result<(), sqlx::Error> {
        let done = sqlx::query("DELETE FROM audit WHERE at < $1")
            .bind(millis(now - KEPT_FOR))
            .execute(self.database.pool());
        self.database.run(done).await.map(drop)
    }
}

fn entry(row: &AnyRow) -> Result<Entry, sqlx::Error> {
    Ok(Entry {
        id: row.try_get("id")?,
        at: at_millis(row.try_get("at")?)?,
        who: row.try_get("who")?,
        client: row.try_get("client")?,
        method: row.try_get("method")?,
        path: row.try_get("path")?,
        status: row.try_get("status")?,
    })
}
