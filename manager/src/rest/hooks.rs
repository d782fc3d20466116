//! Registries say what was pushed: Harbor's Kraken driver, distribution's notifications, and
//! Harbor's webhooks in both their forms.
//!
//! Harbor's Kraken driver asks for a preheat by name, and writes its fields as Go does; all
//! others only tell, and rules say what is preheated ([`crate::pushes`]). What is no push of an
//! image is taken and ignored.

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{Api, jobs::refused, problem::Problem};
use crate::{
    accounts::Caller,
    jobs::Secret,
    pushes::{Push, wished},
};

/// Events in one notification.
pub(super) const MOST_EVENTS: usize = 1000;

/// Distribution's notification, and Harbor's to Kraken.
#[derive(Deserialize)]
struct Notification {
    #[serde(alias = "Events", default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(alias = "Action", default)]
    action: String,
    #[serde(alias = "Target", default)]
    target: Target,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Target {
    #[serde(rename = "mediaType", alias = "MediaType")]
    media_type: String,
    #[serde(alias = "Digest")]
    digest: String,
    #[serde(alias = "Repository")]
    repository: String,
    #[serde(alias = "Url")]
    url: String,
    #[serde(alias = "Tag")]
    tag: String,
}

/// Harbor's webhook in its default form (`event_data`), or CloudEvents' (`data`).
#[derive(Deserialize)]
struct Hook {
    #[serde(rename = "type")]
    kind: String,
    #[serde(alias = "data")]
    event_data: Option<Pushed>,
}

#[derive(Deserialize)]
struct Pushed {
    #[serde(default)]
    resources: Vec<Resource>,
    repository: HarborRepository,
}

#[derive(Deserialize)]
struct Resource {
    digest: String,
    #[serde(default)]
    tag: String,
    resource_url: String,
}

#[derive(Deserialize)]
struct HarborRepository {
    repo_full_name: String,
}

impl Target {
    fn push(self) -> Option<Push> {
        let is_manifest = ["manifest", "index"]
            .iter()
            .any(|kind| self.media_type.contains(kind));
        let rest = self.url.split_once("://").map(|(_, rest)| rest)?;
        let (registry, _) = rest.split_once('/')?;
        let push = Push {
            registry: registry.to_owned(),
            repository: self.repository,
            tag: Some(self.tag).filter(|tag| !tag.is_empty()),
            digest: self.digest,
        };
        is_manifest.then_some(push)
    }
}

impl Pushed {
    fn pushes(self) -> Vec<Push> {
        let repository = self.repository.repo_full_name;
        let push = |resource: Resource| {
            let (registry, _) = resource.resource_url.split_once('/')?;
            Some(Push {
                registry: registry.to_owned(),
                repository: repository.clone(),
                // A push without a tag has the digest in its place.
                tag: Some(resource.tag).filter(|tag| !tag.is_empty() && !tag.contains(':')),
                digest: resource.digest,
            })
        };
        let resources = self.resources.into_iter().take(MOST_EVENTS);
        resources.filter_map(push).collect()
    }
}

/// `POST /registry/notifications`
pub(super) async fn notifications(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let (pushes, is_kraken) = notified(&body?).map_err(Problem::bad)?;
    preheat(&api, &caller, pushes, is_kraken).await
}

/// What was pushed, and whether Harbor's Kraken driver says so.
pub(super) fn notified(body: &[u8]) -> Result<(Vec<Push>, bool), serde_json::Error> {
    let value: Value = serde_json::from_slice(body)?;
    let is_kraken = value.get("Events").is_some();
    let notification: Notification = serde_json::from_value(value)?;
    let events = notification.events.into_iter().take(MOST_EVENTS);
    let pushes = events.filter(|event| event.action == "push");
    let pushes = pushes.filter_map(|event| event.target.push()).collect();
    Ok((pushes, is_kraken))
}

/// `POST /api/v1/hooks/harbor`
pub(super) async fn harbor(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let pushes = hooked(&body?).map_err(Problem::bad)?;
    preheat(&api, &caller, pushes, false).await
}

/// What Harbor's webhook says was pushed.
pub(super) fn hooked(body: &[u8]) -> Result<Vec<Push>, serde_json::Error> {
    let hook: Hook = serde_json::from_slice(body)?;
    let is_push = matches!(
        hook.kind.as_str(),
        "PUSH_ARTIFACT" | "harbor.artifact.pushed"
    );
    let pushed = hook.event_data.filter(|_| is_push);
    Ok(pushed.map_or_else(Vec::new, Pushed::pushes))
}

async fn preheat(
    api: &Api,
    caller: &Caller,
    pushes: Vec<Push>,
    asked: bool,
) -> Result<Json<Value>, Problem> {
    let wish = |push: &Push| match wished(&api.pushes, push, asked)? {
        Ok(wish) => Some(wish),
        Err(cause) => {
            // Nobody would send it better the next time.
            let (registry, repository) = (&push.registry, &push.repository);
            let cause = &cause as &dyn std::error::Error;
            tracing::warn!(?registry, ?repository, cause, "a push makes no sense");
            None
        }
    };
    let wishes: Vec<_> = pushes.iter().filter_map(wish).collect();
    let mut ids = Vec::new();
    for wish in wishes {
        let now = OffsetDateTime::now_utc();
        // A registry that hears of a failure sends all of it again.
        let (jobs, secret) = (&api.jobs, Secret::default());
        let created = jobs.create_once(&wish, &secret, &caller.name, now).await;
        let id = created.map_err(refused)?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    api.wake.notify_one();
    Ok(Json(json!({ "jobs": ids })))
}
