//! A source's body: asked for as one of those who wait, and begun where it is wanted.

use std::{io, ops::Range, time::Duration};

use bytes::Bytes;
use darter_api::{Digest, TaskId};
use futures::{FutureExt as _, StreamExt as _, stream::BoxStream};

use super::{askers::Askers, proven::Proven};
use crate::source::{Body, Read, Source, SourceError};

/// No byte for so long: the stream counts as broken.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// Asks a source for one client after the other until one is not refused, and passes on what
/// that proves. What has another size than is known is another content.
pub(super) async fn begin(
    source: &dyn Source,
    digest: &Digest,
    range: Option<Range<u64>>,
    size: Option<u64>,
    askers: &Askers,
    proven: &Proven,
) -> Result<Body, SourceError> {
    let begun = askers.ask(|asker| {
        let body = source.read(Read {
            origin: asker.origin.clone(),
            digest: *digest,
            range: range.clone(),
            credential: asker.credential.clone(),
        });
        let (claims, origin) = (proven.claims.clone(), asker.origin.clone());
        let task = TaskId::from(*digest);
        async move {
            let body = body.await?;
            let is_other = |told: u64| size.is_some_and(|size| size != told);
            if body.stat.size.is_some_and(is_other) {
                claims.refute(task, &origin);
                return Err(SourceError::WrongSize);
            }
            Ok(body)
        }
        .boxed()
    });
    let (asker, body) = begun.await?;
    proven.given(&asker.origin, digest, asker.credential.as_ref(), &body);
    Ok(body)
}

/// Where to ask for a range from, to have what lies at `at`. What may end there is asked for with a
/// byte that is known to be: a range of nothing would be refused.
pub(super) const fn range_start(at: u64, has_size: bool) -> u64 {
    if has_size { at } else { at.saturating_sub(1) }
}

/// A body's bytes from `at` on, where the source began before it. One that ends before it was cut:
/// it says nothing of what comes at `at`.
pub(super) fn skip_to(body: Body, at: u64) -> BoxStream<'static, Result<Bytes, SourceError>> {
    let skip = at.saturating_sub(body.offset);
    let late = body.offset > at;
    let skipped =
        futures::stream::unfold((body.stream, skip), move |(mut stream, skip)| async move {
            let Some(item) = stream.next().await else {
                let early = cut("the body ended early");
                return (skip > 0).then(|| (Err(early), (stream, 0)));
            };
            if late {
                let late = SourceError::Protocol("its range begins too late");
                return Some((Err(late), (stream, 0)));
            }
            let over = item
                .as_ref()
                .map_or(skip, |bytes| skip.min(bytes.len() as u64));
            let rest = item.map(|mut bytes| bytes.split_off(over as usize));
            Some((rest, (stream, skip - over)))
        });
    skipped.boxed()
}

/// What a body that does not come whole amounts to.
pub(super) fn cut(what: &'static str) -> SourceError {
    SourceError::broken(what, io::Error::from(io::ErrorKind::UnexpectedEof))
}
