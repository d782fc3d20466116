//! Several schedulers: who is told what, when tasks move, and whose word counts.

use std::collections::BTreeSet;

use darter_api::{
    Digest, PieceSet, SchedulerName, TaskId,
    session::{LeaseEnd, Observation, Reference, SchedulerMessage},
};

use super::{
    super::*,
    rules::{PIECES, grant_from, have, host, lengths, neighbours_from, origin, start, task},
};

/// A core with schedulers, in the order in which they have the task.
struct Lab {
    node: Node,
    now: Timestamp,
    schedulers: Vec<SchedulerName>,
}

impl Lab {
    fn new(number: usize, on_demand: bool) -> (Self, Vec<Command>) {
        let name = |number| SchedulerName::new(&format!("http://10.0.0.{number}:8002"));
        let mut schedulers: Vec<SchedulerName> = (0..number).map(name).collect();
        schedulers.sort_by_key(|name| name.rank(&task()));
        let mut lab = Self {
            node: Node::new(Options::default(), host(100), 1),
            now: Timestamp::ZERO + Duration::from_secs(10),
            schedulers: schedulers.clone(),
        };
        let names = schedulers;
        let said = lab.handle(Event::Schedulers { names, on_demand });
        (lab, said)
    }

    fn standing(number: usize) -> Self {
        let (mut lab, _) = Self::new(number, false);
        for name in lab.schedulers.clone() {
            lab.handle(Event::SessionUp(name));
        }
        lab
    }

    fn name(&self, number: usize) -> SchedulerName {
        self.schedulers[number].clone()
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

    fn lose(&mut self, number: usize) -> Vec<Command> {
        let name = self.name(number);
        let mut said = self.handle(Event::SessionDown(name.clone()));
        said.extend(self.handle(Event::SessionRefused(name)));
        said
    }
}

/// What was said to a scheduler, by name of the message.
fn told(commands: &[Command], name: &SchedulerName) -> Vec<&'static str> {
    let said = commands.iter().filter_map(|command| match command {
        Command::Session(to, message) if to == name => Some(message),
        _ => None,
    });
    said.map(|message| match message {
        PeerMessage::Inventory { .. } => "inventory",
        PeerMessage::Moved { .. } => "moved",
        PeerMessage::Join(_) => "join",
        PeerMessage::Interest { .. } => "interest",
        PeerMessage::Evicted { .. } => "evicted",
        PeerMessage::Resting => "resting",
        PeerMessage::SelfLeased { .. } => "self-leased",
        PeerMessage::Observed(_) => "observed",
        PeerMessage::Lookup { .. } => "lookup",
        PeerMessage::SizeWanted { .. } => "size",
        _ => "other",
    })
    .collect()
}

fn reads(commands: &[Command]) -> usize {
    let read = |command: &&Command| matches!(command, Command::ReadSource { .. });
    commands.iter().filter(read).count()
}

#[test]
fn only_the_owner_hears_of_a_task() {
    let mut lab = Lab::standing(3);
    let said = lab.handle(start(PieceSet::new()));
    assert_eq!(told(&said, &lab.name(0)), ["join"]);
    assert_eq!(told(&said, &lab.name(1)), [""; 0]);
    assert_eq!(told(&said, &lab.name(2)), [""; 0]);
}

#[test]
fn a_task_moves_at_once_when_its_scheduler_refuses_and_comes_home() {
    let mut lab = Lab::standing(2);
    let (owner, next) = (lab.name(0), lab.name(1));
    lab.handle(start(PieceSet::new()));
    let said = lab.lose(0);
    assert_eq!(told(&said, &next), ["moved", "inventory", "join"]);
    assert_eq!(reads(&lab.pass(900)), 0, "the next one is asked instead");

    let said = lab.handle(Event::SessionUp(owner.clone()));
    assert_eq!(told(&said, &owner), ["moved", "inventory", "join"]);
    assert_eq!(told(&said, &next), [""; 0], "it hears of it later");
    assert_eq!(told(&lab.pass(11_000), &next), ["evicted"]);
}

#[test]
fn a_scheduler_that_is_silent_is_passed_over_after_three_seconds() {
    let mut lab = Lab::standing(2);
    let next = lab.name(1);
    lab.handle(start(PieceSet::from_range(0..4)));
    let owner = lab.name(0);
    lab.handle(Event::SessionDown(owner));
    let said = lab.pass(2900);
    assert_eq!(told(&said, &next), [""; 0]);
    assert_eq!(reads(&said), 1, "nobody waits for it longer than before");
    let said = lab.pass(200);
    assert_eq!(told(&said, &next)[..3], ["moved", "inventory", "join"]);
}

#[test]
fn only_a_tasks_home_has_a_say_in_it() {
    let mut lab = Lab::standing(2);
    let (owner, next) = (lab.name(0), lab.name(1));
    lab.handle(start(PieceSet::new()));
    lab.handle(neighbours_from(&owner, &[1], &[]));
    lab.handle(Event::LinkUp(host(1)));
    lab.handle(have(1, PieceSet::from_range(0..2)));
    lab.handle(neighbours_from(&next, &[], &[1]));
    let known = lab.node.state.tasks[&task()].download.as_ref().unwrap();
    assert!(known.available.contains_key(&host(1)), "still a neighbour");

    let said = lab.handle(grant_from(&next, 0..PIECES));
    let back = Command::Session(
        next,
        PeerMessage::LeaseReturned {
            task: task(),
            pieces: PieceSet::full(PIECES),
            why: LeaseEnd::NotNeeded,
        },
    );
    assert_eq!(said, [back]);
}

#[test]
fn what_a_neighbour_reads_is_not_read_because_a_new_scheduler_does_not_know() {
    let mut lab = Lab::standing(2);
    let (owner, next) = (lab.name(0), lab.name(1));
    lab.handle(start(PieceSet::new()));
    lab.handle(neighbours_from(&owner, &[1], &[]));
    lab.handle(Event::LinkUp(host(1)));
    let reading = darter_api::link::LinkMessage::Reading {
        task: task(),
        pieces: PieceSet::full(PIECES),
    };
    let (host, message) = (host(1), reading);
    lab.handle(Event::Link { host, message });
    lab.lose(0);
    assert_eq!(reads(&lab.handle(grant_from(&next, 0..PIECES))), 0);
    lab.pass(3100);
    assert_eq!(reads(&lab.handle(grant_from(&next, 0..PIECES))), 1);
}

#[test]
fn sessions_on_demand_open_for_a_download_and_rest_after_it() {
    let (mut lab, said) = Lab::new(50, true);
    assert_eq!(said, [], "nothing is wanted of anybody");
    let owner = lab.name(0);
    let said = lab.handle(start(PieceSet::new()));
    assert_eq!(said, [Command::Open(owner.clone())]);
    assert_eq!(reads(&lab.pass(950)), 0, "the session is waited for");

    let said = lab.handle(Event::SessionUp(owner.clone()));
    assert_eq!(told(&said, &owner), ["inventory", "join"]);
    lab.handle(Event::Committed { task: task() });
    let said = lab.pass(20_000);
    assert_eq!(told(&said, &owner), ["resting"]);
    assert_eq!(said.last(), Some(&Command::Close(owner.clone())));

    // What is dropped is told, and that opens the session again.
    lab.handle(Event::Evicted {
        tasks: vec![task()],
    });
    assert!(lab.pass(1000).contains(&Command::Open(owner)));
}

#[test]
fn any_number_of_evictions_is_a_message_a_scheduler() {
    let mut lab = Lab::standing(3);
    let number = |number: u32| TaskId::of_content(Digest::sha256(&number.to_be_bytes()));
    let tasks: Vec<TaskId> = (0..5000).map(number).collect();
    for task in &tasks {
        lab.handle(Event::Stored {
            task: *task,
            lengths: lengths(),
            held: PieceSet::full(PIECES),
            origin: Some(origin()),
        });
    }
    let unknown = number(5000);
    let said = lab.handle(Event::Evicted {
        tasks: tasks.iter().copied().chain([unknown]).collect(),
    });
    assert_eq!(said.len(), 3);
    let told = said.into_iter().flat_map(|command| match command {
        Command::Session(name, PeerMessage::Evicted { tasks }) => {
            let home = |task: &TaskId| lab.schedulers.iter().min_by_key(|name| name.rank(task));
            assert!(tasks.iter().all(|task| home(task) == Some(&name)));
            tasks
        }
        other => panic!("{other:?}"),
    });
    let told: BTreeSet<TaskId> = told.collect();
    assert_eq!(told, tasks.into_iter().collect());
}

#[test]
fn a_home_that_never_answers_holds_nobody_up() {
    let (mut lab, _) = Lab::new(50, true);
    lab.handle(start(PieceSet::new()));
    assert_eq!(reads(&lab.pass(1600)), 1);
    let next = lab.name(1);
    assert!(lab.pass(2000).contains(&Command::Open(next)));
}

#[test]
fn a_home_that_refuses_is_followed_by_the_next() {
    let (mut lab, _) = Lab::new(50, true);
    let (owner, next) = (lab.name(0), lab.name(1));
    lab.handle(start(PieceSet::new()));
    let said = lab.handle(Event::SessionRefused(owner));
    assert_eq!(said, [Command::Open(next.clone())]);
    let said = lab.handle(Event::SessionUp(next.clone()));
    assert_eq!(told(&said, &next), ["moved", "inventory", "join"]);
}

/// Contents found on the disk are told to all their homes, a few at a time.
#[test]
fn a_full_store_opens_few_sessions_at_a_time() {
    let (mut lab, _) = Lab::new(300, true);
    for number in 0..2000_u32 {
        let digest = darter_api::Digest::sha256(&number.to_be_bytes());
        lab.handle(Event::Stored {
            task: TaskId::of_content(digest),
            lengths: lengths(),
            held: PieceSet::full(PIECES),
            origin: Some(origin()),
        });
    }
    let (mut open, mut opened, mut told_of) = (0_usize, 0, 0);
    for _ in 0..400 {
        for command in lab.pass(500) {
            match command {
                Command::Open(name) => {
                    (open, opened) = (open + 1, opened + 1);
                    for said in lab.handle(Event::SessionUp(name)) {
                        if let Command::Session(_, PeerMessage::Inventory { holdings, .. }) = said {
                            told_of += holdings.len();
                        }
                    }
                }
                Command::Close(_) => open -= 1,
                _ => {}
            }
            assert!(open <= 256, "{open} sessions");
        }
    }
    assert_eq!((open, told_of), (0, 2000));
    assert!(opened <= 300, "{opened} sessions for 2000 contents");
}

/// Of downloads that belong to more homes than may be open some wait for their turn.
#[test]
fn downloads_of_too_many_homes_take_turns() {
    let (mut lab, _) = Lab::new(1000, true);
    let tasks: Vec<TaskId> = (0..1000_u32)
        .map(|number| TaskId::of_content(darter_api::Digest::sha256(&number.to_be_bytes())))
        .collect();
    let mut opened = Vec::new();
    for task in &tasks {
        let said = lab.handle(Event::Start {
            task: *task,
            lengths: lengths(),
            origin: origin(),
            held: PieceSet::new(),
            purpose: Purpose::Pull,
        });
        opened.extend(said.into_iter().filter_map(|command| match command {
            Command::Open(name) => Some(name),
            _ => None,
        }));
    }
    assert_eq!(opened.len(), 256);
    for name in opened {
        lab.handle(Event::SessionUp(name));
    }
    for task in &tasks {
        lab.handle(Event::Committed { task: *task });
    }
    let later = lab.pass(60_000);
    let opens = |command: &&Command| matches!(command, Command::Open(_));
    assert!(later.iter().filter(opens).count() > 0);
}

#[test]
fn a_scheduler_that_leaves_the_list_hands_over_before_its_session_ends() {
    let mut lab = Lab::standing(2);
    let (owner, next) = (lab.name(0), lab.name(1));
    lab.handle(start(PieceSet::new()));
    let names = vec![next.clone()];
    let on_demand = false;
    let said = lab.handle(Event::Schedulers { names, on_demand });
    assert_eq!(told(&said, &next), ["moved", "inventory", "join"]);
    let said = lab.pass(11_000);
    assert!(said.contains(&Command::Close(owner)));
    assert!(!said.contains(&Command::Close(next)));
}

/// A task that is another one's, at home with the scheduler that has [`task`] or not.
fn other_task(lab: &Lab, same_home: bool) -> TaskId {
    let tasks = (0..100_u8).map(|number| TaskId::of_content(Digest::sha256(&[number])));
    let mut fitting =
        tasks.filter(|id| (lab.node.homes.of(id) == Some(&lab.schedulers[0])) == same_home);
    fitting.next().unwrap()
}

#[test]
fn only_the_answers_of_its_own_scheduler_show_that_it_is_busy_and_not_dead() {
    for (same_home, expected) in [(true, 0), (false, 1)] {
        let mut lab = Lab::standing(2);
        let other = other_task(&lab, same_home);
        lab.handle(start(PieceSet::new()));
        lab.handle(Event::Start {
            task: other,
            lengths: lengths(),
            origin: origin(),
            held: PieceSet::new(),
            purpose: Purpose::Pull,
        });
        let home = lab.node.home_of(&other).unwrap().clone();
        let mut read = 0;
        for _ in 0..4 {
            let said = lab.pass(500);
            let own = |said: &&Command| matches!(said, Command::ReadSource { task: id, .. } if *id == task());
            read += said.iter().filter(own).count();
            let answer = SchedulerMessage::Neighbours {
                task: other,
                add: vec![],
                remove: vec![],
            };
            lab.handle(Event::Session(home.clone(), answer));
        }
        assert_eq!(read, expected, "same home: {same_home}");
    }
}

/// Readers of a content are known where it is at home: there it is said who may read it.
#[test]
fn what_is_said_of_a_content_goes_to_its_home() {
    let mut lab = Lab::standing(3);
    let seen = |digest: Digest| Observation {
        upstream: origin().upstream,
        repository: origin().repository,
        reference: Reference::Digest(digest),
        digest,
        media_type: String::new(),
        size: Some(1),
        public: true,
        age_ms: 0,
    };
    let elsewhere = other_task(&lab, false);
    for id in [task(), elsewhere] {
        let home = lab.node.homes.of(&id).unwrap().clone();
        let lookup = PeerMessage::Lookup {
            id: 1,
            upstream: origin().upstream,
            repository: origin().repository,
            reference: Reference::Digest(*id.digest()),
        };
        let asks = PeerMessage::SizeWanted { task: id };
        let observed = PeerMessage::Observed(seen(*id.digest()));
        let mut said = Vec::new();
        for message in [observed, lookup, asks] {
            said.extend(lab.handle(Event::Say(message)));
        }
        assert_eq!(told(&said, &home), ["observed", "lookup", "size"]);
        assert_eq!(said.len(), 3);
    }
}

#[test]
fn who_asks_for_a_size_waits_for_the_session() {
    let (mut lab, _) = Lab::new(50, true);
    let owner = lab.name(0);
    let asks = PeerMessage::SizeWanted { task: task() };
    let said = lab.handle(Event::Say(asks));
    assert_eq!(said, [Command::Open(owner.clone())]);
    let said = lab.handle(Event::SessionUp(owner.clone()));
    assert_eq!(told(&said, &owner), ["inventory", "size"]);
}
