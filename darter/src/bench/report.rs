//! What a bench found, for people and as JSON.

use std::fmt::Write as _;

use bytesize::ByteSize;
use serde::Serialize;

use super::measure::{Delays, Usage};

/// One part of the bench.
#[derive(Debug, Serialize)]
pub(super) struct Phase {
    what: &'static str,
    seconds: f64,
    scheduler_cpu_seconds: f64,
    peers_cpu_seconds: f64,
    scheduler_resident: u64,
}

impl Phase {
    /// From what scheduler and peers had cost before and after.
    pub(super) fn between(
        what: &'static str,
        seconds: f64,
        scheduler: (Usage, Usage),
        peers: (Usage, Usage),
    ) -> Self {
        Self {
            what,
            seconds,
            scheduler_cpu_seconds: scheduler.1.cpu - scheduler.0.cpu,
            peers_cpu_seconds: peers.1.cpu - peers.0.cpu,
            scheduler_resident: scheduler.1.resident,
        }
    }
}

/// All of it. Bytes and seconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) sessions: usize,
    pub(super) tasks_each: usize,
    pub(super) tls: bool,
    /// Of the scheduler before anybody came.
    pub(super) resident_alone: u64,
    pub(super) phases: Vec<Phase>,
    pub(super) fast: Delays,
    pub(super) steady: Delays,
    /// How many decisions the restarted scheduler made within how many seconds.
    pub(super) decisions: Vec<(f64, u64)>,
    /// The most memory that the restarted scheduler had.
    pub(super) peak: u64,
}

impl Report {
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let kind = if self.tls { "mutual TLS" } else { "plain text" };
        let _ = writeln!(
            text,
            "{} sessions over {kind}, {} contents each\n",
            self.sessions, self.tasks_each
        );
        let _ = writeln!(
            text,
            "{:36} {:>8} {:>14} {:>11} {:>10}",
            "", "seconds", "scheduler CPU", "peers' CPU", "resident"
        );
        for phase in &self.phases {
            let _ = writeln!(
                text,
                "{:36} {:>8.2} {:>14.2} {:>11.2} {:>10}",
                phase.what,
                phase.seconds,
                phase.scheduler_cpu_seconds,
                phase.peers_cpu_seconds,
                ByteSize::b(phase.scheduler_resident).to_string()
            );
        }
        let (host, held) = self.bytes_each();
        let _ = writeln!(
            text,
            "\na session {}, a content of a host {host_held} bytes, at most {}\n",
            ByteSize::b(host),
            ByteSize::b(self.peak),
            host_held = held
        );
        let _ = writeln!(
            text,
            "{:36} {:>8} {:>8} {:>8} {:>8} {:>10} {:>12}",
            "joins", "a second", "p50 ms", "p99 ms", "longest", "unanswered", "session lost"
        );
        for (what, delays) in [
            ("as fast as answered", &self.fast),
            ("at a fixed rate", &self.steady),
        ] {
            let _ = writeln!(
                text,
                "{what:36} {:>8.0} {:>8.2} {:>8.2} {:>8.2} {:>10} {:>12}",
                delays.per_second,
                delays.p50_ms,
                delays.p99_ms,
                delays.longest_ms,
                delays.unanswered,
                delays.lost
            );
        }
        let all = self.decisions.last().map_or(0, |(_, count)| *count);
        let within = self
            .decisions
            .iter()
            .find(|(_, count)| *count * 100 >= all * 99);
        if let Some((seconds, _)) = within {
            let _ = writeln!(
                text,
                "\n{all} messages decided upon, 99 of a hundred within {} ms each",
                seconds * 1000.0
            );
        }
        text
    }

    /// Memory of a session, and of one content of one host.
    fn bytes_each(&self) -> (u64, u64) {
        let at = |number: usize| {
            let phase = self.phases.get(number);
            phase.map_or(0, |phase| phase.scheduler_resident)
        };
        // The second and the fourth phase are idle: what was only needed to come is gone.
        let sessions = self.sessions.max(1) as u64;
        let held = (self.sessions * self.tasks_each).max(1) as u64;
        let session = at(1).saturating_sub(self.resident_alone) / sessions;
        (session, at(3).saturating_sub(at(1)) / held)
    }
}
