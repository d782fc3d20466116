//! Contents whose size no source tells, and sources or pieces that are wrong about them.

use bytes::Bytes;
use darter_api::{Grant, Lengths, PieceIndex, session::SchedulerMessage};
use tempfile::tempdir;

use super::{
    endless::{Lab, PIECE, SIZE, source},
    host::{Host, read, until},
    origin::{Fault, content, task_of},
    peers::scheduler,
};
use crate::{
    content::ReadError,
    swarm::{core::event::Event, driver::Input},
};

/// Pieces that are here before the source is read, right or wrong.
async fn brought(lab: &Lab, pieces: impl IntoIterator<Item = u32>, content: &Bytes) {
    let (swarm, task) = (&lab.hosts[0].swarm, lab.task.opened());
    for piece in pieces {
        swarm.pretend_sealed(&task, piece, content);
        let piece = PieceIndex(piece);
        let came = Input::Event(Event::SourcePiece { task, piece });
        swarm.0.inbox.send(came).await.unwrap();
    }
}

/// The right to read all from this piece on.
async fn grant_from(lab: &Lab, piece: u32) {
    let (host, lengths, task) = (&lab.hosts[0], Lengths::open(), lab.task.opened());
    let pieces = piece..lengths.pieces();
    let grant = Grant::sign(&scheduler(), host.id(), task, lengths, pieces, 1);
    host.hears(SchedulerMessage::Grant(grant)).await;
}

/// Right, or cut short where it was found to be wrong.
fn is_right_or_short(got: Result<Bytes, ReadError>, bytes: &Bytes) {
    match got {
        Ok(got) => assert!(got == bytes, "other bytes"),
        Err(error) => assert!(matches!(error, ReadError::Corrupt), "{error:?}"),
    }
}

#[tokio::test]
async fn a_page_instead_of_the_content_costs_one_body_at_most() {
    let bytes = content(SIZE, 70);
    let (source, dir) = (source([bytes.clone()]), tempdir().unwrap());
    source.fault(Fault::Page(5_000));
    let host = Host::alone(dir.path(), &source).await;
    let task = task_of(&bytes);
    is_right_or_short(host.pull(task).await, &bytes);
    assert!(host.pull(task).await.unwrap() == bytes);
    until("it is committed", || host.store.whole(&task).is_some()).await;
    let size = SIZE as u64;
    let starts: Vec<u64> = source
        .reads()
        .into_iter()
        .map(|range| range.map_or(0, |range| range.start))
        .collect();
    assert_eq!(starts, [0, 4_999, size - 1, 0]);
    host.stop().await;
}

#[tokio::test]
async fn a_wrong_piece_of_somebody_elses_is_read_afresh() {
    let bytes = content(SIZE, 71);
    let source = source([bytes.clone()]);
    let lab = Lab::new(task_of(&bytes), &source, 1).await;
    let held = lab.open(0).await;
    brought(&lab, [2], &content(SIZE, 72)).await;
    lab.grant(0).await;
    is_right_or_short(read(&held).await.0, &bytes);
    lab.is_stored(0).await;
    assert!(lab.hosts[0].pull(lab.task).await.unwrap() == bytes);
    drop(held);
    lab.stop().await;
}

#[tokio::test]
async fn pieces_past_the_end_are_taken_back() {
    let bytes = content(SIZE, 73);
    let source = source([bytes.clone()]);
    let lab = Lab::new(task_of(&bytes), &source, 1).await;
    let held = lab.open(0).await;
    brought(&lab, 0..8, &content(8 * PIECE, 74)).await;
    lab.grant(0).await;
    is_right_or_short(read(&held).await.0, &bytes);
    lab.is_stored(0).await;
    assert!(lab.hosts[0].pull(lab.task).await.unwrap() == bytes);
    let mut reads = source.reads().into_iter().flatten();
    assert!(
        reads.any(|range| range.start > SIZE as u64),
        "it was refused"
    );
    drop(held);
    lab.stop().await;
}

#[tokio::test]
async fn who_lacks_pieces_takes_no_cut_for_the_end() {
    // One that comes from the beginning does not even come to what is wanted.
    let cuts = [Fault::NoRangesCut(1_000_000), Fault::Cut(1_500_000)];
    for (fault, seed) in cuts.into_iter().zip(75..) {
        let bytes = content(SIZE, seed);
        let source = source([bytes.clone()]);
        let lab = Lab::new(task_of(&bytes), &source, 1).await;
        let held = lab.open(0).await;
        source.fault(fault.clone());
        grant_from(&lab, 3).await;
        let (swarm, task) = (&lab.hosts[0].swarm, lab.task.opened());
        until("it has an end", || swarm.end(&task).is_some()).await;
        assert_eq!(swarm.end(&task), Some(SIZE as u64), "{fault:?}");
        let last = source.reads().pop().flatten().unwrap();
        assert_eq!(last.start, SIZE as u64 - 1, "asked twice");
        lab.grant(0).await;
        assert!(read(&held).await.0.unwrap() == bytes, "{fault:?}");
        drop(held);
        lab.stop().await;
    }
}

#[tokio::test]
async fn what_was_doubted_when_its_source_failed_is_not_gone_on_with() {
    let bytes = content(SIZE, 77);
    let (source, dir) = (source([bytes.clone()]), tempdir().unwrap());
    source.fault(Fault::Page(PIECE as u64 + 100_000));
    source.fault(Fault::Gone);
    let host = Host::alone(dir.path(), &source).await;
    let task = task_of(&bytes);
    assert!(host.pull(task).await.is_err());
    assert!(host.pull(task).await.unwrap() == bytes);
    host.stop().await;
}
