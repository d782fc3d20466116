//! What the scheduler is told of parents: sums, at most once a second, whatever the number
//! of pieces. Manifests and other small pieces say nothing of a parent's rate and are left
//! out of it.

use std::time::Duration;

use darter_api::{
    HostId, PieceIndex, Timestamp,
    session::{ParentReport, PeerMessage},
};

use super::{Node, event::PieceFailure, state::Request};

/// Between two reports.
const INTERVAL: Duration = Duration::from_secs(1);
/// Parents in one report; the others wait for the next one.
const MAX_PARENTS: usize = 256;
/// A shorter piece is all latency: half the smallest piece of a task that has several.
const MIN_PIECE: u64 = 128 * 1024;

/// What a parent gave since the last report.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pieces: u32,
    bytes: u64,
    busy: Duration,
    failures: u32,
    rot: u32,
    given_up: bool,
}

impl Tally {
    fn report(self, host: HostId) -> ParentReport {
        ParentReport {
            host,
            pieces: self.pieces,
            bytes: self.bytes,
            busy_us: u64::try_from(self.busy.as_micros()).unwrap_or(u64::MAX),
            failures: self.failures,
            rot: self.rot,
            given_up: self.given_up,
        }
    }
}

impl Node {
    /// A piece took `service` of its parent's time.
    pub(super) fn came_from(&mut self, request: &Request, service: Duration) {
        let Some(task) = self.state.tasks.get(&request.task) else {
            return;
        };
        let bytes = task.lengths.piece_bytes(PieceIndex(request.piece));
        if bytes >= MIN_PIECE
            && let Some(tally) = self.tally(&request.host)
        {
            tally.pieces += 1;
            tally.bytes += bytes;
            tally.busy += service;
        }
    }

    /// A request ended without its piece.
    pub(super) fn failed_at(&mut self, host: &HostId, failure: PieceFailure, given_up: bool) {
        let (failures, rot) = match failure {
            PieceFailure::Stalled | PieceFailure::Unreachable => (1, 0),
            PieceFailure::Rot => (0, 1),
            PieceFailure::Busy | PieceFailure::NotHeld | PieceFailure::Store => return,
        };
        if let Some(tally) = self.tally(host) {
            tally.failures += failures;
            tally.rot += rot;
            tally.given_up |= given_up;
        }
    }

    fn tally(&mut self, host: &HostId) -> Option<&mut Tally> {
        let host = self.state.hosts.get_mut(host)?;
        self.has_report = true;
        Some(host.tally.get_or_insert_default())
    }

    /// When the next report is to be made, if there is anything to say.
    pub(super) fn report_due(&self) -> Option<Timestamp> {
        (self.has_report && self.homes.up().next().is_some()).then(|| self.reported + INTERVAL)
    }

    pub(super) fn report_parents(&mut self, now: Timestamp) {
        if self.report_due().is_none_or(|due| now < due) {
            return;
        }
        self.reported = now;
        let mut parents = Vec::new();
        self.has_report = false;
        for (host, known) in &mut self.state.hosts {
            if parents.len() == MAX_PARENTS {
                self.has_report = true;
                break;
            }
            parents.extend(known.tally.take().map(|tally| tally.report(*host)));
        }
        if !parents.is_empty() {
            self.say(PeerMessage::Parents { parents });
        }
    }
}
