//! What a run looks like from inside: what those who are not done wait for, who reads the source,
//! and what scheduler and hosts say about it. For people who look for what made a run slow.
//!
//! Owner of state: [`Trace`], one line after the other. It looks and changes nothing; a run
//! without it is the same.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use darter_api::{
    PieceSet, TaskId,
    session::{PeerMessage, SchedulerMessage},
};
use darter_proxy::swarm::core::insight::Given;

use crate::{
    host::{Asked, Kind, Stream},
    network::Place,
    world::{Happening, World},
};

/// Hosts, and pieces, that are told of at a time.
const MOST: usize = 3;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    every: Option<Duration>,
    pub(crate) lines: Vec<String>,
}

impl World {
    /// Looks every so often, if the scenario asks for it.
    pub(crate) fn trace(&mut self) {
        self.trace.every = self.scenario.trace;
        if let Some(every) = self.trace.every {
            self.queue.put(self.begin + every, Happening::Traces);
        }
    }

    pub(crate) fn traces(&mut self) {
        let tasks: Vec<TaskId> = self.contents.iter().map(|(task, _)| *task).collect();
        for (number, task) in tasks.iter().enumerate() {
            self.trace_task(number, task);
        }
        if let Some(every) = self.trace.every.filter(|_| !self.outstanding.is_empty()) {
            self.queue.put(self.now + every, Happening::Traces);
        }
    }

    fn note(&mut self, text: &str) {
        let at = self.now.since(self.begin).as_secs_f64();
        self.trace.lines.push(format!("{at:8.3} {text}"));
    }

    fn trace_task(&mut self, number: usize, task: &TaskId) {
        let waits = |host: &Place| self.hosts[*host].kind == Kind::Healthy;
        let waiting = self.outstanding.iter().filter(|(_, one)| one == task);
        let waiting: Vec<Place> = waiting.map(|(host, _)| *host).filter(waits).collect();
        if waiting.is_empty() {
            return;
        }
        let mut lack: Vec<(u32, Place)> = waiting
            .iter()
            .map(|host| (self.lacks(*host, task).len(), *host))
            .collect();
        lack.sort_unstable();
        let median = lack[lack.len() / 2].0;
        let pieces = self.scarce(task);
        let mut text = format!(
            "content {number}: {} healthy hosts wait for {median} pieces (median); held by nobody {}, by one {}, by slow ones alone {}",
            waiting.len(),
            pieces.values().filter(|holders| holders.is_empty()).count(),
            pieces.values().filter(|holders| holders.len() == 1).count(),
            pieces
                .values()
                .filter(|holders| !holders.is_empty() && self.are_slow(holders))
                .count(),
        );
        self.write_readers(&mut text, task);
        for (piece, holders) in pieces
            .iter()
            .filter(|(_, holders)| !holders.is_empty())
            .take(MOST)
        {
            self.write_piece(&mut text, task, *piece, holders);
        }
        for (_, host) in lack.iter().rev().take(MOST) {
            self.write_host(&mut text, task, *host);
        }
        self.note(&text);
    }

    fn are_slow(&self, holders: &[Place]) -> bool {
        holders
            .iter()
            .all(|holder| self.hosts[*holder].kind != Kind::Healthy)
    }

    fn lacks(&self, host: Place, task: &TaskId) -> PieceSet {
        let local = self.hosts[host].tasks.get(task);
        local.map_or_else(PieceSet::new, |local| {
            local.held.missing(local.lengths.pieces())
        })
    }

    /// Pieces that one living host holds, or none, or slow ones alone, and who.
    fn scarce(&self, task: &TaskId) -> BTreeMap<u32, Vec<Place>> {
        let mut holders: BTreeMap<u32, Vec<Place>> = BTreeMap::new();
        for piece in 0..self.lengths(task).pieces() {
            holders.insert(piece, Vec::new());
        }
        for (place, host) in self
            .hosts
            .iter()
            .enumerate()
            .filter(|(_, host)| host.alive && host.kind != Kind::Rotten)
        {
            let held = host.tasks.get(task).map(|local| &local.held);
            for piece in held.into_iter().flat_map(PieceSet::iter) {
                holders.entry(piece).or_default().push(place);
            }
        }
        holders.retain(|_, holders| holders.len() < 2 || self.are_slow(holders));
        holders
    }

    fn write_readers(&self, text: &mut String, task: &TaskId) {
        for (place, host) in self.hosts.iter().enumerate() {
            let Some(stream) = host.tasks.get(task).and_then(|local| local.stream.as_ref()) else {
                continue;
            };
            let left = match stream {
                Stream::Asked(_, pieces) => pieces.clone(),
                Stream::Flows(transfer, _) => self.network.left(*transfer),
            };
            let _ = write!(
                text,
                "\n           reader {} has {} pieces to read, lacks {}",
                self.name(place),
                left.len(),
                self.lacks(place, task).len()
            );
        }
    }

    fn write_piece(&self, text: &mut String, task: &TaskId, piece: u32, holders: &[Place]) {
        let _ = write!(text, "\n           piece {piece}:");
        for holder in holders {
            let host = &self.hosts[*holder];
            let (out, waiting) = host.slots.load();
            let given = match host.node.given(self.now, task, piece) {
                None => "announced".to_owned(),
                Some(Given::Waits) => "to be offered".to_owned(),
                Some(Given::Known) => "offered to all".to_owned(),
                Some(Given::Offered(to, since)) => format!(
                    "offered to {} {} ms ago",
                    self.name(self.places[&to]),
                    since.as_millis()
                ),
            };
            let _ = write!(
                text,
                " {} has it, {given}; it sends {out}, {waiting} wait;",
                self.name(*holder)
            );
        }
        let asking = self.asking(task, piece);
        for (place, asked) in asking.iter().take(MOST) {
            let _ = write!(text, " {} asks {};", self.name(*place), self.asked(asked));
        }
    }

    fn write_host(&self, text: &mut String, task: &TaskId, place: Place) {
        let host = &self.hosts[place];
        let lacks = self.lacks(place, task);
        let _ = write!(
            text,
            "\n           {} lacks {} pieces, asks for {}:",
            self.name(place),
            lacks.len(),
            host.requests.len()
        );
        for asked in host.requests.values() {
            let _ = write!(text, " {} of {};", asked.piece, self.asked(asked));
        }
        for piece in lacks
            .iter()
            .filter(|piece| !host.requests.values().any(|asked| asked.piece == *piece))
            .take(MOST)
        {
            let _ = write!(
                text,
                "\n             {piece} (of {} holders):",
                self.holders(task, piece)
            );
            for lead in host.node.leads(self.now, task, piece) {
                let what = if lead.has { "has" } else { "promises" };
                let _ = write!(text, " {} {what} it,", self.name(self.places[&lead.host]));
                if !lead.up {
                    text.push_str(" no link,");
                }
                if !lead.left_alone.is_zero() {
                    let _ = write!(text, " left alone for {} ms,", lead.left_alone.as_millis());
                }
                let _ = write!(
                    text,
                    " {} under way, {} ms each;",
                    lead.requests,
                    lead.service.unwrap_or_default().as_millis()
                );
            }
        }
    }

    fn holders(&self, task: &TaskId, piece: u32) -> usize {
        let holds = |host: &&crate::host::Host| {
            host.alive
                && host
                    .tasks
                    .get(task)
                    .is_some_and(|local| local.held.contains(piece))
        };
        self.hosts.iter().filter(holds).count()
    }

    fn asking(&self, task: &TaskId, piece: u32) -> Vec<(Place, Asked)> {
        let hosts = self.hosts.iter().enumerate();
        hosts
            .flat_map(|(place, host)| {
                host.requests
                    .values()
                    .filter(|asked| asked.piece == piece && asked.task == *task)
                    .map(move |asked| (place, *asked))
            })
            .collect()
    }

    fn asked(&self, asked: &Asked) -> String {
        let state = match (asked.transfer, asked.begun) {
            (None, _) => "waits",
            (Some(_), false) => "has a slot",
            (Some(_), true) => "flows",
        };
        format!(
            "{} for {} ms, {state}",
            self.name(asked.parent),
            self.now.since(asked.since).as_millis()
        )
    }

    fn name(&self, place: Place) -> String {
        let host = &self.hosts[place];
        let kind = match host.kind {
            _ if !host.alive => " (dead)",
            Kind::Healthy => "",
            Kind::Slow => " (slow)",
            Kind::Turns => " (turns)",
            Kind::Rotten => " (rot)",
        };
        format!("{place}{kind}")
    }

    /// What a scheduler says about who reads the source.
    pub(crate) fn trace_heard(&mut self, host: Place, message: &SchedulerMessage) {
        if self.trace.every.is_none() {
            return;
        }
        let text = match message {
            SchedulerMessage::Grant(grant) => format!("granted {:?}", grant.pieces),
            SchedulerMessage::Revoked { pieces, .. } => format!("revoked {pieces:?}"),
            SchedulerMessage::Unavailable { why, .. } => format!("unavailable: {why:?}"),
            SchedulerMessage::Fetch { purpose, .. } => format!("fetch: {purpose:?}"),
            _ => return,
        };
        let text = format!("scheduler to {}: {text}", self.name(host));
        self.note(&text);
    }

    /// What a host says about it.
    pub(crate) fn trace_said(&mut self, host: Place, message: &PeerMessage) {
        if self.trace.every.is_none() {
            return;
        }
        let text = match message {
            PeerMessage::LeaseReturned { pieces, why, .. } => {
                format!("returns {pieces:?}: {why:?}")
            }
            PeerMessage::SelfLeased { pieces, .. } => format!("reads {pieces:?} by its own leave"),
            PeerMessage::Starved { pieces, .. } => format!("starves for {pieces:?}"),
            PeerMessage::Report {
                neighbour,
                complaint,
                ..
            } => {
                let neighbour = self.places.get(neighbour).map(|place| self.name(*place));
                format!("complains of {neighbour:?}: {complaint:?}")
            }
            _ => return,
        };
        let text = format!("{} {text}", self.name(host));
        self.note(&text);
    }

    /// A host is gone.
    pub(crate) fn trace_lost(&mut self, host: Place) {
        if self.trace.every.is_some() {
            let text = format!("{} dies", self.name(host));
            self.note(&text);
        }
    }
}
