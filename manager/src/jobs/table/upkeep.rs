//! Jobs that ended long ago are forgotten, and the rest is counted.

use std::time::Duration;

use sqlx::{Row as _, any::AnyRow};
use time::OffsetDateTime;

use super::{Jobs, State, row::state};
use crate::{database::millis, metrics::JobState};

/// Jobs that have ended are shown so long.
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

impl Jobs {
    /// Forgets what ended long ago, and counts the rest.
    pub(crate) async fn sweep(&self, now: OffsetDateTime) -> Result<(), sqlx::Error> {
        self.forget(now).await?;
        let counts = self.counts().await?;
        for state in State::ALL {
            let count = counts.iter().find(|(one, _)| *one == state);
            let count = count.map_or(0, |(_, count)| *count);
            let state = state.as_str();
            let jobs = &self.database.metrics().jobs;
            jobs.get_or_create(&JobState { state }).set(count);
        }
        Ok(())
    }

    pub(super) async fn forget(&self, now: OffsetDateTime) -> Result<(), sqlx::Error> {
        let done = sqlx::query(
            "DELETE FROM jobs WHERE state NOT IN ('PENDING', 'RUNNING') AND updated_at < $1",
        )
        .bind(millis(now - KEPT_FOR))
        .execute(self.database.pool());
        self.database.run(done).await.map(drop)
    }

    /// How many there are in each state.
    pub(super) async fn counts(&self) -> Result<Vec<(State, i64)>, sqlx::Error> {
        let rows = sqlx::query("SELECT state, COUNT(*) AS jobs FROM jobs GROUP BY state")
            .fetch_all(self.database.pool());
        let rows = self.database.run(rows).await?;
        let count = |row: &AnyRow| Ok((state(row)?, row.try_get("jobs")?));
        rows.iter().map(count).collect()
    }
}
