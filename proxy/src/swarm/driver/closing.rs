//! Making whole contents of those whose size was not known when they began.
//!
//! Their pieces were cut without knowing it. Now that it is known, they are cut as any content of
//! that size is, which other hosts can have like one: the groups are the same, so that nothing is
//! read or hashed again. This host states them, having all bytes and their digest.

use std::{io, ops::Range, sync::Arc};

use darter_api::{
    Grant, Lengths, NodeKey, PieceDigest, PieceIndex, PieceSet, Proof, Statement, TaskId,
    proof::GroupDigest,
};

use super::{cutter::now_unix_ms, download::Download};
use crate::{store::Resealed, swarm::core::event::Event};

/// What the core is told of a content that is whole now; nothing where somebody downloads it who
/// knew its size, and goes on with that. Blocks on the disk.
pub(super) fn close(key: &NodeKey, download: &Download) -> io::Result<Option<Event>> {
    let size = download.size();
    let size = size.ok_or_else(|| io::Error::other("a content without an end"))?;
    let (task, lengths) = (
        download.task.closed(),
        Lengths::of(size).map_err(io::Error::other)?,
    );
    let pieces = resealed(key, task, lengths, &download.partial.groups()?);
    match download.partial.close(lengths, pieces) {
        Err(cause) if cause.kind() == io::ErrorKind::ResourceBusy => return Ok(None),
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => return Err(cause),
        _ => {}
    }
    Ok(Some(Event::Stored {
        task,
        lengths,
        held: PieceSet::full(lengths.pieces()),
        origin: Some(download.origin.clone()),
    }))
}

fn resealed(
    key: &NodeKey,
    task: TaskId,
    lengths: Lengths,
    groups: &[GroupDigest],
) -> Vec<Resealed> {
    let all = 0..lengths.pieces();
    let grant = Grant::sign(key, key.id(), task, lengths, all.clone(), now_unix_ms());
    let grant = Arc::new(grant);
    all.map(PieceIndex)
        .map(|index| {
            if task.proves_itself(&lengths) {
                return Resealed {
                    index,
                    groups: Vec::new(),
                    proof: None,
                };
            }
            let Range { start, end } = lengths.groups_of(lengths.piece_range(index));
            let groups = groups[start as usize..end as usize].to_vec();
            let digest = PieceDigest::of(&groups);
            let statement = Statement::sign(key, &task, &lengths, index, digest);
            let grant = Arc::clone(&grant);
            Resealed {
                index,
                groups,
                proof: Some(Proof { grant, statement }),
            }
        })
        .collect()
}
