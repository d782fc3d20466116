//! Clusters: schedulers, their seeds and their peers, apart from those of other clusters.
//!
//! A proxy is told the schedulers of its own cluster alone, and a scheduler introduces only
//! who has a session with it: so hosts of two clusters never meet. Which cluster a node belongs
//! to, [`scopes`] say. It is no border of trust: a node says itself where it stands, and whoever
//! is a member by its certificate could name another cluster.
//!
//! Owner of state: the table, and a watch of the [`Directory`] that every manager looks up twice
//! a second, whoever wrote it: all clusters, and what is set for each. Invariant: the default
//! cluster is always there. Failure: a database that fails leaves the last directory.

mod scopes;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use darter_api::{ClusterName, Place, membership::DEFAULT_CLUSTER};
use serde::Serialize;
use sqlx::{Row as _, any::AnyRow};
use time::OffsetDateTime;
use tokio::sync::{Mutex, watch};

use crate::{
    database::{Database, millis},
    settings::Set,
};

pub(crate) use scopes::{Scopes, ScopesError};

/// Between looks for what other managers have changed.
const LOOK: Duration = Duration::from_millis(500);
/// Clusters; further ones are refused.
const MOST_CLUSTERS: i64 = 256;

/// A cluster, and what is set for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Entry {
    /// Of the scopes; grows with every change.
    pub(crate) version: i64,
    pub(crate) scopes: Scopes,
    /// The version of what is set; 0 is none.
    pub(crate) set_version: u64,
    pub(crate) set: Set,
}

/// All clusters as they are now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Directory(BTreeMap<ClusterName, Entry>);

/// A node names a cluster that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no cluster `{0}`")]
pub(crate) struct UnknownCluster(pub(crate) ClusterName);

impl Directory {
    /// Where a node belongs.
    pub(crate) fn cluster_of(&self, place: &Place) -> Result<ClusterName, UnknownCluster> {
        if let Some(name) = &place.cluster {
            return match self.0.contains_key(name) {
                true => Ok(name.clone()),
                false => Err(UnknownCluster(name.clone())),
            };
        }
        let scopes = self.0.iter().map(|(name, entry)| (name, &entry.scopes));
        let claimed = scopes::claimed(scopes, place);
        Ok(claimed.cloned().unwrap_or_default())
    }

    /// The default cluster alone, with this set.
    #[cfg(test)]
    pub(crate) fn of(set: Set) -> Self {
        let entry = Entry {
            set,
            ..Entry::default()
        };
        Self(BTreeMap::from([(ClusterName::default(), entry)]))
    }

    pub(crate) fn get(&self, name: &ClusterName) -> Option<&Entry> {
        self.0.get(name)
    }

    /// In the order of their names.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&ClusterName, &Entry)> {
        self.0.iter()
    }
}

/// A change of a cluster is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error(transparent)]
    Scopes(#[from] ScopesError),
    #[error("there are {MOST_CLUSTERS} clusters already")]
    Full,
    #[error("the cluster has changed meanwhile")]
    Changed,
    #[error("the default cluster stays")]
    Default,
    #[error("the cluster has schedulers or seeds that are alive")]
    Alive,
    #[error("the database fails")]
    Database(#[from] sqlx::Error),
}

/// What a change of a cluster did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Put {
    Made,
    Changed,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Clusters {
    database: Database,
    newest: watch::Sender<Arc<Directory>>,
    /// Held from a look's question to its answer: an older one never comes last.
    looking: Arc<Mutex<()>>,
}

impl Clusters {
    pub(crate) async fn open(database: Database) -> Result<Self, sqlx::Error> {
        let clusters = Self {
            database,
            newest: watch::Sender::default(),
            looking: Arc::default(),
        };
        clusters.look().await?;
        Ok(clusters)
    }

    /// Looks for what others have changed, for as long as it is polled.
    pub(crate) async fn follow(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            // A failure is logged and counted there.
            let _ = self.look().await;
        }
    }

    /// Brings the directory up to date.
    pub(crate) async fn look(&self) -> Result<(), sqlx::Error> {
        let _looking = self.looking.lock().await;
        let rows = sqlx::query(
            "SELECT c.name, c.version, c.scopes, COALESCE(s.version, 0) AS set_version, \
             COALESCE(s.settings, '{}') AS settings FROM clusters c LEFT JOIN settings s \
             ON s.cluster = c.name AND s.version = \
             (SELECT MAX(version) FROM settings WHERE cluster = c.name)",
        )
        .fetch_all(self.database.pool());
        let entries: Result<_, sqlx::Error> =
            self.database.run(rows).await?.iter().map(entry).collect();
        let directory = Directory(entries?);
        self.newest.send_if_modified(|known| {
            let is_news = **known != directory;
            if is_news {
                *known = Arc::new(directory);
            }
            is_news
        });
        Ok(())
    }

    /// All clusters, as far as this manager knows.
    pub(crate) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.newest.borrow())
    }

    /// The same now and whenever it changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Directory>> {
        self.newest.subscribe()
    }

    /// Makes a cluster or changes whom it claims; made from the version that is `known`, if that
    /// is still the newest.
    pub(crate) async fn put(
        &self,
        name: &ClusterName,
        scopes: &Scopes,
        known: Option<i64>,
    ) -> Result<Put, ClusterError> {
        scopes.check()?;
        let text =
            serde_json::to_string(scopes).map_err(|cause| sqlx::Error::Encode(cause.into()))?;
        let put = if self.update(name, &text, known).await? {
            Put::Changed
        } else if known.is_none() && self.insert(name, &text).await? {
            Put::Made
        } else {
            self.look().await?;
            return Err(match known {
                None if self.directory().get(name).is_none() => ClusterError::Full,
                _ => ClusterError::Changed,
            });
        };
        self.look().await?;
        Ok(put)
    }

    async fn update(
        &self,
        name: &ClusterName,
        scopes: &str,
        known: Option<i64>,
    ) -> Result<bool, sqlx::Error> {
        let updated = sqlx::query(
            "UPDATE clusters SET scopes = $2, version = version + 1 \
             WHERE name = $1 AND ($3 < 0 OR version = $3)",
        )
        .bind(name.to_string())
        .bind(scopes.to_owned())
        .bind(known.unwrap_or(-1))
        .execute(self.database.pool());
        Ok(self.database.run(updated).await?.rows_affected() > 0)
    }

    async fn insert(&self, name: &ClusterName, scopes: &str) -> Result<bool, sqlx::Error> {
        let inserted = sqlx::query(
            "INSERT INTO clusters (name, version, scopes) SELECT $1, 1, $2 \
             WHERE (SELECT COUNT(*) FROM clusters) < $3 ON CONFLICT (name) DO NOTHING",
        )
        .bind(name.to_string())
        .bind(scopes.to_owned())
        .bind(MOST_CLUSTERS)
        .execute(self.database.pool());
        Ok(self.database.run(inserted).await?.rows_affected() > 0)
    }

    /// Forgets a cluster in which nobody was seen since `since`, and what was set for it; whether
    /// there was one.
    pub(crate) async fn remove(
        &self,
        name: &ClusterName,
        since: OffsetDateTime,
    ) -> Result<bool, ClusterError> {
        if name.as_str() == DEFAULT_CLUSTER {
            return Err(ClusterError::Default);
        }
        let removed = sqlx::query(
            "DELETE FROM clusters WHERE name = $1 AND NOT EXISTS \
             (SELECT 1 FROM members WHERE cluster = $1 AND active AND seen_at > $2)",
        )
        .bind(name.to_string())
        .bind(millis(since))
        .execute(self.database.pool());
        let removed = self.database.run(removed).await?.rows_affected() > 0;
        let forgotten =
            sqlx::query("DELETE FROM settings WHERE cluster NOT IN (SELECT name FROM clusters)")
                .execute(self.database.pool());
        self.database.run(forgotten).await?;
        self.look().await?;
        match self.directory().get(name) {
            Some(_) => Err(ClusterError::Alive),
            None => Ok(removed),
        }
    }
}

fn entry(row: &AnyRow) -> Result<(ClusterName, Entry), sqlx::Error> {
    let decode = |cause: serde_json::Error| sqlx::Error::Decode(cause.into());
    let name: String = row.try_get("name")?;
    let name = name
        .parse()
        .map_err(|cause| sqlx::Error::Decode(Box::new(cause)))?;
    let scopes: String = row.try_get("scopes")?;
    let settings: String = row.try_get("settings")?;
    let set_version: i64 = row.try_get("set_version")?;
    Ok((
        name,
        Entry {
            version: row.try_get("version")?,
            scopes: serde_json::from_str(&scopes).map_err(decode)?,
            set_version: u64::try_from(set_version).unwrap_or(0),
            set: serde_json::from_str(&settings).map_err(decode)?,
        },
    ))
}

#[cfg(test)]
mod tests;
