//! Hosts that lie about where a content ends whose size nobody knew.
//!
//! docs/peers.md has the same rows.

use std::ops::Range;

use darter_api::{
    End, Grant, Lengths, PieceDigest, PieceIndex, Proof, Statement,
    session::{Complaint, PeerMessage, SchedulerMessage},
};

use futures::StreamExt as _;

use super::{
    endless::{Lab, PIECE, SIZE, source},
    host::{Host, read, until},
    origin::{Fault, content, task_of},
    peers::scheduler,
};
use crate::content::{ReadError, Sizing};

const DOCUMENT: &str = include_str!("../../../../../docs/peers.md");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    Nearer,
    Farther,
    Forged,
}

impl Lie {
    const fn row(self) -> &'static str {
        match self {
            Self::Nearer => {
                "| signs that a content of unknown size ends before it does | the content does not match its digest: all of it is taken back and read from the registry; a body under way ends short, and the next one is right | the signer, once the right bytes are known: a warning, `swarm_liars`, `Rot` to the scheduler |"
            }
            Self::Farther => {
                "| signs that it ends farther on | who reads it to its end knows better, by its digest; the body is right | the signer, once the right bytes are known: a warning, `swarm_liars`, `Rot` to the scheduler |"
            }
            Self::Forged => {
                "| makes up somebody's word for its end | refused at the piece; the body is right | who sent it, at once: `Rot` to the scheduler |"
            }
        }
    }

    const fn size(self) -> u64 {
        match self {
            Self::Nearer => 2 * PIECE as u64,
            Self::Farther => 8 * PIECE as u64 + 5,
            Self::Forged => SIZE as u64,
        }
    }
}

/// A host's word for an end.
fn stated(host: &Host, grant: Grant, size: u64) -> End {
    let (task, lengths) = (grant.task, Lengths::open());
    let (piece, digest) = (End::piece_of(size).unwrap(), PieceDigest::of_end(size));
    let proof = Proof {
        grant: grant.into(),
        statement: Statement::sign(&host.key, &task, &lengths, piece, digest),
    };
    End { size, proof }
}

/// The liar has the second piece, and a wrong end.
async fn play(lie: Lie) {
    let bytes = content(SIZE, 60 + lie as u64);
    let source = source([bytes.clone()]);
    let lab = Lab::new(task_of(&bytes), &source, 2).await;
    let (held, opened) = tokio::join!(lab.open(0), lab.open(1));
    let (liar, child) = (&lab.hosts[0], &lab.hosts[1]);
    let (task, lengths) = (lab.task.opened(), Lengths::open());
    let all = 0..lengths.pieces();
    let grant = Grant::sign(&scheduler(), liar.id(), task, lengths, all, 1);
    let size = lie.size();
    let mut end = stated(liar, grant.clone(), size);
    if lie == Lie::Forged {
        end.proof.statement.signature[7] ^= 1;
    }
    liar.swarm.pretend_read(grant, 1..2, &bytes).await;
    liar.swarm.pretend_end(task, end).await;

    lab.introduce_all().await;
    let rot = PeerMessage::Report {
        neighbour: liar.id(),
        task,
        complaint: Complaint::Rot,
    };
    match lie {
        Lie::Forged => child.has_said(&rot).await,
        Lie::Nearer | Lie::Farther => {
            until("it believes", || child.swarm.end(&task) == Some(size)).await;
            let came = || child.swarm.totals().1 >= PIECE as u64;
            until("it has the second piece", came).await;
        }
    }
    let ((first, given), ()) = tokio::join!(read(&opened), lab.grant(1));
    lab.is_stored(1).await;
    if lie != Lie::Forged {
        child.has_said(&rot).await;
    }
    match first {
        Ok(first) => assert!(first == bytes, "{lie:?}: other bytes"),
        Err(_) => assert!(lie == Lie::Nearer && given < 2 * PIECE, "{lie:?}: {given}"),
    }
    assert!(child.pull(lab.task).await.unwrap() == bytes, "{lie:?}");
    drop((held, opened));
    lab.stop().await;
}

#[tokio::test]
async fn a_wrong_end_is_found_and_every_pull_ends_right() {
    for lie in [Lie::Nearer, Lie::Farther, Lie::Forged] {
        play(lie).await;
        let is_told = DOCUMENT.lines().any(|line| line == lie.row());
        assert!(is_told, "not in docs/peers.md:\n{}", lie.row());
    }
}

/// A host has these pieces and a client that has read so far, when it hears of a nearer end.
struct Heard {
    pieces: Range<u32>,
    size: u64,
    seed: u64,
}

impl Heard {
    async fn play(self) {
        let bytes = content(SIZE, self.seed);
        let source = source([bytes.clone()]);
        let lab = Lab::new(task_of(&bytes), &source, 1).await;
        let (opened, host) = (lab.open(0).await, &lab.hosts[0]);
        let (task, lengths) = (lab.task.opened(), Lengths::open());
        let all = 0..lengths.pieces();
        // What it does itself is nobody's lie.
        let grant = Grant::sign(&scheduler(), host.id(), task, lengths, all, 1);
        let pieces = self.pieces.clone();
        host.swarm.pretend_read(grant.clone(), pieces, &bytes).await;
        let mut stream = opened.reader.read(opened.all());
        let mut got = Vec::new();
        let shown = match self.pieces.start {
            0 => self.pieces.end as usize * PIECE - 65_536,
            _ => 0,
        };
        while got.len() < shown {
            got.extend_from_slice(&stream.next().await.unwrap().unwrap());
        }
        let end = stated(host, grant, self.size);
        host.swarm.pretend_end(task, end).await;
        let other = lab.open_joined(0).await;
        assert_eq!(other.size, None, "a client is told what nobody checked");
        let part = host.open_for_size(task, Sizing::Needed);
        let rest = async {
            while let Some(item) = stream.next().await {
                got.extend_from_slice(&item?);
            }
            Ok::<_, ReadError>(())
        };
        let ((other, _), part, rest, ()) = tokio::join!(read(&other), part, rest, lab.grant(0));
        let what = format!("{:?} and {}", self.pieces, self.size);
        assert_eq!(part.unwrap().size, Some(SIZE as u64), "{what}");
        assert!(
            rest.is_err() || got == bytes,
            "{what}: a clean end at {}",
            got.len()
        );
        assert!(
            other.is_err() || other.unwrap() == bytes,
            "{what}: a clean end"
        );
        lab.is_stored(0).await;
        assert!(host.pull(lab.task).await.unwrap() == bytes, "{what}");
        drop((opened, stream));
        lab.stop().await;
    }
}

#[tokio::test]
async fn no_body_ends_cleanly_where_nobody_checked_that_it_ends() {
    let piece = PIECE as u64;
    let sizes = [
        1,
        piece,
        2 * piece,
        2 * piece + 65_536,
        3 * piece - 5,
        3 * piece,
    ];
    let held = [0..3, 1..3, 0..1];
    let all = held
        .into_iter()
        .flat_map(|pieces| sizes.map(|size| (pieces.clone(), size)));
    for ((pieces, size), seed) in all.zip(70..) {
        Heard { pieces, size, seed }.play().await;
    }
}

#[tokio::test]
async fn who_heard_a_wrong_end_takes_what_right_ones_give() {
    let bytes = content(SIZE, 110);
    let source = source([bytes.clone()]);
    let lab = Lab::new(task_of(&bytes), &source, 2).await;
    let (held, opened) = tokio::join!(lab.open(0), lab.open(1));
    let (parent, child) = (&lab.hosts[0], &lab.hosts[1]);
    let (task, lengths) = (lab.task.opened(), Lengths::open());
    let all = 0..lengths.pieces();
    let grant = Grant::sign(&scheduler(), parent.id(), task, lengths, all, 1);
    let right = stated(parent, grant.clone(), SIZE as u64);
    let wrong = stated(parent, grant.clone(), 8 * PIECE as u64 + 5);
    parent.swarm.pretend_read(grant, 0..5, &bytes).await;
    parent.swarm.pretend_end(task, right).await;
    child.swarm.pretend_end(task, wrong).await;
    lab.introduce_all().await;
    let has = |piece| {
        child
            .store
            .piece(&task, PieceIndex(piece))
            .unwrap()
            .is_some()
    };
    until("it has what both have", || (0..5).all(has)).await;
    let ((got, _), ()) = tokio::join!(read(&opened), lab.grant(1));
    assert!(got.unwrap() == bytes);
    assert_eq!(source.reads().len(), 1, "{:?}", source.reads());
    lab.is_stored(1).await;
    drop((held, opened));
    lab.stop().await;
}

/// A reader goes on for another one, lacks what came before, and its body is cut.
async fn goes_on(has_ranges: bool, seed: u64) {
    let bytes = content(SIZE, seed);
    let source = source([bytes.clone()]);
    let lab = Lab::new(task_of(&bytes), &source, 2).await;
    let (held, opened) = tokio::join!(lab.open(0), lab.open(1));
    let (first, second) = (&lab.hosts[0], &lab.hosts[1]);
    let (task, lengths) = (lab.task.opened(), Lengths::open());
    let sign = |host: &Host, pieces| Grant::sign(&scheduler(), host.id(), task, lengths, pieces, 1);
    let all = lengths.pieces();
    first
        .swarm
        .pretend_read(sign(first, 0..all), 0..3, &bytes)
        .await;
    source.fault(Fault::Cut(PIECE as u64 + 8));
    // It is asked a second time, for the last byte.
    source.fault(Fault::Cut(1));
    if !has_ranges {
        source.fault(Fault::NoRanges);
    }
    second
        .hears(SchedulerMessage::Grant(sign(second, 3..all)))
        .await;
    let cut = 4 * PIECE as u64 + 7;
    until("it says that it ends there", || {
        second.swarm.end(&task) == Some(cut)
    })
    .await;
    let asked = [3 * PIECE as u64, cut].map(|at| Some(at - 1..lengths.size()));
    assert_eq!(source.reads(), asked);
    lab.introduce_all().await;
    let ((got, given), ()) = tokio::join!(read(&opened), lab.grant(1));
    match got {
        Ok(got) => assert!(got == bytes, "a clean end at {given}"),
        Err(_) => assert!(given < cut as usize, "{given}"),
    }
    lab.is_stored(1).await;
    assert!(second.pull(lab.task).await.unwrap() == bytes);
    drop((held, opened));
    lab.stop().await;
}

#[tokio::test]
async fn a_reader_that_goes_on_may_be_wrong_about_the_end() {
    goes_on(true, 111).await;
    goes_on(false, 112).await;
}
