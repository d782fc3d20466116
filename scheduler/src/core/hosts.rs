//! What is known of a host, and where it stands.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use darter_api::{
    HostId, TaskId, Timestamp, UpstreamName,
    session::{Hello, Locality, Role},
};

use super::{
    Cluster,
    bad::{Record, is_rotten},
    blocks::Blocks,
    pace::Pace,
    sizing::Disputes,
};

/// A load report is believed for so long; hosts send one a second.
const LOAD_LASTS: Duration = Duration::from_secs(5);
/// Hosts that one host has given up, at most; the oldest go first.
const MAX_BLOCKED: usize = 64;
/// A host that gave another one up takes nothing from it for so long, as its own download
/// core has it.
const BLOCKED_FOR: Duration = Duration::from_secs(300);
/// Who caught a host sending rot, as many as are remembered.
const MAX_CATCHERS: usize = 16;
/// Zones to which a host's rate is kept.
const MAX_ZONES: usize = 16;

/// A host with a session, or one that rests.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) hello: Hello,
    /// What it says it is; the hello's role is what it is.
    pub(super) declared: Role,
    /// Its id: tasks keep this one where they have many.
    pub(super) id: Arc<HostId>,
    pub(super) place: Arc<Locality>,
    /// A rule makes it a seed, whatever it says.
    pub(super) is_made_seed: bool,
    pub(super) tasks: Blocks<Arc<TaskId>, ()>,
    /// Pieces of the contents that it holds in part.
    pub(super) claimed: u64,
    /// Since when its session rests.
    pub(super) resting: Option<Timestamp>,
    /// Contents of which it has another size than their tasks.
    pub(super) disputes: Disputes,
    /// What it has named since it came back from a rest, until it has named all.
    pub(super) listed: Option<BTreeSet<Arc<TaskId>>>,
    /// When its memberships are looked at next.
    pub(super) sweep_at: Timestamp,
    /// When it was welcomed, until it has answered.
    pub(super) welcomed: Option<Timestamp>,
    /// When it was granted something, until it has answered.
    pub(super) granted: Option<Timestamp>,
    /// When it last said anything.
    pub(super) heard: Timestamp,
    /// Since when it is known to have been silent for long, while it reads a source.
    pub(super) silent_since: Option<Timestamp>,
    /// How long it took to answer, this scheduler's own delay included.
    pub(super) round_trip: Duration,
    /// Who caught it sending rot.
    pub(super) rot_seen_by: BTreeSet<HostId>,
    /// When it last could not read some source.
    pub(super) source_failed: Option<Timestamp>,
    /// What it gains, from anywhere, since it last began to read a source.
    pub(super) pace: Option<Pace>,
    /// What it reads from each upstream.
    pub(super) reads: BTreeMap<UpstreamName, Pace>,
    /// When it last read a source far slower than others.
    pub(super) lagged: Option<Timestamp>,
    /// How it does as a parent.
    pub(super) record: Record,
    load: Option<(u32, Timestamp)>,
    /// Whom it takes nothing from, until when.
    blocked: BTreeMap<HostId, Timestamp>,
    /// Bytes a second that one of its requests brought, by the zone of who asked.
    rates: BTreeMap<String, f32>,
    /// Requests that brought a piece, and that did not: a memory of some hundred.
    pub(super) fulfilled: f32,
    pub(super) failed: f32,
}

impl Host {
    pub(super) fn new(now: Timestamp, hello: Hello) -> Self {
        Self {
            id: Arc::new(hello.host),
            place: Arc::new(hello.locality.clone()),
            declared: hello.role,
            hello,
            is_made_seed: false,
            tasks: Blocks::default(),
            claimed: 0,
            resting: None,
            disputes: Disputes::default(),
            listed: None,
            sweep_at: now,
            welcomed: Some(now),
            granted: None,
            heard: now,
            silent_since: None,
            round_trip: Duration::ZERO,
            rot_seen_by: BTreeSet::new(),
            source_failed: None,
            pace: None,
            reads: BTreeMap::new(),
            lagged: None,
            record: Record::default(),
            load: None,
            blocked: BTreeMap::new(),
            rates: BTreeMap::new(),
            fulfilled: 0.0,
            failed: 0.0,
        }
    }

    /// Whether others take from it what it has: it gives, and was not found to send rot.
    pub(super) fn gives(&self) -> bool {
        self.hello.shares && !is_rotten(self)
    }

    /// The data centre, if it is known: links between two of them are costly.
    pub(super) fn zone(&self) -> Option<&str> {
        Some(self.place.idc.as_str()).filter(|zone| !zone.is_empty())
    }

    /// It sends so many pieces at the moment.
    pub(super) const fn set_load(&mut self, now: Timestamp, uploads: u32) {
        self.load = Some((uploads, now));
    }

    /// Pieces that it sends, if it has said so lately.
    pub(super) fn uploads(&self, now: Timestamp) -> u32 {
        let load = self.load.filter(|(_, at)| now.since(*at) < LOAD_LASTS);
        load.map_or(0, |(uploads, _)| uploads)
    }

    /// The share of its slots that are free, from 0 to 1, if it has said so lately.
    pub(super) fn free(&self, now: Timestamp) -> Option<f64> {
        let (uploads, _) = self.load.filter(|(_, at)| now.since(*at) < LOAD_LASTS)?;
        let slots = f64::from(self.hello.upload_slots.max(1));
        Some((1.0 - f64::from(uploads) / slots).max(0.0))
    }

    /// A child caught it sending rot.
    pub(super) fn caught_by(&mut self, child: HostId) {
        if self.rot_seen_by.len() < MAX_CATCHERS {
            self.rot_seen_by.insert(child);
        }
    }

    /// It takes nothing from `other` for a while.
    pub(super) fn block(&mut self, now: Timestamp, other: HostId) {
        self.blocked.retain(|_, until| *until > now);
        if self.blocked.len() >= MAX_BLOCKED
            && let Some((&first, _)) = self.blocked.iter().min_by_key(|(_, until)| **until)
        {
            self.blocked.remove(&first);
        }
        self.blocked.insert(other, now + BLOCKED_FOR);
    }

    pub(super) fn blocks(&self, now: Timestamp, other: &HostId) -> bool {
        self.blocked.get(other).is_some_and(|until| *until > now)
    }

    /// What is kept of it stays within its limits.
    #[cfg(test)]
    pub(super) fn is_bounded(&self) -> bool {
        self.rot_seen_by.len() <= MAX_CATCHERS
            && self.blocked.len() <= MAX_BLOCKED
            && self.rates.len() <= MAX_ZONES
            && self.disputes.is_bounded()
            && self.record.is_bounded()
    }

    /// A request from `zone` brought so many bytes a second.
    pub(super) fn measured(&mut self, zone: &str, rate: f32) {
        if let Some(known) = self.rates.get_mut(zone) {
            *known += (rate - *known) / 4.0;
        } else if self.rates.len() < MAX_ZONES {
            self.rates.insert(zone.to_owned(), rate);
        }
    }

    /// What a request from `zone` will bring, in bytes a second, as far as is known.
    pub(super) fn rate_to(&self, zone: &str) -> Option<f32> {
        let anywhere = || self.rates.values().copied().reduce(f32::min);
        self.rates.get(zone).copied().or_else(anywhere)
    }

    /// Counts requests that brought a piece and that did not; older ones count less.
    pub(super) fn remember(&mut self, fulfilled: u32, failed: u32) {
        const FADE: f32 = 0.95;
        self.fulfilled = self.fulfilled * FADE + fulfilled as f32;
        self.failed = self.failed * FADE + failed as f32;
    }
}

impl Cluster {
    pub(super) fn zone_of(&self, host: &HostId) -> Option<&str> {
        self.hosts.get(host)?.zone()
    }

    /// Whether others take from it what it has: it gives, and was not found to send rot.
    pub(super) fn shares(&self, host: &HostId) -> bool {
        self.hosts.get(host).is_some_and(|known| known.gives())
    }

    /// Whether one of the two takes nothing from the other.
    pub(super) fn blocked(&self, host: &HostId, other: &HostId) -> bool {
        let blocks = |one: &HostId, other: &HostId| {
            let one = self.hosts.get(one);
            one.is_some_and(|one| one.blocks(self.now, other))
        };
        blocks(host, other) || blocks(other, host)
    }

    /// What it has to do with, whatever happens to that meanwhile.
    pub(super) fn tasks_of(&self, host: &HostId) -> Vec<Arc<TaskId>> {
        let known = self.hosts.get(host).into_iter();
        known
            .flat_map(|known| known.tasks.keys().cloned())
            .collect()
    }

    /// Makes a host a member of a task that is known.
    pub(super) fn enrol(&mut self, host: HostId, id: &TaskId) {
        let (Some(known), Some(task)) = (self.hosts.get_mut(&host), self.tasks.get_mut(id)) else {
            return;
        };
        known.tasks.or_default(Arc::clone(&task.id));
        task.place(&known.id, &known.place);
    }
}
