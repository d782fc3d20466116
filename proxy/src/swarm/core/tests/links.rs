//! Links that are idle, and hosts that are gone.

use darter_api::{PieceSet, session::PeerMessage};

use super::{
    super::*,
    offers::subscribe,
    rules::{Lab, PIECES, have, host, lengths, neighbours, origin, says, start, task},
};

fn dials(commands: &[Command]) -> bool {
    let dial = |command: &Command| matches!(command, Command::Dial(_));
    commands.iter().any(dial)
}

#[test]
fn a_link_over_which_nothing_goes_on_is_hung_up_and_made_again_when_it_is_needed() {
    const IDLE: u64 = 120_000;
    let mut lab = Lab::with_session();
    lab.handle(Event::Stored {
        task: task(),
        lengths: lengths(),
        held: PieceSet::from_range(0..4),
        origin: Some(origin()),
    });
    assert!(dials(&lab.handle(neighbours(&[1], &[]))));
    lab.handle(Event::LinkUp(host(1)));
    let hang_up = Command::HangUp(host(1));
    assert!(!lab.pass(IDLE / 2).contains(&hang_up));
    lab.handle(have(1, PieceSet::from_range(0..1)));
    assert!(!lab.pass(IDLE - 1000).contains(&hang_up), "it spoke");
    assert!(lab.pass(IDLE).contains(&hang_up));
    let mut said = lab.handle(Event::LinkDown(host(1)));
    said.extend(lab.pass(IDLE));
    assert!(!dials(&said), "nobody needs it");
    assert!(dials(&lab.handle(start(PieceSet::from_range(0..4)))));
    lab.handle(Event::LinkUp(host(1)));
    assert!(!lab.pass(2 * IDLE).contains(&hang_up), "it is waited for");
}

#[test]
fn who_was_met_for_nothing_is_forgotten() {
    let mut lab = Lab::with_session();
    lab.handle(neighbours(&[1], &[]));
    lab.handle(Event::LinkUp(host(1)));
    let said = lab.pass(200_000);
    assert!(said.contains(&Command::HangUp(host(1))));
    assert!(says(&said, &PeerMessage::Leave { task: task() }));
    lab.handle(Event::LinkDown(host(1)));
    lab.handle(Event::LinkUp(host(2)));
    lab.pass(200_000);
    assert!(!lab.node.state.hosts.contains_key(&host(1)));
}

#[test]
fn who_is_gone_subscribes_to_nothing() {
    let mut lab = Lab::with_session();
    lab.handle(Event::Stored {
        task: task(),
        lengths: lengths(),
        held: PieceSet::full(PIECES),
        origin: Some(origin()),
    });
    lab.handle(Event::LinkUp(host(1)));
    lab.handle(Event::LinkUp(host(2)));
    subscribe(&mut lab, 1);
    subscribe(&mut lab, 2);
    let all = PieceSet::full(PIECES);
    lab.handle(have(1, all.clone()));
    lab.handle(have(2, all));
    lab.pass(5000);
    assert!(lab.node.state.busy.is_empty(), "nothing is to be done");
    lab.handle(Event::LinkDown(host(1)));
    let known = &lab.node.state.tasks[&task()];
    assert_eq!(known.announcer.subscribers.len(), 1);
}
