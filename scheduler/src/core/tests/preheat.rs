//! Who is asked to have a content ahead of time.

use darter_api::{
    Lengths, PieceSet,
    session::{Purpose, Role},
};

use super::{super::*, lab::*};

fn wish(hosts: &[&str]) -> Preheat {
    Preheat {
        task: task(1),
        lengths: lengths(),
        origin: origin(),
        hosts: hosts.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn those_that_are_meant_are_asked_once_and_for_what_they_lack() {
    let options = Options {
        rules: vec![Rule {
            hosts: vec!["4".to_owned()],
            priority: Some(Priority::Forbid),
            ..Rule::default()
        }],
        ..Options::default()
    };
    let key = NodeKey::from_seed([1; 32]);
    let mut cluster = Cluster::new(options, key, Timestamp::ZERO, 0, 1);
    for (name, role) in [
        (1, Role::Seed),
        (2, Role::Peer),
        (3, Role::Peer),
        (4, Role::Peer),
        (5, Role::Peer),
    ] {
        let hello = hello(name, 1, role);
        cluster.handle(Timestamp::ZERO, Event::HostUp(hello));
    }
    let (host, message) = (host(3), join(1, PieceSet::full(PIECES)));
    cluster.handle(Timestamp::ZERO, Event::Message { host, message });

    let asked = |commands: &[Command]| -> Vec<HostId> {
        let fetches = commands.iter().filter(|command| {
            let purpose = Purpose::Preheat;
            matches!(&command.message, SchedulerMessage::Fetch { purpose: p, .. } if *p == purpose)
        });
        fetches.map(|command| command.host).collect()
    };
    let (commands, done) = cluster.preheat(&wish(&[])).unwrap();
    assert_eq!(asked(&commands), [super::lab::host(2), super::lab::host(5)]);
    assert_eq!(
        (done.held, done.forbidden),
        (vec!["3".into()], vec!["4".into()])
    );

    let five = super::lab::host(5).to_string();
    let (commands, done) = cluster.preheat(&wish(&["5", "nobody", &five])).unwrap();
    assert_eq!(asked(&commands), [super::lab::host(5)]);
    assert_eq!(
        (done.asked, done.unknown),
        (vec!["5".into()], vec!["nobody".into()])
    );

    let other = Preheat {
        lengths: Lengths::of(7).unwrap(),
        ..wish(&[])
    };
    assert_eq!(cluster.preheat(&other), None);
}

/// What hosts are asked to fetch, and why.
fn fetches(commands: &[Command]) -> Vec<(HostId, Purpose)> {
    let fetch = |command: &Command| match command.message {
        SchedulerMessage::Fetch { purpose, .. } => Some((command.host, purpose)),
        _ => None,
    };
    commands.iter().filter_map(fetch).collect()
}

fn joins(cluster: &mut Cluster, name: u8, purpose: Purpose) -> Vec<(HostId, Purpose)> {
    let PeerMessage::Join(mut join) = join(1, PieceSet::new()) else {
        unreachable!("it is a join")
    };
    join.purpose = purpose;
    let (host, message) = (host(name), PeerMessage::Join(join));
    let now = Timestamp::ZERO + Duration::from_secs(3);
    let commands = cluster.handle(now, Event::Message { host, message });
    fetches(&commands)
}

#[test]
fn who_reads_for_a_preheat_gives_way_until_a_client_waits() {
    for seed in [true, false] {
        let key = NodeKey::from_seed([1; 32]);
        let mut cluster = Cluster::new(Options::default(), key, Timestamp::ZERO, 0, 1);
        for name in 1..=4 {
            let role = if seed && name == 1 {
                Role::Seed
            } else {
                Role::Peer
            };
            cluster.handle(Timestamp::ZERO, Event::HostUp(hello(name, 1, role)));
        }
        // The reader is the seed, or the first who preheats.
        let reader = host(if seed { 1 } else { 2 });
        let asked = joins(&mut cluster, 2, Purpose::Preheat);
        let wanted: &[_] = if seed {
            &[(reader, Purpose::Preheat)]
        } else {
            &[]
        };
        assert_eq!(asked, wanted);
        if seed {
            assert_eq!(joins(&mut cluster, 1, Purpose::Preheat), []);
        }
        assert_eq!(joins(&mut cluster, 3, Purpose::Preheat), []);
        assert_eq!(
            joins(&mut cluster, 4, Purpose::Pull),
            [(reader, Purpose::Seed)]
        );
        assert_eq!(joins(&mut cluster, 3, Purpose::Pull), []);
    }
}
