//! Readers that say nothing any more.

use darter_api::{
    PieceSet,
    session::{PeerMessage, Role},
};

use super::lab::*;

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
