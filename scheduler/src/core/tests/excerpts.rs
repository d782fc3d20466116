//! Which seed reads small parts of a content for all.

use darter_api::{
    PieceSet,
    session::{ExcerptSeed, LeaseEnd, Role},
};

use super::{super::*, lab::*};

struct Lab(Cluster);

impl Lab {
    /// Hosts 1 to 3; those in `seeds` are seeds.
    fn new(seeds: &[u8], rules: Vec<Rule>) -> Self {
        let options = Options {
            rules,
            ..Options::default()
        };
        let key = NodeKey::from_seed([1; 32]);
        let mut cluster = Cluster::new(options, key, Timestamp::ZERO, 0, 1);
        for name in 1..=3 {
            let role = if seeds.contains(&name) {
                Role::Seed
            } else {
                Role::Peer
            };
            cluster.handle(Timestamp::ZERO, Event::HostUp(hello(name, 1, role)));
        }
        Self(cluster)
    }

    fn say(&mut self, name: u8, message: PeerMessage) -> Vec<Command> {
        let now = Timestamp::ZERO + Duration::from_secs(5);
        let host = host(name);
        self.0.handle(now, Event::Message { host, message })
    }

    /// The seed, and whether the host may read the source itself.
    fn asks(&mut self, name: u8) -> (Option<ExcerptSeed>, bool) {
        let message = PeerMessage::ExcerptsWanted {
            task: task(1),
            lengths: lengths(),
            origin: origin(),
        };
        let said = self.say(name, message);
        let [
            Command {
                host: to,
                message: SchedulerMessage::ExcerptsFrom { seed, source, .. },
            },
        ] = &said[..]
        else {
            panic!("one answer, not {said:?}");
        };
        assert_eq!(*to, host(name));
        (seed.clone(), *source)
    }
}

fn names(seed: Option<&ExcerptSeed>) -> Option<HostId> {
    seed.map(|seed| seed.neighbour.host)
}

#[test]
fn all_are_told_the_same_seed_with_its_right_and_the_seed_itself_nobody() {
    let mut lab = Lab::new(&[1, 2], vec![]);
    let (seed, source) = lab.asks(3);
    let seed = seed.unwrap();
    assert!(source);
    assert!(seed.grant.is_authentic());
    assert_eq!(seed.grant.holder, seed.neighbour.host);
    assert_eq!(seed.grant.pieces, 0..PIECES);
    assert_eq!((seed.grant.task, seed.grant.lengths), (task(1), lengths()));
    let (first, other) = if seed.neighbour.host == host(1) {
        (1, 2)
    } else {
        (2, 1)
    };
    assert_eq!(lab.asks(first), (None, true));
    assert_eq!(names(lab.asks(other).0.as_ref()), Some(host(first)));
    // Such a content has no swarm.
    assert_eq!(lab.0.counts().tasks, 0);
}

#[test]
fn a_seed_that_was_refused_is_not_named_and_without_one_each_reads_for_itself() {
    let mut lab = Lab::new(&[1], vec![]);
    lab.say(3, join(1, PieceSet::new()));
    assert_eq!(names(lab.asks(3).0.as_ref()), Some(host(1)));
    lab.say(
        1,
        PeerMessage::LeaseReturned {
            task: task(1),
            pieces: PieceSet::full(PIECES),
            why: LeaseEnd::Refused,
        },
    );
    assert_eq!(lab.asks(3), (None, true));
    assert_eq!(Lab::new(&[], vec![]).asks(3), (None, true));
}

#[test]
fn the_operators_rules_stand() {
    let with = |priority| {
        let rule = Rule {
            hosts: vec!["3".to_owned()],
            priority: Some(priority),
            ..Rule::default()
        };
        let (seed, source) = Lab::new(&[1], vec![rule]).asks(3);
        (names(seed.as_ref()), source)
    };
    assert_eq!(with(Priority::Forbid), (None, false));
    assert_eq!(with(Priority::NeverSource), (Some(host(1)), false));
    assert_eq!(with(Priority::PeerFirst), (None, true));
    assert_eq!(with(Priority::SeedFirst), (Some(host(1)), true));
    // Who calls itself a seed is held by them, too: it gets no grant.
    let rule = Rule {
        hosts: vec!["1".to_owned()],
        priority: Some(Priority::NeverSource),
        ..Rule::default()
    };
    let mut lab = Lab::new(&[1], vec![rule]);
    assert_eq!(lab.asks(3), (None, true));
    assert_eq!(lab.asks(1), (None, false));
}
