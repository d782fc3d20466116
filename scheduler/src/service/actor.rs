//! The actor that owns the core: what comes in from sessions and managers, what goes out.
//!
//! Owner of state: [`Actor`]. A host that does not read its outbox is disconnected, and comes back
//! with a new hello.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use darter_api::{
    HostId, NodeKey, Origin, Timestamp,
    configuration::SchedulerSettings,
    errand::Errand,
    session::{Hello, PeerMessage, SchedulerMessage},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;

use super::session::Parcel;
use crate::{
    Metrics, Options,
    beats::Beats,
    core::{Cluster, Command, Event},
    inspect::{MAX_LISTED, Question},
    operations::{Begun, Errands},
    preheats::{self, Runs, Wish},
};

pub(crate) enum Inbound {
    Asked(Question),
    /// The guard goes when the session is over for the actor.
    Up(Hello, mpsc::Sender<Parcel>, DropGuard),
    Down(HostId, u64),
    /// Boxed, for the sessions that wait to say it.
    Message(HostId, u64, Box<PeerMessage>),
    Preheat(Wish, preheats::Events),
    Set(SchedulerSettings),
    Errand(Errand, oneshot::Sender<Begun>),
}

struct Outbox {
    epoch: u64,
    sender: mpsc::Sender<Parcel>,
    _session: DropGuard,
}

pub(super) struct Actor {
    pub(super) cluster: Cluster,
    origin: Instant,
    outboxes: HashMap<HostId, Outbox>,
    runs: Runs,
    errands: Errands,
    /// Managers' preheats are refused so long after `origin`.
    preheat_settle: Duration,
    metrics: Metrics,
    beats: Beats,
}

impl Actor {
    pub(super) fn new(options: Options, key: NodeKey, metrics: Metrics) -> Self {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(0);
        Self {
            preheat_settle: options.preheat_settle,
            cluster: Cluster::new(options, key, Timestamp::ZERO, unix_ms, rand::random()),
            origin: Instant::now(),
            outboxes: HashMap::new(),
            runs: Runs::new(rand::random()),
            errands: Errands::new(rand::random()),
            metrics,
            beats: Beats::default(),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::ZERO + self.origin.elapsed()
    }

    pub(super) async fn run(mut self, mut events: mpsc::Receiver<Inbound>) {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            let now = self.now();
            let tick = at(now, self.cluster.next_deadline(now));
            let beat = at(now, self.beats.due());
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.take(event),
                    None => return,
                },
                () = tick => {
                    let commands = self.cluster.tick(self.now());
                    self.say(commands);
                }
                () = beat => self.beat(),
                _ = second.tick() => self.look_after(),
            }
        }
    }

    /// Takes what came in.
    pub(super) fn take(&mut self, event: Inbound) {
        let begin = Instant::now();
        let now = self.now();
        let commands = match event {
            Inbound::Asked(question) => return self.answer(question),
            Inbound::Set(settings) => return self.cluster.set(&settings),
            Inbound::Preheat(_, events) if self.origin.elapsed() < self.preheat_settle => {
                // A part of the hosts would be taken for all of them.
                let status = tonic::Status::unavailable("hosts are still coming");
                let _ = events.try_send(Err(status));
                return;
            }
            Inbound::Preheat(wish, events) => self.runs.begin(wish, self.cluster.present(), events),
            Inbound::Errand(errand, begun) => {
                let present = self.cluster.present();
                let (events, commands) = self.errands.begin(now, errand, present);
                let _ = begun.send(events);
                commands
            }
            Inbound::Up(hello, sender, session) => self.up(now, hello, sender, session),
            Inbound::Down(host, epoch) => self.down(now, host, epoch),
            Inbound::Message(host, epoch, message) => self.heard(now, host, epoch, *message),
        };
        self.say(commands);
        self.metrics.decision.observe(begin.elapsed().as_secs_f64());
    }

    /// A session has begun. One whose hello was overtaken by a later one's ends here, since
    /// nobody keeps its outbox.
    fn up(
        &mut self,
        now: Timestamp,
        hello: Hello,
        sender: mpsc::Sender<Parcel>,
        session: DropGuard,
    ) -> Vec<Command> {
        if self.cluster.is_late(&hello) {
            return Vec::new();
        }
        let (host, epoch) = (hello.host, hello.epoch);
        // What was ordered in another session, the host may not have heard.
        let commands = self.forget_orders(host);
        self.say(commands);
        let outbox = Outbox {
            epoch,
            sender,
            _session: session,
        };
        let replaced = self.outboxes.insert(host, outbox);
        if replaced.is_none() {
            self.metrics.sessions.inc();
        }
        self.beats.begin(now, host, epoch);
        self.cluster.handle(now, Event::HostUp(hello))
    }

    fn down(&mut self, now: Timestamp, host: HostId, epoch: u64) -> Vec<Command> {
        if self.is_current(&host, epoch) {
            self.outboxes.remove(&host);
            self.metrics.sessions.dec();
            let commands = self.forget_orders(host);
            self.say(commands);
        }
        self.cluster.handle(now, Event::HostDown { host, epoch })
    }

    /// A host spoke; what it says in a session that another one has followed counts for nothing.
    fn heard(
        &mut self,
        now: Timestamp,
        host: HostId,
        epoch: u64,
        message: PeerMessage,
    ) -> Vec<Command> {
        self.metrics.received.inc();
        if !self.is_current(&host, epoch) {
            return Vec::new();
        }
        match message {
            PeerMessage::Errand(report) => {
                if let Some(tag) = self.errands.report(host, report) {
                    let (upstream, repository) = (&tag.upstream, &tag.repository);
                    self.cluster.forget_tag(upstream, repository, &tag.tag);
                }
                Vec::new()
            }
            PeerMessage::Preheat(report) => {
                let forbids =
                    |host: &HostId, origin: &Origin| self.cluster.is_forbidden(host, origin);
                self.runs.report(host, report, forbids)
            }
            PeerMessage::Resting => {
                self.outboxes.remove(&host);
                self.metrics.sessions.dec();
                self.cluster.handle(now, Event::HostRests { host, epoch })
            }
            message => self.cluster.handle(now, Event::Message { host, message }),
        }
    }

    /// Whether this is the session that the host has.
    fn is_current(&self, host: &HostId, epoch: u64) -> bool {
        let outbox = self.outboxes.get(host);
        outbox.is_some_and(|outbox| outbox.epoch == epoch)
    }

    /// A session has ended, and with it what was ordered in it.
    fn forget_orders(&mut self, host: HostId) -> Vec<Command> {
        self.errands.gone(host);
        self.runs.gone(host)
    }

    /// Who asked may have left.
    fn answer(&mut self, question: Question) {
        match question {
            Question::Tasks(answer) => {
                let total = self.cluster.counts().tasks;
                let _ = answer.send((total, self.cluster.summaries(MAX_LISTED)));
            }
            Question::TasksAfter(after, most, answer) => {
                let _ = answer.send(self.cluster.tasks_after(after.as_ref(), most));
            }
            Question::TasksOf(tasks, answer) => {
                let _ = answer.send(self.cluster.summaries_of(&tasks));
            }
            Question::Hosts(after, most, answer) => {
                let hosts = self.cluster.hosts_after(self.now(), after.as_ref(), most);
                let _ = answer.send(hosts);
            }
            Question::Graph(task, answer) => {
                let _ = answer.send(self.cluster.graph(&task));
            }
            Question::Preheat(wish, answer) => {
                let done = self.cluster.preheat(&wish).map(|(commands, done)| {
                    self.say(commands);
                    done
                });
                let _ = answer.send(done);
            }
        }
    }

    /// Says it all, and what follows from hosts that don't hear it. One that is full may have
    /// neighbours that are: they are told in turn, and not each within the other's telling.
    pub(super) fn say(&mut self, commands: Vec<Command>) {
        let mut left = VecDeque::from(commands);
        while let Some(Command { host, message }) = left.pop_front() {
            if !self.send(host, &message) {
                left.extend(self.disconnect(host));
            }
        }
    }

    /// Whether a host that is here takes it.
    fn send(&mut self, host: HostId, message: &SchedulerMessage) -> bool {
        let Some(outbox) = self.outboxes.get(&host) else {
            return true;
        };
        self.metrics.sent.inc();
        log_lease(&host, message);
        let sent = outbox.sender.try_send(Box::new(Ok(message.into())));
        sent.is_ok()
    }

    /// Ends the session of a host that does not read it; what is to be said of that.
    fn disconnect(&mut self, host: HostId) -> Vec<Command> {
        let Some(Outbox { epoch, .. }) = self.outboxes.remove(&host) else {
            return Vec::new();
        };
        tracing::warn!(
            ?host,
            "a peer does not read its session; it is disconnected"
        );
        self.metrics.sessions.dec();
        let mut commands = self.forget_orders(host);
        let now = self.now();
        commands.extend(self.cluster.handle(now, Event::HostDown { host, epoch }));
        commands
    }

    /// Has those hear from this scheduler whose turn it is.
    fn beat(&mut self) {
        let now = self.now();
        let outboxes = &self.outboxes;
        let stands = |host: &HostId, epoch| {
            let outbox = outboxes.get(host);
            outbox.is_some_and(|outbox| outbox.epoch == epoch)
        };
        let beats = self.beats.take(now, stands).into_iter();
        let beats = beats.map(|host| Command {
            host,
            message: SchedulerMessage::Heartbeat,
        });
        self.say(beats.collect());
    }

    /// Once a second.
    fn look_after(&mut self) {
        self.errands.beat(self.now());
        let commands = self.runs.beat();
        self.say(commands);
        self.metrics.show(&self.cluster.counts());
    }
}

/// Who may read what, for who looks into why a source was read twice.
fn log_lease(host: &HostId, message: &SchedulerMessage) {
    match message {
        SchedulerMessage::Grant(grant) => {
            let (task, pieces) = (grant.task, &grant.pieces);
            tracing::debug!(?host, %task, ?pieces, "a lease is granted");
        }
        SchedulerMessage::Revoked { task, pieces } => {
            tracing::debug!(?host, %task, ?pieces, "a lease is taken back");
        }
        _ => {}
    }
}

/// When it is `due`; never, if it is not. What is due is ready when it is first looked at: a timer is
/// not, and beside an inbox that is never empty nobody looks twice.
async fn at(now: Timestamp, due: Option<Timestamp>) {
    match due {
        Some(due) if due <= now => {}
        Some(due) => tokio::time::sleep(due.since(now)).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn what_is_due_need_not_be_looked_at_twice() {
        let now = Timestamp::ZERO + Duration::from_secs(1);
        assert!(futures::poll!(pin!(at(now, Some(now)))).is_ready());
        let soon = Some(now + Duration::from_secs(1));
        assert!(futures::poll!(pin!(at(now, soon))).is_pending());
        assert!(futures::poll!(pin!(at(now, None))).is_pending());
    }
}
