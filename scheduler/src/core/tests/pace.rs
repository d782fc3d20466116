//! Who reads on when a holder is slow, or sends rot.

use std::ops::Range;

use darter_api::{
    Lengths, PieceSet,
    session::{Complaint, Join, PeerMessage, Purpose, Role},
};

use super::{
    super::*,
    field::{Field, id},
    lab::{origin, task},
};

const HOLDER: u16 = 0;
const SLOW: u16 = 1;
const ROTTEN: u16 = 2;
const GOOD: u16 = 7;

/// Two hundred pieces of 256 KiB.
fn lengths() -> Lengths {
    Lengths::of(200 << 18).unwrap()
}

fn joins(field: &mut Field, name: u16, number: u8) {
    joins_for(field, name, number, Purpose::Pull);
}

fn joins_for(field: &mut Field, name: u16, number: u8, purpose: Purpose) {
    let join = Join {
        task: task(number),
        lengths: lengths(),
        held: PieceSet::new(),
        origin: origin(),
        purpose,
    };
    field.says(name, PeerMessage::Join(join));
}

/// Hosts that join one task: the first of them alone reads its source.
fn swarm(hosts: u16) -> Field {
    let mut field = Field::new(Options {
        source_holders_from: 48,
        ..Options::default()
    });
    for name in 0..hosts {
        field.up(Field::hello(name));
        joins(&mut field, name, 1);
    }
    assert_eq!(reader(&field), Some(id(HOLDER)));
    field
}

fn reader(field: &Field) -> Option<HostId> {
    let leases = &field.cluster.tasks[&task(1)].leases;
    leases.first().map(|lease| lease.holder)
}

fn begins(field: &mut Field, name: u16) {
    let task = task(1);
    field.says(name, PeerMessage::LeaseAccepted { task });
    field.says(name, PeerMessage::LeaseFirstByte { task, ranges: true });
}

fn holds(field: &mut Field, name: u16, pieces: Range<u32>) -> Vec<Command> {
    let (task, held) = (task(1), PieceSet::from_range(pieces));
    field.says(name, PeerMessage::Progress { task, held })
}

fn caught(field: &mut Field, reporter: u16, neighbour: u16) -> Vec<Command> {
    let (neighbour, task, complaint) = (id(neighbour), task(1), Complaint::Rot);
    field.says(
        reporter,
        PeerMessage::Report {
            neighbour,
            task,
            complaint,
        },
    )
}

/// What a host is to read no more.
fn revoked(said: &[Command], host: HostId) -> PieceSet {
    let mut all = PieceSet::new();
    for command in said.iter().filter(|command| command.host == host) {
        if let SchedulerMessage::Revoked { pieces, .. } = &command.message {
            all.union_with(pieces);
        }
    }
    all
}

/// What hosts were granted.
fn granted(said: &[Command]) -> PieceSet {
    let mut all = PieceSet::new();
    for command in said {
        if let SchedulerMessage::Grant(grant) = &command.message {
            all.insert_range(grant.pieces.clone());
        }
    }
    all
}

/// Seconds until somebody else reads, while the holder gains a piece every `every` seconds.
fn seconds_until_moved(field: &mut Field, from: u32, every: u32) -> Option<u32> {
    let Some(holder) = reader(field) else {
        return Some(0);
    };
    let name = (0..100).find(|name| id(*name) == holder)?;
    let mut held = from;
    for second in 1..=20 {
        let said = field.pass(1000);
        if second % every == 0 {
            held += 1;
        }
        // Who is told to stop says at once what it has.
        if second % every == 0 || !revoked(&said, holder).is_empty() {
            holds(field, name, from..held);
        }
        if reader(field) != Some(holder) {
            return Some(second);
        }
    }
    None
}

#[test]
fn the_next_reader_is_one_that_does_well() {
    let mut field = swarm(12);
    for _ in 0..20 {
        for child in 3..6 {
            let parents = [(GOOD, 20_000), (8, 20_000), (SLOW, 400_000)];
            field.reports(child, &parents.map(|(name, micros)| (name, Some(micros))));
        }
    }
    caught(&mut field, 5, ROTTEN);
    field.down(HOLDER);
    let next = reader(&field).unwrap();
    assert!([id(GOOD), id(8)].contains(&next), "{next:?}");
}

#[test]
fn who_reads_beside_a_reader_does_well_too() {
    let mut field = Field::new(Options {
        source_holders: 2,
        source_holders_from: 0,
        source_waiters: 0,
        ..Options::default()
    });
    for name in 0..48 {
        field.up(Field::hello(name));
    }
    const ALSO_GOOD: u16 = 8;
    let good = [GOOD, ALSO_GOOD];
    let slow = || (0..12).filter(|name| !good.contains(name));
    for child in 12..15 {
        let parents = good.map(|name| (name, Some(20_000)));
        let parents: Vec<_> = parents
            .into_iter()
            .chain(slow().map(|name| (name, Some(400_000))))
            .collect();
        field.reports(child, &parents);
    }
    joins(&mut field, GOOD, 1);
    for name in slow().chain([ALSO_GOOD]) {
        joins(&mut field, name, 1);
    }
    begins(&mut field, GOOD);
    field.pass(2000);
    holds(&mut field, GOOD, 0..10);
    let leases = field.cluster.tasks[&task(1)].leases.iter();
    let readers: BTreeSet<HostId> = leases.map(|lease| lease.holder).collect();
    assert_eq!(readers, BTreeSet::from(good.map(id)));
    // Nobody is better than somebody slow.
    field.down(ALSO_GOOD);
    holds(&mut field, GOOD, 0..11);
    assert_eq!(reader(&field), Some(id(GOOD)));
    assert_eq!(field.cluster.tasks[&task(1)].leases.len(), 1);
}

#[test]
fn what_a_slow_holder_has_not_read_goes_to_another() {
    let mut field = swarm(12);
    begins(&mut field, HOLDER);
    for second in 1..=4 {
        field.pass(1000);
        holds(&mut field, HOLDER, 0..second * 4);
    }
    field.down(HOLDER);
    let slow = reader(&field).unwrap();
    let name = (0..12).find(|name| id(*name) == slow).unwrap();
    begins(&mut field, name);
    let found = seconds_until_moved(&mut field, 16, 3).expect("found");
    println!("a holder twelve times slower than the one before: found after {found} s");
    assert!(found <= 4, "{found} s");
    assert_eq!(field.cluster.counts().moved, 1);
    // It is not asked again while there are others.
    let second = reader(&field).unwrap();
    field.cluster.handle(
        field.now,
        Event::HostDown {
            host: second,
            epoch: 1,
        },
    );
    assert_ne!(reader(&field).unwrap(), slow);
}

#[test]
fn what_a_source_brought_a_holder_that_was_soon_gone_counts() {
    let mut field = swarm(12);
    begins(&mut field, HOLDER);
    field.pass(1000);
    holds(&mut field, HOLDER, 0..16);
    field.down(HOLDER);
    let slow = reader(&field).unwrap();
    let name = (0..12).find(|name| id(*name) == slow).unwrap();
    begins(&mut field, name);
    let found = seconds_until_moved(&mut field, 16, 3);
    assert!(found.is_some_and(|found| found <= 4), "{found:?}");
}

#[test]
fn of_two_readers_one_that_is_far_slower_is_found_by_their_first_words() {
    let mut field = Field::new(Options {
        source_holders: 2,
        source_holders_from: 0,
        source_waiters: 0,
        ..Options::default()
    });
    for name in 0..48 {
        field.up(Field::hello(name));
    }
    for name in 0..12 {
        joins(&mut field, name, 1);
    }
    begins(&mut field, HOLDER);
    field.pass(1000);
    holds(&mut field, HOLDER, 0..8);
    let leases = &field.cluster.tasks[&task(1)].leases;
    let slow = leases.iter().find(|lease| lease.holder != id(HOLDER));
    let (slow, part) = slow.map(|one| (one.holder, one.pieces.clone())).unwrap();
    let name = (0..12).find(|name| id(*name) == slow).unwrap();
    begins(&mut field, name);
    field.pass(1000);
    holds(&mut field, HOLDER, 0..20);
    let at = part.first().unwrap();
    holds(&mut field, name, at..at + 1);
    let said = field.pass(500);
    assert!(!revoked(&said, slow).is_empty());
    assert_eq!(revoked(&said, id(HOLDER)), PieceSet::new());
}

#[test]
fn what_a_slow_holder_has_read_is_not_read_again() {
    for tells in [true, false] {
        let mut field = swarm(12);
        begins(&mut field, HOLDER);
        for second in 1..=4 {
            field.pass(1000);
            holds(&mut field, HOLDER, 0..second * 4);
        }
        for name in [10, 11] {
            holds(&mut field, name, 0..16);
        }
        field.down(HOLDER);
        let slow = reader(&field).unwrap();
        let name = (0..12).find(|name| id(*name) == slow).unwrap();
        begins(&mut field, name);
        let mut ticks = (0..100).map(|_| field.pass(100));
        let told = ticks.find(|said| !revoked(said, slow).is_empty());
        assert!(granted(&told.unwrap()).is_empty(), "before its last word");
        // It had read some that nobody knew of.
        let said = match tells {
            true => holds(&mut field, name, 16..20),
            false => field.pass(2000),
        };
        let from = if tells { 20 } else { 16 };
        let left = PieceSet::from_range(from..lengths().pieces());
        assert_eq!(granted(&said), left);
        assert_ne!(reader(&field), Some(slow));
    }
}

#[test]
fn a_holder_that_kept_up_is_not_blamed_for_what_all_share() {
    let mut field = swarm(12);
    begins(&mut field, HOLDER);
    for second in 1..=4 {
        field.pass(1000);
        holds(&mut field, HOLDER, 0..second * 8);
    }
    assert_eq!(seconds_until_moved(&mut field, 32, 4), None);
    assert_eq!(field.cluster.counts().moved, 0);
}

#[test]
fn a_reader_of_two_tasks_may_read_one_of_them_first() {
    let mut field = swarm(12);
    for name in 0..12 {
        joins(&mut field, name, 2);
    }
    // Both are read by the same host, whose link their streams share.
    assert_eq!(field.cluster.tasks[&task(2)].leases[0].holder, id(HOLDER));
    let says = |field: &mut Field, number: u8, pieces: u32| {
        let (task, held) = (task(number), PieceSet::from_range(0..pieces));
        field.says(HOLDER, PeerMessage::Progress { task, held });
    };
    for number in [1, 2] {
        let task = task(number);
        field.says(HOLDER, PeerMessage::LeaseAccepted { task });
        field.says(HOLDER, PeerMessage::LeaseFirstByte { task, ranges: true });
    }
    for second in 1..=5 {
        field.pass(1000);
        says(&mut field, 1, second * 40);
        says(&mut field, 2, second);
    }
    for second in 6..=10 {
        field.pass(1000);
        says(&mut field, 2, 5 + (second - 5) * 2);
    }
    assert_eq!(field.cluster.counts().moved, 0);
}

#[test]
fn what_one_reader_gets_from_neighbours_makes_no_other_one_slow() {
    let mut field = swarm(12);
    for name in [SLOW, 5] {
        joins(&mut field, name, 2);
    }
    let says = |field: &mut Field, name: u16, number: u8, pieces: u32| {
        let (task, held) = (task(number), PieceSet::from_range(0..pieces));
        field.says(name, PeerMessage::Progress { task, held });
    };
    // One of them has the third task whole.
    joins(&mut field, 5, 3);
    says(&mut field, 5, 3, 200);
    joins(&mut field, HOLDER, 3);
    for (name, number) in [(HOLDER, 1), (SLOW, 2)] {
        let task = task(number);
        assert_eq!(field.cluster.tasks[&task].leases[0].holder, id(name));
        field.says(name, PeerMessage::LeaseAccepted { task });
        field.says(name, PeerMessage::LeaseFirstByte { task, ranges: true });
    }
    for second in 1..=8 {
        field.pass(1000);
        says(&mut field, HOLDER, 1, second * 4);
        says(&mut field, HOLDER, 3, second * 25);
        says(&mut field, SLOW, 2, second * 4);
    }
    assert_eq!(field.cluster.counts().moved, 0);
}

#[test]
fn a_reader_begins_once() {
    let mut field = swarm(12);
    begins(&mut field, SLOW);
    let pace = |field: &Field, name: u16| field.cluster.hosts[&id(name)].pace.is_some();
    assert!(!pace(&field, SLOW), "it reads nothing");
    let reads = |field: &mut Field| {
        let (task, pieces) = (task(1), PieceSet::from_range(100..200));
        field.says(HOLDER, PeerMessage::SelfLeased { task, pieces });
    };
    field
        .cluster
        .tasks
        .get_mut(&task(1))
        .unwrap()
        .leases
        .clear();
    reads(&mut field);
    assert!(pace(&field, HOLDER));
    field.pass(1000);
    holds(&mut field, HOLDER, 100..108);
    let before = format!("{:?}", field.cluster.hosts[&id(HOLDER)].pace);
    reads(&mut field);
    assert_eq!(
        format!("{:?}", field.cluster.hosts[&id(HOLDER)].pace),
        before
    );
}

#[test]
fn who_reads_for_a_preheat_gives_way_and_is_not_slow() {
    for (purpose, moves) in [(Purpose::Preheat, false), (Purpose::Pull, true)] {
        let mut field = Field::new(Options::default());
        for name in 0..12 {
            field.up(Field::hello(name));
            joins_for(&mut field, name, 1, purpose);
        }
        begins(&mut field, HOLDER);
        for second in 1..=4 {
            field.pass(1000);
            holds(&mut field, HOLDER, 0..second * 4);
        }
        field.down(HOLDER);
        let next = reader(&field).unwrap();
        let name = (0..12).find(|name| id(*name) == next).unwrap();
        begins(&mut field, name);
        let moved = seconds_until_moved(&mut field, 16, 3);
        assert_eq!(moved.is_some(), moves, "{purpose:?}: {moved:?}");
    }
}

#[test]
fn a_holder_whose_link_is_full_of_what_neighbours_send_is_not_slow() {
    let mut field = swarm(12);
    begins(&mut field, HOLDER);
    for second in 1..=4 {
        field.pass(1000);
        holds(&mut field, HOLDER, 0..second * 8);
    }
    field.down(HOLDER);
    let holder = reader(&field).unwrap();
    let name = (0..12).find(|name| id(*name) == holder).unwrap();
    begins(&mut field, name);
    for second in 1..=10 {
        field.pass(1000);
        let mut held = PieceSet::from_range(0..second);
        held.insert_range(100..100 + second * 7);
        let other = if name == 3 { 4 } else { 3 };
        let task = task(1);
        for (name, held) in [(other, PieceSet::from_range(100..180)), (name, held)] {
            field.says(name, PeerMessage::Progress { task, held });
        }
    }
    assert_eq!(field.cluster.counts().moved, 0);
}

#[test]
fn a_source_that_became_slow_is_not_passed_around_for_ever() {
    let mut field = swarm(40);
    begins(&mut field, HOLDER);
    for second in 1..=4 {
        field.pass(1000);
        holds(&mut field, HOLDER, 0..second * 4);
    }
    field.down(HOLDER);
    for _ in 0..20 {
        let holder = reader(&field).unwrap();
        let name = (0..40).find(|name| id(*name) == holder).unwrap();
        begins(&mut field, name);
        if seconds_until_moved(&mut field, 16, 4).is_none() {
            break;
        }
    }
    let moved = field.cluster.counts().moved;
    println!("a source sixteen times slower than before: {moved} leases moved");
    assert!((1..=4).contains(&moved), "{moved}");
}

#[test]
fn a_source_that_many_share_makes_nobody_slow() {
    let mut field = swarm(12);
    begins(&mut field, HOLDER);
    for second in 1..=4 {
        field.pass(1000);
        holds(&mut field, HOLDER, 0..second * 4);
    }
    for number in 2..10 {
        let name = u16::from(number);
        joins(&mut field, name, number);
        let task = task(number);
        field.says(name, PeerMessage::LeaseAccepted { task });
        field.says(name, PeerMessage::LeaseFirstByte { task, ranges: true });
    }
    for second in 1..=10 {
        field.pass(2000);
        holds(&mut field, HOLDER, 0..16 + second);
        for number in 2..10 {
            let (task, held) = (task(number), PieceSet::from_range(0..second));
            field.says(u16::from(number), PeerMessage::Progress { task, held });
        }
    }
    assert_eq!(field.cluster.counts().moved, 0);
}

#[test]
fn what_only_a_rotten_host_holds_is_read_again() {
    let mut field = swarm(12);
    begins(&mut field, HOLDER);
    holds(&mut field, HOLDER, 0..10);
    caught(&mut field, 3, HOLDER);
    caught(&mut field, 4, HOLDER);
    assert_eq!(reader(&field), Some(id(HOLDER)), "two are not enough");
    let said = caught(&mut field, 5, HOLDER);
    let stopped = said.iter().any(|one| {
        one.host == id(HOLDER) && matches!(one.message, SchedulerMessage::Revoked { .. })
    });
    assert!(stopped, "it reads no more");
    let lease = &field.cluster.tasks[&task(1)].leases[0];
    assert_ne!(lease.holder, id(HOLDER));
    assert_eq!(lease.pieces, PieceSet::full(lengths().pieces()));
    let said = holds(&mut field, HOLDER, 0..12);
    assert!(said.is_empty(), "what it says it holds counts for nothing");
}

#[test]
fn a_seed_that_lags_gives_way_to_one_that_does_not() {
    let mut field = Field::new(Options::default());
    for name in [1, 2] {
        let mut hello = Field::hello(name);
        hello.role = Role::Seed;
        field.up(hello);
    }
    for name in 10..14 {
        field.up(Field::hello(name));
        joins(&mut field, name, 1);
    }
    let first = reader(&field).unwrap();
    let name = if first == id(1) { 1 } else { 2 };
    // Its children, who have other parents as well, find it slow.
    for child in 20..26 {
        field.up(Field::hello(child));
        for _ in 0..4 {
            let others = (10..14).map(|parent| (parent, Some(20_000)));
            let parents: Vec<_> = others.chain([(name, Some(400_000))]).collect();
            field.reports(child, &parents);
        }
    }
    assert!(field.cluster.is_slow(&first));
    begins(&mut field, name);
    field.pass(4000);
    let second = reader(&field).unwrap();
    assert!(second == id(1) || second == id(2));
    assert_ne!(second, first);
}
