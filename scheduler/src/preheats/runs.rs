//! The preheats under way: who was asked, and who has had his say.
//!
//! Owner of state: [`Runs`], in the actor. Invariants: a run ends when every chosen host has
//! held, or failed, every content; what is passed on are the hosts' own words, and that of a
//! session that has ended: its host failed what it had not said to hold.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use bytes::Bytes;
use darter_api::{
    Digest, HostId, Origin, OriginKind,
    preheat::{Authorization, Content, Have, Order, PreheatOrder, PreheatReport, Report},
    session::SchedulerMessage,
    wire::v1::{
        PreheatHost,
        preheat_event::{self, Kind},
    },
};

use super::{
    Events, Wish,
    backlog::{Backlog, CalledOff},
    choice::{chosen, resolvers},
    secrets::Secrets,
};
use crate::core::{Command, Present};

/// Runs at the same time; further ones are refused.
const MOST_RUNS: usize = 64;
/// Hosts that are asked, one after the other, what an image is made of.
const RESOLVERS: usize = 3;

/// See the module.
#[derive(Debug)]
pub(crate) struct Runs {
    runs: BTreeMap<u64, Run>,
    next: u64,
}

#[derive(Debug)]
struct Run {
    wish: Wish,
    backlog: Backlog,
    /// Those that are meant and have not left.
    targets: Vec<HostId>,
    seeds: HashSet<HostId>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The last is being asked, the others are left.
    Resolving {
        asked: HostId,
        left: VecDeque<HostId>,
    },
    /// Contents are being had.
    Having {
        have: Have,
        secrets: Box<Secrets>,
        /// Hosts that were asked, and what they have not spoken of.
        active: HashMap<HostId, HashSet<Digest>>,
        waiting: VecDeque<HostId>,
    },
    /// Nothing is asked of anybody.
    Over,
}

impl Runs {
    /// None; numbers begin at `first`, so that a host does not take a run for one before the
    /// scheduler's restart.
    pub(crate) const fn new(first: u64) -> Self {
        Self {
            runs: BTreeMap::new(),
            next: first,
        }
    }

    /// A manager wishes for something.
    pub(crate) fn begin(
        &mut self,
        wish: Wish,
        present: Vec<Present>,
        events: Events,
    ) -> Vec<Command> {
        if self.runs.len() >= MOST_RUNS {
            let status = tonic::Status::resource_exhausted("too many preheats are under way");
            let _ = events.try_send(Err(status));
            return Vec::new();
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let run = Run {
            wish,
            backlog: Backlog::new(events),
            targets: Vec::new(),
            seeds: HashSet::new(),
            stage: Stage::Over,
        };
        self.runs.insert(id, run);
        self.change(id, |id, run| run.begin(id, &present))
    }

    /// A host says how an order goes.
    pub(crate) fn report(
        &mut self,
        host: HostId,
        report: PreheatReport,
        forbids: impl Fn(&HostId, &Origin) -> bool,
    ) -> Vec<Command> {
        self.change(report.run, |id, run| {
            run.heard(id, host, report.what, forbids)
        })
    }

    /// A host's session has ended.
    pub(crate) fn gone(&mut self, host: HostId) -> Vec<Command> {
        let ids: Vec<u64> = self.runs.keys().copied().collect();
        let gone = |id| self.change(id, |id, run| run.gone(id, host));
        ids.into_iter().flat_map(gone).collect()
    }

    /// Says what there was no room for, and ends what was called off.
    pub(crate) fn beat(&mut self) -> Vec<Command> {
        let ids: Vec<u64> = self.runs.keys().copied().collect();
        let beat = |id| {
            self.change(id, |_, run| {
                run.backlog.beat()?;
                Ok(Vec::new())
            })
        };
        ids.into_iter().flat_map(beat).collect()
    }

    fn call_off(&mut self, id: u64) -> Vec<Command> {
        let run = self.runs.remove(&id);
        run.map_or_else(Vec::new, |run| run.stop(id))
    }

    /// Changes a run, which ends if all is said, or nobody listens.
    fn change(
        &mut self,
        id: u64,
        change: impl FnOnce(u64, &mut Run) -> Result<Vec<Command>, CalledOff>,
    ) -> Vec<Command> {
        let Some(run) = self.runs.get_mut(&id) else {
            return Vec::new();
        };
        match change(id, run) {
            Err(CalledOff) => self.call_off(id),
            Ok(mut commands) => {
                if run.is_over() {
                    match run.backlog.end() {
                        Err(CalledOff) => commands.extend(self.call_off(id)),
                        Ok(true) => drop(self.runs.remove(&id)),
                        // The last words wait for the manager.
                        Ok(false) => {}
                    }
                }
                commands
            }
        }
    }
}

impl Run {
    fn is_over(&self) -> bool {
        match &self.stage {
            Stage::Resolving { .. } => false,
            Stage::Having {
                active, waiting, ..
            } => active.is_empty() && waiting.is_empty(),
            Stage::Over => true,
        }
    }

    fn begin(&mut self, id: u64, present: &[Present]) -> Result<Vec<Command>, CalledOff> {
        let (targets, missing) = chosen(&self.wish, present);
        let hosts = targets.iter().map(shown).collect();
        self.say(Kind::Hosts(preheat_event::Hosts { hosts }))?;
        for why in missing {
            self.fail(None, None, why)?;
        }
        let resolvers = resolvers(present, &targets, RESOLVERS);
        let mut left: VecDeque<HostId> = resolvers.iter().map(|host| host.host).collect();
        match left.pop_front().filter(|_| !targets.is_empty()) {
            Some(asked) => {
                self.targets = targets.iter().map(|host| host.host).collect();
                let seeds = targets.iter().filter(|host| host.seed);
                self.seeds = seeds.map(|host| host.host).collect();
                self.stage = Stage::Resolving { asked, left };
                Ok(self.ask_to_resolve(id))
            }
            None if self.wish.except.is_empty() => {
                self.fail(None, None, "no host that is meant is here".to_owned())?;
                Ok(Vec::new())
            }
            // Other schedulers have them all.
            None => Ok(Vec::new()),
        }
    }

    fn say(&mut self, kind: Kind) -> Result<(), CalledOff> {
        self.backlog.say(kind)
    }

    fn fail(
        &mut self,
        host: Option<HostId>,
        digest: Option<Digest>,
        why: String,
    ) -> Result<(), CalledOff> {
        self.say(Kind::Failed(preheat_event::Failed {
            host: host.map_or_else(Bytes::new, id_bytes),
            digest: digest.map(|digest| digest.to_string()).unwrap_or_default(),
            why,
        }))
    }

    fn ask_to_resolve(&self, id: u64) -> Vec<Command> {
        let Stage::Resolving { asked, .. } = &self.stage else {
            return Vec::new();
        };
        let what = Order::Resolve {
            subject: self.wish.subject.clone(),
            authorization: self.wish.authorization.clone(),
        };
        vec![order(*asked, id, what)]
    }

    fn heard(
        &mut self,
        id: u64,
        host: HostId,
        report: Report,
        forbids: impl Fn(&HostId, &Origin) -> bool,
    ) -> Result<Vec<Command>, CalledOff> {
        match (report, &mut self.stage) {
            (
                Report::Resolved {
                    upstream,
                    contents,
                    token,
                },
                Stage::Resolving { asked, .. },
            ) if *asked == host => {
                let brought = &self.wish.authorization;
                let secrets = Secrets::new(brought, token, &self.targets, &self.seeds);
                let have = Have {
                    upstream,
                    repository: self.wish.subject.repository(),
                    contents,
                    // Each host's own.
                    authorization: Authorization::default(),
                    private: secrets.are_there(),
                    at_once: self.wish.contents_at_once,
                    pin_seconds: self.wish.pin_seconds,
                    timeout_seconds: self.wish.timeout_seconds,
                };
                self.resolved(id, have, secrets, forbids)
            }
            (
                Report::Unresolved {
                    digest,
                    why,
                    elsewhere,
                },
                Stage::Resolving { asked, .. },
            ) if *asked == host => self.unresolved(id, host, digest, why, elsewhere),
            (Report::Held(digests), Stage::Having { active, .. }) => {
                let Some(open) = active.get_mut(&host) else {
                    return Ok(Vec::new());
                };
                let mut news = digests;
                news.retain(|digest| open.remove(digest));
                self.say(Kind::Held(preheat_event::Held {
                    host: id_bytes(host),
                    digests: news.iter().map(ToString::to_string).collect(),
                }))?;
                Ok(self.go_on(id))
            }
            (Report::Lacks { digest, why }, Stage::Having { active, .. }) => {
                let Some(open) = active.get_mut(&host) else {
                    return Ok(Vec::new());
                };
                let is_news = match &digest {
                    Some(digest) => open.remove(digest),
                    None => !std::mem::take(open).is_empty(),
                };
                if is_news {
                    self.fail(Some(host), digest, why)?;
                }
                Ok(self.go_on(id))
            }
            _ => Ok(Vec::new()),
        }
    }

    fn resolved(
        &mut self,
        id: u64,
        have: Have,
        secrets: Secrets,
        forbids: impl Fn(&HostId, &Origin) -> bool,
    ) -> Result<Vec<Command>, CalledOff> {
        let contents = have.contents.iter().map(Into::into).collect();
        self.say(Kind::Contents(preheat_event::Contents { contents }))?;
        let origin = Origin {
            upstream: have.upstream.clone(),
            repository: have.repository.clone(),
            kind: OriginKind::Blob,
            private: false,
        };
        let (forbidden, waiting): (Vec<HostId>, Vec<HostId>) =
            self.targets.iter().partition(|host| forbids(host, &origin));
        for host in forbidden {
            self.fail(Some(host), None, "a rule forbids it".to_owned())?;
        }
        let (readers, others): (Vec<HostId>, Vec<HostId>) =
            waiting.into_iter().partition(|host| secrets.let_read(host));
        let waiting = [readers, others].concat();
        self.stage = Stage::Having {
            have,
            secrets: Box::new(secrets),
            active: HashMap::new(),
            waiting: waiting.into(),
        };
        Ok(self.go_on(id))
    }

    fn unresolved(
        &mut self,
        id: u64,
        host: HostId,
        digest: Option<Digest>,
        why: String,
        elsewhere: bool,
    ) -> Result<Vec<Command>, CalledOff> {
        if elsewhere
            && let Stage::Resolving { asked, left } = &mut self.stage
            && let Some(next) = left.pop_front()
        {
            *asked = next;
            return Ok(self.ask_to_resolve(id));
        }
        let blamed = elsewhere.then_some(host);
        self.stage = Stage::Over;
        self.fail(blamed, digest, why)?;
        Ok(Vec::new())
    }

    fn gone(&mut self, id: u64, host: HostId) -> Result<Vec<Command>, CalledOff> {
        let why = || "the host has left".to_owned();
        let before = self.targets.len();
        self.targets.retain(|one| *one != host);
        let was_meant = self.targets.len() < before;
        match &mut self.stage {
            Stage::Resolving { asked, left } => {
                left.retain(|one| *one != host);
                let was_asked = *asked == host;
                if was_meant {
                    self.fail(Some(host), None, why())?;
                }
                if !was_asked {
                    return Ok(Vec::new());
                }
                self.unresolved(id, host, None, why(), true)
            }
            Stage::Having {
                active, waiting, ..
            } => {
                let was_waiting = waiting.contains(&host);
                waiting.retain(|one| *one != host);
                if active.remove(&host).is_some() || was_waiting {
                    self.fail(Some(host), None, why())?;
                }
                Ok(self.go_on(id))
            }
            Stage::Over => Ok(Vec::new()),
        }
    }

    /// Lets the next hosts begin, where others are done; those that can't read the registry when
    /// all that can have ended.
    fn go_on(&mut self, id: u64) -> Vec<Command> {
        let most = self.wish.hosts_at_once;
        let Stage::Having {
            have,
            secrets,
            active,
            waiting,
        } = &mut self.stage
        else {
            return Vec::new();
        };
        active.retain(|_, open| !open.is_empty());
        let mut commands = Vec::new();
        while (most == 0 || active.len() < most)
            && let Some(host) = waiting.front().copied()
            && (secrets.let_read(&host) || !active.keys().any(|host| secrets.let_read(host)))
        {
            waiting.pop_front();
            let digest = |content: &Content| content.digest;
            active.insert(host, have.contents.iter().map(digest).collect());
            let have = Have {
                authorization: secrets.of(&host),
                ..have.clone()
            };
            commands.push(order(host, id, Order::Have(have)));
        }
        commands
    }

    fn stop(&self, id: u64) -> Vec<Command> {
        let asked: Vec<HostId> = match &self.stage {
            Stage::Resolving { asked, .. } => vec![*asked],
            Stage::Having { active, .. } => active.keys().copied().collect(),
            Stage::Over => Vec::new(),
        };
        let stop = |host| order(host, id, Order::Stop);
        asked.into_iter().map(stop).collect()
    }
}

fn order(host: HostId, run: u64, what: Order) -> Command {
    let message = SchedulerMessage::Preheat(PreheatOrder { run, what });
    Command { host, message }
}

fn id_bytes(host: HostId) -> Bytes {
    Bytes::copy_from_slice(host.as_bytes())
}

fn shown(host: &Present) -> PreheatHost {
    PreheatHost {
        host: id_bytes(host.host),
        name: host.name.clone(),
        ip: host.ip.to_string(),
    }
}

#[cfg(test)]
mod tests;
