//! What all hosts are to do, and what each says became of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use darter_api::{
    PieceSet, TaskId,
    preheat::MOST_CONTENTS,
    wire::v1::{self, errand, errand_result::Kind},
};
use serde::Serialize;

use super::{Operations, Said, Silent};

/// For all hosts of a scheduler to have had their say, which it gives 20 seconds.
const PATIENCE: Duration = Duration::from_secs(24);
/// Hosts whose words are taken.
const MOST_HOSTS: usize = 100_000;

/// What became of an errand, host by host.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome<T> {
    /// What it was about, in order.
    pub(crate) tasks: Vec<String>,
    /// Schedulers whose hosts were sent.
    pub(crate) schedulers: usize,
    pub(crate) hosts: Vec<T>,
    /// Schedulers that could not be asked: nothing is known of their hosts.
    pub(crate) silent: Vec<Silent>,
}

/// What a host dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DroppedView {
    /// Its public key in hex.
    pub(crate) host: String,
    pub(crate) name: String,
    pub(crate) ip: String,
    /// Those that were there and are not any more.
    pub(crate) dropped: Vec<String>,
    /// Those that are being downloaded, and stay.
    pub(crate) in_use: Vec<String>,
    /// Those that another image needs that is pinned.
    pub(crate) needed: Vec<String>,
    /// Why nothing is known of what it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<String>,
}

/// A host, and why it did nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DoneView {
    host: String,
    name: String,
    ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
}

type Words = Said<Vec<v1::ErrandEvent>>;

impl Operations {
    async fn run(&self, kind: errand::Kind) -> Result<Words, sqlx::Error> {
        let errand = v1::Errand { kind: Some(kind) };
        let said = self.ask_all(PATIENCE, |mut client| {
            let errand = errand.clone();
            async move {
                let mut events = client.run(errand).await?.into_inner();
                let mut words = Vec::new();
                while let Some(event) = events.message().await? {
                    words.push(event);
                    if words.len() >= MOST_HOSTS {
                        break;
                    }
                }
                Ok(words)
            }
        });
        said.await
    }

    /// What an image is made of, as far as hosts have its manifests; those that name others
    /// first.
    pub(crate) async fn contents(
        &self,
        image: v1::PreheatImage,
    ) -> Result<(Vec<TaskId>, Vec<Silent>), sqlx::Error> {
        let image = Some(image);
        let words = self.run(errand::Kind::Contents(errand::Contents { image }));
        let Said { answers, silent } = words.await?;
        let (mut all, mut known) = (Vec::new(), BTreeSet::new());
        for event in answers.into_iter().flatten() {
            let Some(Kind::Contents(contents)) = event.result.and_then(|result| result.kind) else {
                continue;
            };
            let tasks = contents.digests.iter().filter_map(|text| text.parse().ok());
            for task in tasks.filter(|task: &TaskId| known.insert(*task)) {
                all.push(task);
            }
        }
        all.truncate(MOST_CONTENTS);
        Ok((all, silent))
    }

    /// Drops tasks everywhere; `spare`: but what other images need that are pinned.
    pub(crate) async fn drop_all(
        &self,
        tasks: &[TaskId],
        spare: bool,
    ) -> Result<Outcome<DroppedView>, sqlx::Error> {
        let names: Vec<String> = tasks.iter().map(ToString::to_string).collect();
        let drop = errand::Drop {
            tasks: names.clone(),
            spare,
        };
        let Said { answers, silent } = self.run(errand::Kind::Drop(drop)).await?;
        let schedulers = answers.len();
        let mut hosts: BTreeMap<String, DroppedView> = BTreeMap::new();
        for event in answers.into_iter().flatten() {
            let view = dropped(event, &names);
            match hosts.get_mut(&view.host) {
                Some(known) => known.add(view),
                None => drop_in(&mut hosts, view),
            }
        }
        Ok(Outcome {
            tasks: names,
            schedulers,
            hosts: hosts.into_values().collect(),
            silent,
        })
    }

    /// Has all hosts forget what a tag stood for.
    pub(crate) async fn forget_tag(
        &self,
        image: v1::PreheatImage,
    ) -> Result<Outcome<DoneView>, sqlx::Error> {
        let image = Some(image);
        let words = self.run(errand::Kind::ForgetTag(errand::ForgetTag { image }));
        let Said { answers, silent } = words.await?;
        let schedulers = answers.len();
        let mut hosts: BTreeMap<String, DoneView> = BTreeMap::new();
        for event in answers.into_iter().flatten() {
            let view = done(event);
            let known = hosts
                .entry(view.host.clone())
                .or_insert_with(|| view.clone());
            // One scheduler's word that it was done is enough.
            if view.failed.is_none() {
                known.failed = None;
            }
        }
        Ok(Outcome {
            tasks: Vec::new(),
            schedulers,
            hosts: hosts.into_values().collect(),
            silent,
        })
    }
}

fn drop_in(hosts: &mut BTreeMap<String, DroppedView>, view: DroppedView) {
    hosts.insert(view.host.clone(), view);
}

impl DroppedView {
    /// What the same host said to another scheduler: what is gone for the one is not there
    /// for the other.
    fn add(&mut self, other: Self) {
        if self.failed.is_some() {
            *self = other;
        } else if other.failed.is_none() {
            let before = std::mem::take(&mut self.dropped);
            self.dropped = merged(before, other.dropped);
            self.needed = merged(std::mem::take(&mut self.needed), other.needed);
            self.in_use = merged(std::mem::take(&mut self.in_use), other.in_use);
            self.in_use.retain(|task| !self.dropped.contains(task));
        }
    }
}

fn merged(mut all: Vec<String>, more: Vec<String>) -> Vec<String> {
    for one in more {
        if !all.contains(&one) {
            all.push(one);
        }
    }
    all
}

fn who(event: &v1::ErrandEvent) -> (String, String, String) {
    let host = event.host.clone().unwrap_or_default();
    (hex::encode(&host.host), host.name, host.ip)
}

const NONSENSE: &str = "its answer makes no sense";

fn dropped(event: v1::ErrandEvent, names: &[String]) -> DroppedView {
    let (host, name, ip) = who(&event);
    let mut view = DroppedView {
        host,
        name,
        ip,
        dropped: Vec::new(),
        in_use: Vec::new(),
        needed: Vec::new(),
        failed: None,
    };
    let named = |set: Option<v1::PieceSet>| -> Vec<String> {
        let set = set.and_then(|set| PieceSet::try_from(set).ok());
        let set = set.unwrap_or_default();
        let runs = set.runs().iter();
        let places = runs.flat_map(|run| run.start as usize..(run.end as usize).min(names.len()));
        places.filter_map(|at| names.get(at).cloned()).collect()
    };
    match event.result.and_then(|result| result.kind) {
        Some(Kind::Dropped(word)) => {
            view.dropped = named(word.dropped);
            view.in_use = named(word.in_use);
            view.needed = named(word.needed);
        }
        Some(Kind::Refused(why)) => view.failed = Some(why),
        _ => view.failed = Some(NONSENSE.to_owned()),
    }
    view
}

fn done(event: v1::ErrandEvent) -> DoneView {
    let (host, name, ip) = who(&event);
    let failed = match event.result.and_then(|result| result.kind) {
        Some(Kind::Forgotten(word)) if word.upstream.is_empty() => {
            Some("the registry is not on its list".to_owned())
        }
        Some(Kind::Forgotten(_)) => None,
        Some(Kind::Refused(why)) => Some(why),
        _ => Some(NONSENSE.to_owned()),
    };
    DoneView {
        host,
        name,
        ip,
        failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Kind) -> v1::ErrandEvent {
        let host = v1::PreheatHost {
            host: vec![7].into(),
            name: "n7".to_owned(),
            ip: "10.0.0.7".to_owned(),
        };
        let result = Some(v1::ErrandResult { kind: Some(kind) });
        v1::ErrandEvent {
            host: Some(host),
            result,
        }
    }

    fn set(places: &[u32]) -> Option<v1::PieceSet> {
        let set: PieceSet = places.iter().copied().collect();
        Some((&set).into())
    }

    #[test]
    fn what_a_host_says_twice_is_put_together() {
        let names: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let word = |dropped: &[u32], in_use: &[u32]| {
            let word = v1::errand_result::Dropped {
                dropped: set(dropped),
                in_use: set(in_use),
                needed: set(&[]),
            };
            dropped_of(word, &names)
        };
        let mut first = word(&[0], &[1]);
        // Beyond the list: another host's nonsense does no harm.
        first.add(word(&[1, 9], &[2]));
        assert_eq!(first.dropped, ["a", "b"]);
        assert_eq!(first.in_use, ["c"]);
        let left = event(Kind::Refused("the host has left".to_owned()));
        let mut left = dropped(left, &names);
        left.add(first.clone());
        assert_eq!(left, first, "the other scheduler heard it");
    }

    fn dropped_of(word: v1::errand_result::Dropped, names: &[String]) -> DroppedView {
        dropped(event(Kind::Dropped(word)), names)
    }
}
