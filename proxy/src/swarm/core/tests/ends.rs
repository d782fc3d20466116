//! Contents whose size nobody tells.

use darter_api::{
    Grant, Lengths, PieceIndex, PieceSet, TaskId,
    link::LinkMessage,
    session::{PeerMessage, Purpose, SchedulerMessage},
};

use super::{
    super::*,
    rules::{Lab, host, origin, scheduler, task},
};

fn open() -> TaskId {
    task().opened()
}

fn all() -> u32 {
    Lengths::open().pieces()
}

/// A host that reads it, if it is `granted`, beside a neighbour.
fn lab(granted: bool) -> Lab {
    let mut lab = Lab::with_session();
    let (task, lengths) = (open(), Lengths::open());
    lab.handle(Event::Start {
        task,
        lengths,
        origin: origin(),
        held: PieceSet::new(),
        purpose: Purpose::Pull,
    });
    let add = vec![darter_api::session::Neighbour {
        host: host(1),
        address: ([127, 0, 0, 1], 4000).into(),
        role: darter_api::session::Role::Peer,
    }];
    let remove = Vec::new();
    let told = SchedulerMessage::Neighbours { task, add, remove };
    lab.handle(Event::Session(scheduler(), told));
    lab.handle(Event::LinkUp(host(1)));
    let waits = true;
    let message = LinkMessage::Subscribe {
        task,
        lengths,
        waits,
    };
    let host = host(1);
    lab.handle(Event::Link { host, message });
    if granted {
        let grant = Grant {
            task,
            lengths,
            pieces: 0..all(),
            holder: super::rules::host(100),
            granter: super::rules::host(200),
            issued_unix_ms: 0,
            signature: [0; 64],
        };
        let grant = SchedulerMessage::Grant(grant);
        lab.handle(Event::Session(scheduler(), grant));
    }
    lab
}

fn read(piece: u32) -> Event {
    Event::SourcePiece {
        task: open(),
        piece: PieceIndex(piece),
    }
}

fn ends(past: u32) -> Event {
    Event::Ends {
        task: open(),
        past: PieceIndex(past),
    }
}

fn have(pieces: std::ops::Range<u32>) -> Event {
    Event::Link {
        host: host(1),
        message: LinkMessage::Have {
            task: open(),
            pieces: PieceSet::from_range(pieces),
        },
    }
}

fn requested(commands: &[Command]) -> Vec<(event::RequestId, u32)> {
    let requests = commands.iter().filter_map(|command| match command {
        Command::Request { request, piece, .. } => Some((*request, piece.0)),
        _ => None,
    });
    requests.collect()
}

#[test]
fn who_has_read_to_the_end_says_so_and_is_done() {
    let mut lab = lab(true);
    lab.handle(read(0));
    lab.handle(read(1));
    let said = lab.handle(ends(2));
    let past = PieceSet::from_range(2..all());
    let told = said.iter().any(|command| match command {
        Command::Link {
            message: LinkMessage::Have { pieces, .. },
            ..
        } => past.is_within(pieces),
        _ => false,
    });
    assert!(told, "neighbours: {said:?}");
    let held = PieceSet::full(all());
    let progress = PeerMessage::Progress { task: open(), held };
    assert!(
        said.contains(&Command::Session(scheduler(), progress)),
        "{said:?}"
    );
    assert!(said.contains(&Command::Complete { task: open() }));
    let said = lab.handle(Event::Committed { task: open() });
    let done = PeerMessage::Done { task: open() };
    assert!(said.contains(&Command::Session(scheduler(), done)));
}

#[test]
fn a_child_asks_for_what_lies_past_the_end_once_and_for_all() {
    let mut lab = lab(false);
    let said = lab.handle(have(3..all()));
    let asked = requested(&said);
    assert!(!asked.is_empty() && asked.iter().all(|(_, piece)| *piece >= 3));
    let said = lab.handle(ends(3));
    for (request, _) in asked {
        assert!(said.contains(&Command::Cancel(request)), "{said:?}");
    }
    assert_eq!(requested(&said), []);
    assert_eq!(lab.node.requests_in_flight(), 0);
    // What is told twice changes nothing.
    assert_eq!(lab.handle(ends(3)), []);
    let said = lab.handle(have(0..3));
    let mut asked = requested(&said);
    asked.sort_unstable_by_key(|(_, piece)| *piece);
    let pieces: Vec<u32> = asked.iter().map(|(_, piece)| *piece).collect();
    assert_eq!(pieces, [0, 1, 2]);
    let mut complete = false;
    for (request, _) in asked {
        assert!(!complete);
        let said = lab.handle(Event::PieceStored(request));
        complete = said.contains(&Command::Complete { task: open() });
    }
    assert!(complete);
}

#[test]
fn what_is_corrupt_has_no_end_any_more() {
    let mut lab = lab(true);
    lab.handle(read(0));
    let said = lab.handle(ends(1));
    assert!(said.contains(&Command::Complete { task: open() }));
    let pieces = PieceSet::full(all());
    let task = open();
    let said = lab.handle(Event::Corrupt { task, pieces });
    let again = said.iter().find_map(|command| match command {
        Command::ReadSource { pieces, .. } => Some(pieces.clone()),
        _ => None,
    });
    assert_eq!(
        again,
        Some(PieceSet::full(all())),
        "all of it is read again"
    );
}

#[test]
fn a_content_with_a_size_has_its_end() {
    let mut lab = Lab::with_session();
    lab.handle(super::rules::start(PieceSet::new()));
    let (task, past) = (task(), PieceIndex(3));
    assert_eq!(lab.handle(Event::Ends { task, past }), []);
    assert!(lab.node.held(&task).is_empty());
}
