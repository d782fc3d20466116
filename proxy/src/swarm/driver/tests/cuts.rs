//! Contents whose size no source tells, and sources that are cut.

use darter_api::{Grant, Lengths, session::SchedulerMessage};

use super::{
    endless::{Lab, SIZE, source},
    host::{read, until},
    origin::{Fault, content, task_of},
    peers::scheduler,
};

/// The right to read all from this piece on.
async fn grant_from(lab: &Lab, piece: u32) {
    let (host, lengths, task) = (&lab.hosts[0], Lengths::open(), lab.task.opened());
    let pieces = piece..lengths.pieces();
    let grant = Grant::sign(&scheduler(), host.id(), task, lengths, pieces, 1);
    host.hears(SchedulerMessage::Grant(grant)).await;
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
