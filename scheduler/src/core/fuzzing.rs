//! What must hold of the scheduler whatever hosts say, in whatever order.
//!
//! Unlike the histories of the tests, whose hosts are honest, these hosts say what they
//! like: pieces that a task has not, other sizes, leases that they were never given, news of
//! hosts that they have never met.

use arbitrary::{Result, Unstructured};
use darter_api::{
    Digest, Lengths, Origin, OriginKind, PieceSet, Timestamp,
    lengths::{MAX_PIECE_BYTES, MAX_PIECES},
    session::{
        Holding, Join, LeaseEnd, Locality, Observation, ParentReport, Purpose, Reference, Role,
    },
};

use super::*;

const HOSTS: u8 = 12;
/// Of one history.
const MOST_STEPS: usize = 300;
/// Of each task: none, some, as many as there can be, and one less: sets that are as long as all
/// of it and reach beyond its end.
const PIECES: [u64; 7] = [16, 16, 1, 0, 400, MOST, MOST - 1];
const MOST: u64 = MAX_PIECES as u64;
const PIECE: u64 = 256 * 1024;
/// No set of pieces that came over the wire ends later.
const END: u32 = MAX_PIECES;

/// A scheduler among hosts that say anything: each event is made from the input's bytes.
pub fn scheduler(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut play = Play::new();
    for _ in 0..MOST_STEPS {
        if input.is_empty() || play.step(&mut input).is_err() {
            break;
        }
        play.check();
    }
    play.all_leave();
}

struct Play {
    cluster: Cluster,
    now: Timestamp,
    epochs: [u64; HOSTS as usize],
}

fn host(name: u8) -> HostId {
    HostId::from_bytes([name; 32])
}

fn some_host(input: &mut Unstructured<'_>) -> Result<HostId> {
    // One more than there are.
    input.int_in_range(0..=HOSTS).map(host)
}

fn some_task(input: &mut Unstructured<'_>) -> Result<(TaskId, Lengths)> {
    let at = input.choose_index(PIECES.len())?;
    let task = TaskId::of_content(Digest::sha256(&[at as u8]));
    // Somebody may be told another size.
    let of = match input.ratio(1, 16)? {
        true => input.choose_index(PIECES.len())?,
        false => at,
    };
    Ok((task, lengths(of)))
}

fn lengths(at: usize) -> Lengths {
    let size = match PIECES[at] {
        pieces @ ..=400 => pieces * PIECE,
        pieces => pieces * MAX_PIECE_BYTES,
    };
    Lengths::of(size).expect("within the limit")
}

fn some_pieces(input: &mut Unstructured<'_>) -> Result<PieceSet> {
    let mut pieces = PieceSet::new();
    for _ in 0..input.int_in_range(0..=3)? {
        let start = match input.ratio(1, 8)? {
            true => input.int_in_range(0..=END - 1)?,
            false => input.int_in_range(0..=17)?,
        };
        let length = match input.ratio(1, 8)? {
            true => input.int_in_range(1..=END)?,
            false => input.int_in_range(1..=16)?,
        };
        pieces.insert_range(start..start.saturating_add(length).min(END));
    }
    Ok(pieces)
}

fn some_origin(input: &mut Unstructured<'_>) -> Result<Origin> {
    let kinds = [OriginKind::Blob, OriginKind::Manifest];
    Ok(Origin {
        upstream: input
            .choose(&["docker.io", "r:5000"])?
            .parse()
            .expect("a name"),
        repository: input.choose(&["a", "b/c"])?.parse().expect("a name"),
        kind: *input.choose(&kinds)?,
        private: input.arbitrary()?,
    })
}

fn some_reference(input: &mut Unstructured<'_>) -> Result<Reference> {
    Ok(match input.arbitrary()? {
        true => Reference::Tag(input.choose(&["1", "latest"])?.to_string()),
        false => Reference::Digest(*some_task(input)?.0.digest()),
    })
}

fn some_end(input: &mut Unstructured<'_>) -> Result<LeaseEnd> {
    let all = [
        LeaseEnd::NotNeeded,
        LeaseEnd::Refused,
        LeaseEnd::Missing,
        LeaseEnd::Unreachable,
        LeaseEnd::WrongSize,
    ];
    input.choose(&all).copied()
}

fn some_report(input: &mut Unstructured<'_>) -> Result<ParentReport> {
    Ok(ParentReport {
        host: some_host(input)?,
        pieces: input.arbitrary()?,
        bytes: input.arbitrary()?,
        busy_us: input.arbitrary()?,
        failures: input.int_in_range(0..=3)?,
        rot: input.int_in_range(0..=3)?,
        given_up: input.arbitrary()?,
    })
}

fn some_message(input: &mut Unstructured<'_>) -> Result<PeerMessage> {
    let (task, lengths) = some_task(input)?;
    Ok(match input.int_in_range(0..=21)? {
        0 => {
            let mut holdings = Vec::new();
            for _ in 0..input.int_in_range(0..=4)? {
                let (task, lengths) = some_task(input)?;
                holdings.push(Holding {
                    task,
                    lengths,
                    held: some_pieces(input)?,
                    reading: some_pieces(input)?,
                    wanted: input.arbitrary()?,
                    origin: input.ratio(1, 2)?.then(|| some_origin(input)).transpose()?,
                });
            }
            let last = input.arbitrary()?;
            PeerMessage::Inventory { holdings, last }
        }
        1 => PeerMessage::Interest {
            tasks: vec![(task, lengths), some_task(input)?],
            origin: some_origin(input)?,
        },
        2..=4 => {
            let all = [Purpose::Pull, Purpose::Seed, Purpose::Preheat];
            PeerMessage::Join(Join {
                task,
                lengths,
                held: some_pieces(input)?,
                origin: some_origin(input)?,
                purpose: *input.choose(&all)?,
            })
        }
        5 | 6 => {
            let held = some_pieces(input)?;
            PeerMessage::Progress { task, held }
        }
        7 => {
            let pieces = some_pieces(input)?;
            PeerMessage::Starved { task, pieces }
        }
        8 => PeerMessage::Done { task },
        9 => PeerMessage::Leave { task },
        10 => PeerMessage::LeaseAccepted { task },
        11 => {
            let ranges = input.arbitrary()?;
            PeerMessage::LeaseFirstByte { task, ranges }
        }
        12 => {
            let (pieces, why) = (some_pieces(input)?, some_end(input)?);
            PeerMessage::LeaseReturned { task, pieces, why }
        }
        13 => {
            let pieces = some_pieces(input)?;
            PeerMessage::SelfLeased { task, pieces }
        }
        14 => PeerMessage::Load {
            uploads: input.arbitrary()?,
            downloads: input.arbitrary()?,
            upload_bytes: input.arbitrary()?,
        },
        15 => {
            let all = [Complaint::Unreachable, Complaint::Slow, Complaint::Rot];
            PeerMessage::Report {
                neighbour: some_host(input)?,
                task,
                complaint: *input.choose(&all)?,
            }
        }
        16 => PeerMessage::Parents {
            parents: vec![some_report(input)?, some_report(input)?],
        },
        17 => PeerMessage::Evicted { tasks: vec![task] },
        18 => PeerMessage::Moved { tasks: vec![task] },
        19 => PeerMessage::SizeWanted { task },
        20 => {
            let origin = some_origin(input)?;
            PeerMessage::Observed(Observation {
                upstream: origin.upstream,
                repository: origin.repository,
                reference: some_reference(input)?,
                digest: *task.digest(),
                media_type: String::new(),
                size: input.arbitrary()?,
                public: input.arbitrary()?,
                age_ms: input.arbitrary()?,
            })
        }
        _ => {
            let origin = some_origin(input)?;
            PeerMessage::Lookup {
                id: input.arbitrary()?,
                upstream: origin.upstream,
                repository: origin.repository,
                reference: some_reference(input)?,
            }
        }
    })
}

impl Play {
    fn new() -> Self {
        let rule = |name: &str, priority| Rule {
            hosts: vec![name.to_owned()],
            priority: Some(priority),
            ..Rule::default()
        };
        let options = Options {
            degree: 4,
            source_holders: 2,
            member_ttl: Duration::from_secs(20),
            rules: vec![
                rule("9", Priority::PeerFirst),
                rule("10", Priority::NeverSource),
            ],
            ..Options::default()
        };
        let key = NodeKey::from_seed([1; 32]);
        Self {
            cluster: Cluster::new(options, key, Timestamp::ZERO, 0, 7),
            now: Timestamp::ZERO,
            epochs: [0; HOSTS as usize],
        }
    }

    fn hear(&self, commands: &[Command]) {
        for Command { message, host } in commands {
            if let SchedulerMessage::Grant(grant) = message {
                assert!(grant.holder == *host && grant.is_authentic());
                assert!(grant.pieces.start < grant.pieces.end);
                assert!(grant.pieces.end <= grant.lengths.pieces(), "outside");
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let said = self.cluster.handle(self.now, event);
        self.hear(&said);
    }

    fn up(&mut self, name: u8, input: &mut Unstructured<'_>) -> Result<()> {
        let newer = input.ratio(7, 8)?;
        self.epochs[name as usize] += u64::from(newer);
        let hello = Hello {
            host: host(name),
            epoch: self.epochs[name as usize],
            name: name.to_string(),
            address: ([127, 0, 0, 1], 4000).into(),
            role: *input.choose(&[Role::Peer, Role::Peer, Role::Seed])?,
            locality: Locality {
                idc: input.choose(&["", "a", "b"])?.to_string(),
                ..Locality::default()
            },
            upload_slots: input.arbitrary()?,
            cores: input.arbitrary()?,
            shares: name != 11,
            version: String::new(),
        };
        self.handle(Event::HostUp(hello));
        Ok(())
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let name = input.int_in_range(0..=HOSTS - 1)?;
        let (host, epoch) = (host(name), self.epochs[name as usize]);
        match input.int_in_range(0..=15)? {
            0 | 1 => self.up(name, input)?,
            2 => self.handle(Event::HostDown { host, epoch }),
            3 => self.handle(Event::HostRests { host, epoch }),
            4 | 5 => {
                let millis = input.int_in_range(1..=3000)?;
                self.pass(millis);
            }
            _ => {
                let message = some_message(input)?;
                self.handle(Event::Message { host, message });
            }
        }
        Ok(())
    }

    fn pass(&mut self, millis: u64) {
        let until = self.now + Duration::from_millis(millis);
        let due = |play: &Self| play.cluster.next_deadline(play.now);
        while let Some(at) = due(self).filter(|at| *at <= until) {
            assert!(at >= self.now);
            self.now = at.max(self.now + Duration::from_millis(1));
            let said = self.cluster.tick(self.now);
            self.hear(&said);
        }
        self.now = until;
    }

    fn check(&self) {
        let cluster = &self.cluster;
        for (host, known) in &cluster.hosts {
            let tasks = known.tasks.keys().filter_map(|id| cluster.tasks.get(id));
            let claimed: u64 = tasks.map(|task| task.claim_of(host)).sum();
            assert_eq!(known.claimed, claimed);
            assert!(claimed <= MAX_CLAIMED);
        }
        for (id, task) in &cluster.tasks {
            let pieces = task.lengths.pieces();
            let (mut held, mut leased, mut waiting) = (PieceSet::new(), PieceSet::new(), 0);
            for lease in &task.leases {
                assert!(cluster.hosts.contains_key(&lease.holder));
                // A rule keeps the first from sources, whatever it calls itself, and the second
                // does not share.
                assert!(lease.holder != host(10) && lease.holder != host(11));
                assert!(!lease.pieces.is_empty() && lease.pieces.end() <= pieces);
                assert!(
                    leased.intersection(&lease.pieces).is_empty(),
                    "leased twice"
                );
                leased.union_with(&lease.pieces);
            }
            for (name, member) in task.members.iter() {
                let name = name.as_ref();
                assert!(cluster.hosts[name].tasks.contains_key(id));
                assert!(task.held(name).end() <= pieces);
                assert!(task.degree(name) <= cluster.room(task) + 3);
                for other in task.neighbours(name) {
                    assert!(task.members.contains_key(other));
                    assert!(task.are_neighbours(other, name), "symmetric");
                    assert_ne!(other, name);
                }
                held.union_with(task.held(name));
                waiting += usize::from(member.wants());
            }
            assert_eq!(task.waiting(), waiting);
            let seated = task.cells.as_ref().map(cells::Cells::count);
            assert!(seated.is_none_or(|seated| seated == task.members.len()));
            held.union_with(&leased);
            assert_eq!(task.uncovered(), held.missing(pieces));
        }
        assert!(cluster.live.iter().all(|id| cluster.tasks.contains_key(id)));
        assert_eq!(cluster.sweeps.len(), cluster.hosts.len());
    }

    /// Nothing stays of who leaves, whatever it said.
    fn all_leave(&mut self) {
        for name in 0..HOSTS {
            let mut nothing = Unstructured::new(&[]);
            self.epochs[name as usize] += 1;
            // Who rests comes back first.
            if self.up(name, &mut nothing).is_ok() {
                let (host, epoch) = (host(name), self.epochs[name as usize]);
                self.handle(Event::HostDown { host, epoch });
            }
        }
        let counts = self.cluster.counts();
        assert_eq!((counts.hosts, counts.tasks, counts.leases), (0, 0, 0));
    }
}
