//! Tokens for programs.

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use sqlx::{Row as _, any::AnyRow};
use time::OffsetDateTime;

use super::{Accounts, Caller, Role, random_text};
use crate::database::{at_millis, millis};

/// What every token begins with, so that people and scanners know one.
const PREFIX: &str = "darter_";
/// Tokens at most.
const MOST_TOKENS: i64 = 10_000;
/// Milliseconds that an expired token is still listed.
const LISTED_FOR: i64 = 30 * 24 * 3600 * 1000;

/// A token as it is wished for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    /// For people.
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Never, if it is not said.
    pub(crate) expires_in_seconds: Option<u32>,
}

/// A token as it is shown, without itself.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) created_by: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) expires_at: Option<OffsetDateTime>,
}

pub(super) fn is_token(text: &str) -> bool {
    text.starts_with(PREFIX)
}

fn hash(token: &str) -> String {
    hex::encode(digest(&SHA256, token.as_bytes()))
}

impl Accounts {
    /// A new token: its number and itself; `None` where there are too many.
    pub(crate) async fn new_token(
        &self,
        wish: &NewToken,
        created_by: &str,
        now: OffsetDateTime,
    ) -> Result<Option<(i64, String)>, sqlx::Error> {
        let token = format!("{PREFIX}{}", random_text());
        let life = |seconds: u32| millis(now + time::Duration::seconds(seconds.into()));
        let row = sqlx::query(
            "INSERT INTO tokens (name, role, hash, created_by, created_at, expires_at) \
             SELECT $1, $2, $3, $4, $5, $6 WHERE (SELECT COUNT(*) FROM tokens) < $7 RETURNING id",
        )
        .bind(wish.name.clone())
        .bind(wish.role.as_str())
        .bind(hash(&token))
        .bind(created_by.to_owned())
        .bind(millis(now))
        .bind(wish.expires_in_seconds.map_or(0, life))
        .bind(MOST_TOKENS)
        .fetch_optional(self.database.pool());
        let row = self.database.run(row).await?;
        row.map(|row| Ok((row.try_get("id")?, token))).transpose()
    }

    /// Who shows this token.
    pub(super) async fn token_caller(
        &self,
        token: &str,
        now: OffsetDateTime,
    ) -> Result<Option<Caller>, sqlx::Error> {
        if !is_token(token) {
            return Ok(None);
        }
        let row = sqlx::query(
            "SELECT name, role FROM tokens WHERE hash = $1 AND (expires_at = 0 OR expires_at > $2)",
        )
        .bind(hash(token))
        .bind(millis(now))
        .fetch_optional(self.database.pool());
        let row = self.database.run(row).await?;
        row.map(|row| {
            let name: String = row.try_get("name")?;
            let role: String = row.try_get("role")?;
            Ok(Caller {
                name: format!("token {name}"),
                role: role.parse()?,
            })
        })
        .transpose()
    }

    /// Tokens before `before`, the newest first.
    pub(crate) async fn tokens(&self, before: i64, most: i64) -> Result<Vec<Shown>, sqlx::Error> {
        let rows = sqlx::query(
            "SELECT id, name, role, created_by, created_at, expires_at FROM tokens \
             WHERE id < $1 ORDER BY id DESC LIMIT $2",
        )
        .bind(before)
        .bind(most)
        .fetch_all(self.database.pool());
        self.database.run(rows).await?.iter().map(shown).collect()
    }

    /// A token counts no more; whether there was one.
    pub(crate) async fn revoke(&self, id: i64) -> Result<bool, sqlx::Error> {
        let done = sqlx::query("DELETE FROM tokens WHERE id = $1")
            .bind(id)
            .execute(self.database.pool());
        Ok(self.database.run(done).await?.rows_affected() > 0)
    }

    pub(super) async fn forget_tokens(&self, now: OffsetDateTime) -> Result<(), sqlx::Error> {
        let done = sqlx::query("DELETE FROM tokens WHERE expires_at > 0 AND expires_at < $1")
            .bind(millis(now) - LISTED_FOR)
            .execute(self.database.pool());
        self.database.run(done).await.map(drop)
    }
}

fn shown(row: &AnyRow) -> Result<Shown, sqlx::Error> {
    let role: String = row.try_get("role")?;
    let expires_at: i64 = row.try_get("expires_at")?;
    let expires_at = Some(expires_at).filter(|at| *at > 0);
    Ok(Shown {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        role: role.parse()?,
        created_by: row.try_get("created_by")?,
        created_at: at_millis(row.try_get("created_at")?)?,
        expires_at: expires_at.map(at_millis).transpose()?,
    })
}
