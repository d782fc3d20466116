//! A million events, and no growth.

use darter_api::{
    PieceSet,
    session::{LeaseEnd, Observation, PeerMessage, Reference, Role},
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    super::*,
    field::{Field, id},
    lab::{PIECES, lengths, origin, task},
};

const HOSTS: u16 = 60;
const TASKS: u8 = 30;
/// A million takes 40 s of a core without optimisation.
const EVENTS: u32 = if cfg!(debug_assertions) {
    100_000
} else {
    1_000_000
};

struct Soak {
    field: Field,
    rng: SmallRng,
    epochs: Vec<u64>,
}

impl Soak {
    fn hello(&mut self, name: u16) {
        let mut hello = Field::hello(name);
        self.epochs[usize::from(name)] += 1;
        hello.epoch = self.epochs[usize::from(name)];
        hello.role = if name < 3 { Role::Seed } else { Role::Peer };
        hello.shares = name != 7;
        hello.locality.idc = ["", "a", "b", "c"][usize::from(name % 4)].to_owned();
        // A host that moves.
        hello.locality.host_group = self.rng.random_range(0..1000u32).to_string();
        self.field.up(hello);
    }

    fn event(&mut self) {
        let name = self.rng.random_range(0..HOSTS);
        let task = task(self.rng.random_range(0..TASKS));
        let from = self.rng.random_range(0..PIECES);
        let pieces = PieceSet::from_range(from..(from + self.rng.random_range(1..9)).min(PIECES));
        let message = match self.rng.random_range(0..100) {
            0..4 => return self.hello(name),
            4..6 => {
                let (host, epoch) = (id(name), self.epochs[usize::from(name)]);
                let down = Event::HostDown { host, epoch };
                let now = self.field.now;
                self.field.cluster.handle(now, down);
                return;
            }
            6..30 => {
                self.field.joins_task(name, task, pieces);
                return;
            }
            30..50 => PeerMessage::Progress { task, held: pieces },
            50..58 => PeerMessage::Done { task },
            58..63 => PeerMessage::Leave { task },
            63..68 => PeerMessage::LeaseFirstByte { task, ranges: true },
            68..72 => {
                let why = [
                    LeaseEnd::NotNeeded,
                    LeaseEnd::Unreachable,
                    LeaseEnd::Refused,
                ];
                let why = why[self.rng.random_range(0..why.len())];
                PeerMessage::LeaseReturned { task, pieces, why }
            }
            72..74 => PeerMessage::SelfLeased { task, pieces },
            74..78 => PeerMessage::Starved { task, pieces },
            78..83 => PeerMessage::Evicted { tasks: vec![task] },
            83..85 => PeerMessage::Interest {
                tasks: vec![(task, lengths())],
                origin: origin(),
            },
            85..95 => {
                let parents: Vec<(u16, Option<u64>)> = (0..6)
                    .map(|_| self.rng.random_range(0..HOSTS))
                    .map(|parent| {
                        (
                            parent,
                            (parent % 9 != 0).then_some(20_000 + u64::from(from)),
                        )
                    })
                    .collect();
                return self.field.reports(name, &parents);
            }
            _ => PeerMessage::Observed(Observation {
                upstream: origin().upstream,
                repository: origin().repository,
                reference: Reference::Tag(from.to_string()),
                digest: darter_api::Digest::sha256(&[1]),
                media_type: String::new(),
                size: None,
                public: true,
                age_ms: 0,
            }),
        };
        self.field.says(name, message);
    }

    /// Every map is bounded by hosts, tasks, or a number of its own.
    fn check(&self) {
        let cluster = &self.field.cluster;
        assert!(cluster.hosts.len() <= usize::from(HOSTS));
        assert_eq!(cluster.sweeps.len(), cluster.hosts.len());
        assert!(cluster.seeds.len() <= cluster.hosts.len());
        assert!(cluster.tasks.len() <= usize::from(TASKS));
        assert!(cluster.live.len() <= cluster.tasks.len());
        assert!(cluster.commands.is_empty());
        assert!(cluster.observations.len() <= PIECES as usize);
        assert!(cluster.followed.len() <= usize::from(HOSTS));
        for task in cluster.tasks.values() {
            let members = task.members.len();
            assert!(members <= cluster.hosts.len());
            let seated = task.cells.as_ref().map(cells::Cells::count);
            assert!(seated.is_none_or(|seated| seated == members));
            assert!(task.leases.len() <= 2 * members);
            let of_hosts = [
                task.refused.len(),
                task.told_unavailable.len(),
                task.heirs.len(),
                task.gateways.len(),
                task.sources.len(),
            ];
            assert!(
                of_hosts.iter().all(|len| *len <= usize::from(HOSTS)),
                "{of_hosts:?}"
            );
        }
        for host in cluster.hosts.values() {
            assert!(host.tasks.len() <= cluster.tasks.len());
            assert!(host.is_bounded());
        }
    }
}

#[test]
fn a_million_events_leave_nothing_behind() {
    let mut soak = Soak {
        field: Field::new(Options {
            degree: 8,
            ..Options::default()
        }),
        rng: SmallRng::seed_from_u64(3),
        epochs: vec![0; usize::from(HOSTS)],
    };
    for event in 0..EVENTS {
        soak.event();
        if event % 20 == 0 {
            soak.field.links.clear();
            soak.field.pass(50);
        }
        if event % 1000 == 0 {
            soak.check();
        }
    }
    for name in 0..HOSTS {
        let epoch = soak.epochs[usize::from(name)];
        let (host, now) = (id(name), soak.field.now);
        soak.field
            .cluster
            .handle(now, Event::HostDown { host, epoch });
    }
    soak.check();
    assert_eq!(soak.field.cluster.counts().tasks, 0);
}
