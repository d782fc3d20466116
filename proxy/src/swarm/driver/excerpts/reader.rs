//! Reads ranges of a content whose groups are got as they are read.
//!
//! A stream gives what is there: pieces that the store holds, and groups of the file. What is
//! missing it has a worker get, unless another one's does, and waits. Owner of state: each stream
//! owns its place; its worker owns the claim to the groups that it gets. Failure: of a seed, the source is asked;
//! of the source, it is tried again twice; then the content is downloaded whole, and the stream
//! goes on from there. A seed that reads for others leaves the last to them.

use std::{ops::Range, sync::Arc, time::Duration};

use darter_api::GROUP_BYTES;
use darter_runtime::server::span::Span;
use futures::{StreamExt as _, stream::BoxStream};
use tokio::{sync::oneshot, task::AbortHandle};

use super::{
    fetch::{Failure, Groups, from_seed, from_source},
    file::{Claim, GroupFile},
    way::{Way, seed_failed, way},
};
use crate::{
    content::{OpenError, ReadError, Reader, Sizing, Want},
    limits::{Class, Direction},
    source::SourceError,
    swarm::driver::{Shared, askers::Askers, blocking, contents},
};

/// Bytes of a stored piece given at once.
const STORED_CHUNK: u64 = 256 << 10;
/// How often groups are asked for before the content is downloaded.
const ATTEMPTS: u32 = 3;
/// Before the source is asked again; twice as long before the last time.
const PAUSE: Duration = Duration::from_millis(200);

/// See the module.
pub(super) struct ExcerptReader(Context);

/// What all streams of a reader have in common.
#[derive(Clone)]
struct Context {
    shared: Arc<Shared>,
    file: Arc<GroupFile>,
    want: Want,
    askers: Arc<Askers>,
    /// The source is read for another host, which can help itself.
    serves: bool,
}

impl Context {
    /// Begins to get groups; `None` when nobody may be asked, or the disk has no room.
    async fn begin(&self, claim: Claim) -> Option<Coming> {
        let Context {
            shared,
            file,
            want,
            askers,
            serves,
        } = self;
        let run = claim.left();
        let bytes = run.len() as u64 * GROUP_BYTES;
        let evicting = Arc::clone(shared);
        let room = blocking(&shared.tasks, "room", move || {
            evicting.excerpts.make_room(bytes)?;
            evicting.store.spare(bytes)
        });
        room.await.ok()?;
        let asks = if *serves {
            Way::Source
        } else {
            way(shared, file, &want.origin).await
        };
        let groups = match asks {
            Way::Seed(seed) => from_seed(shared, &seed, &want.origin, run),
            Way::Source => from_source(shared, file, askers, run),
            Way::Nobody => return None,
        };
        let (end, ended) = oneshot::channel();
        let work = take_all(Arc::clone(shared), claim, groups);
        let worker = shared.tasks.spawn("excerpt", async move {
            // Who waited may have left.
            let _ = end.send(work.await);
        });
        Some(Coming {
            ended,
            worker: worker.abort_handle(),
        })
    }
}

impl ExcerptReader {
    /// For a client of this host.
    pub(super) fn new(
        shared: &Arc<Shared>,
        file: Arc<GroupFile>,
        want: Want,
        askers: Arc<Askers>,
    ) -> Self {
        Self(Context {
            shared: Arc::clone(shared),
            file,
            want,
            askers,
            serves: false,
        })
    }

    /// For other hosts: with no credential but the source's own, and never by a seed.
    pub(super) fn for_others(shared: &Arc<Shared>, file: Arc<GroupFile>, want: Want) -> Self {
        let askers = Arc::new(Askers::of(&want.origin, None));
        let mut reader = Self::new(shared, file, want, askers);
        reader.0.serves = true;
        reader
    }
}

impl Reader for ExcerptReader {
    fn spans(&self, range: Range<u64>) -> BoxStream<'static, Result<Span, ReadError>> {
        let end = range.end.min(self.0.file.lengths.size());
        let pass = Pass {
            context: self.0.clone(),
            at: range.start.min(end),
            end,
            coming: None,
            failures: 0,
            whole: None,
        };
        futures::stream::unfold(pass, |mut pass| async move {
            let item = pass.next().await?;
            if item.is_err() {
                pass.at = pass.end;
            }
            Some((item, pass))
        })
        .boxed()
    }
}

/// Groups that this stream has a worker get, as fast as they come: a slow client keeps nobody
/// from them. Dropping it stops the worker.
struct Coming {
    ended: oneshot::Receiver<Result<(), Failure>>,
    worker: AbortHandle,
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

struct Pass {
    context: Context,
    at: u64,
    end: u64,
    coming: Option<Coming>,
    failures: u32,
    /// The content's download, once excerpts are given up.
    whole: Option<BoxStream<'static, Result<Span, ReadError>>>,
}

impl Pass {
    async fn next(&mut self) -> Option<Result<Span, ReadError>> {
        loop {
            if self.at >= self.end {
                return None;
            }
            if let Some(whole) = &mut self.whole {
                return whole.next().await;
            }
            if let Some(span) = self.here() {
                self.at += span.len();
                return Some(Ok(span));
            }
            if let Err(error) = self.get().await {
                return Some(Err(error));
            }
        }
    }

    /// The next bytes, if they are on this host.
    fn here(&self) -> Option<Span> {
        let Context { shared, file, .. } = &self.context;
        if let Some(span) = file.span(self.at..self.end) {
            return Some(Span::File(span));
        }
        let piece = file.lengths.piece_at(self.at)?;
        let end = self.end.min(self.at + STORED_CHUNK);
        let held = shared.store.piece(&file.task, piece).ok().flatten()?;
        let range = file.lengths.piece_range(piece);
        let end = end.min(range.end);
        let fits = held.range() == range;
        fits.then(|| Span::File(held.span(self.at..end)))
    }

    /// Sees to it that the next bytes come, by itself or by waiting for who gets them.
    async fn get(&mut self) -> Result<(), ReadError> {
        let Context { file, shared, .. } = self.context.clone();
        let mut changed = std::pin::pin!(file.changed());
        changed.as_mut().enable();
        // It may have come before this stream listened.
        if self.here().is_some() {
            return Ok(());
        }
        if self.coming.is_none()
            && let Some(claim) = file.claim(file.lengths.groups_of(self.at..self.end))
        {
            match self.context.begin(claim).await {
                Some(coming) => self.coming = Some(coming),
                None => return self.give_up(None).await,
            }
        }
        let ended = tokio::select! {
            () = changed => return Ok(()),
            () = shared.tasks.token().cancelled() => return Err(ReadError::ShuttingDown),
            ended = ended(&mut self.coming) => ended,
        };
        self.coming = None;
        match ended {
            Some(Err(failure)) => self.failed(failure).await,
            _ => Ok(()),
        }
    }

    /// Groups do not come: they are asked for elsewhere, or again, or no more.
    async fn failed(&mut self, failure: Failure) -> Result<(), ReadError> {
        self.log(&failure);
        self.coming = None;
        self.failures += 1;
        match failure {
            Failure::Seed(_) => {
                seed_failed(&self.context.file).await;
                Ok(())
            }
            Failure::Source(error) if error.is_retryable() && self.failures < ATTEMPTS => {
                tokio::time::sleep(PAUSE * self.failures).await;
                Ok(())
            }
            Failure::Source(error) => self.give_up(Some(error)).await,
            Failure::NoRanges | Failure::Disk(_) => self.give_up(None).await,
        }
    }

    fn log(&self, failure: &Failure) {
        let (task, cause) = (self.context.want.task, failure as &dyn std::error::Error);
        tracing::debug!(%task, cause, "a part of a content does not come");
    }

    /// The content is downloaded whole instead.
    async fn give_up(&mut self, why: Option<SourceError>) -> Result<(), ReadError> {
        self.coming = None;
        if self.context.serves {
            let why = why.unwrap_or(SourceError::Protocol("it can't be read in parts"));
            return Err(ReadError::Download(Arc::new(why)));
        }
        let want = Want {
            size: Some(self.context.file.lengths.size()),
            excerpt: None,
            sizing: Sizing::Unneeded,
            ..self.context.want.clone()
        };
        let opened = contents::open(Arc::clone(&self.context.shared), want).await;
        let content = opened.map_err(|error| match error {
            OpenError::Source(cause) => ReadError::Download(cause),
            OpenError::Store(cause) => ReadError::Store(cause),
            OpenError::ShuttingDown => ReadError::ShuttingDown,
        })?;
        let same = content.size == Some(self.context.file.lengths.size());
        if !same {
            let other = SourceError::Protocol("its size has changed");
            return Err(ReadError::Download(Arc::new(other)));
        }
        self.whole = Some(content.reader.spans(self.at..self.end));
        Ok(())
    }
}

/// How the worker ended; never, where there is none.
async fn ended(coming: &mut Option<Coming>) -> Option<Result<(), Failure>> {
    match coming {
        Some(coming) => (&mut coming.ended).await.ok(),
        None => std::future::pending().await,
    }
}

/// Writes groups as they come, until all of the claim have.
async fn take_all(
    shared: Arc<Shared>,
    mut claim: Claim,
    mut groups: Groups,
) -> Result<(), Failure> {
    while let Some(group) = groups.next().await {
        let (group, class) = (group?, Class::Foreground);
        let length = group.len() as u64;
        shared.limits.pass(Direction::Disk, class, length).await;
        claim.take(&group).map_err(Failure::Disk)?;
    }
    if claim.left().is_empty() {
        return Ok(());
    }
    let cause = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    Err(SourceError::broken("the body ended early", cause).into())
}
