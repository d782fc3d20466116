//! A cluster, its clock, and what its hosts say.

use darter_api::{
    Digest, HostId, Lengths, NodeKey, Origin, OriginKind, PieceSet, TaskId, Timestamp,
    session::{Hello, Join, LeaseEnd, Locality, PeerMessage, Purpose, Role, SchedulerMessage},
};

use super::{super::*, field::Beats};

pub(super) const PIECES: u32 = 16;

pub(super) fn lengths() -> Lengths {
    Lengths::of(u64::from(PIECES) * 256 * 1024).unwrap()
}

pub(super) fn host(name: u8) -> HostId {
    HostId::from_bytes([name; 32])
}

pub(super) fn task(number: u8) -> TaskId {
    TaskId::of_content(Digest::sha256(&[number]))
}

pub(super) fn origin() -> Origin {
    Origin {
        upstream: "docker.io".parse().unwrap(),
        repository: "library/app".parse().unwrap(),
        kind: OriginKind::Blob,
        private: false,
    }
}

pub(super) fn hello(name: u8, epoch: u64, role: Role) -> Hello {
    Hello {
        host: host(name),
        epoch,
        name: name.to_string(),
        address: ([127, 0, 0, 1], 4000).into(),
        role,
        locality: Locality::default(),
        upload_slots: 4,
        cores: None,
        shares: true,
        version: String::new(),
    }
}

pub(super) fn join(number: u8, held: PieceSet) -> PeerMessage {
    join_with(number, lengths(), held)
}

pub(super) fn join_with(number: u8, lengths: Lengths, held: PieceSet) -> PeerMessage {
    PeerMessage::Join(Join {
        task: task(number),
        lengths,
        held,
        origin: origin(),
        purpose: Purpose::Pull,
    })
}

/// A cluster and its clock.
pub(super) struct Lab {
    pub(super) cluster: Cluster,
    pub(super) now: Timestamp,
    pub(super) beats: Beats,
}

impl Lab {
    /// Past its settling time.
    pub(super) fn new() -> Self {
        let mut lab = Self::just_started();
        lab.pass(2000);
        lab
    }

    pub(super) fn just_started() -> Self {
        Self::with(Options::default())
    }

    /// Past its settling time, and two hosts may read a source at a time.
    pub(super) fn sharing() -> Self {
        let mut lab = Self::with(Options {
            source_holders: 2,
            source_holders_from: 0,
            source_waiters: 0,
            ..Options::default()
        });
        lab.pass(2000);
        lab
    }

    pub(super) fn with(options: Options) -> Self {
        let key = NodeKey::from_seed([1; 32]);
        Self {
            cluster: Cluster::new(options, key, Timestamp::ZERO, 0, 1),
            now: Timestamp::ZERO,
            beats: Beats::default(),
        }
    }

    pub(super) fn pass(&mut self, millis: u64) -> Vec<Command> {
        let mut commands = Vec::new();
        let until = self.now + Duration::from_millis(millis);
        while self.now < until {
            self.beats.beat(self.now, &mut self.cluster);
            let next = self.beats.before(until);
            commands.extend(self.pass_until(next));
        }
        commands
    }

    pub(super) fn pass_until(&mut self, until: Timestamp) -> Vec<Command> {
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

    pub(super) fn up(&mut self, name: u8, role: Role) {
        self.cluster
            .handle(self.now, Event::HostUp(hello(name, 1, role)));
    }

    pub(super) fn down(&mut self, name: u8) -> Vec<Command> {
        let event = Event::HostDown {
            host: host(name),
            epoch: 1,
        };
        self.cluster.handle(self.now, event)
    }

    pub(super) fn says(&mut self, name: u8, message: PeerMessage) -> Vec<Command> {
        let event = Event::Message {
            host: host(name),
            message,
        };
        self.cluster.handle(self.now, event)
    }

    pub(super) fn joins(&mut self, name: u8) -> Vec<Command> {
        self.says(name, join(1, PieceSet::new()))
    }

    pub(super) fn progress(&mut self, name: u8, pieces: std::ops::Range<u32>) -> Vec<Command> {
        let held = PieceSet::from_range(pieces);
        self.says(
            name,
            PeerMessage::Progress {
                task: task(1),
                held,
            },
        )
    }

    pub(super) fn returns(&mut self, name: u8, why: LeaseEnd) -> Vec<Command> {
        let returned = PeerMessage::LeaseReturned {
            task: task(1),
            pieces: PieceSet::full(PIECES),
            why,
        };
        self.says(name, returned)
    }
}

/// Who was granted what.
pub(super) fn grants(commands: &[Command]) -> Vec<(HostId, std::ops::Range<u32>)> {
    let granted = commands
        .iter()
        .filter_map(|command| match &command.message {
            SchedulerMessage::Grant(grant) => {
                assert_eq!(grant.holder, command.host);
                assert!(grant.is_authentic());
                Some((grant.holder, grant.pieces.clone()))
            }
            _ => None,
        });
    granted.collect()
}

pub(super) fn revoked(commands: &[Command], name: u8) -> PieceSet {
    let mut all = PieceSet::new();
    for command in commands.iter().filter(|one| one.host == host(name)) {
        if let SchedulerMessage::Revoked { pieces, .. } = &command.message {
            all.union_with(pieces);
        }
    }
    all
}

/// What was granted to a host.
pub(super) fn granted(said: &[Command], name: u8) -> PieceSet {
    let mut pieces = PieceSet::new();
    for (_, range) in grants(said).into_iter().filter(|(to, _)| *to == host(name)) {
        pieces.insert_range(range);
    }
    pieces
}
