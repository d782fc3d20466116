//! Hosts that lie about where a content ends whose size nobody knew.
//!
//! docs/peers.md has the same rows.

use darter_api::{
    End, Grant, Lengths, PieceDigest, Proof, Statement,
    session::{Complaint, PeerMessage},
};

use super::{
    endless::{Lab, PIECE, SIZE, source},
    host::{read, until},
    origin::{content, task_of},
    peers::scheduler,
};

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
    let piece = End::piece_of(lie.size()).unwrap();
    let digest = PieceDigest::of_end(lie.size());
    let mut statement = Statement::sign(&liar.key, &task, &lengths, piece, digest);
    if lie == Lie::Forged {
        statement.signature[7] ^= 1;
    }
    let proof = Proof {
        grant: grant.clone().into(),
        statement,
    };
    let size = lie.size();
    let end = End { size, proof };
    liar.swarm.pretend_read(grant, 1..2, &bytes, end).await;

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
