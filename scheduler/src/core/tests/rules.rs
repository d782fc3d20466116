//! The rules one by one.

use darter_api::{
    Digest, HostId, Lengths, NodeKey, Origin, OriginKind, PieceSet, TaskId, Timestamp,
    session::{
        Hello, Holding, Join, LeaseEnd, Locality, PeerMessage, Purpose, Role, SchedulerMessage,
    },
};

use super::{super::*, field::Beats};

pub(super) const PIECES: u32 = 16;

pub(super) fn lengths() -> Lengths {
    Lengths::of(u64::from(PIECES) * 256 * 1024).unwrap()
}

pub(super) fn host(name: u8) -> HostId {
    HostId::from_bytes([name; 32])
}

pub(super) fn task(number: u8) -> TaskId {
    TaskId::of_content(Digest::sha256(&[number]))
}

pub(super) fn origin() -> Origin {
    Origin {
        upstream: "docker.io".parse().unwrap(),
        repository: "library/app".parse().unwrap(),
        kind: OriginKind::Blob,
        private: false,
    }
}

pub(super) fn hello(name: u8, epoch: u64, role: Role) -> Hello {
    Hello {
        host: host(name),
        epoch,
        name: name.to_string(),
        address: ([127, 0, 0, 1], 4000).into(),
        role,
        locality: Locality::default(),
        upload_slots: 4,
        cores: None,
        shares: true,
        version: String::new(),
    }
}

pub(super) fn join(number: u8, held: PieceSet) -> PeerMessage {
    join_with(number, lengths(), held)
}

pub(super) fn join_with(number: u8, lengths: Lengths, held: PieceSet) -> PeerMessage {
    PeerMessage::Join(Join {
        task: task(number),
        lengths,
        held,
        origin: origin(),
        purpose: Purpose::Pull,
    })
}

/// A cluster and its clock.
struct Lab {
    cluster: Cluster,
    now: Timestamp,
    beats: Beats,
}

impl Lab {
    /// Past its settling time.
    fn new() -> Self {
        let mut lab = Self::just_started();
        lab.pass(2000);
        lab
    }

    fn just_started() -> Self {
        Self::with(Options::default())
    }

    /// Past its settling time, and two hosts may read a source at a time.
    fn sharing() -> Self {
        let mut lab = Self::with(Options {
            source_holders: 2,
            source_holders_from: 0,
            source_waiters: 0,
            ..Options::default()
        });
        lab.pass(2000);
        lab
    }

    fn with(options: Options) -> Self {
        let key = NodeKey::from_seed([1; 32]);
        Self {
            cluster: Cluster::new(options, key, Timestamp::ZERO, 0, 1),
            now: Timestamp::ZERO,
            beats: Beats::default(),
        }
    }

    fn pass(&mut self, millis: u64) -> Vec<Command> {
        let mut commands = Vec::new();
        let until = self.now + Duration::from_millis(millis);
        while self.now < until {
            self.beats.beat(self.now, &mut self.cluster);
            let next = self.beats.before(until);
            commands.extend(self.pass_until(next));
        }
        commands
    }

    fn pass_until(&mut self, until: Timestamp) -> Vec<Command> {
        let mut commands = Vec::new();
        while let Some(at) = self
            .cluster
            .next_deadline(self.now)
            .filter(|at| *at <= until)
        {
            self.now = at.max(self.now + Duration::from_millis(1));
            commands.extend(self.cluster.tick(self.now));
        }
        self.now = until;
        commands
    }

    fn up(&mut self, name: u8, role: Role) {
        self.cluster
            .handle(self.now, Event::HostUp(hello(name, 1, role)));
    }

    fn down(&mut self, name: u8) -> Vec<Command> {
        let event = Event::HostDown {
            host: host(name),
            epoch: 1,
        };
        self.cluster.handle(self.now, event)
    }

    fn says(&mut self, name: u8, message: PeerMessage) -> Vec<Command> {
        let event = Event::Message {
            host: host(name),
            message,
        };
        self.cluster.handle(self.now, event)
    }

    fn joins(&mut self, name: u8) -> Vec<Command> {
        self.says(name, join(1, PieceSet::new()))
    }

    fn progress(&mut self, name: u8, pieces: std::ops::Range<u32>) -> Vec<Command> {
        let held = PieceSet::from_range(pieces);
        self.says(
            name,
            PeerMessage::Progress {
                task: task(1),
                held,
            },
        )
    }

    fn returns(&mut self, name: u8, why: LeaseEnd) -> Vec<Command> {
        let returned = PeerMessage::LeaseReturned {
            task: task(1),
            pieces: PieceSet::full(PIECES),
            why,
        };
        self.says(name, returned)
    }
}

/// Who was granted what.
fn grants(commands: &[Command]) -> Vec<(HostId, std::ops::Range<u32>)> {
    let granted = commands
        .iter()
        .filter_map(|command| match &command.message {
            SchedulerMessage::Grant(grant) => {
                assert_eq!(grant.holder, command.host);
                assert!(grant.is_authentic());
                Some((grant.holder, grant.pieces.clone()))
            }
            _ => None,
        });
    granted.collect()
}

fn revoked(commands: &[Command], name: u8) -> PieceSet {
    let mut all = PieceSet::new();
    for command in commands.iter().filter(|one| one.host == host(name)) {
        if let SchedulerMessage::Revoked { pieces, .. } = &command.message {
            all.union_with(pieces);
        }
    }
    all
}

#[test]
fn a_cold_task_goes_to_a_seed_which_is_told_to_fetch() {
    let mut lab = Lab::new();
    lab.up(1, Role::Peer);
    lab.up(9, Role::Seed);
    let said = lab.joins(1);
    assert_eq!(grants(&said), [(host(9), 0..PIECES)]);
    let fetch = |command: &&Command| matches!(command.message, SchedulerMessage::Fetch { .. });
    assert_eq!(said.iter().find(fetch).unwrap().host, host(9));
    let introduced = |name: u8| {
        said.iter().any(|command| match &command.message {
            SchedulerMessage::Neighbours { add, .. } => {
                command.host == host(name) && !add.is_empty()
            }
            _ => false,
        })
    };
    assert!(introduced(1) && introduced(9), "and they know each other");
}

#[test]
fn without_seeds_the_first_peer_reads_for_all() {
    let mut lab = Lab::new();
    lab.up(1, Role::Peer);
    lab.up(2, Role::Peer);
    assert_eq!(grants(&lab.joins(2)), [(host(2), 0..PIECES)]);
    assert_eq!(grants(&lab.joins(1)), []);
}

#[test]
fn who_does_not_accept_in_time_loses_the_lease() {
    let mut lab = Lab::new();
    lab.up(1, Role::Peer);
    lab.up(9, Role::Seed);
    lab.joins(1);
    assert_eq!(grants(&lab.pass(400)), []);
    let said = lab.pass(200);
    assert_eq!(revoked(&said, 9), PieceSet::full(PIECES));
    assert_eq!(grants(&said), [(host(1), 0..PIECES)]);
}

#[test]
fn a_host_that_works_through_its_grants_is_not_taken_for_dead() {
    let mut lab = Lab::new();
    lab.up(1, Role::Peer);
    lab.up(9, Role::Seed);
    lab.joins(1);
    let busy = PeerMessage::Load {
        uploads: 0,
        downloads: 0,
        upload_bytes: 0,
    };
    for _ in 0..12 {
        assert_eq!(grants(&lab.pass(400)), [], "it has said something since");
        lab.says(9, busy.clone());
    }
    assert_eq!(
        grants(&lab.pass(400)),
        [(host(1), 0..PIECES)],
        "5 s at most"
    );
}

#[test]
fn a_host_that_is_known_to_answer_slowly_is_waited_for() {
    let mut lab = Lab::new();
    lab.up(9, Role::Seed);
    lab.beats.mute.insert(host(9));
    lab.pass(700);
    let inventory = PeerMessage::Inventory {
        holdings: vec![],
        last: true,
    };
    lab.says(9, inventory);
    lab.up(1, Role::Peer);
    lab.joins(1);
    assert_eq!(grants(&lab.pass(1300)), []);
    assert_eq!(grants(&lab.pass(300)), [(host(1), 0..PIECES)]);
}

#[test]
fn an_accepted_lease_lives_by_progress() {
    let mut lab = Lab::new();
    lab.up(1, Role::Peer);
    lab.up(9, Role::Seed);
    lab.joins(1);
    lab.says(9, PeerMessage::LeaseAccepted { task: task(1) });
    lab.says(
        9,
        PeerMessage::LeaseFirstByte {
            task: task(1),
            ranges: true,
        },
    );
    for piece in 1..5 {
        assert_eq!(grants(&lab.pass(8000)), []);
        lab.progress(9, 0..piece);
    }
    let said = lab.pass(11_000);
    assert_eq!(revoked(&said, 9), PieceSet::from_range(4..PIECES));
    assert_eq!(grants(&said), [(host(1), 4..PIECES)]);
}

#[test]
fn what_a_silent_reader_was_to_read_goes_to_another_soon() {
    let mut lab = Lab::new();
    for name in [1, 2] {
        lab.up(name, Role::Peer);
    }
    lab.up(9, Role::Seed);
    lab.joins(1);
    lab.says(9, PeerMessage::LeaseAccepted { task: task(1) });
    let begun = PeerMessage::LeaseFirstByte {
        task: task(1),
        ranges: true,
    };
    lab.says(9, begun);
    lab.progress(9, 0..4);
    lab.progress(1, 0..2);
    // Its machine loses its power, of which its session tells nothing.
    lab.beats.mute.insert(host(9));
    assert_eq!(grants(&lab.pass(1900)), []);
    let said = lab.pass(1200);
    assert_eq!(revoked(&said, 9), PieceSet::from_range(4..PIECES));
    assert!(!lab.cluster.tasks[&task(1)].are_neighbours(&host(9), &host(1)));
    // What only it was known to have is gone as well.
    assert_eq!(grants(&said), [(host(1), 2..PIECES)]);
    // It was stopped and goes on: what it has counts again, and it reads nothing.
    lab.beats.mute.clear();
    lab.progress(9, 0..5);
    let task = &lab.cluster.tasks[&task(1)];
    assert!(task.leases.iter().all(|lease| lease.holder == host(1)));
    assert_eq!(task.held(&host(9)).len(), 5);
    assert!(task.are_neighbours(&host(9), &host(1)));
}

#[test]
fn a_silent_reader_that_alone_waits_is_left_to_itself() {
    let mut lab = Lab::new();
    lab.up(1, Role::Peer);
    lab.joins(1);
    lab.says(1, PeerMessage::LeaseAccepted { task: task(1) });
    lab.beats.mute.insert(host(1));
    assert!(revoked(&lab.pass(4000), 1).is_empty());
}

/// A seed has read eight pieces and dies; of them two waiters are known to have 0..3 and 5..7.
fn a_seed_dies(ranges: Option<bool>) -> (Lab, Vec<(HostId, std::ops::Range<u32>)>) {
    let mut lab = Lab::new();
    for name in [1, 2] {
        lab.up(name, Role::Peer);
    }
    lab.up(9, Role::Seed);
    lab.joins(1);
    lab.joins(2);
    lab.says(9, PeerMessage::LeaseAccepted { task: task(1) });
    if let Some(ranges) = ranges {
        let task = task(1);
        lab.says(9, PeerMessage::LeaseFirstByte { task, ranges });
    }
    lab.progress(9, 0..8);
    lab.progress(1, 0..3);
    lab.progress(2, 5..7);
    let granted = grants(&lab.down(9));
    (lab, granted)
}

#[test]
fn what_a_dead_holder_left_is_granted_piece_by_piece() {
    let (mut lab, granted) = a_seed_dies(None);
    let (holder, _) = granted[0];
    assert_eq!(granted, [(holder, 8..PIECES)], "what it had may be there");
    let granted = grants(&lab.pass(400));
    assert_eq!(granted, [(holder, 3..5), (holder, 7..8)], "one reader");
}

#[test]
fn what_a_dead_holder_gave_away_is_told_of_before_it_is_read_again() {
    let (mut lab, granted) = a_seed_dies(Some(true));
    let (holder, _) = granted[0];
    assert_eq!(granted, [(holder, 8..PIECES)]);
    lab.progress(1, 0..5);
    let granted = grants(&lab.pass(400));
    // Its stream has passed it.
    let other = if holder == host(1) { host(2) } else { host(1) };
    assert_eq!(granted, [(other, 7..8)]);
}

#[test]
fn a_waiter_that_is_left_alone_need_not_hear_from_anybody() {
    let mut lab = Lab::new();
    lab.up(1, Role::Peer);
    lab.up(9, Role::Seed);
    lab.joins(1);
    lab.says(9, PeerMessage::LeaseAccepted { task: task(1) });
    lab.progress(9, 0..8);
    assert_eq!(grants(&lab.down(9)), [(host(1), 0..PIECES)]);
}

#[test]
fn a_scheduler_that_restarted_adopts_what_is_read_and_grants_nothing_twice() {
    let mut lab = Lab::just_started();
    lab.up(1, Role::Peer);
    lab.up(2, Role::Peer);
    let holding = |held: std::ops::Range<u32>, reading: std::ops::Range<u32>| Holding {
        task: task(1),
        lengths: lengths(),
        held: PieceSet::from_range(held),
        reading: PieceSet::from_range(reading),
        wanted: true,
        origin: Some(origin()),
    };
    let mut said = Vec::new();
    for (name, held, reading) in [(1, 0..4, 4..10), (2, 10..12, 0..0)] {
        let inventory = PeerMessage::Inventory {
            holdings: vec![holding(held, reading)],
            last: true,
        };
        said.extend(lab.says(name, inventory));
        said.extend(lab.joins(name));
    }
    assert_eq!(grants(&said), [], "it waits for those who come back");
    // The joins above told that nothing is held; the truth follows.
    lab.progress(1, 0..4);
    lab.progress(2, 10..12);
    assert_eq!(grants(&lab.pass(1200)), [(host(1), 12..PIECES)]);
}

#[test]
fn who_comes_back_reading_what_others_hold_is_told_to_stop() {
    let mut lab = Lab::just_started();
    for name in [1, 2] {
        lab.up(name, Role::Peer);
    }
    lab.progress(1, 0..0);
    lab.says(2, join(1, PieceSet::from_range(2..6)));
    let holding = Holding {
        task: task(1),
        lengths: lengths(),
        held: PieceSet::new(),
        reading: PieceSet::from_range(0..8),
        wanted: true,
        origin: Some(origin()),
    };
    let said = lab.says(
        1,
        PeerMessage::Inventory {
            holdings: vec![holding],
            last: true,
        },
    );
    assert_eq!(revoked(&said, 1), PieceSet::from_range(2..6));
}

#[test]
fn a_seed_without_the_right_gives_way_to_an_asker_and_is_remembered() {
    let mut lab = Lab::new();
    lab.up(1, Role::Peer);
    lab.up(9, Role::Seed);
    lab.joins(1);
    assert_eq!(
        grants(&lab.returns(9, LeaseEnd::Refused)),
        [(host(1), 0..PIECES)]
    );
    lab.down(1);
    lab.up(2, Role::Peer);
    assert_eq!(grants(&lab.joins(2)), [(host(2), 0..PIECES)]);
}

#[test]
fn when_nobody_can_read_everybody_who_waits_is_told_once() {
    let mut lab = Lab::new();
    for name in [1, 2] {
        lab.up(name, Role::Peer);
        lab.joins(name);
    }
    let told = |said: &[Command], name: u8| {
        let unavailable = said.iter().filter(|command| {
            command.host == host(name)
                && matches!(command.message, SchedulerMessage::Unavailable { .. })
        });
        unavailable.count()
    };
    let mut said = lab.returns(1, LeaseEnd::Unreachable);
    said.extend(lab.returns(2, LeaseEnd::Unreachable));
    said.extend(lab.pass(3000));
    assert_eq!((told(&said, 1), told(&said, 2)), (1, 1));
    lab.up(3, Role::Peer);
    assert_eq!(grants(&lab.joins(3)), [(host(3), 0..PIECES)]);
}

#[test]
fn a_source_that_fails_two_waiters_is_not_tried_by_all_the_others() {
    let mut lab = Lab::new();
    lab.up(9, Role::Seed);
    for name in 1..=5 {
        lab.up(name, Role::Peer);
        lab.joins(name);
    }
    assert_eq!(grants(&lab.returns(9, LeaseEnd::Unreachable)).len(), 1);
    assert_eq!(grants(&lab.returns(1, LeaseEnd::Unreachable)).len(), 1);
    let mut said = lab.returns(2, LeaseEnd::Unreachable);
    said.extend(lab.pass(10_000));
    assert_eq!(grants(&said), []);
    let told = |command: &&Command| matches!(command.message, SchedulerMessage::Unavailable { .. });
    assert_eq!(said.iter().filter(told).count(), 5);
    lab.up(6, Role::Peer);
    assert_eq!(grants(&lab.joins(6)).len(), 1, "who comes anew may try");
}

/// What was granted to a host.
fn granted(said: &[Command], name: u8) -> PieceSet {
    let mut pieces = PieceSet::new();
    for (_, range) in grants(said).into_iter().filter(|(to, _)| *to == host(name)) {
        pieces.insert_range(range);
    }
    pieces
}

#[test]
fn two_hosts_read_a_source_that_serves_ranges_and_no_piece_twice() {
    let mut lab = Lab::sharing();
    lab.up(1, Role::Peer);
    lab.up(9, Role::Seed);
    let first = granted(&lab.joins(1), 9);
    assert_eq!(
        first.len(),
        PIECES / 2,
        "the rest waits for the first answer"
    );
    let begun = PeerMessage::LeaseFirstByte {
        task: task(1),
        ranges: true,
    };
    let second = granted(&lab.says(9, begun), 1);
    assert!(first.intersection(&second).is_empty());
    assert_eq!(first.len() + second.len(), PIECES);
}

/// A seed that reads with eight hosts connected, and so many of them that wait at its first byte.
fn reads_for(waiters: u8) -> (Lab, PieceSet) {
    let mut lab = Lab::new();
    lab.up(9, Role::Seed);
    for name in 1..=7 {
        lab.up(name, Role::Peer);
    }
    let mut first = PieceSet::new();
    for name in 1..=waiters {
        first.union_with(&granted(&lab.joins(name), 9));
    }
    assert_eq!(first.len(), PIECES / 2, "the rest waits");
    (lab, first)
}

fn first_byte(lab: &mut Lab, name: u8) -> Vec<Command> {
    let begun = PeerMessage::LeaseFirstByte {
        task: task(1),
        ranges: true,
    };
    lab.says(name, begun)
}

/// What these hosts were granted.
fn granted_to(said: &[Command], names: std::ops::RangeInclusive<u8>) -> PieceSet {
    let mut all = PieceSet::new();
    names.for_each(|name| all.union_with(&granted(said, name)));
    all
}

#[test]
fn a_second_host_reads_the_source_where_several_wait() {
    let (mut lab, first) = reads_for(3);
    let said = first_byte(&mut lab, 9);
    let second = granted_to(&said, 1..=3);
    assert_eq!(second.len(), PIECES - first.len());
    assert!(second.intersection(&first).is_empty());
}

#[test]
fn who_comes_while_a_reader_is_in_its_first_pieces_may_read_the_rest() {
    let (mut lab, first) = reads_for(2);
    assert_eq!(grants(&first_byte(&mut lab, 9)), []);
    assert_eq!(grants(&lab.pass(200)), []);
    let said = lab.joins(3);
    let second = granted_to(&said, 1..=3);
    assert_eq!(second.len(), PIECES - first.len());
}

#[test]
fn a_reader_gets_the_rest_where_nobody_else_has_come() {
    for tells in [true, false] {
        let (mut lab, first) = reads_for(2);
        assert_eq!(grants(&first_byte(&mut lab, 9)), []);
        let said = match tells {
            true => lab.progress(9, 0..2),
            false => lab.pass(600),
        };
        let rest = granted(&said, 9);
        assert_eq!(rest.len(), PIECES - first.len(), "tells: {tells}");
        assert!(granted_to(&lab.joins(3), 1..=3).is_empty());
    }
}

#[test]
fn two_that_wait_do_not_share_what_a_lost_reader_leaves() {
    let mut lab = Lab::new();
    lab.up(10, Role::Seed);
    for name in 1..=8 {
        lab.up(name, Role::Peer);
    }
    lab.joins(1);
    lab.joins(2);
    lab.says(10, PeerMessage::LeaseAccepted { task: task(1) });
    let begun = PeerMessage::LeaseFirstByte {
        task: task(1),
        ranges: true,
    };
    lab.says(10, begun);
    let mut said = lab.down(10);
    said.extend(lab.pass(400));
    let parts = [1, 2].map(|name| granted(&said, name).len());
    assert!(parts.contains(&PIECES) && parts.contains(&0), "{parts:?}");
}

#[test]
fn one_host_reads_a_source_without_ranges() {
    let mut lab = Lab::sharing();
    lab.up(1, Role::Peer);
    lab.up(9, Role::Seed);
    let first = granted(&lab.joins(1), 9);
    let begun = PeerMessage::LeaseFirstByte {
        task: task(1),
        ranges: false,
    };
    let said = lab.says(9, begun);
    assert_eq!(granted(&said, 1), PieceSet::new());
    let rest = granted(&said, 9);
    assert_eq!(first.len() + rest.len(), PIECES);
}

#[test]
fn half_of_what_a_slow_reader_has_left_goes_to_another() {
    let mut lab = Lab::sharing();
    lab.up(1, Role::Peer);
    lab.joins(1);
    lab.says(1, PeerMessage::LeaseAccepted { task: task(1) });
    let begun = PeerMessage::LeaseFirstByte {
        task: task(1),
        ranges: true,
    };
    lab.says(1, begun);
    for name in 2..=48 {
        lab.up(name, Role::Peer);
    }
    lab.joins(2);
    let said = lab.pass(4000);
    assert_eq!(revoked(&said, 1).len(), PIECES / 2);
    assert_eq!(granted(&said, 2), revoked(&said, 1));
}

#[test]
fn a_self_lease_is_adopted_but_for_what_is_leased() {
    let mut lab = Lab::new();
    for name in [1, 2] {
        lab.up(name, Role::Peer);
    }
    lab.joins(1);
    lab.progress(1, 0..0);
    let leased = PeerMessage::SelfLeased {
        task: task(1),
        pieces: PieceSet::full(PIECES),
    };
    let said = lab.says(2, leased);
    assert_eq!(revoked(&said, 2), PieceSet::full(PIECES));
    let graph = lab.cluster.graph(&task(1)).unwrap();
    let reads = |name: u8| graph.nodes.iter().find(|node| node.host == host(name));
    assert!(reads(2).is_none_or(|node| node.leased.is_empty()));
    assert_eq!(reads(1).unwrap().leased, PieceSet::full(PIECES));
}

#[test]
fn a_self_lease_can_be_withdrawn_without_losing_a_grant() {
    let mut lab = Lab::new();
    lab.up(1, Role::Peer);
    lab.joins(1);
    for pieces in [PieceSet::full(PIECES), PieceSet::new()] {
        let task = task(1);
        lab.says(1, PeerMessage::SelfLeased { task, pieces });
    }
    let graph = lab.cluster.graph(&task(1)).unwrap();
    assert_eq!(graph.nodes[0].leased, PieceSet::full(PIECES));
}

/// A manifest of anybody's names a content with a wrong size, before somebody wants it.
#[test]
fn a_size_that_was_only_claimed_makes_way() {
    let mut lab = Lab::new();
    lab.up(1, Role::Peer);
    lab.up(2, Role::Peer);
    let interest = PeerMessage::Interest {
        tasks: vec![(task(1), Lengths::of(77).unwrap())],
        origin: origin(),
    };
    lab.says(1, interest);
    lab.joins(2);
    let graph = lab.cluster.graph(&task(1)).unwrap();
    assert_eq!(
        graph.nodes.len(),
        1,
        "who was interested in another size is not of it"
    );
    assert_eq!(graph.nodes[0].leased, PieceSet::full(PIECES), "it is read");
    lab.joins(1);
    let graph = lab.cluster.graph(&task(1)).unwrap();
    assert_eq!(graph.nodes.len(), 2);
}

#[test]
fn another_geometry_is_refused() {
    let mut lab = Lab::new();
    lab.up(1, Role::Peer);
    lab.up(2, Role::Peer);
    lab.joins(1);
    let said = lab.says(2, join_with(1, Lengths::of(77).unwrap(), PieceSet::new()));
    assert!(matches!(
        said[..],
        [Command {
            message: SchedulerMessage::Mismatch { .. },
            ..
        }]
    ));
}

#[test]
fn what_a_host_says_of_another_size_does_not_count() {
    let mut lab = Lab::new();
    lab.up(1, Role::Peer);
    lab.up(2, Role::Peer);
    lab.joins(1);
    lab.says(2, join_with(1, Lengths::of(77).unwrap(), PieceSet::new()));
    let (id, one) = (task(1), PieceSet::from_range(0..1));
    for word in [
        PeerMessage::SelfLeased {
            task: id,
            pieces: one.clone(),
        },
        PeerMessage::Progress {
            task: id,
            held: one.clone(),
        },
        PeerMessage::Starved {
            task: id,
            pieces: one.clone(),
        },
        PeerMessage::Done { task: id },
    ] {
        lab.says(2, word);
        let graph = lab.cluster.graph(&id).unwrap();
        let members: Vec<HostId> = graph.nodes.iter().map(|node| node.host).collect();
        assert_eq!(members, [host(1)]);
    }
    // It finds that it was wrong.
    lab.joins(2);
    lab.says(2, PeerMessage::Done { task: id });
    let graph = lab.cluster.graph(&id).unwrap();
    let other = graph.nodes.iter().find(|node| node.host == host(2));
    assert_eq!(other.unwrap().held, PieceSet::full(PIECES));
}

#[test]
fn who_turns_to_another_size_is_forgotten_with_what_it_said_of_the_first() {
    let mut lab = Lab::new();
    lab.up(1, Role::Peer);
    lab.up(2, Role::Peer);
    for name in [1, 2] {
        lab.joins(name);
        lab.says(name, PeerMessage::Done { task: task(1) });
    }
    let first = PieceSet::from_range(0..1);
    let other = || join_with(1, Lengths::of(77).unwrap(), first.clone());
    lab.says(2, other());
    let graph = lab.cluster.graph(&task(1)).unwrap();
    assert_eq!(graph.nodes.len(), 1);
    // With the last one that had the first size goes that size.
    lab.says(1, other());
    let graph = lab.cluster.graph(&task(1)).unwrap();
    assert_eq!(graph.nodes[0].held, first);
}

#[test]
fn the_end_of_an_old_session_does_not_remove_a_host_that_is_back() {
    let mut lab = Lab::new();
    lab.up(1, Role::Peer);
    let again = Event::HostUp(hello(1, 2, Role::Peer));
    lab.cluster.handle(lab.now, again);
    lab.down(1);
    assert_eq!(lab.cluster.counts().hosts, 1);
}

/// Two hundred hosts and a seed that want a content of so many bytes: all are reached from the seed.
/// The most neighbours of one.
fn neighbours_in_a_large_swarm(bytes: u64) -> usize {
    let mut lab = Lab::new();
    let lengths = Lengths::of(bytes).unwrap();
    lab.up(0, Role::Seed);
    for name in 1..=200 {
        lab.up(name, Role::Peer);
        let join = PeerMessage::Join(Join {
            task: task(1),
            lengths,
            held: PieceSet::new(),
            origin: origin(),
            purpose: Purpose::Pull,
        });
        lab.says(name, join);
    }
    let graph = lab.cluster.graph(&task(1)).unwrap();
    let neighbours = |host: &HostId| {
        let node = graph.nodes.iter().find(|node| node.host == *host);
        node.map(|node| node.neighbours.clone()).unwrap_or_default()
    };
    let (mut seen, mut next) = (BTreeSet::new(), vec![host(0)]);
    while let Some(host) = next.pop() {
        if seen.insert(host) {
            next.extend(neighbours(&host));
        }
    }
    assert_eq!(seen.len(), 201, "everybody is reached from the seed");
    let task = &lab.cluster.tasks[&task(1)];
    let most = graph.nodes.iter().map(|node| node.neighbours.len()).max();
    assert!(most <= Some(lab.cluster.room(task)));
    most.unwrap_or_default()
}

#[test]
fn a_large_swarm_is_one_swarm() {
    assert!(neighbours_in_a_large_swarm(lengths().size()) > 20);
}

#[test]
fn for_a_content_of_one_piece_few_neighbours_are_enough() {
    assert!(neighbours_in_a_large_swarm(100_000) <= 6);
}
