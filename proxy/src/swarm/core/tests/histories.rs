//! The invariants after every step of random histories.

use std::collections::{BTreeMap, BTreeSet};

use darter_api::{
    Grant, HostId, Lengths, PieceIndex, PieceSet, TaskId, Timestamp,
    link::LinkMessage,
    session::{LeaseEnd, Neighbour, Purpose, Role, SchedulerMessage},
};
use proptest::prelude::*;

use super::{
    super::{
        event::{PieceFailure, ReaderId, RequestId},
        *,
    },
    rules::{PIECES, host, lengths, origin, scheduler, task, with_scheduler},
};

/// What is downloaded: so many pieces with bytes, of a size that is known, or not before the end.
#[derive(Debug, Clone, Copy)]
struct Content {
    task: TaskId,
    lengths: Lengths,
}

impl Content {
    fn some() -> impl Strategy<Value = Self> {
        let sized = Self {
            task: task(),
            lengths: lengths(),
        };
        let open = Self {
            task: task().opened(),
            lengths: Lengths::open(),
        };
        prop_oneof![Just(sized), Just(open)]
    }

    fn all(&self) -> u32 {
        self.lengths.pieces()
    }

    /// Who speaks of the last piece speaks of all that lies past it as well.
    fn run(&self, from: u32, count: u32) -> PieceSet {
        let end = match from + count {
            end if end < PIECES => end,
            _ => self.all(),
        };
        PieceSet::from_range(from..end)
    }

    fn start(&self, held: PieceSet) -> Event {
        Event::Start {
            task: self.task,
            lengths: self.lengths,
            origin: origin(),
            held,
            purpose: Purpose::Pull,
        }
    }

    fn neighbours(&self, add: &[u8], remove: &[u8]) -> Event {
        let neighbour = |name: &u8| Neighbour {
            host: host(*name),
            address: ([127, 0, 0, 1], 4000).into(),
            role: Role::Peer,
        };
        let told = SchedulerMessage::Neighbours {
            task: self.task,
            add: add.iter().map(neighbour).collect(),
            remove: remove.iter().map(|name| host(*name)).collect(),
        };
        Event::Session(scheduler(), told)
    }

    fn grant(&self, pieces: PieceSet) -> Event {
        let grant = Grant {
            task: self.task,
            lengths: self.lengths,
            pieces: pieces.first().unwrap_or_default()..pieces.end(),
            holder: host(100),
            granter: host(200),
            issued_unix_ms: 0,
            signature: [0; 64],
        };
        Event::Session(scheduler(), SchedulerMessage::Grant(grant))
    }
}

/// Something that may happen.
#[derive(Debug, Clone)]
enum Step {
    Start,
    Stop,
    Reads(u64, u32),
    Leaves(u64),
    Session(bool),
    Introduced(u8),
    Removed(u8),
    Granted(u32, u32),
    Revoked(u32, u32),
    Unavailable(LeaseEnd),
    Link(u8, bool),
    Subscribes(u8),
    Have(u8, u32, u32),
    Lost(u8, u32, u32),
    Reading(u8, u32, u32),
    /// One of the requests in flight ends, well or not.
    Ends(usize, Option<PieceFailure>),
    /// A parent has said where the content ends.
    Told,
    /// A piece that was cancelled, or never asked for.
    Late(u64),
    SourceGives,
    SourceFails(LeaseEnd),
    /// The content is checked.
    Checked(bool),
    Passes(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0..5u8;
    let range = (0..PIECES, 1..10u32);
    let failure = prop_oneof![
        4 => Just(None),
        1 => Just(Some(PieceFailure::Busy)),
        1 => Just(Some(PieceFailure::NotHeld)),
        1 => Just(Some(PieceFailure::Unreachable)),
        1 => Just(Some(PieceFailure::Stalled)),
        1 => Just(Some(PieceFailure::Rot)),
        1 => Just(Some(PieceFailure::Store)),
    ];
    let end = prop_oneof![
        Just(LeaseEnd::Refused),
        Just(LeaseEnd::Missing),
        Just(LeaseEnd::Unreachable),
    ];
    let told = (who.clone(), range.clone());
    let step = prop_oneof![
        3 => Just(Step::Start),
        1 => Just(Step::Stop),
        2 => (0..3u64, 0..PIECES).prop_map(|(reader, at)| Step::Reads(reader, at)),
        1 => (0..3u64).prop_map(Step::Leaves),
        1 => any::<bool>().prop_map(Step::Session),
        3 => who.clone().prop_map(Step::Introduced),
        1 => who.clone().prop_map(Step::Removed),
        2 => range.clone().prop_map(|(from, count)| Step::Granted(from, count)),
        1 => range.prop_map(|(from, count)| Step::Revoked(from, count)),
        1 => end.clone().prop_map(Step::Unavailable),
        4 => (who.clone(), prop::bool::weighted(0.8)).prop_map(|(who, up)| Step::Link(who, up)),
        2 => who.prop_map(Step::Subscribes),
        6 => told.clone().prop_map(|(who, (from, count))| Step::Have(who, from, count)),
        1 => told.clone().prop_map(|(who, (from, count))| Step::Lost(who, from, count)),
        1 => told.prop_map(|(who, (from, count))| Step::Reading(who, from, count)),
        10 => (0..64usize, failure).prop_map(|(which, how)| Step::Ends(which, how)),
        1 => Just(Step::Told),
        1 => (0..100u64).prop_map(Step::Late),
        4 => Just(Step::SourceGives),
        1 => end.prop_map(Step::SourceFails),
        2 => prop::bool::weighted(0.8).prop_map(Step::Checked),
        4 => (1..3000u64).prop_map(Step::Passes),
    ];
    prop::collection::vec(step, 1..150)
}

/// A core, and what a shell around it would know.
struct History {
    content: Content,
    node: Node,
    now: Timestamp,
    linked: BTreeSet<HostId>,
    announced: BTreeMap<HostId, PieceSet>,
    requests: BTreeMap<RequestId, (HostId, u32)>,
    used: BTreeSet<RequestId>,
    /// What the source is asked for.
    source: PieceSet,
    held: PieceSet,
    started: bool,
    completing: bool,
}

impl History {
    fn new(content: Content) -> Self {
        let options = Options {
            window: 8,
            pipeline: 3,
            in_flight: 10,
            ..Options::default()
        };
        Self {
            content,
            node: with_scheduler(Node::new(options, host(100), 3), true),
            now: Timestamp::ZERO,
            linked: BTreeSet::new(),
            announced: BTreeMap::new(),
            requests: BTreeMap::new(),
            used: BTreeSet::new(),
            source: PieceSet::new(),
            held: PieceSet::new(),
            started: false,
            completing: false,
        }
    }

    fn handle(&mut self, event: Event) {
        let commands = self.node.handle(self.now, event);
        self.execute(commands);
    }

    fn execute(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Request {
                    request,
                    host,
                    piece,
                    ..
                } => {
                    assert!(self.used.insert(request), "no id is used twice");
                    assert!(self.linked.contains(&host), "who is asked is linked");
                    let announced = self.announced.get(&host);
                    let announced = announced.is_some_and(|set| set.contains(piece.0));
                    assert!(announced, "{piece} was not announced by {host:?}");
                    assert!(piece.0 < self.content.all());
                    assert!(!self.held.contains(piece.0), "{piece} is held");
                    self.requests.insert(request, (host, piece.0));
                }
                Command::Cancel(request) => {
                    assert!(self.requests.remove(&request).is_some(), "it was in flight");
                }
                Command::ReadSource { pieces, .. } => {
                    assert!(pieces.intersection(&self.held).is_empty());
                    self.source = pieces;
                }
                Command::StopSource { .. } => self.source = PieceSet::new(),
                Command::Complete { .. } => {
                    assert_eq!(self.held.len(), self.content.all());
                    self.source = PieceSet::new();
                    self.completing = true;
                }
                Command::Fail { .. } => {
                    self.source = PieceSet::new();
                    self.started = false;
                }
                _ => {}
            }
        }
    }

    fn pass(&mut self, millis: u64) {
        let until = self.now + Duration::from_millis(millis);
        while let Some(at) = self.node.next_deadline(self.now).filter(|at| *at <= until) {
            assert!(at >= self.now);
            self.now = at.max(self.now + Duration::from_millis(1));
            let commands = self.node.tick(self.now);
            self.execute(commands);
        }
        self.now = until;
    }

    fn link_message(&mut self, name: u8, message: LinkMessage) {
        if self.linked.contains(&host(name)) {
            let host = host(name);
            self.handle(Event::Link { host, message });
        }
    }

    fn source_gives(&mut self) {
        match self.source.first() {
            Some(piece) if piece >= PIECES => self.told(),
            Some(piece) => {
                self.source.remove(piece);
                self.held.insert(piece);
                let (task, piece) = (self.content.task, PieceIndex(piece));
                self.handle(Event::SourcePiece { task, piece });
            }
            None => {}
        }
    }

    /// The driver hears where it ends: what lies past that is held.
    fn told(&mut self) {
        let past = PIECES..self.content.all();
        if past.is_empty() {
            return;
        }
        self.source.remove_range(past.clone());
        self.held.insert_range(past);
        let (task, past) = (self.content.task, PieceIndex(PIECES));
        self.handle(Event::Ends { task, past });
    }

    fn checked(&mut self, good: bool) {
        if !std::mem::take(&mut self.completing) {
            return;
        }
        if good {
            self.started = false;
            let task = self.content.task;
            self.handle(Event::Committed { task });
        } else {
            let (task, pieces) = (self.content.task, std::mem::take(&mut self.held));
            self.handle(Event::Corrupt { task, pieces });
        }
    }

    fn step(&mut self, step: Step) {
        let content = self.content;
        let task = content.task;
        let run = |from, count| content.run(from, count);
        match step {
            Step::Start if self.held.len() < content.all() => {
                self.started = true;
                self.handle(content.start(self.held.clone()));
            }
            Step::Start => {}
            // As the driver: what is whole is committed, wanted or not.
            Step::Stop if self.started && !self.completing => {
                self.started = false;
                self.handle(Event::Stop { task });
            }
            Step::Stop => {}
            Step::Reads(reader, at) => self.handle(Event::Reader {
                task,
                reader: ReaderId(reader),
                wants: at..content.all(),
            }),
            Step::Leaves(reader) => self.handle(Event::ReaderGone {
                task,
                reader: ReaderId(reader),
            }),
            Step::Session(true) => self.handle(Event::SessionUp(scheduler())),
            Step::Session(false) => self.handle(Event::SessionDown(scheduler())),
            Step::Introduced(name) => self.handle(content.neighbours(&[name], &[])),
            Step::Removed(name) => {
                self.announced.remove(&host(name));
                self.handle(content.neighbours(&[], &[name]));
            }
            Step::Granted(from, count) => self.handle(content.grant(run(from, count))),
            Step::Revoked(from, count) => {
                let pieces = run(from, count);
                self.handle(Event::Session(
                    scheduler(),
                    SchedulerMessage::Revoked { task, pieces },
                ));
            }
            Step::Unavailable(why) => {
                self.handle(Event::Session(
                    scheduler(),
                    SchedulerMessage::Unavailable {
                        task,
                        why,
                        forbidden: false,
                    },
                ));
            }
            Step::Link(name, true) => {
                self.linked.insert(host(name));
                self.handle(Event::LinkUp(host(name)));
            }
            Step::Link(name, false) => {
                self.linked.remove(&host(name));
                self.announced.remove(&host(name));
                self.handle(Event::LinkDown(host(name)));
            }
            Step::Subscribes(name) => {
                let lengths = content.lengths;
                let waits = name % 2 == 0;
                let message = LinkMessage::Subscribe {
                    task,
                    lengths,
                    waits,
                };
                self.link_message(name, message);
            }
            Step::Have(name, from, count) => {
                if self.linked.contains(&host(name)) {
                    let pieces = run(from, count);
                    let announced = self.announced.entry(host(name)).or_default();
                    announced.union_with(&pieces);
                    self.link_message(name, LinkMessage::Have { task, pieces });
                }
            }
            Step::Lost(name, from, count) => {
                let pieces = run(from, count);
                if let Some(announced) = self.announced.get_mut(&host(name)) {
                    announced.subtract(&pieces);
                }
                self.link_message(name, LinkMessage::Lost { task, pieces });
            }
            Step::Reading(name, from, count) => {
                let pieces = run(from, count);
                self.link_message(name, LinkMessage::Reading { task, pieces });
            }
            Step::Ends(which, how) => self.ends(which, how),
            Step::Told if self.started => self.told(),
            Step::Told => {}
            Step::Late(id) => {
                let request = RequestId(id);
                if !self.requests.contains_key(&request) {
                    self.handle(Event::PieceStored(request));
                }
            }
            Step::SourceGives => self.source_gives(),
            Step::SourceFails(why) => {
                if !self.source.is_empty() {
                    self.source = PieceSet::new();
                    self.handle(Event::SourceFailed { task, why });
                }
            }
            Step::Checked(good) => self.checked(good),
            Step::Passes(millis) => self.pass(millis),
        }
    }

    fn ends(&mut self, which: usize, how: Option<PieceFailure>) {
        let at = which % self.requests.len().max(1);
        let Some((request, (_, piece))) = self.requests.iter().nth(at) else {
            return;
        };
        let (request, piece) = (*request, *piece);
        if how.is_none() && piece >= PIECES {
            // It was the end that came, before it was said that it did.
            self.told();
        }
        self.requests.remove(&request);
        match how {
            None if piece >= PIECES => self.handle(Event::PieceStored(request)),
            None => {
                self.held.insert(piece);
                self.handle(Event::PieceStored(request));
            }
            Some(failure) => self.handle(Event::PieceFailed { request, failure }),
        }
    }

    fn check(&self) {
        let options = &self.node.options;
        assert_eq!(self.node.requests_in_flight(), self.requests.len());
        assert!(self.requests.len() <= options.in_flight as usize);
        let mut by_host: BTreeMap<HostId, u32> = BTreeMap::new();
        for (host, _) in self.requests.values() {
            *by_host.entry(*host).or_default() += 1;
        }
        for (host, known) in &self.node.state.hosts {
            let count = by_host.get(host).copied().unwrap_or(0);
            assert_eq!(known.in_flight, count);
            assert!(count <= options.pipeline);
        }
        let Some(task) = self.node.state.tasks.get(&self.content.task) else {
            assert!(self.requests.is_empty() && self.source.is_empty());
            return;
        };
        assert_eq!(task.held, self.held, "what is held");
        assert_eq!(task.reading, self.source, "what is read");
        let mut asked = PieceSet::new();
        for (piece, requests) in task.download.iter().flat_map(|one| &one.in_flight) {
            asked.insert(*piece);
            for request in requests {
                assert_eq!(self.requests[request].1, *piece);
            }
        }
        for (one, other) in [
            (&task.held, &task.reading),
            (&task.held, &asked),
            (&task.reading, &asked),
        ] {
            let both = one.intersection(other);
            assert!(both.is_empty(), "{both:?} is in two states");
        }
    }

    /// Nobody is there any more, and the source gives all: it ends.
    fn must_end(&mut self) {
        self.handle(Event::SessionDown(scheduler()));
        for name in 0..5 {
            self.step(Step::Link(name, false));
        }
        self.check();
        for _ in 0..200 {
            self.pass(1000);
            self.check();
            while !self.source.is_empty() {
                self.source_gives();
            }
            self.checked(true);
        }
        if self.started {
            panic!("a wanted download neither completes nor fails");
        }
        assert!(self.node.state.busy.is_empty(), "all rests");
        assert_eq!(self.node.next_deadline(self.now), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_invariants_hold_after_every_step(content in Content::some(), steps in steps()) {
        let mut history = History::new(content);
        for step in steps {
            history.step(step);
            history.check();
        }
    }

    #[test]
    fn everything_ends(content in Content::some(), steps in steps()) {
        let mut history = History::new(content);
        for step in steps {
            history.step(step);
        }
        history.must_end();
    }
}
