//! In which order pieces are asked for, and when another parent is asked as well.

use darter_api::PieceSet;

use super::super::{event::ReaderId, *};
use super::{
    offers::subscribe,
    rules::{Lab, PIECES, have, host, neighbours, requests, start, task},
};

/// A download that a client reads, and neighbours that are there.
fn lab(names: &[u8]) -> Lab {
    let mut lab = Lab::with_session();
    lab.handle(start(PieceSet::new()));
    lab.handle(Event::Reader {
        task: task(),
        reader: ReaderId(1),
        wants: 0..PIECES,
    });
    lab.handle(neighbours(names, &[]));
    for name in names {
        lab.handle(Event::LinkUp(host(*name)));
    }
    lab
}

fn one(piece: u32) -> PieceSet {
    PieceSet::from_range(piece..piece + 1)
}

/// What a neighbour that has this piece and no other is asked for takes so long.
fn brings(lab: &mut Lab, name: u8, piece: u32, millis: u64) {
    let asked = requests(&lab.handle(have(name, one(piece))));
    assert_eq!(asked[0].2, piece);
    lab.pass(millis);
    lab.handle(Event::PieceStored(asked[0].0));
}

#[test]
fn what_a_reader_wants_next_and_is_late_is_asked_of_another_one() {
    let mut lab = lab(&[1, 2]);
    brings(&mut lab, 1, 0, 50);
    brings(&mut lab, 2, 1, 50);
    let late = requests(&lab.handle(have(1, one(2))));
    assert_eq!(late[0].1, host(1));
    // The other one has it too, and something else to give.
    lab.handle(have(2, one(2)));
    brings(&mut lab, 2, 3, 50);
    assert!(requests(&lab.pass(900)).is_empty());
    let again = requests(&lab.pass(200));
    assert_eq!((again[0].1, again[0].2), (host(2), 2));
    assert_eq!(again.len(), 1);
    let said = lab.handle(Event::PieceStored(again[0].0));
    assert!(said.contains(&Command::Cancel(late[0].0)));
}

#[test]
fn what_takes_as_long_as_usual_is_not_late() {
    let mut lab = lab(&[1, 2]);
    brings(&mut lab, 1, 0, 400);
    brings(&mut lab, 2, 1, 400);
    lab.handle(have(1, one(2)));
    lab.handle(have(2, one(2)));
    assert!(requests(&lab.pass(1100)).is_empty());
    assert_eq!(requests(&lab.pass(200)).len(), 1);
}

#[test]
fn who_still_says_something_is_not_late() {
    let mut lab = lab(&[1, 2]);
    brings(&mut lab, 1, 0, 50);
    brings(&mut lab, 2, 1, 50);
    lab.handle(have(1, one(2)));
    lab.handle(have(2, one(2)));
    lab.pass(900);
    lab.handle(have(1, one(0)));
    assert!(requests(&lab.pass(400)).is_empty());
    assert_eq!(requests(&lab.pass(200)).len(), 1);
}

#[test]
fn few_neighbours_are_asked_in_order_and_many_for_what_is_rare() {
    for many in [false, true] {
        let mut lab = lab(&[1]);
        lab.handle(neighbours(&[20], &[]));
        for name in 2..=14 {
            if many {
                subscribe(&mut lab, name);
            }
        }
        // It is out of reach, and yet another one that has them.
        lab.handle(have(20, PieceSet::from_range(0..PIECES - 3)));
        let asked = requests(&lab.handle(have(1, PieceSet::full(PIECES))));
        let mut asked: Vec<u32> = asked.iter().map(|(.., piece)| *piece).collect();
        asked[1..].sort_unstable();
        let wanted = if many { [0, 13, 14, 15] } else { [0, 1, 2, 3] };
        assert_eq!(asked, wanted, "many: {many}");
    }
}
