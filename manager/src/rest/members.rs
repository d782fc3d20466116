//! Schedulers and seed peers.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use darter_api::MemberKind;
use serde::Deserialize;
use time::OffsetDateTime;

use super::{Api, problem::Problem};
use crate::members::Known;

/// What a list is narrowed to.
#[derive(Debug, Deserialize)]
pub(super) struct Filter {
    active: Option<bool>,
}

type Asked = Result<Query<Filter>, QueryRejection>;
type Answer = Result<Json<Vec<Known>>, Problem>;

pub(super) async fn schedulers(State(api): State<Api>, asked: Asked) -> Answer {
    list(&api, MemberKind::Scheduler, asked).await
}

pub(super) async fn seed_peers(State(api): State<Api>, asked: Asked) -> Answer {
    list(&api, MemberKind::SeedPeer, asked).await
}

async fn list(api: &Api, kind: MemberKind, asked: Asked) -> Answer {
    let Query(filter) = asked.map_err(|_| Problem::bad("`active` is `true` or `false`"))?;
    let mut list = api.members.list(kind, OffsetDateTime::now_utc()).await?;
    list.retain(|known| filter.active.is_none_or(|wanted| wanted == known.active));
    Ok(Json(list))
}
