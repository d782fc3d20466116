//! What is said, and not said, of contents of one piece.

use std::collections::BTreeSet;

use darter_api::{HostId, Lengths, PieceSet, link::LinkMessage};

use super::{
    super::*,
    rules::{Lab, have, host, neighbours, origin, reading, requests, start, task},
};

fn lengths() -> Lengths {
    Lengths::of(100_000).unwrap()
}

fn one() -> PieceSet {
    PieceSet::full(1)
}

fn starts() -> Event {
    Event::Start {
        task: task(),
        lengths: lengths(),
        origin: origin(),
        held: PieceSet::new(),
        purpose: Purpose::Pull,
    }
}

fn subscribes(name: u8) -> Event {
    let (task, lengths, waits) = (task(), lengths(), true);
    let message = LinkMessage::Subscribe {
        task,
        lengths,
        waits,
    };
    Event::Link {
        host: host(name),
        message,
    }
}

/// Who is told something of this kind.
fn told(commands: &[Command], kind: impl Fn(&LinkMessage) -> bool) -> BTreeSet<HostId> {
    let told = commands.iter().filter_map(|command| match command {
        Command::Link { host, message } if kind(message) => Some(*host),
        _ => None,
    });
    told.collect()
}

fn haves(commands: &[Command]) -> BTreeSet<HostId> {
    told(commands, |one| matches!(one, LinkMessage::Have { .. }))
}

fn unsubscribes(commands: &[Command]) -> BTreeSet<HostId> {
    told(commands, |one| {
        matches!(one, LinkMessage::Unsubscribe { .. })
    })
}

fn subscriptions(commands: &[Command]) -> usize {
    let subscribes = |command: &&Command| {
        let Command::Link { message, .. } = command else {
            return false;
        };
        matches!(message, LinkMessage::Subscribe { .. })
    };
    commands.iter().filter(subscribes).count()
}

fn hosts<const N: usize>(names: [u8; N]) -> BTreeSet<HostId> {
    names.map(host).into()
}

/// Neighbours 1 to 4, of whom 1 to 3 want the content as well.
fn amid_others() -> Lab {
    let mut lab = Lab::with_session();
    lab.handle(starts());
    lab.handle(neighbours(&[1, 2, 3, 4], &[]));
    for name in [1, 2, 3, 4] {
        lab.handle(Event::LinkUp(host(name)));
    }
    for name in [1, 2, 3] {
        lab.handle(subscribes(name));
    }
    lab
}

/// It comes from host 1; what is said then, and what once it is checked.
fn gets_it(lab: &mut Lab) -> (Vec<Command>, Vec<Command>) {
    let asked = requests(&lab.handle(have(1, one())));
    let [(request, from, 0)] = asked[..] else {
        panic!("{asked:?}");
    };
    assert_eq!(from, host(1));
    let said = lab.handle(Event::PieceStored(request));
    (said, lab.handle(Event::Committed { task: task() }))
}

#[test]
fn who_has_it_is_told_nothing_and_who_was_told_is_not_left() {
    let mut lab = amid_others();
    let (said, then) = gets_it(&mut lab);
    assert_eq!(haves(&said), hosts([2, 3]), "host 1 has it");
    assert_eq!(unsubscribes(&then), hosts([4]), "it knows nothing of it");
    let known = &lab.node.state.tasks[&task()];
    assert!(known.announcer.subscribers.is_empty());
}

#[test]
fn who_gives_it_out_hears_what_becomes_of_it() {
    let mut lab = amid_others();
    lab.handle(reading(1, one()));
    let (said, then) = gets_it(&mut lab);
    assert_eq!(haves(&said), hosts([1, 2, 3]));
    assert_eq!(unsubscribes(&then), hosts([4]));
}

#[test]
fn who_comes_later_is_told_and_forgotten() {
    let mut lab = amid_others();
    gets_it(&mut lab);
    let said = lab.handle(subscribes(4));
    assert_eq!(haves(&said), hosts([4]));
    assert_eq!(subscriptions(&said), 0);
    let known = &lab.node.state.tasks[&task()];
    assert!(known.announcer.subscribers.is_empty());
    // It lost it, and asks again.
    assert_eq!(haves(&lab.handle(subscribes(4))), hosts([4]));
}

#[test]
fn who_gives_it_out_remembers_them_until_all_have_it() {
    let mut lab = Lab::with_session();
    lab.handle(Event::Stored {
        task: task(),
        lengths: lengths(),
        held: one(),
        origin: Some(origin()),
    });
    for name in [1, 2] {
        lab.handle(Event::LinkUp(host(name)));
        lab.handle(subscribes(name));
    }
    lab.handle(have(1, one()));
    let left = |lab: &Lab| {
        let known = &lab.node.state.tasks[&task()];
        known.announcer.subscribers.len()
    };
    assert_eq!(left(&lab), 2);
    lab.handle(have(2, one()));
    assert_eq!(left(&lab), 0);
    lab.pass(5000);
    assert!(lab.node.state.busy.is_empty(), "nothing is to be done");
    // Both are asked anew whether they have it.
    let mut said = lab.handle(subscribes(1));
    said.extend(lab.handle(subscribes(2)));
    said.extend(lab.pass(100));
    assert!(!haves(&said).is_empty());
}

#[test]
fn of_a_large_content_the_last_word_is_said() {
    let mut lab = Lab::with_session();
    lab.handle(start(PieceSet::full(16)));
    lab.handle(neighbours(&[1], &[]));
    lab.handle(Event::LinkUp(host(1)));
    lab.handle(have(1, PieceSet::full(16)));
    let own = &mut lab.node.state.tasks.get_mut(&task()).unwrap();
    own.announcer.offers.own = PieceSet::new();
    let said = lab.handle(Event::Committed { task: task() });
    assert_eq!(unsubscribes(&said), hosts([1]));
}

#[test]
fn who_is_quicker_than_the_scheduler_is_subscribed_to_once() {
    let mut lab = Lab::with_session();
    lab.handle(starts());
    lab.handle(Event::LinkUp(host(1)));
    let mut said = lab.handle(subscribes(1));
    said.extend(lab.handle(neighbours(&[1], &[])));
    assert_eq!(subscriptions(&said), 1);
    // Introduced once more, it may have forgotten.
    assert_eq!(subscriptions(&lab.handle(neighbours(&[1], &[]))), 1);
}
