//! One preheat: who was asked, and who has had his say.
//!
//! Owner of state: [`Run`], in the table of runs. Invariants: it is over when every chosen host
//! has held, or failed, every content; what is passed on are the hosts' own words, and that of a
//! session that has ended: its host failed what it had not said to hold. What all are to have is
//! one host's word, which is held against the wish ([`answer`]).

use std::collections::VecDeque;

use bytes::Bytes;
use darter_api::{
    Digest, HostId, Origin, OriginKind, UpstreamName,
    preheat::{Authorization, Content, Have, Order, PreheatOrder, Present, Report, Subject},
    session::SchedulerMessage,
    wire::v1::{
        PreheatHost,
        preheat_event::{self, Kind},
    },
};

use super::{
    Events, Wish, answer,
    backlog::{Backlog, CalledOff},
    choice::{Chosen, chosen, resolvers},
    secrets::Secrets,
    turns::Turns,
};
use crate::core::Command;

/// Hosts that are asked, one after the other, what there is to have.
const RESOLVERS: usize = 3;
/// Beats, of a second each, for one of them to say it: a host itself gives up after a minute.
const RESOLVE_PATIENCE: u32 = 75;
const LEFT: &str = "the host has left";

/// See the module.
#[derive(Debug)]
pub(super) struct Run {
    id: u64,
    wish: Wish,
    backlog: Backlog,
    /// Bytes of orders that may go out before the next beat.
    share: usize,
    /// Those that are meant and have not left, until contents are being had.
    targets: Vec<Present>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// One is being asked, for so many beats; the others are left.
    Resolving {
        asked: Present,
        left: VecDeque<Present>,
        beats: u32,
    },
    /// Contents are being had.
    Having {
        have: Have,
        secrets: Box<Secrets>,
        turns: Box<Turns>,
    },
    /// Nothing is asked of anybody.
    Over,
}

/// What one host found for all.
struct Found {
    upstream: UpstreamName,
    contents: Vec<Content>,
    token: Authorization,
}

impl Run {
    /// Nobody is asked yet.
    pub(super) fn new(id: u64, wish: Wish, events: Events, share: usize) -> Self {
        Self {
            id,
            wish,
            backlog: Backlog::new(events),
            share,
            targets: Vec::new(),
            stage: Stage::Over,
        }
    }

    /// Says its end if it is over; whether that is done.
    pub(super) fn end(&mut self) -> Result<bool, CalledOff> {
        let is_over = match &self.stage {
            Stage::Resolving { .. } => false,
            Stage::Having { turns, .. } => turns.is_over(),
            Stage::Over => true,
        };
        match is_over {
            true => self.backlog.end(),
            false => Ok(false),
        }
    }

    /// Chooses among those that are here.
    pub(super) fn begin(&mut self, present: &[Present]) -> Result<Vec<Command>, CalledOff> {
        let Chosen {
            here,
            left,
            missing,
        } = chosen(&self.wish, present);
        let hosts = here.iter().map(shown).collect();
        self.say(Kind::Hosts(preheat_event::Hosts { hosts }))?;
        let is_said = !left.is_empty() || !self.wish.except.is_empty();
        for host in left {
            self.fail(Some(host), None, LEFT.to_owned())?;
        }
        for why in missing {
            self.fail(None, None, why)?;
        }
        let mut resolvers: VecDeque<Present> = resolvers(present, &here, RESOLVERS).into();
        match resolvers.pop_front().filter(|_| !here.is_empty()) {
            Some(asked) => {
                self.targets = here;
                Ok(vec![self.ask_to_resolve(asked, resolvers)])
            }
            // Other schedulers have them all, or each was named.
            None if is_said => Ok(Vec::new()),
            None => {
                self.fail(None, None, "no host that is meant is here".to_owned())?;
                Ok(Vec::new())
            }
        }
    }

    /// A second has passed; orders of so many bytes may go out before the next one.
    pub(super) fn beat(&mut self, share: usize) -> Result<Vec<Command>, CalledOff> {
        self.backlog.beat()?;
        self.share = share;
        match &mut self.stage {
            Stage::Resolving { asked, beats, .. } => {
                *beats += 1;
                if *beats <= RESOLVE_PATIENCE {
                    return Ok(Vec::new());
                }
                let silent = asked.host;
                let mut commands = vec![self.order(silent, Order::Stop)];
                let why = "it does not say what there is to have".to_owned();
                commands.extend(self.unresolved(silent, None, why, true)?);
                Ok(commands)
            }
            Stage::Having { turns, .. } => {
                turns.allow(share);
                turns.beat();
                Ok(self.go_on())
            }
            Stage::Over => Ok(Vec::new()),
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

    fn ask_to_resolve(&mut self, asked: Present, left: VecDeque<Present>) -> Command {
        let what = Order::Resolve {
            subject: self.wish.subject.clone(),
            authorization: self.wish.authorization.clone(),
        };
        let command = self.order(asked.host, what);
        self.stage = Stage::Resolving {
            asked,
            left,
            beats: 0,
        };
        command
    }

    /// A host says how an order goes. What it was not asked, or has said before, is no news.
    pub(super) fn heard(
        &mut self,
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
            ) if asked.host == host => {
                if let Err(odd) = answer::check(&self.wish.subject, &contents) {
                    let name = &asked.name;
                    tracing::warn!(%host, name, %odd, "a host finds what was not asked for");
                    return self.unresolved(host, None, odd.to_string(), true);
                }
                let found = Found {
                    upstream,
                    contents,
                    token,
                };
                self.resolved(found, forbids)
            }
            (
                Report::Unresolved {
                    digest,
                    why,
                    elsewhere,
                },
                Stage::Resolving { asked, .. },
            ) if asked.host == host => self.unresolved(host, digest, why, elsewhere),
            (Report::Held(digests), Stage::Having { turns, .. }) => {
                let news = turns.holds(&host, &digests);
                if !news.is_empty() {
                    self.backlog.held(host, &news)?;
                }
                Ok(self.go_on())
            }
            (Report::Lacks { digest, why }, Stage::Having { turns, .. }) => {
                if turns.lacks(&host, digest.as_ref()) {
                    self.fail(Some(host), digest, why)?;
                }
                Ok(self.go_on())
            }
            _ => Ok(Vec::new()),
        }
    }

    fn resolved(
        &mut self,
        found: Found,
        forbids: impl Fn(&HostId, &Origin) -> bool,
    ) -> Result<Vec<Command>, CalledOff> {
        let have = self.what_to_have(&found);
        self.backlog.name(have.contents.clone())?;
        let origin = Origin {
            upstream: have.upstream.clone(),
            repository: have.repository.clone(),
            kind: OriginKind::Blob,
            private: false,
        };
        let targets = std::mem::take(&mut self.targets);
        let (forbidden, allowed): (Vec<Present>, Vec<Present>) = targets
            .into_iter()
            .partition(|host| forbids(&host.host, &origin));
        for host in forbidden {
            self.fail(Some(host.host), None, "a rule forbids it".to_owned())?;
        }
        let secrets = Secrets::new(&self.wish.authorization, found.token, &allowed);
        let hosts = allowed.into_iter().map(|host| host.host);
        let (readers, others): (Vec<HostId>, Vec<HostId>) =
            hosts.partition(|host| secrets.let_read(host));
        let mut turns = Box::new(Turns::new(&have.contents, readers, others));
        turns.allow(self.share);
        self.stage = Stage::Having {
            have,
            secrets: Box::new(secrets),
            turns,
        };
        Ok(self.go_on())
    }

    /// The order of all hosts, without what each is given to sign in with.
    fn what_to_have(&self, found: &Found) -> Have {
        Have {
            upstream: found.upstream.clone(),
            repository: self.wish.subject.repository(),
            registry: match &self.wish.subject {
                Subject::Image(image) => Some(image.registry.clone()),
                Subject::Files(_) => None,
            },
            contents: found.contents.as_slice().into(),
            authorization: Authorization::default(),
            private: self.wish.authorization.reveal().is_some(),
            at_once: self.wish.contents_at_once,
            pin_seconds: self.wish.pin_seconds,
            timeout_seconds: self.wish.timeout_seconds,
        }
    }

    /// The host that was asked what there is can't say it: the next one is asked, where that
    /// may help, else all is over.
    fn unresolved(
        &mut self,
        host: HostId,
        digest: Option<Digest>,
        why: String,
        elsewhere: bool,
    ) -> Result<Vec<Command>, CalledOff> {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        let Stage::Resolving {
            asked, mut left, ..
        } = stage
        else {
            self.stage = stage;
            return Ok(Vec::new());
        };
        if elsewhere && let Some(next) = left.pop_front() {
            return Ok(vec![self.ask_to_resolve(next, left)]);
        }
        // The manager knows the hosts that are meant, and a seed may be none of them.
        let is_known = self.targets.iter().any(|one| one.host == host);
        let why = match elsewhere && !is_known {
            true => format!("{}: {why}", asked.name),
            false => why,
        };
        self.fail(elsewhere.then_some(host), digest, why)?;
        Ok(Vec::new())
    }

    /// A host's session has ended.
    pub(super) fn gone(&mut self, host: HostId) -> Result<Vec<Command>, CalledOff> {
        match &mut self.stage {
            Stage::Resolving { asked, left, .. } => {
                left.retain(|one| one.host != host);
                let was_asked = asked.host == host;
                let before = self.targets.len();
                self.targets.retain(|one| one.host != host);
                if self.targets.len() < before {
                    self.fail(Some(host), None, LEFT.to_owned())?;
                }
                match was_asked {
                    true => self.unresolved(host, None, LEFT.to_owned(), true),
                    false => Ok(Vec::new()),
                }
            }
            Stage::Having { turns, .. } => {
                if turns.gone(&host) {
                    self.fail(Some(host), None, LEFT.to_owned())?;
                }
                Ok(self.go_on())
            }
            Stage::Over => Ok(Vec::new()),
        }
    }

    /// Lets the next hosts begin, where it is their turn.
    fn go_on(&mut self) -> Vec<Command> {
        let (id, most) = (self.id, self.wish.hosts_at_once);
        let Stage::Having {
            have,
            secrets,
            turns,
        } = &mut self.stage
        else {
            return Vec::new();
        };
        let mut commands = Vec::new();
        while let Some(host) = turns.next(most) {
            let have = Have {
                authorization: secrets.of(&host),
                ..have.clone()
            };
            commands.push(order(host, id, Order::Have(have)));
        }
        commands
    }

    /// What those are told that were asked, where it is called off.
    pub(super) fn stop(&self) -> Vec<Command> {
        let stop = |host| self.order(host, Order::Stop);
        match &self.stage {
            Stage::Resolving { asked, .. } => vec![stop(asked.host)],
            Stage::Having { turns, .. } => turns.asked().map(stop).collect(),
            Stage::Over => Vec::new(),
        }
    }

    fn order(&self, host: HostId, what: Order) -> Command {
        order(host, self.id, what)
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
