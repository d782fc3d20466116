//! A job as a row of the table.

use sqlx::{Row as _, any::AnyRow};

use super::{Job, State};
use crate::database::at_millis;

pub(super) fn job(row: &AnyRow) -> Result<Job, sqlx::Error> {
    Ok(Job {
        id: row.try_get("id")?,
        created_at: at_millis(row.try_get("created_at")?)?,
        updated_at: at_millis(row.try_get("updated_at")?)?,
        version: row.try_get("version")?,
        state: state(row)?,
        created_by: row.try_get("created_by")?,
        wish: parsed(row, "wish")?,
        progress: parsed(row, "progress")?,
    })
}

pub(super) fn state(row: &AnyRow) -> Result<State, sqlx::Error> {
    let text: String = row.try_get("state")?;
    let known = State::ALL.into_iter().find(|state| state.as_str() == text);
    known.ok_or_else(|| sqlx::Error::Decode(format!("no state is called {text}").into()))
}

pub(super) fn json(value: &impl serde::Serialize) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|cause| sqlx::Error::Encode(cause.into()))
}

pub(super) fn parsed<T: serde::de::DeserializeOwned>(
    row: &AnyRow,
    column: &str,
) -> Result<T, sqlx::Error> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(|cause| sqlx::Error::Decode(cause.into()))
}
