//! In which order sources are read, and how patient a host is with a busy scheduler.

use std::time::Duration;

use darter_api::{
    Digest, Grant, Lengths, Origin, PieceSet, TaskId, Timestamp,
    session::{Neighbour, PeerMessage, Purpose, Role, SchedulerMessage},
};

use super::{
    super::{
        event::{ReaderId, RequestId},
        *,
    },
    rules::*,
};

const SECOND: Duration = Duration::from_secs(1);

fn small(number: u8) -> TaskId {
    TaskId::of_content(Digest::sha256(&[number]))
}

fn start_small(number: u8, purpose: Purpose, upstream: &str) -> Event {
    Event::Start {
        task: small(number),
        lengths: Lengths::of(100_000).unwrap(),
        origin: Origin {
            upstream: upstream.parse().unwrap(),
            ..origin()
        },
        held: PieceSet::new(),
        purpose,
    }
}

fn grant_small(number: u8) -> Event {
    let grant = Grant {
        task: small(number),
        lengths: Lengths::of(100_000).unwrap(),
        pieces: 0..1,
        holder: host(100),
        granter: host(200),
        issued_unix_ms: 0,
        signature: [0; 64],
    };
    Event::Session(scheduler(), SchedulerMessage::Grant(grant))
}

fn introduced(number: u8, add: Vec<Neighbour>) -> Event {
    let message = SchedulerMessage::Neighbours {
        task: small(number),
        add,
        remove: vec![],
    };
    Event::Session(scheduler(), message)
}

fn neighbour(name: u8) -> Neighbour {
    Neighbour {
        host: host(name),
        address: ([127, 0, 0, 1], 4000).into(),
        role: Role::Peer,
    }
}

fn read(number: u8) -> Event {
    Event::SourcePiece {
        task: small(number),
        piece: darter_api::PieceIndex(0),
    }
}

fn reader(number: u8) -> Event {
    Event::Reader {
        task: small(number),
        reader: ReaderId(number.into()),
        wants: 0..1,
    }
}

/// The numbers of the tasks that begin to be read.
fn begun(commands: &[Command]) -> Vec<u8> {
    let numbers = commands.iter().filter_map(|command| match command {
        Command::ReadSource { task, .. } => (0..=u8::MAX).find(|number| small(*number) == *task),
        _ => None,
    });
    numbers.collect()
}

struct Lab {
    node: Node,
    now: Timestamp,
}

impl Lab {
    fn new() -> Self {
        let options = Options {
            source_begins: 2,
            ..Options::default()
        };
        let mut node = with_scheduler(Node::new(options, host(100), 1), true);
        let now = Timestamp::ZERO + 10 * SECOND;
        node.handle(now, Event::SessionUp(scheduler()));
        Self { node, now }
    }

    fn handle(&mut self, event: Event) -> Vec<Command> {
        self.node.handle(self.now, event)
    }

    fn pass(&mut self, millis: u64) -> Vec<Command> {
        let until = self.now + Duration::from_millis(millis);
        let mut commands = Vec::new();
        while let Some(at) = self.node.next_deadline(self.now).filter(|at| *at <= until) {
            self.now = at.max(self.now + Duration::from_millis(1));
            commands.extend(self.node.tick(self.now));
        }
        self.now = until;
        commands
    }

    fn leased(&mut self, number: u8, purpose: Purpose, upstream: &str) -> Vec<u8> {
        let mut said = self.handle(start_small(number, purpose, upstream));
        if purpose == Purpose::Pull {
            said.extend(self.handle(reader(number)));
        }
        said.extend(self.handle(grant_small(number)));
        begun(&said)
    }

    /// A client will ask for it.
    fn leased_ahead(&mut self, number: u8) -> Vec<u8> {
        self.handle(start_small(number, Purpose::Pull, "docker.io"));
        begun(&self.handle(grant_small(number)))
    }
}

#[test]
fn few_readings_of_one_upstream_begin_within_a_second() {
    let mut lab = Lab::new();
    assert_eq!(lab.leased(1, Purpose::Pull, "docker.io"), [1]);
    assert_eq!(lab.leased(2, Purpose::Pull, "docker.io"), [2]);
    assert_eq!(lab.leased(3, Purpose::Preheat, "docker.io"), [0; 0]);
    assert_eq!(lab.leased(4, Purpose::Pull, "docker.io"), [0; 0]);
    assert_eq!(lab.leased(5, Purpose::Pull, "docker.io"), [0; 0]);
    assert_eq!(lab.leased(6, Purpose::Pull, "ghcr.io"), [6]);
    let said = lab.handle(read(1));
    assert_eq!(begun(&said), [4], "before what nobody waits for");
    assert_eq!(begun(&lab.pass(700)), [0; 0]);
    let said = lab.pass(500);
    assert_eq!(
        begun(&said),
        [5, 3],
        "those that take long are in nobody's way"
    );
}

#[test]
fn few_readings_are_under_way_and_fewer_of_what_nobody_waits_for() {
    let mut lab = Lab::new();
    let options = Options {
        source_readings: 4,
        ..Options::default()
    };
    lab.node.options = options;
    let urgent = |number| (number, Purpose::Pull);
    let behind = |number| (number, Purpose::Preheat);
    let all = [
        behind(1),
        behind(2),
        behind(3),
        urgent(4),
        urgent(5),
        urgent(6),
    ];
    let begun_at_once = all.map(|(number, purpose)| lab.leased(number, purpose, "docker.io"));
    assert_eq!(begun_at_once.concat(), [1, 2, 4, 5]);
    assert_eq!(begun(&lab.pass(3000)), [0; 0], "however long they take");
    assert_eq!(begun(&lab.handle(read(1))), [6]);
    assert_eq!(begun(&lab.handle(read(4))), [0; 0], "it has its half");
    assert_eq!(begun(&lab.handle(read(5))), [0; 0]);
    assert_eq!(begun(&lab.handle(read(6))), [3]);
}

#[test]
fn what_a_client_reads_does_not_wait_for_what_it_will_ask_for_next() {
    let mut lab = Lab::new();
    let begun_at_once = [1, 2, 3, 4].map(|number| lab.leased_ahead(number));
    assert_eq!(begun_at_once.concat(), [1, 2]);
    assert_eq!(lab.leased(5, Purpose::Pull, "docker.io"), [0; 0]);
    assert_eq!(begun(&lab.handle(reader(4))), [0; 0]);
    assert_eq!(begun(&lab.handle(read(1))), [4], "that came first");
    assert_eq!(begun(&lab.handle(read(2))), [5]);
    assert_eq!(begun(&lab.handle(read(4))), [3]);
}

#[test]
fn what_no_client_reads_yet_leaves_half_of_the_readings_to_others() {
    let mut lab = Lab::new();
    lab.node.options = Options {
        source_readings: 4,
        ..Options::default()
    };
    let begun_at_once = [1, 2, 3].map(|number| lab.leased_ahead(number));
    assert_eq!(begun_at_once.concat(), [1, 2]);
    assert_eq!(lab.leased(4, Purpose::Pull, "docker.io"), [4]);
    assert_eq!(lab.leased(5, Purpose::Seed, "docker.io"), [5]);
    assert_eq!(begun(&lab.handle(read(4))), [0; 0]);
    assert_eq!(begun(&lab.handle(read(5))), [0; 0]);
    assert_eq!(begun(&lab.handle(read(1))), [3]);
}

#[test]
fn what_waits_is_still_taken_from_a_neighbour() {
    let mut lab = Lab::new();
    for number in 1..=3 {
        lab.leased(number, Purpose::Pull, "docker.io");
    }
    let task = small(3);
    let heard = Event::Link {
        host: host(1),
        message: darter_api::link::LinkMessage::Have {
            task,
            pieces: PieceSet::full(1),
        },
    };
    lab.handle(heard);
    assert_eq!(begun(&lab.handle(read(1))), [0; 0]);
    assert_eq!(begun(&lab.pass(3000)), [0; 0]);
}

#[test]
fn the_scheduler_hears_that_a_lease_waits_for_its_turn() {
    let mut lab = Lab::new();
    for number in 1..=3 {
        lab.leased(number, Purpose::Pull, "docker.io");
        // None of them comes to an end, and none is forgotten.
        lab.node.state.reads.hold_back();
    }
    let said = lab.pass(5000);
    let accepted = PeerMessage::LeaseAccepted { task: small(3) };
    let accepted = Command::Session(scheduler(), accepted);
    assert_eq!(said.iter().filter(|said| **said == accepted).count(), 2);
}

#[test]
fn a_scheduler_that_answers_other_joins_is_waited_for_longer() {
    let mut lab = Lab::new();
    for number in 1..=8 {
        lab.handle(start_small(number, Purpose::Pull, "docker.io"));
    }
    let mut said = Vec::new();
    for number in 1..=7 {
        said.extend(lab.pass(600));
        lab.handle(introduced(number, vec![]));
    }
    assert_eq!(
        begun(&said),
        [0; 0],
        "it works through 4.2 seconds of joins"
    );
    let said = lab.pass(2000);
    assert!(begun(&said).contains(&8), "but not for ever");
}

#[test]
fn the_scheduler_hears_when_a_client_waits_for_what_is_preheated() {
    let mut lab = Lab::new();
    let joins = |commands: &[Command]| -> Vec<Purpose> {
        let purpose = |command: &Command| match command {
            Command::Session(_, PeerMessage::Join(join)) => Some(join.purpose),
            _ => None,
        };
        commands.iter().filter_map(purpose).collect()
    };
    let said = lab.handle(start_small(1, Purpose::Preheat, "docker.io"));
    assert_eq!(joins(&said), [Purpose::Preheat]);
    let reader = |number| Event::Reader {
        task: small(1),
        reader: ReaderId(number),
        wants: 0..1,
    };
    let said = lab.handle(reader(1));
    assert_eq!(joins(&said), [Purpose::Pull]);
    let said = lab.handle(reader(2));
    assert_eq!(joins(&said), []);
}

fn large() -> Lengths {
    Lengths::of(16 << 20).unwrap()
}

fn start_large(number: u8, purpose: Purpose) -> Event {
    Event::Start {
        task: small(number),
        lengths: large(),
        origin: origin(),
        held: PieceSet::new(),
        purpose,
    }
}

/// A neighbour has all of a large content.
fn has_all(number: u8, name: u8) -> [Event; 3] {
    [
        Event::LinkUp(host(name)),
        introduced(number, vec![neighbour(name)]),
        Event::Link {
            host: host(name),
            message: darter_api::link::LinkMessage::Have {
                task: small(number),
                pieces: PieceSet::full(large().pieces()),
            },
        },
    ]
}

/// Requests of a content that are under way.
fn asked(lab: &Lab, number: u8) -> usize {
    let requests = lab.node.state.requests.values();
    requests.filter(|one| one.task == small(number)).count()
}

#[test]
fn only_a_reading_that_does_not_give_way_takes_requests_from_pulls() {
    for (purpose, more) in [(Purpose::Pull, false), (Purpose::Preheat, true)] {
        let mut lab = Lab::new();
        lab.handle(start_large(1, purpose));
        assert_eq!(begun(&lab.pass(5000)), [1]);
        lab.handle(start_large(2, Purpose::Pull));
        for name in 1..=4 {
            for event in has_all(2, name) {
                lab.handle(event);
            }
        }
        lab.pass(200);
        assert_eq!(asked(&lab, 2) > 4, more, "{purpose:?}");
    }
}

#[test]
fn what_nobody_waits_for_leaves_requests_to_what_somebody_waits_for() {
    let mut lab = Lab::new();
    lab.handle(start_large(1, Purpose::Preheat));
    for name in 1..=3 {
        for event in has_all(1, name) {
            lab.handle(event);
        }
    }
    lab.pass(200);
    let alone = asked(&lab, 1);
    assert!(alone > 2, "alone it takes what there is: {alone}");
    // One by one its requests end, while a client waits for another content.
    lab.handle(start_large(2, Purpose::Pull));
    for event in has_all(2, 1) {
        lab.handle(event);
    }
    for _ in 0..20 {
        let behind = |(_, one): &(&RequestId, &state::Request)| one.task == small(1);
        let next = lab.node.state.requests.iter().find(behind);
        let next = next.map(|(request, _)| *request);
        lab.handle(Event::PieceStored(next.unwrap()));
        lab.pass(100);
    }
    assert_eq!(asked(&lab, 1), 2);
    assert!(asked(&lab, 2) > 2);
    // Somebody comes to wait for it as well.
    lab.handle(Event::Reader {
        task: small(1),
        reader: event::ReaderId(1),
        wants: 0..large().pieces(),
    });
    lab.pass(200);
    assert!(asked(&lab, 1) > 2);
}
