//! Schedulers and seed peers.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use darter_api::{ClusterName, MemberKind};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{Api, problem::Problem};
use crate::members::Known;

/// What a list is narrowed to.
#[derive(Debug, Deserialize)]
pub(super) struct Filter {
    active: Option<bool>,
    cluster: Option<ClusterName>,
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
    let wrong = |_| Problem::bad("`active` is `true` or `false`, `cluster` the name of one");
    let Query(filter) = asked.map_err(wrong)?;
    let mut list = api.members.list(kind, OffsetDateTime::now_utc()).await?;
    list.retain(|known| filter.active.is_none_or(|wanted| wanted == known.active));
    let cluster = filter.cluster.as_ref().map(ClusterName::as_str);
    list.retain(|known| cluster.is_none_or(|wanted| wanted == known.cluster));
    Ok(Json(list))
}
