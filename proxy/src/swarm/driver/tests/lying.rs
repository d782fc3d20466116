//! Peers that lie: what comes of each lie, and who is named for it.
//!
//! The liar is a whole host whose store was spoilt before it began. docs/peers.md has the same
//! rows, and is held against what happens here.

use std::{
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use darter_api::{
    Grant, Lengths, NodeKey, PieceDigest, PieceIndex, Proof, Statement, TaskId,
    proof::GroupDigest,
    session::{Complaint, PeerMessage, SchedulerMessage},
};
use tempfile::tempdir;

use super::{
    host::{Host, Scheduler, read, store_options, until},
    origin::{TestSource, content, origin, task_of},
    peers::{introduce, scheduler, welcome},
};
use crate::store::{self, Store};

const SIZE: usize = 3_000_001;
const GROUP: usize = 64 * 1024;
/// The piece that is lied about.
const PIECE: u32 = 2;
const LIAR: u8 = 7;
const DOCUMENT: &str = include_str!("../../../../../docs/peers.md");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    Granted,
    Expired,
    ToItself,
    OfAnother,
    Beyond,
    Altered,
    OtherTask,
}

impl Lie {
    const ALL: [Self; 7] = [
        Self::Granted,
        Self::Expired,
        Self::ToItself,
        Self::OfAnother,
        Self::Beyond,
        Self::Altered,
        Self::OtherTask,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Granted => "signs wrong statements for pieces that it was granted",
            Self::Expired => "the same under a grant of long ago",
            Self::ToItself => {
                "grants itself what it signs, where only schedulers' grants are believed"
            }
            Self::OfAnother => "signs under another host's grant",
            Self::Beyond => "signs a piece beyond those of its grant",
            Self::Altered => "alters bytes that others have stated",
            Self::OtherTask => "replays grant and statement of another content",
        }
    }

    /// Whether only the content's own digest finds it.
    const fn is_signed(self) -> bool {
        matches!(self, Self::Granted | Self::Expired)
    }

    fn grant(self, task: TaskId, lengths: Lengths) -> Grant {
        let (own, other) = (liar(), NodeKey::from_seed([8; 32]));
        let granter = match self {
            Self::ToItself => liar(),
            _ => scheduler(),
        };
        let holder = match self {
            Self::OfAnother => other.id(),
            _ => own.id(),
        };
        let pieces = match self {
            Self::Beyond => 0..PIECE,
            _ => 0..lengths.pieces(),
        };
        let task = match self {
            Self::OtherTask => task_of(b"another"),
            _ => task,
        };
        let issued = match self {
            Self::Expired => 1,
            _ => now(),
        };
        Grant::sign(&granter, holder, task, lengths, pieces, issued)
    }

    /// Fills the liar's store: all pieces but the last one, one of them a lie.
    fn spoil(self, directory: &Path, bytes: &[u8]) {
        let root = directory.join("store");
        let (store, _) = Store::open(&root, &store_options(), store::Metrics::default()).unwrap();
        let task = task_of(bytes);
        let lengths = Lengths::of(bytes.len() as u64).unwrap();
        let partial = store.begin(task, lengths, Some(&origin()), None).unwrap();
        let grant = Arc::new(self.grant(task, lengths));
        for index in (0..lengths.pieces() - 1).map(PieceIndex) {
            let range = lengths.piece_range(index);
            let mut piece = bytes[range.start as usize..range.end as usize].to_vec();
            if self.is_signed() && index.0 == PIECE {
                piece[1000] ^= 1;
            }
            partial.write(range.start, &piece).unwrap();
            let groups: Vec<GroupDigest> = piece.chunks(GROUP).map(GroupDigest::of).collect();
            let digest = PieceDigest::of(&groups);
            let statement = Statement::sign(&liar(), &grant.task, &lengths, index, digest);
            let grant = Arc::clone(&grant);
            let proof = Proof { grant, statement };
            let length = piece.len() as u64;
            partial.seal(index, length, &groups, Some(&proof)).unwrap();
            if self == Self::Altered && index.0 == PIECE {
                partial.write(range.start, &[!piece[0]]).unwrap();
            }
        }
    }
}

fn liar() -> NodeKey {
    NodeKey::from_seed([LIAR; 32])
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_millis() as u64
}

/// What came of a lie.
#[derive(Debug, Default)]
struct Outcome {
    /// The first pull's body was right; else it ended short.
    right_at_once: bool,
    /// Verified bytes that the child took of the liar.
    taken: u64,
    /// The upstream was asked for it again from the beginning.
    read_again: bool,
}

impl Outcome {
    fn row(&self, lie: Lie) -> String {
        let comes = match (lie.is_signed(), self.right_at_once) {
            (true, false) => {
                "the content does not match its digest: all of it is taken back and read from the registry; a body under way ends short of its last 64 KiB, and the next one is right"
            }
            (true, true) => {
                "the content does not match its digest: all of it is taken back and read from the registry; the body is right"
            }
            (false, true) => "refused at the piece; the body is right",
            (false, false) => "the body ends short",
        };
        let named = match lie.is_signed() {
            true => {
                "the signer, once the right bytes are known: a warning, `swarm_liars`, `Rot` to the scheduler"
            }
            false => "who sent it, at once: `Rot` to the scheduler",
        };
        format!("| {} | {comes} | {named} |", lie.name())
    }
}

async fn play(lie: Lie) -> Outcome {
    let bytes = content(SIZE, 90 + lie as u64);
    let task = task_of(&bytes);
    let lengths = Lengths::of(SIZE as u64).unwrap();
    let source = Arc::new(TestSource::new([bytes.clone()]));
    let nothing = Arc::new(TestSource::new([]));
    let dirs = [tempdir().unwrap(), tempdir().unwrap()];
    lie.spoil(dirs[0].path(), &bytes);
    let liar = Host::start(dirs[0].path(), &nothing, LIAR, Scheduler::Test).await;
    let child = Host::strict(dirs[1].path(), &source, 2).await;
    for host in [&liar, &child] {
        welcome(host).await;
    }

    let opened = child.open(task).await.unwrap();
    introduce(&child, task, &[&liar]).await;
    let rot = PeerMessage::Report {
        neighbour: liar.id(),
        task,
        complaint: Complaint::Rot,
    };
    if lie.is_signed() {
        let all_but_one = lengths.piece_range(PieceIndex(lengths.pieces() - 1)).start;
        until("it took all", || child.swarm.totals().1 >= all_but_one).await;
    } else {
        child.has_said(&rot).await;
    }
    let outcome = Outcome {
        taken: child.swarm.totals().1,
        ..Outcome::default()
    };
    let pieces = 0..lengths.pieces();
    let grant = Grant::sign(&scheduler(), child.id(), task, lengths, pieces, now());
    let granted = child.hears(SchedulerMessage::Grant(grant));
    let ((first, _), ()) = tokio::join!(read(&opened), granted);
    until("it is committed", || child.store.whole(&task).is_some()).await;
    if lie.is_signed() {
        child.has_said(&rot).await;
    }
    drop(opened);
    assert!(child.pull(task).await.unwrap() == bytes, "{lie:?}");
    if let Ok(first) = &first {
        assert!(*first == bytes, "{lie:?}: other bytes");
    }

    let read_again = source.reads().iter().any(|range| match range {
        None => true,
        Some(range) => range.start == 0,
    });
    for host in [liar, child] {
        host.stop().await;
    }
    Outcome {
        right_at_once: first.is_ok(),
        read_again,
        ..outcome
    }
}

#[tokio::test]
async fn every_lie_is_found_and_every_pull_ends_right() {
    let mut missing = Vec::new();
    for lie in Lie::ALL {
        let outcome = play(lie).await;
        println!("{lie:?}: {outcome:?}");
        // Whom a grant covers is believed until the digest speaks, others in nothing.
        match lie {
            Lie::ToItself | Lie::OfAnother | Lie::OtherTask => assert_eq!(outcome.taken, 0),
            Lie::Granted | Lie::Expired => assert!(outcome.read_again),
            Lie::Beyond | Lie::Altered => {}
        }
        let row = outcome.row(lie);
        if !DOCUMENT.lines().any(|line| line == row) {
            missing.push(row);
        }
    }
    assert!(
        missing.is_empty(),
        "not in docs/peers.md:\n{}",
        missing.join("\n")
    );
}
