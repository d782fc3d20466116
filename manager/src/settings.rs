//! What is set for the nodes of a cluster while they run: versions, the newest of which counts.
//!
//! Owner of state: the table; the newest versions are in [`crate::clusters`]'s directory. A roll-back
//! is a new version with an older one's settings. Invariant: what makes no sense is never written.
//! Failure: a database that fails leaves what was set.

use darter_api::{
    ClusterName, HostId, Place,
    configuration::{Configuration, PeerSettings, Rule, SchedulerSettings, SettingsError},
};
use serde::{Deserialize, Serialize};
use sqlx::{Row as _, any::AnyRow};
use time::OffsetDateTime;

use crate::{
    clusters::{Clusters, Directory},
    database::{Database, at_millis, millis},
};

/// Versions that are kept of a cluster.
const KEPT: i64 = 1000;
/// Versions in one list.
const LISTED: i64 = 100;

/// What is set, for each kind of node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Set {
    pub(crate) peers: PeerSettings,
    pub(crate) seeds: PeerSettings,
    pub(crate) schedulers: SchedulerSettings,
}

impl Set {
    /// Whether nodes take it.
    pub(crate) fn check(&self) -> Result<(), SetError> {
        let of = |nodes| move |cause| SetError::Settings { nodes, cause };
        self.peers.check().map_err(of("peers"))?;
        self.seeds.check().map_err(of("seeds"))?;
        self.schedulers.check().map_err(of("schedulers"))
    }
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
    #[error("{nodes}: {cause}")]
    Settings {
        nodes: &'static str,
        cause: SettingsError,
    },
    #[error("the settings have changed meanwhile")]
    Changed,
    #[error("the database fails")]
    Database(#[from] sqlx::Error),
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    database: Database,
    clusters: Clusters,
}

impl Settings {
    pub(crate) const fn new(database: Database, clusters: Clusters) -> Self {
        Self { database, clusters }
    }

    /// A new version for a cluster that is there, made from the one that is `known`, if that is
    /// still the newest.
    pub(crate) async fn set(
        &self,
        cluster: &ClusterName,
        set: &Set,
        known: Option<i64>,
        who: &str,
        now: OffsetDateTime,
    ) -> Result<i64, SetError> {
        set.check()?;
        let text = serde_json::to_string(set).map_err(|cause| sqlx::Error::Encode(cause.into()))?;
        let row = sqlx::query(
            "INSERT INTO settings (cluster, version, at, who, settings) \
             SELECT $5, COALESCE(MAX(version), 0) + 1, $1, $2, $3 FROM settings WHERE cluster = $5 \
             HAVING ($4 < 0 OR COALESCE(MAX(version), 0) = $4) \
             AND EXISTS (SELECT 1 FROM clusters WHERE name = $5) \
             ON CONFLICT (cluster, version) DO NOTHING RETURNING version",
        )
        .bind(millis(now))
        .bind(who.to_owned())
        .bind(text)
        .bind(known.unwrap_or(-1))
        .bind(cluster.to_string())
        .fetch_optional(self.database.pool());
        let row = self.database.run(row).await?.ok_or(SetError::Changed)?;
        let version: i64 = row.try_get("version").map_err(SetError::Database)?;
        let forgotten = sqlx::query("DELETE FROM settings WHERE cluster = $1 AND version <= $2")
            .bind(cluster.to_string())
            .bind(version - KEPT)
            .execute(self.database.pool());
        self.database.run(forgotten).await?;
        self.clusters.look().await?;
        Ok(version)
    }

    /// One version, if it is kept.
    pub(crate) async fn version(
        &self,
        cluster: &ClusterName,
        version: i64,
    ) -> Result<Option<Version>, sqlx::Error> {
        let row = sqlx::query(
            "SELECT version, at, who, settings FROM settings WHERE cluster = $1 AND version = $2",
        )
        .bind(cluster.to_string())
        .bind(version)
        .fetch_optional(self.database.pool());
        self.database
            .run(row)
            .await?
            .as_ref()
            .map(shown)
            .transpose()
    }

    /// The newest versions.
    pub(crate) async fn versions(
        &self,
        cluster: &ClusterName,
        most: i64,
    ) -> Result<Vec<Version>, sqlx::Error> {
        let rows = sqlx::query(
            "SELECT version, at, who, settings FROM settings WHERE cluster = $1 \
             ORDER BY version DESC LIMIT $2",
        )
        .bind(cluster.to_string())
        .bind(most.clamp(1, LISTED))
        .fetch_all(self.database.pool());
        self.database.run(rows).await?.iter().map(shown).collect()
    }
}

/// Who asks what is set for it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asking {
    Scheduler,
    /// A seed by its own word, or none; which host, where it says so.
    Peer {
        seed: bool,
        host: Option<HostId>,
    },
}

/// For one node; `None` where it names a cluster that is not there.
pub(crate) fn configuration(
    directory: &Directory,
    place: &Place,
    asking: Asking,
) -> Option<Configuration> {
    let cluster = directory.cluster_of(place).ok()?;
    let entry = directory.get(&cluster).cloned().unwrap_or_default();
    let common = Configuration {
        version: entry.set_version,
        cluster: cluster.into(),
        ..Configuration::default()
    };
    let set = entry.set;
    let Asking::Peer { seed, host } = asking else {
        let scheduler = set.schedulers;
        return Some(Configuration {
            scheduler,
            ..common
        });
    };
    let rules = set.schedulers.rules.as_deref().unwrap_or_default();
    let ruled = host.and_then(|host| Rule::seed_of(rules, &host, &place.name));
    Some(Configuration {
        seed: ruled,
        peer: if ruled.unwrap_or(seed) {
            set.seeds
        } else {
            set.peers
        },
        ..common
    })
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
    use darter_api::{NodeKey, configuration::RateSettings};

    use super::*;
    use crate::{clusters::Scopes, database::tests::on_both};

    const AT: OffsetDateTime = time::macros::datetime!(2026-11-21 12:00 UTC);

    const PEER: Asking = Asking::Peer {
        seed: false,
        host: None,
    };

    fn upload(rate: u64) -> Set {
        let rates = RateSettings {
            upload: Some(rate),
            ..RateSettings::default()
        };
        Set {
            peers: PeerSettings {
                rates,
                ..PeerSettings::default()
            },
            ..Set::default()
        }
    }

    #[test]
    fn a_rule_makes_a_seed_a_peer_with_what_is_set_for_peers() {
        let slots = |slots| PeerSettings {
            upload_slots: Some(slots),
            ..PeerSettings::default()
        };
        let rule = |host: &str, seed| Rule {
            hosts: vec![host.to_owned()],
            seed: Some(seed),
            ..Rule::default()
        };
        let set = Set {
            peers: slots(1),
            seeds: slots(9),
            schedulers: SchedulerSettings {
                rules: Some(vec![rule("old-*", false), rule("new-1", true)]),
                ..SchedulerSettings::default()
            },
        };
        let directory = Directory::of(set);
        let host = NodeKey::from_seed([1; 32]).id();
        let of = |name: &str, seed| {
            let place = Place {
                name: name.to_owned(),
                ..Place::default()
            };
            let host = Some(host);
            let set = configuration(&directory, &place, Asking::Peer { seed, host }).unwrap();
            (set.seed, set.peer.upload_slots)
        };
        assert_eq!(of("old-1", true), (Some(false), Some(1)));
        assert_eq!(of("new-1", false), (Some(true), Some(9)));
        assert_eq!(of("other", true), (None, Some(9)));
        assert_eq!(of("other", false), (None, Some(1)));
        let place = Place::default();
        let scheduler = configuration(&directory, &place, Asking::Scheduler).unwrap();
        assert_eq!(scheduler.scheduler.rules.map(|rules| rules.len()), Some(2));
        assert_eq!(scheduler.peer, PeerSettings::default());
    }

    #[tokio::test]
    async fn versions_grow_and_whoever_comes_late_changes_nothing() {
        let test = "versions_grow_and_whoever_comes_late_changes_nothing";
        on_both(test, async |place| {
            let open = async || {
                let database = place.open().await;
                let clusters = Clusters::open(database.clone()).await.unwrap();
                (Settings::new(database, clusters.clone()), clusters)
            };
            let ((settings, clusters), (other, others)) = (open().await, open().await);
            let here = ClusterName::default();
            let newest = |clusters: &Clusters| {
                let directory = clusters.directory();
                let entry = directory.get(&here).unwrap();
                (entry.set_version, entry.set.clone())
            };
            assert_eq!(newest(&clusters).0, 0);
            let set =
                async |rate, known| settings.set(&here, &upload(rate), known, "root", AT).await;
            assert_eq!(set(1 << 20, Some(0)).await.unwrap(), 1);
            assert!(matches!(
                set(1 << 21, Some(0)).await,
                Err(SetError::Changed)
            ));
            assert_eq!(set(1 << 21, Some(1)).await.unwrap(), 2);
            assert!(matches!(set(1, None).await, Err(SetError::Settings { .. })));
            assert_eq!(set(1 << 22, None).await.unwrap(), 3);
            assert_eq!(newest(&clusters), (3, upload(1 << 22)));

            // Another manager learns of it.
            assert_eq!(newest(&others).0, 0);
            others.look().await.unwrap();
            assert_eq!(newest(&others), (3, upload(1 << 22)));
            let list = other.versions(&here, 10).await.unwrap();
            let versions: Vec<i64> = list.iter().map(|one| one.version).collect();
            assert_eq!(versions, [3, 2, 1]);
            assert_eq!((list[2].who.as_str(), list[2].at), ("root", AT));
            let old = other.version(&here, 1).await.unwrap().unwrap();
            assert_eq!(old.settings, upload(1 << 20));
            assert!(other.version(&here, 9).await.unwrap().is_none());

            // Another cluster has versions of its own.
            let east = "east".parse().unwrap();
            let nowhere = settings.set(&east, &upload(0), None, "root", AT).await;
            assert!(matches!(nowhere, Err(SetError::Changed)), "{nowhere:?}");
            clusters.put(&east, &Scopes::default(), None).await.unwrap();
            let first = settings.set(&east, &upload(0), Some(0), "root", AT).await;
            assert_eq!(first.unwrap(), 1);
            assert_eq!(newest(&clusters), (3, upload(1 << 22)));
            let of = |cluster: Option<ClusterName>| {
                let place = Place {
                    cluster,
                    ..Place::default()
                };
                let set = configuration(&clusters.directory(), &place, PEER);
                set.map(|set| (set.version, set.peer.rates.upload))
            };
            assert_eq!(of(Some(east)), Some((1, Some(0))));
            assert_eq!(of(None), Some((3, Some(1 << 22))));
            assert_eq!(of("west".parse().ok()), None);
        })
        .await;
    }
}
