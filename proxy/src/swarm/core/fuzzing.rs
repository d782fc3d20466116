//! What must hold of the download core whatever peers and schedulers say, in whatever order.
//!
//! The driver around it is honest, as in the histories of the tests; peers announce pieces
//! that there are not, schedulers grant and revoke what they like, and both speak of tasks
//! that this host does not know.

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::{Result, Unstructured};
use darter_api::{
    Digest, Grant, Lengths, Origin, OriginKind, PieceIndex, SchedulerName,
    lengths::OPEN_PIECES,
    link::LinkMessage,
    session::{LeaseEnd, Neighbour, Role, SchedulerMessage},
};

use super::{
    event::{PieceFailure, ReaderId, RequestId},
    *,
};

const OWN: u8 = 100;
const HOSTS: u8 = 6;
/// Of one history.
const MOST_STEPS: usize = 300;
/// Of each task; this host never wants the last one.
const PIECES: [u32; 5] = [16, 5, 1, OPEN_PIECES, 3];
const WANTED: usize = 4;
/// The one whose size nobody knew, and its pieces that are not empty.
const OPEN: usize = 3;
const PAST: u32 = 7;
/// No set of pieces that came over the wire ends later.
const END: u32 = 1 << 20;

/// A host among peers and schedulers that say anything: each event is made from the input's
/// bytes. What it wants it gets in the end, from a source that gives all.
pub fn node(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(mut play) = Play::new(&mut input) else {
        return;
    };
    for _ in 0..MOST_STEPS {
        if input.is_empty() || play.step(&mut input).is_err() {
            break;
        }
        play.check();
    }
    play.must_end();
}

/// What the driver knows of a task.
#[derive(Default)]
struct Known {
    held: PieceSet,
    /// What the source is asked for.
    source: PieceSet,
    started: bool,
    completing: bool,
}

/// A core, and what a shell around it would know.
struct Play {
    node: Node,
    now: Timestamp,
    known: [Known; WANTED],
    linked: BTreeSet<HostId>,
    announced: BTreeMap<(HostId, TaskId), PieceSet>,
    requests: BTreeMap<RequestId, (HostId, usize, u32)>,
    used: BTreeSet<RequestId>,
}

fn host(name: u8) -> HostId {
    HostId::from_bytes([name; 32])
}

fn task(at: usize) -> TaskId {
    let task = TaskId::of_content(Digest::sha256(&[at as u8]));
    if at == OPEN { task.opened() } else { task }
}

fn lengths(at: usize) -> Lengths {
    if at == OPEN {
        return Lengths::open();
    }
    Lengths::of(u64::from(PIECES[at]) * 256 * 1024).expect("within the limit")
}

fn origin() -> Origin {
    Origin {
        upstream: "docker.io".parse().expect("a name"),
        repository: "a".parse().expect("a name"),
        kind: OriginKind::Blob,
        private: false,
    }
}

fn names() -> [SchedulerName; 2] {
    ["http://one:8002", "http://two:8002"].map(SchedulerName::new)
}

fn some_host(input: &mut Unstructured<'_>) -> Result<HostId> {
    let name = input.int_in_range(0..=HOSTS)?;
    Ok(host(if name == HOSTS { OWN } else { name }))
}

fn some_pieces(input: &mut Unstructured<'_>) -> Result<PieceSet> {
    let mut pieces = PieceSet::new();
    for _ in 0..input.int_in_range(0..=2)? {
        let start = match input.ratio(1, 16)? {
            true => input.int_in_range(0..=END - 1)?,
            false => input.int_in_range(0..=16)?,
        };
        let length = match input.ratio(1, 16)? {
            true => input.int_in_range(1..=END)?,
            false => input.int_in_range(1..=16)?,
        };
        pieces.insert_range(start..start.saturating_add(length).min(END));
    }
    Ok(pieces)
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

fn some_neighbour(input: &mut Unstructured<'_>) -> Result<Neighbour> {
    Ok(Neighbour {
        host: some_host(input)?,
        address: ([127, 0, 0, 1], 4000).into(),
        role: *input.choose(&[Role::Peer, Role::Seed])?,
    })
}

/// The most usual first.
fn some_word(input: &mut Unstructured<'_>) -> Result<SchedulerMessage> {
    let at = input.choose_index(PIECES.len())?;
    let (task, lengths) = (task(at), lengths(at));
    Ok(match input.int_in_range(0..=11)? {
        0..=3 => SchedulerMessage::Neighbours {
            task,
            add: vec![some_neighbour(input)?, some_neighbour(input)?],
            remove: input
                .ratio(1, 4)?
                .then(|| some_host(input))
                .transpose()?
                .into_iter()
                .collect(),
        },
        4..=6 => {
            // Of another size now and then, and to another host.
            let of = match input.ratio(1, 8)? {
                true => input.choose_index(PIECES.len())?,
                false => at,
            };
            let start = input.int_in_range(0..=PIECES[of].min(16) - 1)?;
            let end = match of == OPEN && input.ratio(3, 4)? {
                true => PIECES[of],
                false => input.int_in_range(start + 1..=PIECES[of])?,
            };
            SchedulerMessage::Grant(Grant {
                task,
                lengths: self::lengths(of),
                pieces: start..end,
                holder: match input.ratio(1, 8)? {
                    true => some_host(input)?,
                    false => host(OWN),
                },
                granter: host(200),
                issued_unix_ms: 0,
                signature: [0; 64],
            })
        }
        7 => {
            let pieces = some_pieces(input)?;
            SchedulerMessage::Revoked { task, pieces }
        }
        8 => SchedulerMessage::Unavailable {
            task,
            why: some_end(input)?,
            forbidden: input.ratio(1, 8)?,
        },
        9 => SchedulerMessage::Mismatch { task, lengths },
        10 => SchedulerMessage::Fetch {
            task,
            lengths,
            origin: origin(),
            purpose: Purpose::Seed,
        },
        _ => SchedulerMessage::Welcome {
            scheduler: host(200),
            trusted: vec![some_host(input)?],
        },
    })
}

impl Play {
    fn new(input: &mut Unstructured<'_>) -> Result<Self> {
        let options = Options {
            window: 8,
            pipeline: 3,
            in_flight: 10,
            ..Options::default()
        };
        let mut node = Node::new(options, host(OWN), 3);
        let names = names().into_iter().take(input.int_in_range(0..=2)?);
        let event = Event::Schedulers {
            names: names.collect(),
            on_demand: input.arbitrary()?,
        };
        node.handle(Timestamp::ZERO, event);
        Ok(Self {
            node,
            now: Timestamp::ZERO,
            known: Default::default(),
            linked: BTreeSet::new(),
            announced: BTreeMap::new(),
            requests: BTreeMap::new(),
            used: BTreeSet::new(),
        })
    }

    fn handle(&mut self, event: Event) {
        let commands = self.node.handle(self.now, event);
        self.execute(commands);
    }

    fn place(&self, id: &TaskId) -> usize {
        let mut all = 0..WANTED;
        all.find(|at| task(*at) == *id)
            .expect("a task that is wanted")
    }

    fn execute(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Request {
                    request,
                    host,
                    task,
                    piece,
                    ..
                } => {
                    let at = self.place(&task);
                    assert!(self.used.insert(request), "no id is used twice");
                    assert!(self.linked.contains(&host), "who is asked is linked");
                    let announced = self.announced.get(&(host, task));
                    assert!(announced.is_some_and(|set| set.contains(piece.0)));
                    assert!(piece.0 < PIECES[at] && !self.known[at].held.contains(piece.0));
                    self.requests.insert(request, (host, at, piece.0));
                }
                Command::Cancel(request) => {
                    assert!(self.requests.remove(&request).is_some(), "it was in flight");
                }
                Command::ReadSource { task, pieces, .. } => {
                    let at = self.place(&task);
                    assert!(pieces.end() <= PIECES[at], "outside the content");
                    assert!(pieces.intersection(&self.known[at].held).is_empty());
                    self.known[at].source = pieces;
                }
                Command::StopSource { task } => {
                    let at = self.place(&task);
                    self.known[at].source = PieceSet::new();
                }
                Command::Complete { task } => {
                    let at = self.place(&task);
                    assert_eq!(self.known[at].held, PieceSet::full(PIECES[at]));
                    self.known[at].source = PieceSet::new();
                    self.known[at].completing = true;
                }
                Command::Fail { task, .. } => {
                    let at = self.place(&task);
                    self.known[at].source = PieceSet::new();
                    self.known[at].started = false;
                }
                _ => {}
            }
        }
    }

    fn pass(&mut self, millis: u64) {
        let until = self.now + Duration::from_millis(millis);
        while let Some(at) = self.node.next_deadline(self.now).filter(|at| *at <= until) {
            assert!(at >= self.now);
            self.now = at.max(self.now + Duration::from_millis(1));
            let commands = self.node.tick(self.now);
            self.execute(commands);
        }
        self.now = until;
    }

    /// What comes from outside, and what this host's clients do.
    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let at = input.choose_index(WANTED)?;
        match input.int_in_range(0..=20)? {
            0 | 1 => self.start(at),
            2 => {
                let known = &mut self.known[at];
                // As the driver: what is whole is committed, wanted or not.
                if known.started && !known.completing {
                    known.started = false;
                    self.handle(Event::Stop { task: task(at) });
                }
            }
            3 => {
                let reader = ReaderId(input.int_in_range(0..=2)?);
                let start = input.int_in_range(0..=PIECES[at].min(16))?;
                let (task, wants) = (task(at), start..PIECES[at]);
                self.handle(match input.ratio(1, 4)? {
                    true => Event::ReaderGone { task, reader },
                    false => Event::Reader {
                        task,
                        reader,
                        wants,
                    },
                });
            }
            4 => {
                let name = input.choose(&names())?.clone();
                self.handle(match input.int_in_range(0..=3)? {
                    0 => Event::SessionDown(name),
                    1 => Event::SessionRefused(name),
                    _ => Event::SessionUp(name),
                });
            }
            5..=7 => {
                let name = input.choose(&names())?.clone();
                let word = some_word(input)?;
                self.handle(Event::Session(name, word));
            }
            8 => {
                let host = host(input.int_in_range(0..=HOSTS - 1)?);
                let up = input.ratio(3, 4)?;
                self.link(host, up);
            }
            9..=13 => self.hears(input)?,
            14 | 15 => self.ends(input)?,
            16 => self.source_gives(at),
            17 => {
                let why = some_end(input)?;
                if !std::mem::take(&mut self.known[at].source).is_empty() {
                    self.handle(Event::SourceFailed {
                        task: task(at),
                        why,
                    });
                }
            }
            18 => {
                let good = input.ratio(3, 4)?;
                self.checked(at, good);
            }
            // A parent has said it with a piece.
            19 if at == OPEN && self.known[at].started => self.told(),
            _ => {
                let millis = input.int_in_range(1..=3000)?;
                self.pass(millis);
            }
        }
        Ok(())
    }

    fn start(&mut self, at: usize) {
        let known = &mut self.known[at];
        if known.held.len() < PIECES[at] {
            known.started = true;
            let held = known.held.clone();
            self.handle(Event::Start {
                task: task(at),
                lengths: lengths(at),
                origin: origin(),
                held,
                purpose: Purpose::Pull,
            });
        }
    }

    fn link(&mut self, host: HostId, up: bool) {
        if up {
            self.linked.insert(host);
            self.handle(Event::LinkUp(host));
        } else {
            self.linked.remove(&host);
            self.announced.retain(|(of, _), _| *of != host);
            self.handle(Event::LinkDown(host));
        }
    }

    fn hears(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let host = host(input.int_in_range(0..=HOSTS - 1)?);
        let at = input.choose_index(PIECES.len())?;
        let (kind, pieces) = (input.int_in_range(0..=7)?, some_pieces(input)?);
        if !self.linked.contains(&host) {
            return Ok(());
        }
        let task = task(at);
        let message = match kind {
            0 => {
                let of = match input.ratio(1, 8)? {
                    true => input.choose_index(PIECES.len())?,
                    false => at,
                };
                let lengths = lengths(of);
                let waits = input.arbitrary()?;
                LinkMessage::Subscribe {
                    task,
                    lengths,
                    waits,
                }
            }
            1 => LinkMessage::Unsubscribe { task },
            2 => {
                if let Some(announced) = self.announced.get_mut(&(host, task)) {
                    announced.subtract(&pieces);
                }
                LinkMessage::Lost { task, pieces }
            }
            3 => LinkMessage::Reading { task, pieces },
            _ => {
                let announced = self.announced.entry((host, task)).or_default();
                announced.union_with(&pieces);
                LinkMessage::Have { task, pieces }
            }
        };
        self.handle(Event::Link { host, message });
        Ok(())
    }

    /// One of the requests in flight ends, or one that was cancelled.
    fn ends(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let failures = [
            PieceFailure::Busy,
            PieceFailure::NotHeld,
            PieceFailure::Unreachable,
            PieceFailure::Stalled,
            PieceFailure::Rot,
            PieceFailure::Store,
        ];
        let (which, fails) = (input.int_in_range(0..=15usize)?, input.ratio(1, 3)?);
        let failure = *input.choose(&failures)?;
        let at = which % self.requests.len().max(1);
        let Some((request, (_, task, piece))) = self.requests.iter().nth(at) else {
            let late = RequestId(which as u64);
            self.handle(Event::PieceStored(late));
            return Ok(());
        };
        let (request, task, piece) = (*request, *task, *piece);
        let past = task == OPEN && piece >= PAST;
        if past && !fails {
            self.told();
        }
        self.requests.remove(&request);
        if fails {
            self.handle(Event::PieceFailed { request, failure });
        } else {
            if !past {
                self.known[task].held.insert(piece);
            }
            self.handle(Event::PieceStored(request));
        }
        Ok(())
    }

    /// The driver hears where the open content ends: what lies past that is held.
    fn told(&mut self) {
        let (known, past) = (&mut self.known[OPEN], PAST..OPEN_PIECES);
        known.source.remove_range(past.clone());
        known.held.insert_range(past);
        self.handle(Event::Ends {
            task: task(OPEN),
            past: PieceIndex(PAST),
        });
    }

    fn source_gives(&mut self, at: usize) {
        let known = &mut self.known[at];
        let first = known.source.first();
        if at == OPEN && first.is_some_and(|piece| piece >= PAST) {
            self.told();
        } else if let Some(piece) = first {
            known.source.remove(piece);
            known.held.insert(piece);
            self.handle(Event::SourcePiece {
                task: task(at),
                piece: PieceIndex(piece),
            });
        }
    }

    fn checked(&mut self, at: usize, good: bool) {
        let known = &mut self.known[at];
        if !std::mem::take(&mut known.completing) {
            return;
        }
        let task = task(at);
        if good {
            known.started = false;
            self.handle(Event::Committed { task });
        } else {
            let pieces = std::mem::take(&mut known.held);
            self.handle(Event::Corrupt { task, pieces });
        }
    }

    fn check(&self) {
        assert_eq!(self.node.requests_in_flight(), self.requests.len());
        assert!(self.requests.len() <= self.node.options.in_flight as usize);
        let mut by_host: BTreeMap<HostId, u32> = BTreeMap::new();
        for (host, ..) in self.requests.values() {
            *by_host.entry(*host).or_default() += 1;
        }
        for (host, known) in &self.node.state.hosts {
            assert_eq!(known.in_flight, by_host.get(host).copied().unwrap_or(0));
            assert!(known.in_flight <= self.node.options.pipeline);
        }
        for (at, known) in self.known.iter().enumerate() {
            let Some(task) = self.node.state.tasks.get(&task(at)) else {
                assert!(known.source.is_empty());
                continue;
            };
            assert_eq!(task.held, known.held);
            assert_eq!(task.reading, known.source);
            let mut asked = PieceSet::new();
            for piece in task.download.iter().flat_map(|one| one.in_flight.keys()) {
                asked.insert(*piece);
            }
            assert!(asked.intersection(&known.held).is_empty());
            assert!(asked.intersection(&known.source).is_empty());
        }
    }

    /// Nobody is there any more, and the source gives all: it ends, whatever was said.
    fn must_end(&mut self) {
        for name in names() {
            self.handle(Event::SessionDown(name));
        }
        for name in 0..HOSTS {
            self.link(host(name), false);
        }
        self.check();
        for _ in 0..100 {
            self.pass(1000);
            for at in 0..WANTED {
                while !self.known[at].source.is_empty() {
                    self.source_gives(at);
                }
                self.checked(at, true);
            }
            self.check();
        }
        let wanted = self.known.iter().any(|known| known.started);
        assert!(!wanted, "a wanted download neither completes nor fails");
        assert!(self.node.state.busy.is_empty(), "all rests");
    }
}
