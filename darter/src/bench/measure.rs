//! What a process costs, and how long things take.

use anyhow::{Context as _, Result};
use serde::Serialize;

/// A process so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    /// Seconds of CPU.
    pub(super) cpu: f64,
    /// Bytes in memory, now and at most.
    pub(super) resident: u64,
    pub(super) peak: u64,
}

/// From /proc.
pub(super) fn usage(pid: u32) -> Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} has ended"))?;
    // The name before it may have blanks; utime and stime are fields 14 and 15 (proc(5)).
    let (_, rest) = stat.rsplit_once(')').context("a process has a name")?;
    let ticks = |field: usize| {
        let text = rest.split_whitespace().nth(field - 3);
        text.and_then(|text| text.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    let hertz = rustix::param::clock_ticks_per_second() as f64;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kibibytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        number
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024
    };
    Ok(Usage {
        cpu: (ticks(14) + ticks(15)) / hertz,
        resident: kibibytes("VmRSS:"),
        peak: kibibytes("VmHWM:"),
    })
}

/// What became of a question.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    /// It came after so many seconds.
    After(f64),
    /// It did not come, though the session stands.
    None,
    /// The session ended first, or was not there.
    Lost,
}

/// How long answers took.
#[derive(Debug, Serialize)]
pub(super) struct Delays {
    pub(super) answered: usize,
    pub(super) unanswered: usize,
    /// Whose session was lost.
    pub(super) lost: usize,
    pub(super) seconds: f64,
    pub(super) per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) longest_ms: f64,
}

impl Delays {
    /// Of these answers, within `seconds` in all.
    pub(super) fn new(answers: Vec<Answer>, seconds: f64) -> Self {
        let is_lost = |answer: &&Answer| matches!(answer, Answer::Lost);
        let (all, lost) = (answers.len(), answers.iter().filter(is_lost).count());
        let seconds_of = |answer| match answer {
            Answer::After(seconds) => Some(seconds),
            Answer::None | Answer::Lost => None,
        };
        let mut answered: Vec<f64> = answers.into_iter().filter_map(seconds_of).collect();
        answered.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let last = answered.len().saturating_sub(1);
            let index = (last as f64 * part).round() as usize;
            answered.get(index).copied().unwrap_or(0.0) * 1000.0
        };
        Self {
            answered: answered.len(),
            unanswered: all - answered.len() - lost,
            lost,
            seconds,
            per_second: answered.len() as f64 / seconds,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            longest_ms: at(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_what_was_answered() {
        let answers = (1..=100).map(|number| Answer::After(f64::from(number) / 1000.0));
        let others = [Answer::None, Answer::Lost, Answer::Lost];
        let delays = Delays::new(answers.chain(others).collect(), 2.0);
        assert_eq!((delays.answered, delays.unanswered), (100, 1));
        assert_eq!(delays.lost, 2);
        assert_eq!(delays.per_second, 50.0);
        assert!((delays.p99_ms - 99.0).abs() < 0.01, "{}", delays.p99_ms);
        assert!((delays.longest_ms - 100.0).abs() < 0.01);
    }

    #[test]
    fn this_process_costs_something() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.resident > 0 && usage.peak >= usage.resident);
    }
}
