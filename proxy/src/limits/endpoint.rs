//! `/limits` on the operations port: rates as they are, and other ones.
//!
//! Whoever may see metrics may see them; only a client on the host itself may change them,
//! wherever the port listens.

use std::{collections::BTreeMap, num::NonZeroU64, sync::atomic::Ordering};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    routing::get,
};
use bytesize::ByteSize;
use darter_runtime::server::CallerAddress;
use serde::{Deserialize, Serialize};

use super::{Class, Direction, Limits, TooLow};

/// A change has four keys.
const MAX_BODY: usize = 4096;

/// One direction, in bytes a second; 0 is no limit.
#[derive(Debug, Serialize)]
struct Shown {
    configured: u64,
    /// What holds: less than configured where adaptive control says so.
    holds: u64,
    /// What passed in the last second.
    foreground: u64,
    background: u64,
}

/// What is to be changed: bytes a second or a text like `"10 MiB"`; what is not named stays.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Change {
    upload: Option<ByteSize>,
    download: Option<ByteSize>,
    source: Option<ByteSize>,
    disk: Option<ByteSize>,
}

/// `GET /limits`, `PUT /limits`
pub fn router(limits: Limits) -> Router {
    Router::new()
        .route("/limits", get(show).put(change))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(limits)
}

type Answer = Json<BTreeMap<&'static str, Shown>>;

async fn show(State(limits): State<Limits>) -> Answer {
    Json(limits.shown())
}

async fn change(
    State(limits): State<Limits>,
    client: CallerAddress,
    body: Bytes,
) -> Result<Answer, (StatusCode, String)> {
    if !client.is_here() {
        let what = "limits are changed from the host itself\n";
        return Err((StatusCode::FORBIDDEN, what.to_owned()));
    }
    let bad = |what: String| (StatusCode::BAD_REQUEST, format!("{what}\n"));
    let change: Change = serde_json::from_slice(&body).map_err(|cause| bad(cause.to_string()))?;
    limits
        .change(&change)
        .map_err(|cause| bad(cause.to_string()))?;
    let rates = *limits.0.configured.borrow();
    tracing::info!(?rates, "limits were changed");
    Ok(Json(limits.shown()))
}

impl Limits {
    fn shown(&self) -> BTreeMap<&'static str, Shown> {
        let (configured, holding) = (*self.0.configured.borrow(), self.holding());
        let number = |rate: Option<NonZeroU64>| rate.map_or(0, NonZeroU64::get);
        let shown = self.0.lanes.iter().map(|lane| {
            let used = |class| lane.lot(class).used.load(Ordering::Relaxed);
            let shown = Shown {
                configured: number(configured.of(lane.direction)),
                holds: number(holding.of(lane.direction)),
                foreground: used(Class::Foreground),
                background: used(Class::Background),
            };
            (lane.direction.name(), shown)
        });
        shown.collect()
    }

    fn change(&self, change: &Change) -> Result<(), TooLow> {
        let mut rates = *self.0.configured.borrow();
        for direction in Direction::ALL {
            let rate = match direction {
                Direction::Upload => change.upload,
                Direction::Download => change.download,
                Direction::Source => change.source,
                Direction::Disk => change.disk,
            };
            if let Some(rate) = rate {
                *rates.of_mut(direction) = NonZeroU64::new(rate.as_u64());
            }
        }
        rates.check()?;
        self.set(rates);
        Ok(())
    }
}
