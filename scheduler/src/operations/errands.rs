//! The errands under way: which hosts were sent, and who has said what became of it.
//!
//! Owner of state: [`Errands`], in the actor. Invariant: each host that was sent has exactly
//! one event: its own result, or that it has left or says nothing. A channel has room for
//! all of its events, so that nothing waits for who reads them.

use std::{collections::BTreeMap, time::Duration};

use darter_api::{
    HostId, Repository, Timestamp, UpstreamName,
    errand::{Errand, ErrandOrder, ErrandReport, ErrandResult},
    preheat::Present,
    session::{Reference, SchedulerMessage},
    wire::v1::{ErrandEvent, PreheatHost},
};
use tokio::sync::mpsc;
use tonic::Status;

use crate::core::Command;

/// Errands at the same time; further ones are refused.
const MOST_RUNS: usize = 16;
/// For a host to do it and say so: some thousand files are removed from a slow disk.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) type Frame = Result<ErrandEvent, Status>;
/// Its events, or why there is none.
pub(crate) type Begun = Result<mpsc::Receiver<Frame>, Status>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Errands {
    runs: BTreeMap<u64, Run>,
    next: u64,
}

#[derive(Debug)]
struct Run {
    errand: Errand,
    events: mpsc::Sender<Frame>,
    /// Those that have not said what became of it.
    open: BTreeMap<HostId, Present>,
    until: Timestamp,
}

/// A tag of which hosts have forgotten everything.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ForgottenTag {
    pub(crate) upstream: UpstreamName,
    pub(crate) repository: Repository,
    pub(crate) tag: String,
}

impl Errands {
    /// None; numbers begin at `first`, so that a host's answer to a scheduler before its
    /// restart is not taken for one to this.
    pub(crate) const fn new(first: u64) -> Self {
        let runs = BTreeMap::new();
        Self { runs, next: first }
    }

    /// Sends all hosts that are here.
    pub(crate) fn begin(
        &mut self,
        now: Timestamp,
        errand: Errand,
        present: Vec<Present>,
    ) -> (Begun, Vec<Command>) {
        if self.runs.len() >= MOST_RUNS {
            let status = Status::resource_exhausted("too many errands are under way");
            return (Err(status), Vec::new());
        }
        let (events, receiver) = mpsc::channel(present.len().max(1));
        let run = self.next;
        self.next = self.next.wrapping_add(1);
        let order = |host: &Present| {
            let errand = errand.clone();
            let message = SchedulerMessage::Errand(ErrandOrder { run, errand });
            let host = host.host;
            Command { host, message }
        };
        let commands = present.iter().map(order).collect();
        if !present.is_empty() {
            let open = present.into_iter().map(|host| (host.host, host)).collect();
            let until = now + PATIENCE;
            self.runs.insert(
                run,
                Run {
                    errand,
                    events,
                    open,
                    until,
                },
            );
        }
        (Ok(receiver), commands)
    }

    /// A host says what became of it; the tag that it has forgotten, if it was about one.
    pub(crate) fn report(&mut self, host: HostId, report: ErrandReport) -> Option<ForgottenTag> {
        let run = self.runs.get_mut(&report.run)?;
        let forgotten = match (&run.errand, &report.result) {
            (Errand::ForgetTag(image), ErrandResult::Forgotten(Some(upstream))) => {
                match &image.reference {
                    Reference::Tag(tag) => Some(ForgottenTag {
                        upstream: upstream.clone(),
                        repository: image.repository.clone(),
                        tag: tag.clone(),
                    }),
                    Reference::Digest(_) => None,
                }
            }
            _ => None,
        };
        run.say(host, &report.result);
        self.tidy();
        forgotten
    }

    /// A host's session has ended.
    pub(crate) fn gone(&mut self, host: HostId) {
        for run in self.runs.values_mut() {
            run.say(host, &ErrandResult::Refused("the host has left".to_owned()));
        }
        self.tidy();
    }

    /// Ends what takes too long, or has nobody to listen.
    pub(crate) fn beat(&mut self, now: Timestamp) {
        for run in self.runs.values_mut().filter(|run| run.until <= now) {
            let silent: Vec<HostId> = run.open.keys().copied().collect();
            for host in silent {
                let why = "the host has not said what became of it".to_owned();
                run.say(host, &ErrandResult::Refused(why));
            }
        }
        self.tidy();
    }

    fn tidy(&mut self) {
        let is_open = |run: &Run| !run.open.is_empty() && !run.events.is_closed();
        self.runs.retain(|_, run| is_open(run));
    }
}

impl Run {
    /// The word of a host, unless it has had it.
    fn say(&mut self, host: HostId, result: &ErrandResult) {
        let Some(host) = self.open.remove(&host) else {
            return;
        };
        let event = ErrandEvent {
            host: Some(PreheatHost {
                host: bytes::Bytes::copy_from_slice(host.host.as_bytes()),
                name: host.name,
                ip: host.ip.to_string(),
            }),
            result: Some(result.into()),
        };
        // There is room for each host's; who asked may have left.
        let _ = self.events.try_send(Ok(event));
    }
}

#[cfg(test)]
mod tests {
    use darter_api::{
        Digest, NodeKey, errand::Dropped, preheat::ImageName, wire::v1::errand_result::Kind,
    };

    use super::*;

    fn host(number: u8) -> Present {
        Present {
            host: NodeKey::from_seed([number; 32]).id(),
            name: format!("n{number}"),
            ip: [10, 0, 0, number].into(),
            seed: false,
        }
    }

    fn drop_one() -> Errand {
        Errand::Drop {
            tasks: vec![Digest::sha256(b"x").into()],
            spare: false,
        }
    }

    fn run_of(commands: &[Command]) -> u64 {
        match &commands[0].message {
            SchedulerMessage::Errand(order) => order.run,
            other => panic!("{other:?}"),
        }
    }

    fn words(events: &mut mpsc::Receiver<Frame>) -> Vec<(String, String)> {
        let mut words = Vec::new();
        while let Ok(Ok(event)) = events.try_recv() {
            let word = match event.result.unwrap().kind.unwrap() {
                Kind::Refused(why) => why,
                other => format!("{other:?}").split('(').next().unwrap().to_owned(),
            };
            words.push((event.host.unwrap().name, word));
        }
        words
    }

    #[test]
    fn each_host_has_one_word() {
        let mut errands = Errands::new(7);
        let present = vec![host(1), host(2), host(3)];
        let (events, commands) = errands.begin(Timestamp::ZERO, drop_one(), present);
        let mut events = events.unwrap();
        assert_eq!(commands.len(), 3);
        let run = run_of(&commands);
        let result = ErrandResult::Dropped(Dropped::default());
        let report = ErrandReport { run, result };
        assert_eq!(errands.report(host(1).host, report.clone()), None);
        errands.report(host(1).host, report.clone());
        errands.report(host(9).host, report.clone());
        errands.gone(host(2).host);
        errands.beat(Timestamp::ZERO + Duration::from_secs(1));
        assert_eq!(errands.runs.len(), 1);
        errands.beat(Timestamp::ZERO + PATIENCE);
        let said = |name: &str, word: &str| (name.to_owned(), word.to_owned());
        assert_eq!(
            words(&mut events),
            [
                said("n1", "Dropped"),
                said("n2", "the host has left"),
                said("n3", "the host has not said what became of it"),
            ]
        );
        assert!(errands.runs.is_empty() && events.is_closed());
        errands.report(host(3).host, report);
    }

    #[test]
    fn a_tag_is_forgotten_here_too() {
        let mut errands = Errands::new(7);
        let image = ImageName {
            registry: "hub".to_owned(),
            repository: "library/app".parse().unwrap(),
            reference: Reference::Tag("1".to_owned()),
            platforms: Vec::new(),
        };
        let errand = Errand::ForgetTag(image);
        let (_events, commands) = errands.begin(Timestamp::ZERO, errand, vec![host(1), host(2)]);
        let run = run_of(&commands);
        let report = |upstream: Option<&str>| ErrandReport {
            run,
            result: ErrandResult::Forgotten(upstream.map(|name| name.parse().unwrap())),
        };
        assert_eq!(errands.report(host(1).host, report(None)), None);
        let forgotten = errands.report(host(2).host, report(Some("docker.io")));
        assert_eq!(forgotten.unwrap().upstream.as_str(), "docker.io");
    }

    #[test]
    fn errands_are_bounded_and_end_with_who_asked() {
        let mut errands = Errands::new(0);
        let mut all = Vec::new();
        for _ in 0..MOST_RUNS {
            let (events, _) = errands.begin(Timestamp::ZERO, drop_one(), vec![host(1)]);
            all.push(events.unwrap());
        }
        let (refused, commands) = errands.begin(Timestamp::ZERO, drop_one(), vec![host(1)]);
        assert!(refused.is_err() && commands.is_empty());
        all.clear();
        errands.beat(Timestamp::ZERO);
        assert!(errands.runs.is_empty());
        let (nobody, _) = errands.begin(Timestamp::ZERO, drop_one(), Vec::new());
        assert!(nobody.unwrap().is_closed(), "there is nobody to wait for");
    }
}
