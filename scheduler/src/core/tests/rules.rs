//! The rules one by one.

use darter_api::{
    HostId, Lengths, PieceSet,
    session::{Holding, Join, LeaseEnd, PeerMessage, Purpose, Role, SchedulerMessage},
};

use super::{super::*, lab::*};

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
