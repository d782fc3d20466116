//! The invariants after every step of random histories.

use darter_api::{
    Lengths, PieceSet,
    session::{LeaseEnd, ParentReport, PeerMessage, Role},
};
use proptest::prelude::*;

use super::{
    super::*,
    lab::{PIECES, hello, host, join, join_with, lengths, origin, task},
};

const HOSTS: u8 = 12;
const DEGREE: usize = 4;

/// Something that may happen.
#[derive(Debug, Clone)]
enum Step {
    Up(u8),
    Down(u8),
    Join(u8, u8),
    /// It wants a content of that digest that is a byte shorter.
    JoinsShorter(u8, u8),
    Leave(u8, u8),
    Done(u8, u8),
    /// It holds these and those of before.
    Gains(u8, u8, u32, u32),
    Accepts(u8, u8),
    FirstByte(u8, u8, bool),
    Returns(u8, u8, LeaseEnd),
    SelfLeases(u8, u8, u32, u32),
    Starves(u8, u8, u32, u32),
    Evicts(u8, u8),
    Interest(u8, u8),
    /// A child tells of a parent: milliseconds a piece, or that nothing came.
    Reports(u8, u8, Option<u64>),
    Passes(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0..HOSTS;
    let what = 0..2u8;
    let from = 0..PIECES;
    let count = 1..8u32;
    let end = prop_oneof![
        Just(LeaseEnd::NotNeeded),
        Just(LeaseEnd::Refused),
        Just(LeaseEnd::Missing),
        Just(LeaseEnd::Unreachable),
    ];
    let range = (who.clone(), what.clone(), from, count);
    let pair = (who.clone(), what);
    let step = prop_oneof![
        4 => who.clone().prop_map(Step::Up),
        1 => who.prop_map(Step::Down),
        6 => pair.clone().prop_map(|(a, b)| Step::Join(a, b)),
        1 => pair.clone().prop_map(|(a, b)| Step::JoinsShorter(a, b)),
        1 => pair.clone().prop_map(|(a, b)| Step::Leave(a, b)),
        1 => pair.clone().prop_map(|(a, b)| Step::Done(a, b)),
        6 => range.clone().prop_map(|(a, b, c, d)| Step::Gains(a, b, c, d)),
        4 => pair.clone().prop_map(|(a, b)| Step::Accepts(a, b)),
        2 => (pair.clone(), any::<bool>()).prop_map(|((a, b), c)| Step::FirstByte(a, b, c)),
        1 => (pair.clone(), end).prop_map(|((a, b), c)| Step::Returns(a, b, c)),
        1 => range.clone().prop_map(|(a, b, c, d)| Step::SelfLeases(a, b, c, d)),
        1 => range.prop_map(|(a, b, c, d)| Step::Starves(a, b, c, d)),
        1 => pair.clone().prop_map(|(a, b)| Step::Evicts(a, b)),
        1 => pair.prop_map(|(a, b)| Step::Interest(a, b)),
        4 => (0..HOSTS, 0..HOSTS, prop::option::of(1..2000u64)).prop_map(|(a, b, c)| Step::Reports(a, b, c)),
        3 => (1..3000u64).prop_map(Step::Passes),
    ];
    prop::collection::vec(step, 1..120)
}

/// A cluster, its clock, and what hosts were told that they cannot have.
struct History {
    cluster: Cluster,
    now: Timestamp,
    epochs: [u64; HOSTS as usize],
    unavailable: BTreeSet<(HostId, TaskId)>,
}

fn rule(name: &str, priority: Priority) -> Rule {
    Rule {
        hosts: vec![name.to_owned()],
        priority: Some(priority),
        ..Rule::default()
    }
}

impl History {
    fn new() -> Self {
        let options = Options {
            degree: DEGREE,
            source_holders: 2,
            source_holders_from: 0,
            source_waiters: 1,
            // Some histories last longer.
            member_ttl: Duration::from_secs(20),
            rules: vec![
                rule("9", Priority::PeerFirst),
                rule("10", Priority::NeverSource),
            ],
            ..Options::default()
        };
        let key = NodeKey::from_seed([1; 32]);
        Self {
            cluster: Cluster::new(options, key, Timestamp::ZERO, 0, 7),
            now: Timestamp::ZERO,
            epochs: [0; HOSTS as usize],
            unavailable: BTreeSet::new(),
        }
    }

    fn hear(&mut self, commands: Vec<Command>) {
        for Command { host, message } in commands {
            match message {
                SchedulerMessage::Unavailable { task, .. } => {
                    self.unavailable.insert((host, task));
                }
                SchedulerMessage::Grant(grant) => {
                    assert!(grant.is_authentic() && grant.holder == host);
                    assert!(self.cluster.hosts.contains_key(&host), "to whom is there");
                    self.unavailable.retain(|(_, task)| *task != grant.task);
                }
                _ => {}
            }
        }
    }

    fn says(&mut self, name: u8, message: PeerMessage) {
        let event = Event::Message {
            host: host(name),
            message,
        };
        let said = self.cluster.handle(self.now, event);
        self.hear(said);
    }

    fn held(&self, name: u8, number: u8) -> PieceSet {
        let known = self.cluster.tasks.get(&task(number));
        known.map_or_else(PieceSet::new, |task| task.held(&host(name)).clone())
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Up(name) => {
                self.epochs[name as usize] += 1;
                let role = if name < 2 { Role::Seed } else { Role::Peer };
                let mut hello = hello(name, self.epochs[name as usize], role);
                hello.shares = name != 11;
                // Two data centres, and some hosts that don't say where they stand.
                ["", "a", "b"][name as usize % 3].clone_into(&mut hello.locality.idc);
                let said = self.cluster.handle(self.now, Event::HostUp(hello));
                self.hear(said);
            }
            Step::Down(name) => {
                let event = Event::HostDown {
                    host: host(name),
                    epoch: self.epochs[name as usize],
                };
                let said = self.cluster.handle(self.now, event);
                self.hear(said);
            }
            Step::Join(name, number) => {
                let held = self.held(name, number);
                self.unavailable.remove(&(host(name), task(number)));
                self.says(name, join(number, held));
            }
            Step::JoinsShorter(name, number) => {
                self.unavailable.remove(&(host(name), task(number)));
                let shorter = Lengths::of(lengths().size() - 1).unwrap();
                self.says(name, join_with(number, shorter, PieceSet::new()));
            }
            Step::Leave(name, number) => self.says(name, PeerMessage::Leave { task: task(number) }),
            Step::Done(name, number) => self.says(name, PeerMessage::Done { task: task(number) }),
            Step::Gains(name, number, from, count) => {
                let mut held = self.held(name, number);
                held.insert_range(from..(from + count).min(PIECES));
                let task = task(number);
                self.says(name, PeerMessage::Progress { task, held });
            }
            Step::Accepts(name, number) => {
                self.says(name, PeerMessage::LeaseAccepted { task: task(number) });
            }
            Step::FirstByte(name, number, ranges) => {
                let task = task(number);
                self.says(name, PeerMessage::LeaseFirstByte { task, ranges });
            }
            Step::Returns(name, number, why) => {
                let pieces = PieceSet::full(PIECES);
                let task = task(number);
                self.says(name, PeerMessage::LeaseReturned { task, pieces, why });
            }
            Step::SelfLeases(name, number, from, count) => {
                let pieces = PieceSet::from_range(from..from + count);
                let task = task(number);
                self.says(name, PeerMessage::SelfLeased { task, pieces });
            }
            Step::Starves(name, number, from, count) => {
                let pieces = PieceSet::from_range(from..(from + count).min(PIECES));
                let task = task(number);
                self.says(name, PeerMessage::Starved { task, pieces });
            }
            Step::Evicts(name, number) => {
                let tasks = vec![task(number)];
                self.says(name, PeerMessage::Evicted { tasks });
            }
            Step::Interest(name, number) => {
                let tasks = vec![(task(number), lengths())];
                let origin = origin();
                self.says(name, PeerMessage::Interest { tasks, origin });
            }
            Step::Reports(name, parent, millis) => {
                let report = ParentReport {
                    host: host(parent),
                    pieces: u32::from(millis.is_some()),
                    bytes: 256 * 1024,
                    busy_us: millis.unwrap_or(0) * 1000,
                    failures: u32::from(millis.is_none()),
                    rot: u32::from(parent == 5),
                    given_up: millis.is_none(),
                };
                let parents = vec![report];
                self.says(name, PeerMessage::Parents { parents });
            }
            Step::Passes(millis) => self.pass(millis),
        }
    }

    fn pass(&mut self, millis: u64) {
        let until = self.now + Duration::from_millis(millis);
        while let Some(at) = self
            .cluster
            .next_deadline(self.now)
            .filter(|at| *at <= until)
        {
            assert!(at >= self.now);
            self.now = at.max(self.now + Duration::from_millis(1));
            let said = self.cluster.tick(self.now);
            self.hear(said);
        }
        self.now = until;
    }

    fn check(&self) {
        for (id, task) in &self.cluster.tasks {
            let mut leased = PieceSet::new();
            for lease in &task.leases {
                assert!(self.cluster.hosts.contains_key(&lease.holder));
                assert!(
                    lease.holder != host(10) && lease.holder != host(11),
                    "may not"
                );
                assert!(!lease.pieces.is_empty());
                let twice = leased.intersection(&lease.pieces);
                assert!(twice.is_empty(), "two live leases on {twice:?}");
                leased.union_with(&lease.pieces);
            }
            let found = task.cells.as_ref().map(cells::Cells::count);
            let all = task.members.len();
            assert!(found.is_none_or(|found| found == all), "each can be found");
            self.check_gateways(task);
            let (mut held, mut waiting) = (PieceSet::new(), 0);
            for (host, member) in task.members.iter() {
                let host = host.as_ref();
                assert!(self.cluster.hosts[host].tasks.contains_key(id));
                assert!(task.degree(host) <= self.cluster.room(task) + 3);
                for other in task.neighbours(host) {
                    assert!(task.members.contains_key(other));
                    assert!(task.are_neighbours(other, host), "symmetric");
                    assert_ne!(other, host);
                }
                held.union_with(task.held(host));
                waiting += usize::from(member.wants());
            }
            assert_eq!(task.waiting(), waiting);
            let mut covered = held;
            covered.union_with(&leased);
            assert_eq!(task.uncovered(), covered.missing(PIECES));
            self.check_covered(id, task);
        }
        assert_eq!(self.cluster.sweeps.len(), self.cluster.hosts.len());
        for (host, known) in &self.cluster.hosts {
            for task in known.tasks.keys() {
                assert!(self.cluster.tasks[task.as_ref()].members.contains_key(host));
            }
        }
    }

    fn check_gateways(&self, task: &Task) {
        for (zone, elected) in &task.gateways {
            assert!(!elected.is_empty() && elected.len() <= self.cluster.options.gateways);
            for gateway in elected {
                assert_eq!(self.cluster.zone_of(&gateway.host), Some(zone.as_str()));
                assert!(task.members.contains_key(&gateway.host));
            }
        }
        assert!(
            task.sources
                .iter()
                .all(|host| task.members.contains_key(host))
        );
    }

    /// Every missing piece of a wanted task is held, leased, or its waiters were told;
    /// but for the time that is given to those who come back, for a second after a lease was
    /// not needed or a reader went, and until the source's first answer or its only reader's first pieces.
    fn check_covered(&self, id: &TaskId, task: &Task) {
        let settled = self.cluster.started + self.cluster.options.settle + TICK;
        let settling = self.now < settled;
        if settling || task.waiting() == 0 || task.uncovered().is_empty() {
            return;
        }
        assert!(self.cluster.live.contains(id), "it is looked at again");
        let many_runs = task
            .leases
            .iter()
            .any(|lease| task.runs_of(&lease.holder) >= 8);
        let not_needed = task.refused.values().any(|(why, at)| {
            *why == LeaseEnd::NotNeeded && self.now.since(*at) < Duration::from_secs(2)
        });
        // The same where the host has said something else since, or was a reader and is gone; what is
        // left alone no more is granted with the next tick.
        let tick = TICK.as_micros() as u64;
        let before = Timestamp::from_micros(self.now.as_micros().saturating_sub(tick));
        let not_needed = not_needed || task.unclaimed(before).is_empty();
        let is_begun = task.awaits_first_byte() || task.has_just_begun(before);
        let told = |host: &HostId| self.unavailable.contains(&(*host, *id));
        let all_told = task.waiters().iter().all(told);
        assert!(
            all_told || many_runs || not_needed || is_begun,
            "nobody reads {:?}",
            task.uncovered()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_invariants_hold_after_every_step(steps in steps()) {
        let mut history = History::new();
        for step in steps {
            history.step(step);
            // What an event leaves to do is done by the next tick.
            history.pass(100);
            history.check();
        }
    }

    #[test]
    fn everything_comes_to_rest_when_all_leave(steps in steps()) {
        let mut history = History::new();
        for step in steps {
            history.step(step);
        }
        for name in 0..HOSTS {
            history.step(Step::Down(name));
        }
        prop_assert_eq!(history.cluster.counts().hosts, 0);
        prop_assert_eq!(history.cluster.counts().tasks, 0);
        prop_assert_eq!(history.cluster.next_deadline(history.now), None);
    }
}
