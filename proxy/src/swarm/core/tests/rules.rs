//! The rules one by one.

use darter_api::{
    Digest, Grant, HostId, Lengths, Origin, OriginKind, PieceIndex, PieceSet, SchedulerName,
    TaskId, Timestamp,
    link::LinkMessage,
    session::{LeaseEnd, Neighbour, PeerMessage, Purpose, Role, SchedulerMessage},
};

use super::super::{
    event::{Authority, DownloadFailure, PieceFailure, ReaderId, RequestId},
    *,
};
use super::offers::{subscribe, subscribes};

pub(super) const PIECES: u32 = 16;

pub(super) fn lengths() -> Lengths {
    Lengths::of(u64::from(PIECES) * 256 * 1024).unwrap()
}

pub(super) fn host(name: u8) -> HostId {
    HostId::from_bytes([name; 32])
}

pub(super) fn scheduler() -> SchedulerName {
    SchedulerName::new("http://scheduler:8002")
}

pub(super) fn with_scheduler(mut node: Node, has_scheduler: bool) -> Node {
    let names = has_scheduler.then(scheduler).into_iter().collect();
    let on_demand = false;
    node.handle(Timestamp::ZERO, Event::Schedulers { names, on_demand });
    node
}

pub(super) fn task() -> TaskId {
    TaskId::of_content(Digest::sha256(b"task"))
}

pub(super) fn origin() -> Origin {
    Origin {
        upstream: "docker.io".parse().unwrap(),
        repository: "library/app".parse().unwrap(),
        kind: OriginKind::Blob,
        private: false,
    }
}

pub(super) fn start(held: PieceSet) -> Event {
    Event::Start {
        task: task(),
        lengths: lengths(),
        origin: origin(),
        held,
        purpose: Purpose::Pull,
    }
}

pub(super) fn neighbours(add: &[u8], remove: &[u8]) -> Event {
    neighbours_from(&scheduler(), add, remove)
}

pub(super) fn neighbours_from(from: &SchedulerName, add: &[u8], remove: &[u8]) -> Event {
    let neighbour = |name: &u8| Neighbour {
        host: host(*name),
        address: ([127, 0, 0, 1], 4000).into(),
        role: Role::Peer,
    };
    Event::Session(
        from.clone(),
        SchedulerMessage::Neighbours {
            task: task(),
            add: add.iter().map(neighbour).collect(),
            remove: remove.iter().map(|name| host(*name)).collect(),
        },
    )
}

pub(super) fn grant(pieces: std::ops::Range<u32>) -> Event {
    grant_from(&scheduler(), pieces)
}

pub(super) fn grant_from(from: &SchedulerName, pieces: std::ops::Range<u32>) -> Event {
    Event::Session(
        from.clone(),
        SchedulerMessage::Grant(Grant {
            task: task(),
            lengths: lengths(),
            pieces,
            holder: host(100),
            granter: host(200),
            issued_unix_ms: 0,
            signature: [0; 64],
        }),
    )
}

pub(super) fn have(name: u8, pieces: PieceSet) -> Event {
    Event::Link {
        host: host(name),
        message: LinkMessage::Have {
            task: task(),
            pieces,
        },
    }
}

pub(super) fn reading(name: u8, pieces: PieceSet) -> Event {
    Event::Link {
        host: host(name),
        message: LinkMessage::Reading {
            task: task(),
            pieces,
        },
    }
}

/// A core and its clock.
pub(super) struct Lab {
    pub(super) node: Node,
    now: Timestamp,
}

impl Lab {
    pub(super) fn new(has_scheduler: bool) -> Self {
        Self::of(Options::default(), has_scheduler)
    }

    fn of(options: Options, has_scheduler: bool) -> Self {
        Self {
            node: with_scheduler(Node::new(options, host(100), 1), has_scheduler),
            now: Timestamp::ZERO + Duration::from_secs(10),
        }
    }

    pub(super) fn with_session() -> Self {
        let mut lab = Self::new(true);
        lab.handle(Event::SessionUp(scheduler()));
        lab
    }

    pub(super) fn handle(&mut self, event: Event) -> Vec<Command> {
        self.node.handle(self.now, event)
    }

    pub(super) fn pass(&mut self, millis: u64) -> Vec<Command> {
        let until = self.now + Duration::from_millis(millis);
        let mut commands = Vec::new();
        while let Some(at) = self.node.next_deadline(self.now).filter(|at| *at <= until) {
            self.now = at.max(self.now + Duration::from_millis(1));
            commands.extend(self.node.tick(self.now));
        }
        self.now = until;
        commands
    }

    fn reads(&self) -> PieceSet {
        let task = self.node.state.tasks.get(&task());
        task.map(|task| task.reading.clone()).unwrap_or_default()
    }
}

fn source_reads(commands: &[Command]) -> Vec<(PieceSet, bool)> {
    let reads = commands.iter().filter_map(|command| match command {
        Command::ReadSource {
            pieces, authority, ..
        } => Some((pieces.clone(), *authority == Authority::Own)),
        _ => None,
    });
    reads.collect()
}

pub(super) fn requests(commands: &[Command]) -> Vec<(RequestId, HostId, u32)> {
    let requests = commands.iter().filter_map(|command| match command {
        Command::Request {
            request,
            host,
            piece,
            ..
        } => Some((*request, *host, piece.0)),
        _ => None,
    });
    requests.collect()
}

fn stops(commands: &[Command]) -> bool {
    let stop = |command: &Command| matches!(command, Command::StopSource { .. });
    commands.iter().any(stop)
}

pub(super) fn says(commands: &[Command], message: &PeerMessage) -> bool {
    let wanted = Command::Session(scheduler(), message.clone());
    commands.contains(&wanted)
}

#[test]
fn without_a_scheduler_the_source_is_read_at_once() {
    let mut lab = Lab::new(false);
    let said = lab.handle(start(PieceSet::from_range(0..3)));
    assert_eq!(
        source_reads(&said),
        [(PieceSet::from_range(3..PIECES), true)]
    );
}

#[test]
fn a_session_that_is_gone_is_waited_for_a_moment() {
    let mut lab = Lab::with_session();
    lab.handle(Event::SessionDown(scheduler()));
    assert_eq!(source_reads(&lab.handle(start(PieceSet::new()))), []);
    assert_eq!(source_reads(&lab.pass(50)), []);
    assert_eq!(source_reads(&lab.pass(150)).len(), 1);
}

#[test]
fn a_scheduler_that_lives_and_does_not_answer_is_waited_for_a_second() {
    let mut lab = Lab::with_session();
    let said = lab.handle(start(PieceSet::new()));
    assert!(matches!(said[0], Command::Session(_, PeerMessage::Join(_))));
    assert_eq!(source_reads(&lab.pass(950)), []);
    let said = lab.pass(700);
    assert_eq!(source_reads(&said), [(PieceSet::full(PIECES), true)]);
    let told = PeerMessage::SelfLeased {
        task: task(),
        pieces: PieceSet::full(PIECES),
    };
    assert!(says(&said, &told));
}

#[test]
fn a_self_lease_yields_to_the_schedulers_first_word() {
    let mut lab = Lab::with_session();
    lab.handle(start(PieceSet::new()));
    lab.pass(1600);
    let mut said = lab.handle(neighbours(&[1], &[]));
    assert!(!stops(&said), "a grant may follow");
    said.extend(lab.pass(250));
    assert!(stops(&said));
    let withdrawn = PeerMessage::SelfLeased {
        task: task(),
        pieces: PieceSet::new(),
    };
    assert!(says(&said, &withdrawn));
}

#[test]
fn a_grant_after_the_first_word_lets_it_read_on() {
    let mut lab = Lab::with_session();
    lab.handle(start(PieceSet::new()));
    lab.pass(1600);
    let mut said = lab.handle(neighbours(&[1], &[]));
    said.extend(lab.handle(grant(0..PIECES)));
    said.extend(lab.pass(500));
    assert!(!stops(&said));
    assert_eq!(lab.reads(), PieceSet::full(PIECES));
}

#[test]
fn of_two_that_read_by_their_own_leave_the_smaller_id_goes_on() {
    for (other, left) in [(1, 0..8), (101, 0..PIECES)] {
        let mut lab = Lab::new(false);
        lab.handle(start(PieceSet::new()));
        lab.handle(Event::LinkUp(host(other)));
        lab.handle(reading(other, PieceSet::from_range(8..PIECES)));
        assert_eq!(lab.reads(), PieceSet::from_range(left));
    }
}

#[test]
fn what_a_neighbour_holds_is_not_read_from_the_source() {
    let mut lab = Lab::with_session();
    lab.handle(start(PieceSet::new()));
    lab.handle(neighbours(&[1], &[]));
    lab.handle(Event::LinkUp(host(1)));
    lab.handle(have(1, PieceSet::from_range(0..4)));
    let said = lab.handle(grant(0..PIECES));
    assert_eq!(
        source_reads(&said),
        [(PieceSet::from_range(4..PIECES), false)]
    );
    lab.handle(have(1, PieceSet::from_range(10..12)));
    let mut rest = PieceSet::from_range(4..10);
    rest.insert_range(12..PIECES);
    assert_eq!(lab.reads(), rest);
}

#[test]
fn a_grant_that_is_not_needed_comes_back() {
    let mut lab = Lab::with_session();
    lab.handle(start(PieceSet::new()));
    lab.handle(neighbours(&[1], &[]));
    lab.handle(Event::LinkUp(host(1)));
    lab.handle(have(1, PieceSet::full(PIECES)));
    let returned = PeerMessage::LeaseReturned {
        task: task(),
        pieces: PieceSet::from_range(2..5),
        why: LeaseEnd::NotNeeded,
    };
    assert!(says(&lab.handle(grant(2..5)), &returned));
}

#[test]
fn what_a_neighbour_has_of_a_grant_comes_back() {
    let mut lab = Lab::with_session();
    lab.handle(start(PieceSet::new()));
    lab.handle(neighbours(&[1], &[]));
    lab.handle(Event::LinkUp(host(1)));
    lab.handle(have(1, PieceSet::from_range(3..4)));
    let returned = PeerMessage::LeaseReturned {
        task: task(),
        pieces: PieceSet::from_range(3..4),
        why: LeaseEnd::NotNeeded,
    };
    assert!(says(&lab.handle(grant(2..5)), &returned));
    let read = &lab.node.state.tasks[&task()].reading;
    assert_eq!(read.iter().collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn a_session_that_comes_back_hears_what_is_held_and_read() {
    let mut lab = Lab::with_session();
    lab.handle(start(PieceSet::new()));
    lab.handle(neighbours(&[], &[]));
    lab.handle(grant(0..PIECES));
    for piece in 0..3 {
        lab.handle(Event::SourcePiece {
            task: task(),
            piece: PieceIndex(piece),
        });
    }
    lab.handle(Event::SessionDown(scheduler()));
    let said = lab.handle(Event::SessionUp(scheduler()));
    let Some(Command::Session(_, PeerMessage::Inventory { holdings, last })) = said.first() else {
        panic!("an inventory comes first");
    };
    assert!(*last);
    assert_eq!(holdings[0].held, PieceSet::from_range(0..3));
    assert_eq!(holdings[0].reading, PieceSet::from_range(3..PIECES));
    lab.handle(neighbours(&[], &[]));
    assert!(!stops(&lab.pass(2000)), "and the reading goes on");
}

#[test]
fn while_neighbours_have_news_a_dead_scheduler_sends_nobody_to_the_source() {
    let mut lab = Lab::with_session();
    lab.handle(start(PieceSet::new()));
    lab.handle(neighbours(&[1], &[]));
    lab.handle(Event::LinkUp(host(1)));
    lab.handle(Event::SessionDown(scheduler()));
    for piece in 0..4 {
        lab.handle(have(1, PieceSet::from_range(piece..piece + 1)));
        assert_eq!(source_reads(&lab.pass(900)), []);
    }
    assert_eq!(
        source_reads(&lab.pass(1000)),
        [(PieceSet::from_range(4..PIECES), true)]
    );
}

#[test]
fn a_client_that_comes_back_in_a_moment_finds_the_lease() {
    let mut lab = Lab::with_session();
    lab.handle(start(PieceSet::new()));
    lab.handle(neighbours(&[], &[]));
    lab.handle(grant(0..PIECES));
    let mut said = lab.handle(Event::Stop { task: task() });
    said.extend(lab.pass(1500));
    said.extend(lab.handle(start(PieceSet::new())));
    said.extend(lab.pass(3000));
    assert!(!stops(&said));
    said = lab.handle(Event::Stop { task: task() });
    said.extend(lab.pass(2500));
    assert!(stops(&said), "and without one it is given back");
    assert!(says(&said, &PeerMessage::Leave { task: task() }));
    assert_eq!(lab.node.next_deadline(lab.now), None);
}

fn forsaken(said: &[Command]) -> bool {
    said.contains(&Command::Forsaken { task: task() })
}

/// A seed that reads for others, with these neighbours.
fn seeding(neighbourhood: &[u8]) -> Lab {
    let mut lab = Lab::with_session();
    lab.handle(Event::Start {
        task: task(),
        lengths: lengths(),
        origin: origin(),
        held: PieceSet::new(),
        purpose: Purpose::Seed,
    });
    lab.handle(neighbours(neighbourhood, &[]));
    lab.handle(grant(0..PIECES));
    lab
}

#[test]
fn what_a_seed_fetches_ends_when_no_child_waits_for_it() {
    let seeding = || seeding(&[1]);
    // Children that never come are waited for longer than those that leave.
    let mut lab = seeding();
    assert!(!forsaken(&lab.pass(9000)));
    assert!(forsaken(&lab.pass(5000)));

    let mut lab = seeding();
    lab.handle(Event::LinkUp(host(1)));
    subscribe(&mut lab, 1);
    assert!(!forsaken(&lab.pass(30_000)), "a child waits");
    let unsubscribe = LinkMessage::Unsubscribe { task: task() };
    let (host, message) = (host(1), unsubscribe);
    let mut said = lab.handle(Event::Link { host, message });
    said.extend(lab.pass(2500));
    assert!(!forsaken(&said) && !stops(&said), "it leaves first");
    assert!(forsaken(&lab.pass(1000)));
    let said = lab.handle(Event::Stop { task: task() });
    assert!(stops(&said) && says(&said, &PeerMessage::Leave { task: task() }));
    lab.handle(Event::LinkDown(host));
    assert_eq!(lab.node.next_deadline(lab.now), None);
}

#[test]
fn who_reads_for_others_keeps_nobody_reading() {
    let mut lab = seeding(&[1, 2]);
    for (name, waits) in [(1, true), (2, false)] {
        lab.handle(Event::LinkUp(host(name)));
        subscribes(&mut lab, name, waits);
    }
    assert!(!forsaken(&lab.pass(30_000)), "a child waits");
    lab.handle(Event::Link {
        host: host(1),
        message: LinkMessage::Unsubscribe { task: task() },
    });
    assert!(
        forsaken(&lab.pass(3500)),
        "another seed is left, and waits for this one"
    );

    let mut lab = seeding(&[1]);
    lab.handle(Event::LinkUp(host(1)));
    subscribe(&mut lab, 1);
    lab.handle(have(1, PieceSet::full(PIECES)));
    assert!(forsaken(&lab.pass(3500)), "a child that has all of it");
}

#[test]
fn who_is_left_by_its_clients_reads_on_only_for_who_waits() {
    for waits in [true, false] {
        let mut lab = Lab::with_session();
        lab.handle(start(PieceSet::new()));
        lab.handle(neighbours(&[1], &[]));
        lab.handle(grant(0..PIECES));
        lab.handle(Event::LinkUp(host(1)));
        subscribe(&mut lab, 1);
        subscribes(&mut lab, 1, waits);
        lab.handle(Event::Stop { task: task() });
        let left = says(&lab.pass(2500), &PeerMessage::Leave { task: task() });
        assert_eq!(left, !waits);
    }
}

/// Whether somebody waits here, as neighbours are told.
fn told_to_wait(said: &[Command]) -> Vec<bool> {
    let told = said.iter().filter_map(|command| match command {
        Command::Link {
            message: LinkMessage::Subscribe { waits, .. },
            ..
        } => Some(*waits),
        _ => None,
    });
    told.collect()
}

#[test]
fn neighbours_hear_whether_somebody_waits_here() {
    let mut lab = seeding(&[1]);
    let said = lab.handle(Event::LinkUp(host(1)));
    assert_eq!(told_to_wait(&said), [false]);
    let read = |reader| Event::Reader {
        task: task(),
        reader: ReaderId(reader),
        wants: 0..PIECES,
    };
    assert_eq!(told_to_wait(&lab.handle(read(1))), [true]);
    assert_eq!(told_to_wait(&lab.handle(read(2))), [true; 0], "they know");

    let mut lab = Lab::with_session();
    lab.handle(start(PieceSet::new()));
    lab.handle(neighbours(&[1, 2], &[]));
    let said = lab.handle(Event::LinkUp(host(1)));
    assert_eq!(told_to_wait(&said), [true]);
    subscribe(&mut lab, 1);
    lab.handle(grant(0..PIECES));
    lab.handle(Event::SourcePiece {
        task: task(),
        piece: PieceIndex(0),
    });
    let said = lab.handle(Event::Stop { task: task() });
    assert_eq!(
        told_to_wait(&said),
        [false],
        "it still gives out what it read"
    );
    let said = lab.handle(start(PieceSet::from_range(0..1)));
    assert_eq!(told_to_wait(&said), [true]);
}

#[test]
fn a_reader_s_next_piece_is_asked_for_first() {
    let mut lab = Lab::with_session();
    lab.handle(start(PieceSet::new()));
    lab.handle(Event::Reader {
        task: task(),
        reader: ReaderId(1),
        wants: 5..PIECES,
    });
    lab.handle(neighbours(&[1], &[]));
    lab.handle(Event::LinkUp(host(1)));
    let asked = requests(&lab.handle(have(1, PieceSet::full(PIECES))));
    assert_eq!(asked[0].2, 5);
    assert_eq!(asked.len(), Options::default().pipeline as usize);
}

#[test]
fn who_finds_next_to_nothing_in_its_window_looks_beyond_it() {
    let window = 4;
    let mut lab = Lab::of(
        Options {
            window,
            ..Options::default()
        },
        true,
    );
    lab.handle(Event::SessionUp(scheduler()));
    lab.handle(start(PieceSet::new()));
    lab.handle(neighbours(&[1, 2, 3, 4, 5, 6], &[]));
    for name in 1..=6 {
        lab.handle(Event::LinkUp(host(name)));
    }
    let mut asked = |name, piece| {
        let one = PieceSet::from_range(piece..piece + 1);
        let asked = requests(&lab.handle(have(name, one)));
        asked.iter().map(|(.., piece)| *piece).collect::<Vec<_>>()
    };
    assert_eq!(asked(1, 10), [10], "nothing else is to be had");
    for (name, piece) in [(2, 0), (3, 1), (4, 2), (5, 3)] {
        assert_eq!(asked(name, piece), [piece]);
    }
    assert!(asked(6, 12).is_empty(), "enough is under way");
}

#[test]
fn what_readers_want_soon_is_asked_for_first_and_the_rest_while_little_is_under_way() {
    let options = Options {
        near: 4,
        in_flight: 8,
        ..Options::default()
    };
    let mut lab = Lab::of(options, true);
    lab.handle(Event::SessionUp(scheduler()));
    lab.handle(start(PieceSet::new()));
    lab.handle(neighbours(&[1, 2, 3, 4, 5, 6, 7, 8], &[]));
    for name in 1..=8 {
        lab.handle(Event::LinkUp(host(name)));
    }
    let mut asked = |name, piece: u32| {
        let one = PieceSet::from_range(piece..piece + 1);
        let asked = requests(&lab.handle(have(name, one)));
        asked.iter().map(|(.., piece)| *piece).collect::<Vec<_>>()
    };
    for (name, piece) in [(1, 9), (2, 10), (3, 11), (4, 12), (5, 13), (6, 14)] {
        assert_eq!(asked(name, piece), [piece], "little is under way");
    }
    assert!(asked(7, 15).is_empty(), "three quarters are");
    assert_eq!(asked(8, 2), [2], "a reader wants it soon");
}

#[test]
fn a_parent_that_stalls_or_can_t_be_reached_counts_for_nothing_after_a_while() {
    let failures = [PieceFailure::Stalled, PieceFailure::Unreachable];
    for (failure, is_read) in failures
        .into_iter()
        .flat_map(|one| [(one, true), (one, false)])
    {
        let mut lab = Lab::with_session();
        lab.handle(start(PieceSet::new()));
        if is_read {
            lab.handle(Event::Reader {
                task: task(),
                reader: ReaderId(1),
                wants: 0..PIECES,
            });
        }
        lab.handle(neighbours(&[1], &[]));
        lab.handle(Event::LinkUp(host(1)));
        lab.handle(reading(1, PieceSet::full(PIECES)));
        let mut asked = requests(&lab.handle(have(1, PieceSet::full(PIECES))));
        let mut said = Vec::new();
        for _ in 0..20 {
            for (request, ..) in std::mem::take(&mut asked) {
                said.extend(lab.handle(Event::PieceFailed { request, failure }));
            }
            said.extend(lab.pass(1000));
            asked = requests(&said);
            asked.retain(|(request, ..)| lab.node.state.requests.contains_key(request));
        }
        let starved =
            |command: &Command| matches!(command, Command::Session(_, PeerMessage::Starved { .. }));
        assert!(said.iter().any(starved), "the scheduler hears of it");
        let helps_itself = !source_reads(&said).is_empty();
        assert_eq!(helps_itself, is_read, "where a client asked for it");
    }
}

#[test]
fn a_corrupt_blob_is_read_again_from_the_source_alone() {
    let mut lab = Lab::with_session();
    lab.handle(start(PieceSet::new()));
    lab.handle(neighbours(&[1], &[]));
    lab.handle(Event::LinkUp(host(1)));
    let mut asked = requests(&lab.handle(have(1, PieceSet::full(PIECES))));
    while let Some((request, ..)) = asked.pop() {
        asked.extend(requests(&lab.handle(Event::PieceStored(request))));
    }
    lab.handle(reading(1, PieceSet::full(PIECES)));
    let said = lab.handle(Event::Corrupt {
        task: task(),
        pieces: PieceSet::full(PIECES),
    });
    assert_eq!(source_reads(&said), [(PieceSet::full(PIECES), true)]);
    assert_eq!(requests(&said), []);
    // Whatever it promises once more.
    for said in [
        lab.handle(have(1, PieceSet::full(PIECES))),
        lab.handle(reading(1, PieceSet::full(PIECES))),
    ] {
        assert_eq!((source_reads(&said), requests(&said)), (vec![], vec![]));
    }
}

#[test]
fn a_grant_may_come_before_the_download_is_open() {
    let mut lab = Lab::with_session();
    assert_eq!(source_reads(&lab.handle(grant(0..PIECES))), []);
    let said = lab.handle(start(PieceSet::new()));
    assert_eq!(source_reads(&said), [(PieceSet::full(PIECES), false)]);
}

#[test]
fn the_scheduler_hears_of_parents_once_a_second_in_sums() {
    let mut lab = Lab::with_session();
    lab.handle(start(PieceSet::new()));
    lab.handle(neighbours(&[1], &[]));
    lab.handle(Event::LinkUp(host(1)));
    let mut asked = requests(&lab.handle(have(1, PieceSet::full(PIECES))));
    let (mut reports, mut said) = (Vec::new(), Vec::new());
    while let Some((request, ..)) = asked.pop() {
        said.extend(lab.pass(50));
        said.extend(lab.handle(Event::PieceStored(request)));
        asked.extend(requests(&said));
        asked.retain(|(request, ..)| lab.node.state.requests.contains_key(request));
        asked.dedup();
        for command in said.drain(..) {
            if let Command::Session(_, PeerMessage::Parents { parents }) = command {
                reports.push((lab.now, parents));
            }
        }
    }
    lab.handle(Event::Committed { task: task() });
    for command in lab.pass(2000) {
        if let Command::Session(_, PeerMessage::Parents { parents }) = command {
            reports.push((lab.now, parents));
        }
    }
    let of_host = |report: &&darter_api::session::ParentReport| report.host == host(1);
    let all = reports.iter().flat_map(|(_, parents)| parents);
    let pieces: u32 = all
        .clone()
        .filter(of_host)
        .map(|report| report.pieces)
        .sum();
    assert_eq!(pieces, PIECES, "what is left is told after the end");
    assert!(all.clone().all(|report| report.busy_us > 0));
    let bytes: u64 = all.map(|report| report.bytes).sum();
    assert_eq!(bytes, lengths().size());
    assert!(reports.len() <= 2, "16 pieces within a second");
}

#[test]
fn a_host_that_does_not_share_announces_nothing() {
    let mut lab = Lab::with_session();
    lab.node.options.share = false;
    lab.handle(start(PieceSet::from_range(0..4)));
    lab.handle(neighbours(&[1], &[]));
    lab.handle(Event::LinkUp(host(1)));
    let mut said = subscribe(&mut lab, 1);
    said.extend(lab.pass(1000));
    let has = |command: &Command| {
        matches!(command, Command::Link { message, .. }
            if !matches!(message, LinkMessage::Subscribe { .. }))
    };
    assert!(!said.iter().any(has));
}

#[test]
fn who_is_forbidden_the_source_fails_instead_of_reading_it() {
    let mut lab = Lab::with_session();
    lab.handle(start(PieceSet::new()));
    let said = lab.handle(Event::Session(
        scheduler(),
        SchedulerMessage::Unavailable {
            task: task(),
            why: LeaseEnd::Refused,
            forbidden: true,
        },
    ));
    assert!(source_reads(&said).is_empty());
    let why = said.iter().find_map(|command| match command {
        Command::Fail { why, .. } => Some(*why),
        _ => None,
    });
    assert_eq!(why, Some(DownloadFailure::Forbidden));
}

#[test]
fn who_reads_a_part_says_when_half_of_its_first_run_is_read() {
    for (run, tells) in [(0..8, [3].as_slice()), (0..PIECES, &[])] {
        let mut lab = Lab::with_session();
        lab.handle(start(PieceSet::new()));
        let reader = ReaderId(1);
        let (task, wants) = (task(), 0..PIECES);
        lab.handle(Event::Reader {
            task,
            reader,
            wants,
        });
        lab.handle(grant(run.clone()));
        let reads = |piece: &u32| {
            let piece = PieceIndex(*piece);
            let said = lab.handle(Event::SourcePiece { task, piece });
            let progress =
                |one: &Command| matches!(one, Command::Session(_, PeerMessage::Progress { .. }));
            said.iter().any(progress)
        };
        let told: Vec<u32> = run.filter(reads).collect();
        assert_eq!(told, tells);
    }
}
