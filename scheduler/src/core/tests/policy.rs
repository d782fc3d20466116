//! The operator's rules, and what is forgotten.

use darter_api::{
    HostId, Lengths, PieceSet,
    configuration::SchedulerSettings,
    session::{Holding, Join, LeaseEnd, PeerMessage, Purpose, Role, SchedulerMessage},
};

use super::{
    super::*,
    field::{Field, id},
    lab::{PIECES, lengths, origin, task},
};

fn with(rules: Vec<Rule>) -> Field {
    Field::new(Options {
        rules,
        ..Options::default()
    })
}

fn rule(host: &str, priority: Priority) -> Rule {
    Rule {
        hosts: vec![host.to_owned()],
        priority: Some(priority),
        ..Rule::default()
    }
}

fn granted(said: &[Command]) -> Vec<HostId> {
    let grants = said.iter().filter_map(|command| match &command.message {
        SchedulerMessage::Grant(grant) => Some(grant.holder),
        _ => None,
    });
    grants.collect()
}

/// Who was told that nobody can read it, and that they may not either.
fn forbidden(said: &[Command]) -> Vec<(HostId, bool)> {
    let told = said.iter().filter_map(|command| match command.message {
        SchedulerMessage::Unavailable { forbidden, .. } => Some((command.host, forbidden)),
        _ => None,
    });
    told.collect()
}

#[test]
fn who_is_forbidden_a_content_is_told_and_is_no_member() {
    let mut field = with(vec![Rule {
        hosts: vec!["node-1*".to_owned()],
        repositories: vec!["library/*".to_owned()],
        priority: Some(Priority::Forbid),
        ..Rule::default()
    }]);
    for name in [1, 2, 12] {
        field.in_zone(name, "");
    }
    for name in [1, 12] {
        assert_eq!(forbidden(&field.joins(name)), [(id(name), true)]);
    }
    assert_eq!(field.cluster.counts().tasks, 0);
    assert_eq!(granted(&field.joins(2)), [id(2)]);
}

#[test]
fn who_may_not_go_to_the_source_waits_for_one_who_may() {
    let mut field = with(vec![rule("node-1", Priority::NeverSource)]);
    field.in_zone(1, "");
    assert_eq!(
        forbidden(&field.joins(1)),
        [(id(1), true)],
        "there is nobody"
    );
    let pieces = PieceSet::full(PIECES);
    let said = field.says(
        1,
        PeerMessage::SelfLeased {
            task: task(1),
            pieces: pieces.clone(),
        },
    );
    let stop = SchedulerMessage::Revoked {
        task: task(1),
        pieces,
    };
    assert!(
        said.iter().any(|command| command.message == stop),
        "and it may not help itself"
    );
    field.in_zone(2, "");
    assert_eq!(granted(&field.joins(2)), [id(2)]);
}

#[test]
fn who_calls_itself_a_seed_is_held_by_the_rules_and_who_is_made_one_is_not() {
    let everybody = Rule {
        priority: Some(Priority::NeverSource),
        ..Rule::default()
    };
    let mut field = with(vec![everybody.clone()]);
    field.seed_in_zone(9, "");
    assert_eq!(forbidden(&field.joins(9)), [(id(9), true)]);
    let made = Rule {
        hosts: vec![id(9).to_string()],
        seed: Some(true),
        ..Rule::default()
    };
    let mut field = with(vec![made, everybody]);
    field.seed_in_zone(8, "");
    field.in_zone(9, "");
    assert_eq!(granted(&field.joins(8)), [id(9)], "by its id, and no other");
}

#[test]
fn what_would_be_too_much_to_count_is_not_taken_in() {
    const LARGEST: u64 = darter_api::lengths::MAX_SIZE;
    let mut field = with(vec![]);
    let lengths = Lengths::of(LARGEST).unwrap();
    let counted = |field: &Field, name: u16| field.cluster.hosts[&id(name)].claimed;
    for (name, contents) in [(1, 1..=9), (2, 1..=2)] {
        field.in_zone(name, "");
        for content in contents {
            let join = Join {
                task: task(content),
                lengths,
                held: PieceSet::from_range(0..1),
                origin: origin(),
                purpose: Purpose::Pull,
            };
            field.says(name, PeerMessage::Join(join));
        }
    }
    assert_eq!(counted(&field, 1), MAX_CLAIMED, "four of nine");
    assert_eq!(
        counted(&field, 2),
        MAX_CLAIMED / 2,
        "nobody else pays for it"
    );
    assert_eq!(field.cluster.counts().tasks, 9, "it is served all the same");
    let evicted = (1..=4).map(task).collect();
    field.says(1, PeerMessage::Evicted { tasks: evicted });
    assert_eq!(counted(&field, 1), 0);
    field.says(1, PeerMessage::Done { task: task(9) });
    assert_eq!(counted(&field, 1), 0, "all of it needs no counting");
    let held = PieceSet::from_range(3..5);
    field.says(
        1,
        PeerMessage::Progress {
            task: task(8),
            held,
        },
    );
    assert_eq!(counted(&field, 1), MAX_CLAIMED / 4, "there is room again");
}

#[test]
fn what_reaches_beyond_the_end_is_counted_like_any_part() {
    use darter_api::lengths::{MAX_PIECE_BYTES, MAX_SIZE};

    // As many pieces as there are, but not these.
    let lengths = Lengths::of(MAX_SIZE - MAX_PIECE_BYTES).unwrap();
    let held = PieceSet::from_range(1..lengths.pieces() + 1);
    let mut field = with(vec![]);
    let counted = |field: &Field, name: u16| field.cluster.hosts[&id(name)].claimed;
    field.in_zone(1, "");
    field.in_zone(2, "");
    for content in 1..=9 {
        let join = Join {
            task: task(content),
            lengths,
            held: held.clone(),
            origin: origin(),
            purpose: Purpose::Pull,
        };
        field.says(1, PeerMessage::Join(join));
        let holding = Holding {
            task: task(content),
            lengths,
            held: held.clone(),
            reading: PieceSet::new(),
            wanted: true,
            origin: Some(origin()),
        };
        let (holdings, last) = (vec![holding], false);
        field.says(2, PeerMessage::Inventory { holdings, last });
    }
    let four = u64::from(lengths.pieces()) * 4;
    assert_eq!((counted(&field, 1), counted(&field, 2)), (four, four));
}

#[test]
fn one_host_leaves_room_for_the_others() {
    let mut field = with(vec![]);
    field.cluster.most_tasks = 100;
    let holds = |numbers: std::ops::RangeInclusive<u8>| {
        let holdings = numbers.map(|number| Holding {
            task: task(number),
            lengths: lengths(),
            held: PieceSet::full(PIECES),
            reading: PieceSet::new(),
            wanted: false,
            origin: None,
        });
        PeerMessage::Inventory {
            holdings: holdings.collect(),
            last: true,
        }
    };
    let count = |field: &Field| field.cluster.counts().tasks;
    for name in [1, 2, 3] {
        field.in_zone(name, "");
    }
    field.says(1, holds(0..=149));
    assert_eq!(count(&field), 50, "half of all");
    field.says(2, holds(150..=255));
    assert_eq!(count(&field), 75, "half of what was left");
    field.says(3, holds(0..=49));
    assert_eq!(count(&field), 75, "what is known takes no room");
    let members = &field.cluster.tasks[&task(49)].members;
    assert_eq!(members.len(), 2);
    field.down(1);
    field.down(3);
    field.in_zone(4, "");
    field.says(4, holds(0..=9));
    assert_eq!(count(&field), 35, "there is room again");
}

#[test]
fn a_peer_that_comes_first_reads_though_there_is_a_seed() {
    let mut field = with(vec![rule("node-1", Priority::PeerFirst)]);
    field.seed_in_zone(9, "");
    field.in_zone(1, "");
    assert_eq!(granted(&field.joins(1)), [id(1)]);
    let pieces = PieceSet::full(PIECES);
    let (task, why) = (task(1), LeaseEnd::Refused);
    let said = field.says(1, PeerMessage::LeaseReturned { task, pieces, why });
    assert_eq!(granted(&said), [id(9)], "and the seed if it can't");
}

#[test]
fn a_rule_makes_a_seed_a_peer() {
    let plain = Rule {
        hosts: vec!["node-9".to_owned()],
        seed: Some(false),
        ..Rule::default()
    };
    let mut field = with(vec![plain]);
    field.seed_in_zone(9, "");
    field.in_zone(1, "");
    assert_eq!(granted(&field.joins(1)), [id(1)]);
    let said = field.joins(9);
    let own = |command: &&Command| command.host == id(1);
    let roles = said
        .iter()
        .filter(own)
        .filter_map(|command| match &command.message {
            SchedulerMessage::Neighbours { add, .. } => Some(add[0].role),
            _ => None,
        });
    assert_eq!(roles.collect::<Vec<_>>(), [Role::Peer]);
}

#[test]
fn who_does_not_share_reads_for_itself_at_most() {
    let mut field = with(vec![]);
    let mut hello = Field::hello(1);
    hello.shares = false;
    hello.role = Role::Seed;
    field.up(hello);
    let said = field.joins(1);
    assert_eq!(
        (granted(&said), forbidden(&said)),
        (vec![], vec![(id(1), false)])
    );
    field.says(1, PeerMessage::Done { task: task(1) });
    field.in_zone(2, "");
    assert_eq!(
        granted(&field.joins(2)),
        [id(2)],
        "what it holds does not count"
    );
}

#[test]
fn no_more_hosts_read_a_source_than_its_budget_allows() {
    let mut field = Field::new(Options {
        source_budget: 2,
        ..Options::default()
    });
    let mut stopped = Vec::new();
    for name in 1..=4 {
        field.in_zone(name, "");
        field.joins_task(name, task(1), PieceSet::full(PIECES));
        let at = u32::from(name);
        let pieces = PieceSet::from_range(at..at + 1);
        let said = field.says(
            name,
            PeerMessage::SelfLeased {
                task: task(1),
                pieces,
            },
        );
        let stop = |command: &Command| matches!(command.message, SchedulerMessage::Revoked { .. });
        stopped.push(said.iter().any(stop));
    }
    assert_eq!(stopped, [false, false, true, true]);
}

#[test]
fn a_member_that_never_joins_is_forgotten() {
    let mut field = with(vec![]);
    field.seed_in_zone(9, "");
    field.in_zone(1, "");
    field.in_zone(2, "");
    let tasks = (1..=50).map(|number| (task(number), lengths())).collect();
    let origin = origin();
    field.says(1, PeerMessage::Interest { tasks, origin });
    field.joins_task(2, task(1), PieceSet::full(PIECES));
    field.says(2, PeerMessage::Done { task: task(1) });
    assert_eq!(field.cluster.counts().tasks, 50);
    field.pass(299_000);
    assert_eq!(field.cluster.counts().tasks, 50);
    field.pass(302_000);
    assert_eq!(field.cluster.counts().tasks, 1, "what somebody holds stays");
}

#[test]
fn what_is_set_counts_at_once_and_the_start_counts_again_without_it() {
    let mut field = with(Vec::new());
    field.seed_in_zone(1, "");
    field.in_zone(2, "");
    let reads = |field: &mut Field, content: u8| {
        let said = field.joins_task(2, task(content), PieceSet::new());
        granted(&said)
    };
    assert_eq!(reads(&mut field, 1), [id(1)], "the seed reads");
    let rules = vec![Rule {
        hosts: vec!["node-1".to_owned()],
        seed: Some(false),
        ..Rule::default()
    }];
    let settings = SchedulerSettings {
        degree: Some(3),
        rules: Some(rules),
        ..SchedulerSettings::default()
    };
    field.cluster.set(&settings);
    assert_eq!(field.cluster.options.degree, 3);
    assert_eq!(reads(&mut field, 2), [id(2)], "no seed any more");
    field.cluster.set(&SchedulerSettings::default());
    assert_eq!(field.cluster.options.degree, Options::default().degree);
    assert_eq!(reads(&mut field, 3), [id(1)], "a seed again");
}
