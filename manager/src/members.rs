//! The members in the database.
//!
//! Owner of state: the table; nothing is kept beside it. A member is active from a
//! beat until its stream's end or the grace after its last beat, and the grace is looked at
//! when it is read, too: nobody is handed a member that expired. Of several streams of one
//! member the newest speaks, at whichever manager; the end of an older one changes nothing. A
//! restart keeps the rows: who was active has what is left of the grace to come back. A crash
//! may lose the last beats, which come again.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use darter_api::{ClusterName, HostId, Member, MemberKind};
use serde::Serialize;
use sqlx::{Row as _, any::AnyRow};
use time::OffsetDateTime;

use crate::{
    database::{Database, at_millis, millis},
    metrics::Group,
};

/// Members that are remembered; further ones are refused.
const MOST_MEMBERS: i64 = 10_000;
/// A member that was silent for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

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
    /// The cluster that it belongs to.
    pub(crate) cluster: String,
    pub(crate) active: bool,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) seen_at: OffsetDateTime,
}

/// Which stream of beats; a newer one is greater, over restarts and managers too: microseconds
/// since 1970, or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamId(i64);

/// The table of members.
#[derive(Debug)]
pub(crate) struct Members {
    database: Database,
    last_stream: AtomicI64,
    grace: Duration,
}

impl Members {
    /// A member is active for `grace` after a beat.
    pub(crate) async fn open(database: Database, grace: Duration) -> Result<Self, sqlx::Error> {
        let last = sqlx::query_scalar("SELECT COALESCE(MAX(stream), 0) FROM members")
            .fetch_one(database.pool());
        Ok(Self {
            last_stream: AtomicI64::new(database.run(last).await?),
            database,
            grace,
        })
    }

    /// A stream of beats begins at `now`.
    pub(crate) fn new_stream(&self, now: OffsetDateTime) -> StreamId {
        let micros = i64::try_from(now.unix_timestamp_nanos() / 1000).unwrap_or(0);
        let next = |last: i64| micros.max(last + 1);
        let last = self
            .last_stream
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(next(last))
            });
        StreamId(last.map_or(micros, next))
    }

    /// `member` lives, in this cluster.
    pub(crate) async fn beat(
        &self,
        member: &Member,
        cluster: &ClusterName,
        stream: StreamId,
        now: OffsetDateTime,
    ) -> Result<(), BeatError> {
        if self.update(member, cluster, stream, now).await?
            || self.insert(member, cluster, stream, now).await?
        {
            return Ok(());
        }
        let known = sqlx::query("SELECT 1 FROM members WHERE kind = $1 AND host = $2")
            .bind(member.kind.as_str())
            .bind(member.host.to_string())
            .fetch_optional(self.database.pool());
        match self.database.run(known).await? {
            Some(_) => Err(BeatError::Superseded),
            None => Err(BeatError::Full),
        }
    }

    async fn update(
        &self,
        member: &Member,
        cluster: &ClusterName,
        stream: StreamId,
        now: OffsetDateTime,
    ) -> Result<bool, sqlx::Error> {
        let updated = sqlx::query(
            "UPDATE members SET name = $3, address = $4, version = $5, stream = $6, \
             seen_at = $7, cluster = $8, active = TRUE \
             WHERE kind = $1 AND host = $2 AND stream <= $6",
        )
        .bind(member.kind.as_str())
        .bind(member.host.to_string())
        .bind(&member.place.name)
        .bind(&member.address)
        .bind(&member.version)
        .bind(stream.0)
        .bind(millis(now))
        .bind(cluster.as_str())
        .execute(self.database.pool());
        Ok(self.database.run(updated).await?.rows_affected() > 0)
    }

    async fn insert(
        &self,
        member: &Member,
        cluster: &ClusterName,
        stream: StreamId,
        now: OffsetDateTime,
    ) -> Result<bool, sqlx::Error> {
        let inserted = sqlx::query(
            "INSERT INTO members \
             (kind, host, name, address, version, stream, seen_at, cluster, active) \
             SELECT $1, $2, $3, $4, $5, $6, $7, $8, TRUE \
             WHERE (SELECT COUNT(*) FROM members) < $9 ON CONFLICT (kind, host) DO NOTHING",
        )
        .bind(member.kind.as_str())
        .bind(member.host.to_string())
        .bind(&member.place.name)
        .bind(&member.address)
        .bind(&member.version)
        .bind(stream.0)
        .bind(millis(now))
        .bind(cluster.as_str())
        .bind(MOST_MEMBERS)
        .execute(self.database.pool());
        Ok(self.database.run(inserted).await?.rows_affected() > 0)
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
        .execute(self.database.pool());
        self.database.run(ended).await?;
        Ok(())
    }

    /// All members of a kind, in the order in which they became known.
    pub(crate) async fn list(
        &self,
        kind: MemberKind,
        now: OffsetDateTime,
    ) -> Result<Vec<Known>, sqlx::Error> {
        let rows = sqlx::query(
            "SELECT host, name, address, version, cluster, seen_at, \
             CASE WHEN active THEN 1 ELSE 0 END AS live FROM members WHERE kind = $1 ORDER BY id",
        )
        .bind(kind.as_str())
        .fetch_all(self.database.pool());
        let oldest = self.oldest(now);
        let rows = self.database.run(rows).await?;
        rows.iter().map(|row| known(row, oldest)).collect()
    }

    /// The members of a kind that are alive in a cluster.
    pub(crate) async fn active(
        &self,
        kind: MemberKind,
        cluster: &ClusterName,
        now: OffsetDateTime,
    ) -> Result<Vec<Known>, sqlx::Error> {
        let mut list = self.list(kind, now).await?;
        list.retain(|known| known.active && known.cluster == cluster.as_str());
        Ok(list)
    }

    /// Makes the expired inactive, forgets the long gone, and counts the rest.
    pub(crate) async fn sweep(&self, now: OffsetDateTime) -> Result<(), sqlx::Error> {
        let expired =
            sqlx::query("UPDATE members SET active = FALSE WHERE active AND seen_at <= $1")
                .bind(self.oldest(now))
                .execute(self.database.pool());
        let expired = self.database.run(expired).await?.rows_affected();
        if expired > 0 {
            tracing::info!(expired, "members have gone silent");
        }
        let forgotten = sqlx::query("DELETE FROM members WHERE NOT active AND seen_at <= $1")
            .bind(millis(now - FORGOTTEN_AFTER))
            .execute(self.database.pool());
        self.database.run(forgotten).await?;
        self.count().await
    }

    async fn count(&self) -> Result<(), sqlx::Error> {
        for kind in [MemberKind::Scheduler, MemberKind::SeedPeer] {
            let sizes = sqlx::query_as(
                "SELECT COUNT(*), COUNT(CASE WHEN active THEN 1 END) FROM members WHERE kind = $1",
            )
            .bind(kind.as_str())
            .fetch_one(self.database.pool());
            let (all, active): (i64, i64) = self.database.run(sizes).await?;
            for (state, size) in [("active", active), ("inactive", all - active)] {
                let kind = kind.as_str();
                let gauge = self
                    .database
                    .metrics()
                    .members
                    .get_or_create(&Group { kind, state });
                gauge.set(size);
            }
        }
        Ok(())
    }

    /// Whether the database answers.
    pub(crate) async fn check(&self) -> Result<(), sqlx::Error> {
        let answer =
            sqlx::query("SELECT 1 FROM members LIMIT 1").fetch_optional(self.database.pool());
        self.database.run(answer).await?;
        Ok(())
    }

    /// Who was seen then, or before, has expired.
    pub(crate) fn since(&self, now: OffsetDateTime) -> OffsetDateTime {
        now - self.grace
    }

    fn oldest(&self, now: OffsetDateTime) -> i64 {
        millis(self.since(now))
    }
}

fn known(row: &AnyRow, oldest: i64) -> Result<Known, sqlx::Error> {
    let seen_at: i64 = row.try_get("seen_at")?;
    let active: i64 = row.try_get("live")?;
    Ok(Known {
        host: row.try_get("host")?,
        name: row.try_get("name")?,
        address: row.try_get("address")?,
        version: row.try_get("version")?,
        cluster: row.try_get("cluster")?,
        active: active != 0 && seen_at > oldest,
        seen_at: at_millis(seen_at)?,
    })
}

#[cfg(test)]
mod tests;
