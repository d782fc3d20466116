//! Places, borders between them, and what makes a good neighbour.

use std::collections::BTreeSet;

use darter_api::{
    HostId, PieceSet,
    session::{LeaseEnd, ParentReport, PeerMessage},
};

use super::{
    super::*,
    field::{Field, id},
    lab::{PIECES, task},
};

/// Three zones of 40 hosts, 0 to 119, and a seed, 1000, in the first.
fn three_zones() -> Field {
    let mut field = Field::new(Options::default());
    field.seed_in_zone(1000, "a");
    for name in 0..120 {
        field.in_zone(name, ["a", "b", "c"][usize::from(name % 3)]);
        field.joins(name);
    }
    field
}

fn zone(host: &HostId) -> u16 {
    let name = u16::from_be_bytes([host.as_bytes()[0], host.as_bytes()[1]]);
    if name == 1000 { 0 } else { name % 3 }
}

fn crossings(field: &Field) -> BTreeSet<(HostId, HostId)> {
    let crosses = |(a, b): &&(HostId, HostId)| zone(a) != zone(b);
    field.links.iter().filter(crosses).copied().collect()
}

#[test]
fn only_gateways_have_neighbours_across_borders() {
    let field = three_zones();
    let crossings = crossings(&field);
    let gateways: BTreeSet<HostId> = crossings.iter().map(|(a, _)| *a).collect();
    assert_eq!(gateways, [id(0), id(1), id(2)].into());
    let sixth = Options::default().degree / 6;
    for name in 0..3 {
        assert!(field.neighbours(name).len() <= 2 + sixth, "few at home");
    }
    assert_eq!(field.reached(1000).len(), 121, "everybody is reached");
}

#[test]
fn a_gateway_that_goes_is_replaced_by_who_has_most() {
    let mut field = three_zones();
    let held = PieceSet::from_range(0..5);
    let task = task(1);
    field.says(31, PeerMessage::Progress { task, held });
    field.links.clear();
    field.down(1);
    let ends: BTreeSet<HostId> = crossings(&field).iter().map(|(a, _)| *a).collect();
    assert!(ends.contains(&id(31)) && ends.contains(&id(0)), "{ends:?}");
    assert_eq!(field.reached(1000).len(), 120);
}

#[test]
fn a_gateway_that_brings_nothing_is_replaced_by_who_starves() {
    let mut field = three_zones();
    field.links.clear();
    let task = task(1);
    let pieces = PieceSet::full(PIECES);
    field.says(1000, PeerMessage::LeaseAccepted { task });
    let held = PieceSet::from_range(0..8);
    field.says(0, PeerMessage::Progress { task, held });
    field.pass(2000);
    field.says(
        61,
        PeerMessage::Starved {
            task,
            pieces: pieces.clone(),
        },
    );
    assert_eq!(crossings(&field).len(), 0, "it has time to bring something");
    field.pass(2000);
    field.says(61, PeerMessage::Starved { task, pieces });
    assert!(field.links.contains(&(id(61), id(0))));
}

#[test]
fn who_has_all_of_it_is_its_zones_gateway() {
    let mut field = Field::new(Options::default());
    for name in 0..12 {
        field.in_zone(name, "b");
        field.joins_task(name, task(1), PieceSet::full(PIECES));
        field.says(name, PeerMessage::Done { task: task(1) });
    }
    field.in_zone(100, "a");
    field.joins_task(100, task(1), PieceSet::full(PIECES));
    field.links.clear();
    field.in_zone(20, "b");
    field.joins(20);
    let zone_a = |(host, other): &&(HostId, HostId)| *host == id(20) && *other == id(100);
    assert_eq!(field.links.iter().filter(zone_a).count(), 0);
    assert!(field.neighbours(20).len() >= 10);
}

#[test]
fn near_hosts_come_first() {
    let mut field = Field::new(Options::default());
    for name in 0..300u16 {
        let mut hello = Field::hello(name);
        hello.locality.idc = "a".to_owned();
        hello.locality.host_group = format!("rack {}", name / 30);
        field.up(hello);
        field.joins(name);
    }
    let own_rack = |name: u16| {
        let neighbours = field.neighbours(name).into_iter();
        let near = (name / 30 * 30..name / 30 * 30 + 30)
            .map(id)
            .collect::<BTreeSet<_>>();
        neighbours.filter(|host| near.contains(host)).count()
    };
    // The last of a rack finds 29 of it; a sample from anywhere would find three.
    assert!(own_rack(299) >= 6, "{}", own_rack(299));
    assert_eq!(field.reached(0).len(), 300, "racks are no islands");
}

#[test]
fn who_does_not_share_is_nobodys_parent_but_is_served() {
    let mut field = Field::new(Options::default());
    let mut hello = Field::hello(1);
    hello.shares = false;
    field.up(hello);
    field.in_zone(2, "");
    field.joins_task(1, task(1), PieceSet::new());
    field.joins(2);
    assert_eq!(field.neighbours(2).len(), 0, "introduced to nobody");
    field.links.clear();
    field.in_zone(3, "");
    field.joins(3);
    field.says(
        1,
        PeerMessage::Starved {
            task: task(1),
            pieces: PieceSet::full(PIECES),
        },
    );
    assert!(!field.neighbours(1).is_empty());
}

#[test]
fn who_starves_meets_the_only_holder_among_hundreds_at_once() {
    const HOLDER: u16 = 450;
    let mut field = Field::new(Options::default());
    for name in 1..=500 {
        field.in_zone(name, "");
        let held = match name {
            HOLDER => PieceSet::from_range(3..4),
            _ => PieceSet::new(),
        };
        field.joins_task(name, task(1), held);
    }
    let strangers = |field: &Field| {
        let known = field.neighbours(HOLDER);
        let mut others = (1..=500).filter(|name| *name != HOLDER && !known.contains(&id(*name)));
        others.next().expect("it does not know all")
    };
    for _ in 0..8 {
        let name = strangers(&field);
        let (task, pieces) = (task(1), PieceSet::from_range(3..4));
        field.says(name, PeerMessage::Starved { task, pieces });
        assert!(field.neighbours(HOLDER).contains(&id(name)), "{name}");
    }
}

#[test]
fn who_was_given_up_is_not_introduced_again() {
    let mut field = Field::new(Options::default());
    for name in 1..=2 {
        field.in_zone(name, "");
    }
    let report = ParentReport {
        host: id(1),
        pieces: 0,
        bytes: 0,
        busy_us: 0,
        failures: 3,
        rot: 0,
        given_up: true,
    };
    field.joins(1);
    let parents = vec![report];
    field.says(2, PeerMessage::Parents { parents });
    field.joins(2);
    assert_eq!(field.neighbours(2), BTreeSet::new());
    field.pass(300_000);
    field.says(
        1,
        PeerMessage::LeaseReturned {
            task: task(1),
            pieces: PieceSet::new(),
            why: LeaseEnd::NotNeeded,
        },
    );
    field.joins(2);
    assert_eq!(field.neighbours(2), [id(1)].into(), "for five minutes");
}

#[test]
fn the_faster_and_the_free_are_preferred() {
    let mut field = Field::new(Options {
        degree: 8,
        ..Options::default()
    });
    for name in 1..=40 {
        field.in_zone(name, "");
    }
    // The even ones are twenty times faster and idle.
    for name in 1..=40u16 {
        let fast = name % 2 == 0;
        field.says(
            name,
            PeerMessage::Load {
                uploads: if fast { 0 } else { 4 },
                downloads: 0,
                upload_bytes: 0,
            },
        );
        for child in (1..=40).filter(|child| *child != name).take(2) {
            field.reports(child, &[(name, Some(if fast { 10_000 } else { 200_000 }))]);
        }
        field.joins(name);
    }
    field.in_zone(100, "");
    let mut fast = 0;
    for number in 2..42u8 {
        for name in 1..=40 {
            field.joins_task(name, task(number), PieceSet::new());
        }
        field.links.clear();
        field.joins_task(100, task(number), PieceSet::new());
        let own = field.links.iter().filter(|(host, _)| *host == id(100));
        fast += own
            .filter(|(_, other)| other.as_bytes()[1] % 2 == 0)
            .count();
    }
    // Four a task, two of them whatever their score, and the reader of the source always.
    assert!(fast > 100, "{fast} of 160");
}

#[test]
fn a_task_can_be_read_out() {
    let field = three_zones();
    let graph = field.cluster.graph(&task(1)).unwrap();
    let gateways = graph.nodes.iter().filter(|node| node.gateway);
    let names: BTreeSet<&str> = gateways.map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["node-0", "node-1", "node-2"].into());
    let list = field.cluster.summaries(5);
    assert_eq!(
        (list[0].hosts, list[0].waiting, list[0].readers),
        (121, 121, 1)
    );
}

#[test]
fn a_seed_alone_in_its_zone_is_its_gateway() {
    let mut field = Field::new(Options::default());
    field.seed_in_zone(1000, "a");
    for name in 0..20 {
        field.in_zone(name, "b");
        field.joins(name);
    }
    assert_eq!(field.neighbours(1000), [id(0)].into());
    assert_eq!(field.reached(1000).len(), 21);
}

#[test]
fn without_gateways_borders_do_not_count() {
    let mut field = Field::new(Options {
        gateways: 0,
        ..Options::default()
    });
    for name in 0..12 {
        field.in_zone(name, ["a", "b", "c"][usize::from(name % 3)]);
        field.joins(name);
    }
    assert_eq!(field.neighbours(11).len(), 10);
}

#[test]
fn places_are_kept_while_somebody_is_introduced() {
    let seated = |field: &Field| {
        let task = &field.cluster.tasks[&task(1)];
        task.cells.as_ref().map(cells::Cells::count)
    };
    let mut field = Field::new(Options::default());
    for name in 0..64 {
        field.in_zone(name, "a");
        field.joins(name);
    }
    assert_eq!(seated(&field), None, "a small swarm needs none");
    for name in 64..80 {
        field.in_zone(name, "b");
        field.joins(name);
    }
    assert_eq!(seated(&field), Some(80));
    field.down(7);
    assert_eq!(seated(&field), Some(79));
    for name in (0..80).filter(|name| *name != 7) {
        field.says(name, PeerMessage::Done { task: task(1) });
    }
    field.pass(900_000);
    assert_eq!(seated(&field), None, "nobody has asked for long");
    field.in_zone(80, "b");
    field.joins(80);
    assert_eq!(seated(&field), Some(80));
    assert!(!field.neighbours(80).is_empty());
}
