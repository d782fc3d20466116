//! What hosts have said of a job.
//!
//! Invariant: a content is held by a host only because that host said so, and a job is a success
//! only if every chosen host said it of every content.

mod held;

use std::collections::HashMap;

use darter_api::{
    HostId,
    preheat::{cut, without_query},
    wire::v1::{self, preheat_event::Kind},
};
use serde::{Deserialize, Serialize};

pub(crate) use held::Held;

/// Reasons kept of one job, of all its hosts together; further ones are counted.
const MOST_FAILURES: usize = 1000;
/// Hosts of one job.
const MOST_HOSTS: usize = 100_000;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) contents: Vec<Content>,
    pub(crate) hosts: Vec<Host>,
    /// Of nobody in particular.
    pub(crate) failures: Vec<Failure>,
    /// Those of nobody in particular that are only counted.
    #[serde(default)]
    pub(crate) further: u64,
    /// Reasons that are kept, of hosts and nobody.
    #[serde(default)]
    pub(crate) kept: usize,
    /// Where hosts and contents are in their lists, by their names.
    #[serde(skip)]
    pub(crate) places: Places,
}

/// See [`Progress::places`]; none of a progress that was read back, until hosts are named again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Places {
    hosts: HashMap<String, usize>,
    contents: HashMap<String, usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) manifest: bool,
    /// Of a file: where it is, without a query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Host {
    /// In hex.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) ip: String,
    /// A bit for each content, in order, in hex.
    pub(crate) held: Held,
    pub(crate) failures: Vec<Failure>,
    /// Failures that are only counted.
    #[serde(default)]
    pub(crate) further: u64,
}

impl Host {
    fn has_failed(&self) -> bool {
        !self.failures.is_empty() || self.further > 0
    }
}

/// Why something is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// All, where none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<String>,
    pub(crate) why: String,
}

/// Progress in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Summary {
    pub(crate) hosts: usize,
    /// Hosts that hold everything.
    pub(crate) hosts_done: usize,
    /// Hosts that lack something for good.
    pub(crate) hosts_failed: usize,
    /// Failures beyond those that are told.
    pub(crate) failures_further: u64,
    /// Contents of the image, or files.
    pub(crate) contents: usize,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Bytes that hosts hold, of all hosts together.
    pub(crate) bytes_held: u64,
}

/// Which of a cluster's schedulers speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The one that is asked for all hosts: an attempt begins with it.
    First,
    /// The first that is asked for hosts that were chosen among those of all schedulers.
    Chosen,
    /// One that is asked for the hosts that only it has.
    Further,
}

impl Progress {
    /// Takes what a scheduler passes on, the first that is asked or a further one; whether that
    /// was all.
    pub(crate) fn take(&mut self, event: v1::PreheatEvent, whose: Whose) -> bool {
        match event.kind {
            Some(Kind::Hosts(hosts)) => match whose {
                Whose::First => self.begin(hosts.hosts),
                Whose::Chosen | Whose::Further => self.add(hosts.hosts),
            },
            Some(Kind::Contents(contents)) => self.name(contents.contents, whose),
            Some(Kind::Held(held)) => self.holds(&held.host, &held.digests),
            Some(Kind::Failed(failed)) => self.lacks(failed),
            Some(Kind::Done(_)) => return true,
            None => {}
        }
        false
    }

    /// An attempt begins for hosts that were chosen; `missing` is what of the wish is nowhere.
    pub(crate) fn choose(&mut self, hosts: Vec<v1::PreheatHost>, missing: Vec<String>) {
        let is_empty = hosts.is_empty();
        self.begin(hosts);
        for why in missing {
            self.blame(None, None, why);
        }
        if is_empty {
            let nobody = "no host that is meant is here";
            self.blame(None, None, nobody.to_owned());
        }
    }

    /// An attempt begins. Whoever was there in an earlier one and is not now has left.
    fn begin(&mut self, hosts: Vec<v1::PreheatHost>) {
        let mut earlier: HashMap<String, Host> = std::mem::take(&mut self.hosts)
            .into_iter()
            .map(|host| (host.id.clone(), host))
            .collect();
        self.failures.clear();
        (self.further, self.kept) = (0, 0);
        self.places = Places::default();
        for host in &hosts {
            earlier.remove(&id(&host.host));
        }
        self.add(hosts);
        let mut gone: Vec<Host> = earlier.into_values().collect();
        gone.sort_by(|a, b| a.name.cmp(&b.name));
        for mut host in gone {
            host.held = Held::default();
            (host.failures, host.further) = (Vec::new(), 0);
            self.places.hosts.insert(host.id.clone(), self.hosts.len());
            self.hosts.push(host);
            let left = "the host has left";
            self.blame(Some(self.hosts.len() - 1), None, left.to_owned());
        }
    }

    /// Hosts that are meant, and have said nothing yet.
    fn add(&mut self, hosts: Vec<v1::PreheatHost>) {
        for host in hosts {
            let id = id(&host.host);
            let at = self.hosts.len();
            if at < MOST_HOSTS && !self.places.hosts.contains_key(&id) {
                self.places.hosts.insert(id.clone(), at);
                self.hosts.push(Host {
                    id,
                    name: host.name,
                    ip: host.ip,
                    held: Held::default(),
                    failures: Vec::new(),
                    further: 0,
                });
            }
        }
    }

    /// Keeps a reason, or counts it where there are too many.
    fn blame(&mut self, host: Option<usize>, digest: Option<String>, why: String) {
        let host = host.and_then(|at| self.hosts.get_mut(at));
        let (failures, further) = match host {
            Some(host) => (&mut host.failures, &mut host.further),
            None => (&mut self.failures, &mut self.further),
        };
        if self.kept < MOST_FAILURES {
            failures.push(Failure { digest, why });
            self.kept += 1;
        } else {
            *further += 1;
        }
    }

    fn name(&mut self, contents: Vec<v1::PreheatContent>, whose: Whose) {
        let known = |content: v1::PreheatContent| Content {
            digest: content.digest,
            size: content.size,
            manifest: content.manifest,
            url: Some(without_query(&content.url).to_owned()).filter(|url| !url.is_empty()),
        };
        let contents: Vec<Content> = contents.into_iter().map(known).collect();
        if whose == Whose::Further && contents != self.contents {
            // Bits would stand for other contents.
            let what = "another scheduler's hosts find another content by this name";
            self.blame(None, None, what.to_owned());
            return;
        }
        let places = contents.iter().enumerate();
        self.places.contents = places
            .map(|(at, content)| (content.digest.clone(), at))
            .collect();
        self.contents = contents;
    }

    fn holds(&mut self, host: &[u8], digests: &[String]) {
        let id = id(host);
        let at = self.places.hosts.get(&id);
        let Some(host) = at.and_then(|at| self.hosts.get_mut(*at)) else {
            return;
        };
        for digest in digests {
            if let Some(at) = self.places.contents.get(digest) {
                host.held.insert(*at);
            }
        }
    }

    fn lacks(&mut self, failed: v1::preheat_event::Failed) {
        let digest = Some(failed.digest).filter(|digest| !digest.is_empty());
        let id = id(&failed.host);
        let host = self.places.hosts.get(&id).copied();
        self.blame(host, digest, cut(failed.why));
    }

    /// Their keys.
    pub(crate) fn all_hosts(&self) -> Vec<bytes::Bytes> {
        let key = |host: &Host| host.id.parse::<HostId>().ok();
        let keys = self.hosts.iter().filter_map(key);
        keys.map(|key| bytes::Bytes::copy_from_slice(key.as_bytes()))
            .collect()
    }

    /// Nothing more will be said: who has not said it of everything has failed.
    pub(crate) fn give_up(&mut self, why: &str) {
        let all = self.contents.len();
        let mut blamed = false;
        for at in 0..self.hosts.len() {
            let host = &self.hosts[at];
            if (host.held.len() < all || all == 0) && !host.has_failed() {
                self.blame(Some(at), None, why.to_owned());
                blamed = true;
            }
        }
        if !blamed {
            self.blame(None, None, why.to_owned());
        }
    }

    /// Whether every host said that it holds everything.
    pub(crate) fn is_success(&self) -> bool {
        let all = self.contents.len();
        all > 0
            && !self.hosts.is_empty()
            && self.failures.is_empty()
            && self.further == 0
            && self
                .hosts
                .iter()
                .all(|host| host.held.len() == all && !host.has_failed())
    }

    pub(crate) fn summary(&self) -> Summary {
        let all = self.contents.len();
        let sizes = |host: &Host| {
            let held = self
                .contents
                .iter()
                .enumerate()
                .filter(|(at, _)| host.held.contains(*at));
            held.map(|(_, content)| content.size).sum::<u64>()
        };
        let count = |is: &dyn Fn(&&Host) -> bool| self.hosts.iter().filter(is).count();
        Summary {
            hosts: self.hosts.len(),
            hosts_done: count(&|host| all > 0 && host.held.len() == all),
            hosts_failed: count(&|host| host.has_failed()),
            failures_further: self.further
                + self.hosts.iter().map(|host| host.further).sum::<u64>(),
            contents: all,
            bytes: self.contents.iter().map(|content| content.size).sum(),
            bytes_held: self.hosts.iter().map(sizes).sum(),
        }
    }
}

fn id(raw: &[u8]) -> String {
    HostId::try_from(raw).map_or_else(|_| String::new(), |host| host.to_string())
}

#[cfg(test)]
mod tests;
