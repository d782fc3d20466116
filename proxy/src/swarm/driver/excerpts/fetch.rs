//! Getting groups: from the source, in one request of exactly these, or from a seed.
//!
//! Both give whole groups, in order; a seed's are checked against its word before they leave
//! here. Dropping the stream closes what it opened.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use darter_api::{GROUP_BYTES, Origin, link::Excerpt, session::ExcerptSeed};
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};

use super::file::GroupFile;
use crate::{
    limits::{Class, Direction},
    source::SourceError,
    swarm::driver::{Shared, askers::Askers, body::begin, metrics::From},
    transfer::{FetchError, client::GroupsWanted},
};

/// No byte of the source for so long: it counts as broken.
const STALL: Duration = Duration::from_secs(30);
/// The same for a seed, which may have to read the source first: who asks it can do that too.
const SEED_STALL: Duration = Duration::from_secs(3);

/// Groups in order.
pub(super) type Groups = BoxStream<'static, Result<Bytes, Failure>>;

/// Groups do not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The source does not give them.
    #[error("the source does not give them")]
    Source(#[from] SourceError),
    /// The source sends all or nothing.
    #[error("the source serves no ranges")]
    NoRanges,
    /// The seed does not give them.
    #[error("the seed does not give them")]
    Seed(#[from] FetchError),
    /// The disk does not take them.
    #[error("they can't be written")]
    Disk(#[source] std::io::Error),
}

/// Of the content's source.
pub(super) fn from_source(
    shared: &Arc<Shared>,
    file: &GroupFile,
    askers: &Arc<Askers>,
    groups: Range<u32>,
) -> Groups {
    let (shared, askers) = (Arc::clone(shared), Arc::clone(askers));
    let (task, lengths) = (file.task, file.lengths);
    let bytes = lengths.bytes_of_groups(groups);
    let begun = async move {
        shared.metrics.source_reads.inc();
        let (source, range) = (&*shared.source, Some(bytes.clone()));
        let (size, proven) = (Some(lengths.size()), &shared.proven);
        let begun = begin(source, task.digest(), range, size, &askers, proven).await;
        if let Err(SourceError::WrongSize) = &begun {
            shared.excerpts.forget(&task);
        }
        let body = begun?;
        if !body.ranges || body.offset != bytes.start {
            return Err(Failure::NoRanges);
        }
        let counted = body.stream.map_err(Failure::from).and_then(move |chunk| {
            let shared = Arc::clone(&shared);
            async move {
                let length = chunk.len() as u64;
                let (limits, class) = (&shared.limits, Class::Foreground);
                limits.pass(Direction::Source, class, length).await;
                shared.metrics.bytes(From::Source, length);
                Ok(chunk)
            }
        });
        Ok(in_time(cut(counted.boxed(), bytes)))
    };
    futures::stream::once(begun).try_flatten().boxed()
}

fn in_time(groups: Groups) -> Groups {
    futures::stream::unfold(Some(groups), |groups| async {
        let mut groups = groups?;
        match tokio::time::timeout(STALL, groups.next()).await {
            Ok(item) => Some((item?, Some(groups))),
            Err(cause) => {
                let stalled = SourceError::broken("the body stalled", cause);
                Some((Err(stalled.into()), None))
            }
        }
    })
    .boxed()
}

/// Of a seed.
pub(super) fn from_seed(
    shared: &Arc<Shared>,
    seed: &ExcerptSeed,
    origin: &Origin,
    groups: Range<u32>,
) -> Groups {
    let shared = Arc::clone(shared);
    let wanted = GroupsWanted {
        address: seed.neighbour.address,
        excerpt: Excerpt {
            origin: origin.clone(),
            grant: seed.grant.clone(),
        },
        groups,
        stall_after: SEED_STALL,
    };
    let begun = async move {
        let reply = shared.client.groups(wanted).await?;
        let begin = (reply, shared);
        let groups = futures::stream::try_unfold(begin, |(mut reply, shared)| async move {
            let Some(group) = reply.next().await? else {
                return Ok::<_, FetchError>(None);
            };
            shared.metrics.bytes(From::Peer, group.len() as u64);
            Ok(Some((group, (reply, shared))))
        });
        Ok::<_, Failure>(groups.map_err(Failure::from))
    };
    futures::stream::once(begun).try_flatten().boxed()
}

/// Cuts a stream of a content's `bytes`, which begin with a group, into groups. It ends early
/// where the stream does.
pub(super) fn cut<E: Send + 'static>(
    stream: BoxStream<'static, Result<Bytes, E>>,
    bytes: Range<u64>,
) -> BoxStream<'static, Result<Bytes, E>> {
    let begin = (stream, BytesMut::new(), bytes);
    futures::stream::try_unfold(begin, |(mut stream, mut buffer, left)| async move {
        let length = (left.end - left.start).min(GROUP_BYTES) as usize;
        if length == 0 {
            return Ok(None);
        }
        while buffer.len() < length {
            match stream.next().await {
                Some(chunk) => buffer.extend_from_slice(&chunk?),
                None => return Ok(None),
            }
        }
        let group = buffer.split_to(length).freeze();
        let left = left.start + length as u64..left.end;
        Ok(Some((group, (stream, buffer, left))))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test]
    async fn chunks_of_any_size_become_groups() {
        let content: Vec<u8> = (0..GROUP_BYTES * 3 + 9)
            .map(|at| (at % 251) as u8)
            .collect();
        for chunk in [1000, GROUP_BYTES as usize, 150_000, 400_000] {
            let chunks: Vec<Result<Bytes, Infallible>> = content
                .chunks(chunk)
                .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
                .collect();
            let stream = futures::stream::iter(chunks).boxed();
            let whole = cut(stream, 0..content.len() as u64);
            let groups: Vec<Bytes> = whole.try_collect().await.unwrap();
            let lengths: Vec<u64> = groups.iter().map(|group| group.len() as u64).collect();
            assert_eq!(lengths, [GROUP_BYTES, GROUP_BYTES, GROUP_BYTES, 9]);
            assert_eq!(groups.concat(), content);
        }
        let short = futures::stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"short"))]);
        let groups: Vec<_> = cut(short.boxed(), 0..GROUP_BYTES).collect().await;
        assert!(groups.is_empty());
    }
}
