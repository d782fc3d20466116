//! What is set for peers and seeds while they run: versions, the newest of which counts.
//!
//! Owner of state: the table, and a watch of its newest version that every manager looks up twice a
//! second, whoever wrote it. A roll-back is a new version with an older one's settings. Invariant:
//! what makes no sense is never written. Failure: a database that fails leaves what was set.

use std::time::Duration;

use darter_api::configuration::{Configuration, RateSettings};
use serde::{Deserialize, Serialize};
use sqlx::{Row as _, any::AnyRow};
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::database::{Database, at_millis, millis};

/// Between looks for what other managers have set.
const LOOK: Duration = Duration::from_millis(500);
/// Versions that are kept.
const KEPT: i64 = 1000;
/// Versions in one list.
const LISTED: i64 = 100;

/// What is set, for each kind of node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Set {
    pub(crate) peers: RateSettings,
    pub(crate) seeds: RateSettings,
}

/// One version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Version {
    pub(crate) version: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) at: OffsetDateTime,
    pub(crate) who: String,
    pub(crate) settings: Set,
}

/// Settings are not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetError {
    #[error(
        "a rate is 0, for no limit, or at least {} bytes a second",
        darter_api::configuration::LEAST_RATE
    )]
    Rate,
    #[error("the settings have changed meanwhile")]
    Changed,
    #[error("the database fails")]
    Database(#[from] sqlx::Error),
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    database: Database,
    newest: watch::Sender<(u64, Set)>,
}

impl Settings {
    pub(crate) async fn open(database: Database) -> Result<Self, sqlx::Error> {
        let (newest, _) = watch::channel((0, Set::default()));
        let settings = Self { database, newest };
        settings.look().await?;
        Ok(settings)
    }

    /// Looks for what others have set, for as long as it is polled.
    pub(crate) async fn follow(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            // A failure is logged and counted there.
            let _ = self.look().await;
        }
    }

    async fn look(&self) -> Result<(), sqlx::Error> {
        let (version, set) = match self.versions(1).await?.into_iter().next() {
            Some(newest) => (newest.version, newest.settings),
            None => (0, Set::default()),
        };
        let version = u64::try_from(version).unwrap_or(0);
        self.newest.send_if_modified(|known| {
            let is_news = version > known.0;
            if is_news {
                *known = (version, set);
            }
            is_news
        });
        Ok(())
    }

    /// What counts for peers or seeds, and every change of it.
    pub(crate) fn newest(&self) -> watch::Receiver<(u64, Set)> {
        self.newest.subscribe()
    }

    /// A new version, made from the one that is `known`, if that is still the newest.
    pub(crate) async fn set(
        &self,
        set: &Set,
        known: Option<i64>,
        who: &str,
        now: OffsetDateTime,
    ) -> Result<i64, SetError> {
        if !set.peers.is_valid() || !set.seeds.is_valid() {
            return Err(SetError::Rate);
        }
        let text = serde_json::to_string(set).map_err(|cause| sqlx::Error::Encode(cause.into()))?;
        let row = sqlx::query(
            "INSERT INTO configurations (version, at, who, settings) \
             SELECT COALESCE(MAX(version), 0) + 1, $1, $2, $3 FROM configurations \
             HAVING $4 < 0 OR COALESCE(MAX(version), 0) = $4 \
             ON CONFLICT (version) DO NOTHING RETURNING version",
        )
        .bind(millis(now))
        .bind(who.to_owned())
        .bind(text)
        .bind(known.unwrap_or(-1))
        .fetch_optional(self.database.pool())
        .await;
        let row = self.database.counted(row)?.ok_or(SetError::Changed)?;
        let version: i64 = row.try_get("version").map_err(SetError::Database)?;
        let forgotten = sqlx::query("DELETE FROM configurations WHERE version <= $1")
            .bind(version - KEPT)
            .execute(self.database.pool())
            .await;
        self.database.counted(forgotten)?;
        self.look().await?;
        Ok(version)
    }

    /// One version, if it is kept.
    pub(crate) async fn version(&self, version: i64) -> Result<Option<Version>, sqlx::Error> {
        let row =
            sqlx::query("SELECT version, at, who, settings FROM configurations WHERE version = $1")
                .bind(version)
                .fetch_optional(self.database.pool())
                .await;
        self.database.counted(row)?.as_ref().map(shown).transpose()
    }

    /// The newest versions.
    pub(crate) async fn versions(&self, most: i64) -> Result<Vec<Version>, sqlx::Error> {
        let rows = sqlx::query(
            "SELECT version, at, who, settings FROM configurations ORDER BY version DESC LIMIT $1",
        )
        .bind(most.clamp(1, LISTED))
        .fetch_all(self.database.pool())
        .await;
        self.database.counted(rows)?.iter().map(shown).collect()
    }
}

/// For one kind of node.
pub(crate) fn configuration((version, set): (u64, Set), seed: bool) -> Configuration {
    let rates = if seed { set.seeds } else { set.peers };
    Configuration { version, rates }
}

fn shown(row: &AnyRow) -> Result<Version, sqlx::Error> {
    let settings: String = row.try_get("settings")?;
    let decoded = serde_json::from_str(&settings);
    Ok(Version {
        version: row.try_get("version")?,
        at: at_millis(row.try_get("at")?)?,
        who: row.try_get("who")?,
        settings: decoded.map_err(|cause| sqlx::Error::Decode(cause.into()))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::tests::on_both;

    const AT: OffsetDateTime = time::macros::datetime!(2026-11-21 12:00 UTC);

    fn upload(rate: u64) -> Set {
        let rates = RateSettings {
            upload: Some(rate),
            ..RateSettings::default()
        };
        Set {
            peers: rates,
            ..Set::default()
        }
    }

    #[tokio::test]
    async fn versions_grow_and_whoever_comes_late_changes_nothing() {
        let test = "versions_grow_and_whoever_comes_late_changes_nothing";
        on_both(test, async |place| {
            let settings = Settings::open(place.open().await).await.unwrap();
            let other = Settings::open(place.open().await).await.unwrap();
            assert_eq!(settings.newest().borrow().0, 0);
            let set = async |rate, known| settings.set(&upload(rate), known, "root", AT).await;
            assert_eq!(set(1 << 20, Some(0)).await.unwrap(), 1);
            assert!(matches!(
                set(1 << 21, Some(0)).await,
                Err(SetError::Changed)
            ));
            assert_eq!(set(1 << 21, Some(1)).await.unwrap(), 2);
            assert!(matches!(set(1, None).await, Err(SetError::Rate)));
            assert_eq!(set(1 << 22, None).await.unwrap(), 3);
            assert_eq!(*settings.newest().borrow(), (3, upload(1 << 22)));

            // Another manager learns of it.
            assert_eq!(other.newest().borrow().0, 0);
            other.look().await.unwrap();
            assert_eq!(*other.newest().borrow(), (3, upload(1 << 22)));
            let list = other.versions(10).await.unwrap();
            let versions: Vec<i64> = list.iter().map(|one| one.version).collect();
            assert_eq!(versions, [3, 2, 1]);
            assert_eq!((list[2].who.as_str(), list[2].at), ("root", AT));
            let old = other.version(1).await.unwrap().unwrap();
            assert_eq!(old.settings, upload(1 << 20));
            assert!(other.version(9).await.unwrap().is_none());
        })
        .await;
    }
}
