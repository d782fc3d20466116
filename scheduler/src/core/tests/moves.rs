//! Tasks that come from another scheduler, and hosts that rest.

use std::time::Duration;

use darter_api::{
    HostId, PieceSet, Timestamp,
    session::{Complaint, Holding, PeerMessage, Role, SchedulerMessage},
};

use super::{
    super::*,
    lab::{PIECES, hello, host, join, lengths, origin, task},
};

/// A cluster past its start, and its clock.
struct Lab {
    cluster: Cluster,
    now: Timestamp,
}

impl Lab {
    fn new() -> Self {
        let key = darter_api::NodeKey::from_seed([1; 32]);
        let mut lab = Self {
            cluster: Cluster::new(Options::default(), key, Timestamp::ZERO, 0, 1),
            now: Timestamp::ZERO,
        };
        lab.pass(5000);
        lab
    }

    fn pass(&mut self, millis: u64) -> Vec<Command> {
        let until = self.now + Duration::from_millis(millis);
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

    fn up(&mut self, name: u8, epoch: u64) {
        let hello = hello(name, epoch, Role::Peer);
        self.cluster.handle(self.now, Event::HostUp(hello));
    }

    fn says(&mut self, name: u8, message: PeerMessage) -> Vec<Command> {
        let host = host(name);
        self.cluster
            .handle(self.now, Event::Message { host, message })
    }

    fn joins(&mut self, name: u8) -> Vec<Command> {
        self.says(name, join(1, PieceSet::new()))
    }

    fn moves(&mut self, name: u8) {
        let tasks = vec![task(1)];
        self.says(name, PeerMessage::Moved { tasks });
    }

    fn tells(&mut self, name: u8, held: PieceSet, reading: PieceSet) -> Vec<Command> {
        let wanted = held.len() < PIECES;
        let holding = Holding {
            task: task(1),
            lengths: lengths(),
            held,
            reading,
            wanted,
            origin: Some(origin()),
        };
        let (holdings, last) = (vec![holding], true);
        self.says(name, PeerMessage::Inventory { holdings, last })
    }

    /// A host that holds all of the task rests.
    fn rested(&mut self, name: u8) {
        self.rested_with(name, PieceSet::full(PIECES));
    }

    fn rested_with(&mut self, name: u8, held: PieceSet) {
        self.up(name, 1);
        self.tells(name, held, PieceSet::new());
        let (host, epoch) = (host(name), 1);
        self.cluster
            .handle(self.now, Event::HostRests { host, epoch });
        self.cluster
            .handle(self.now, Event::HostDown { host, epoch });
    }
}

fn granted(commands: &[Command]) -> Vec<(HostId, std::ops::Range<u32>)> {
    let grants = commands
        .iter()
        .filter_map(|command| match &command.message {
            SchedulerMessage::Grant(grant) => Some((command.host, grant.pieces.clone())),
            _ => None,
        });
    grants.collect()
}

fn introduced(commands: &[Command], to: u8) -> Vec<HostId> {
    let adds = commands.iter().filter(|command| command.host == host(to));
    let adds = adds.filter_map(|command| match &command.message {
        SchedulerMessage::Neighbours { add, .. } => Some(add),
        _ => None,
    });
    adds.flatten().map(|neighbour| neighbour.host).collect()
}

#[test]
fn a_task_that_moved_here_is_granted_when_all_have_told_what_they_have() {
    let mut lab = Lab::new();
    for name in 1..=3 {
        lab.up(name, 1);
    }
    lab.moves(1);
    assert_eq!(granted(&lab.joins(1)), []);
    assert_eq!(granted(&lab.pass(900)), []);
    lab.moves(2);
    lab.tells(2, PieceSet::from_range(0..4), PieceSet::from_range(4..10));
    lab.joins(3);
    let whom = granted(&lab.pass(200));
    assert_eq!(whom.len(), 1);
    assert_eq!(whom[0].1, 10..PIECES, "nothing that is held or read");
}

/// It was told too late, and somebody else was granted it.
#[test]
fn who_reads_already_goes_before_who_has_not_begun() {
    let mut lab = Lab::new();
    lab.up(1, 1);
    lab.up(2, 1);
    assert_eq!(granted(&lab.joins(1)), [(host(1), 0..PIECES)]);
    let said = lab.tells(
        2,
        PieceSet::from_range(0..4),
        PieceSet::from_range(4..PIECES),
    );
    let revoked = |to: u8, pieces: std::ops::Range<u32>| Command {
        host: host(to),
        message: SchedulerMessage::Revoked {
            task: task(1),
            pieces: PieceSet::from_range(pieces),
        },
    };
    assert!(said.contains(&revoked(1, 4..PIECES)), "{said:?}");
    let stops = |command: &Command| {
        let revoked = matches!(command.message, SchedulerMessage::Revoked { .. });
        revoked && command.host == host(2)
    };
    assert!(!said.iter().any(stops), "{said:?}");
}

#[test]
fn a_task_that_is_known_does_not_settle_again() {
    let mut lab = Lab::new();
    lab.up(1, 1);
    assert_eq!(granted(&lab.joins(1)), [(host(1), 0..PIECES)]);
    lab.moves(1);
    lab.cluster.handle(
        lab.now,
        Event::HostDown {
            host: host(1),
            epoch: 1,
        },
    );
    lab.up(2, 1);
    assert_eq!(granted(&lab.joins(2)), [(host(2), 0..PIECES)]);
}

/// However many hosts say so, one after the other.
#[test]
fn a_task_settles_once() {
    let mut lab = Lab::new();
    let mut granted_at = None;
    for name in 1..20 {
        lab.up(name, 1);
        lab.moves(name);
        let mut said = lab.joins(name);
        said.extend(lab.pass(100));
        if granted_at.is_none() && !granted(&said).is_empty() {
            granted_at = Some(name);
        }
    }
    assert!(granted_at.is_some_and(|name| name <= 11), "{granted_at:?}");
}

#[test]
fn a_host_that_rests_is_still_introduced() {
    let mut lab = Lab::new();
    lab.rested(1);
    lab.up(2, 1);
    let said = lab.joins(2);
    assert_eq!(introduced(&said, 2), [host(1)]);
    assert_eq!(granted(&said), []);
}

#[test]
fn a_host_that_rests_and_can_not_be_reached_is_forgotten_at_once() {
    let mut lab = Lab::new();
    lab.rested(1);
    lab.up(2, 1);
    lab.joins(2);
    let complaint = Complaint::Unreachable;
    let (neighbour, task) = (host(1), task(1));
    let said = lab.says(
        2,
        PeerMessage::Report {
            neighbour,
            task,
            complaint,
        },
    );
    assert_eq!(granted(&said), [(host(2), 0..PIECES)]);
}

#[test]
fn a_host_that_comes_back_from_its_rest_has_what_it_names() {
    let mut lab = Lab::new();
    lab.rested(1);
    lab.up(2, 1);
    lab.joins(2);
    lab.up(1, 2);
    let (holdings, last) = (vec![], true);
    let said = lab.says(1, PeerMessage::Inventory { holdings, last });
    assert_eq!(granted(&said), [(host(2), 0..PIECES)], "it dropped it");
}

#[test]
fn what_a_host_held_in_part_is_counted_once_when_it_comes_back() {
    let mut lab = Lab::new();
    lab.rested_with(1, PieceSet::from_range(0..4));
    let claimed = |lab: &Lab| lab.cluster.hosts[&host(1)].claimed;
    assert_eq!(claimed(&lab), u64::from(PIECES));
    lab.up(1, 2);
    lab.tells(1, PieceSet::from_range(0..5), PieceSet::new());
    assert_eq!(claimed(&lab), u64::from(PIECES));
    lab.says(1, PeerMessage::Done { task: task(1) });
    assert_eq!(claimed(&lab), 0);
}

#[test]
fn a_rest_does_not_last_for_ever() {
    let mut lab = Lab::new();
    lab.rested(1);
    lab.pass(2 * 3_600_000);
    assert_eq!(lab.cluster.counts(), Counts::default());
}
