//! Several readers of one source.

use darter_api::{
    PieceSet,
    session::{PeerMessage, Role},
};

use super::{super::*, lab::*};

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
