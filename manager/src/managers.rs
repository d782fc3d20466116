//! The managers that share the database, by their keys.
//!
//! Schedulers are told of them with every beat, and take preheats from no other member of the
//! TLS cluster. Owner of state: the table, and a watch of it that is brought up to date with the
//! sweep. Failure: a database that fails leaves the last list, which has this manager itself.

use std::time::Duration;

use darter_api::HostId;
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::database::{Database, millis};

/// A manager that was silent for so long has to say anew that it is one.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
/// Managers that schedulers are told of.
const MOST_TOLD: i64 = 32;

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Managers {
    database: Database,
    own: HostId,
    known: watch::Sender<Vec<HostId>>,
}

impl Managers {
    pub(crate) fn new(database: Database, own: HostId) -> Self {
        Self {
            database,
            own,
            known: watch::Sender::new(vec![own]),
        }
    }

    /// Those that were seen lately, this one among them.
    pub(crate) fn known(&self) -> Vec<HostId> {
        self.known.borrow().clone()
    }

    /// Says that this one is here, and looks who else is.
    pub(crate) async fn look(&self, now: OffsetDateTime) -> Result<(), sqlx::Error> {
        let said = sqlx::query(
            "INSERT INTO managers (host, seen_at) VALUES ($1, $2) \
             ON CONFLICT (host) DO UPDATE SET seen_at = $2",
        )
        .bind(self.own.to_string())
        .bind(millis(now))
        .execute(self.database.pool());
        self.database.run(said).await?;
        let forgotten = sqlx::query("DELETE FROM managers WHERE seen_at <= $1")
            .bind(millis(now - FORGOTTEN_AFTER))
            .execute(self.database.pool());
        self.database.run(forgotten).await?;
        let hosts = sqlx::query_scalar("SELECT host FROM managers ORDER BY seen_at DESC LIMIT $1")
            .bind(MOST_TOLD)
            .fetch_all(self.database.pool());
        let hosts: Vec<String> = self.database.run(hosts).await?;
        let parsed = hosts.iter().filter_map(|host| host.parse().ok());
        let mut known: Vec<HostId> = parsed.collect();
        if !known.contains(&self.own) {
            known.push(self.own);
        }
        self.known.send_replace(known);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use darter_api::NodeKey;

    use super::*;
    use crate::database::tests::on_both;

    const AT: OffsetDateTime = time::macros::datetime!(2026-11-21 12:00 UTC);

    #[tokio::test]
    async fn managers_of_one_database_know_each_other_while_they_live() {
        let test = "managers_of_one_database_know_each_other_while_they_live";
        on_both(test, async |place| {
            let id = |seed| NodeKey::from_seed([seed; 32]).id();
            let one = Managers::new(place.open().await, id(1));
            let other = Managers::new(place.open().await, id(2));
            assert_eq!(one.known(), [id(1)]);
            other.look(AT).await.unwrap();
            let soon = AT + Duration::from_secs(1);
            one.look(soon).await.unwrap();
            assert_eq!(one.known(), [id(1), id(2)]);
            one.look(AT + FORGOTTEN_AFTER).await.unwrap();
            assert_eq!(one.known(), [id(1)]);
        })
        .await;
    }
}
