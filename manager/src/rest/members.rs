//! Schedulers and seed peers.

use axum::extract::{Query, State, rejection::QueryRejection};
use darter_api::{ClusterName, MemberKind};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    Api,
    page::{Paged, limit},
    problem::Problem,
};
use crate::members::Known;

/// Members on a page unless asked otherwise; and at most.
const PAGE: i64 = 100;

/// What a list is narrowed to.
#[derive(Debug, Deserialize)]
pub(super) struct Filter {
    active: Option<bool>,
    cluster: Option<ClusterName>,
    /// Those that follow this host.
    after: Option<String>,
    limit: Option<i64>,
}

type Asked = Result<Query<Filter>, QueryRejection>;
type Answer = Result<Paged<Known>, Problem>;

pub(super) async fn schedulers(State(api): State<Api>, asked: Asked) -> Answer {
    list(&api, MemberKind::Scheduler, "schedulers", asked).await
}

pub(super) async fn seed_peers(State(api): State<Api>, asked: Asked) -> Answer {
    list(&api, MemberKind::SeedPeer, "seed-peers", asked).await
}

async fn list(api: &Api, kind: MemberKind, path: &str, asked: Asked) -> Answer {
    let Query(filter) = asked?;
    let limit = limit(filter.limit, PAGE, PAGE)?;
    let mut list = api.members.list(kind, OffsetDateTime::now_utc()).await?;
    if let Some(after) = &filter.after {
        let at = list.iter().position(|known| known.host == *after);
        let at = at.ok_or_else(|| Problem::unknown("member to go on after"))?;
        list.drain(..=at);
    }
    list.retain(|known| filter.active.is_none_or(|wanted| wanted == known.active));
    let cluster = filter.cluster.as_ref().map(ClusterName::as_str);
    list.retain(|known| cluster.is_none_or(|wanted| wanted == known.cluster));
    list.truncate(limit as usize);
    let mut same = String::new();
    if let Some(active) = filter.active {
        same += &format!("&active={active}");
    }
    if let Some(cluster) = cluster {
        same += &format!("&cluster={cluster}");
    }
    Ok(Paged::new(list, limit, |last| {
        let after = &last.host;
        format!("/api/v1/{path}?after={after}&limit={limit}{same}")
    }))
}
