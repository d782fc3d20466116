//! Hosts that say another size of a content.

use darter_api::{
    HostId, Lengths, PieceSet,
    session::{PeerMessage, Role, SchedulerMessage},
};

use super::{super::*, lab::*};

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
