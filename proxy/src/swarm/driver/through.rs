//! Reading a content from its source without storing it, when the store takes no more.
//!
//! Every response reads for itself. One that needs the content's end reads all of it from
//! the start, so that the digest can be computed on the way and the last 64 KiB be
//! withheld until it matched (of a content of untold size whatever comes last); one that ends before is passed on as it comes. One that the
//! store failed in mid-content goes on from where it is: what was stored has been hashed.
//! Failure: a source that breaks off is asked again from the next byte on, as for a download
//! ([`super::attempts`]); what stays away ends the body short. Where the source says nothing of the
//! size, a stream that just ends has broken off unless the digest says that it is the end; one that
//! ends there again is wrong.

use std::{collections::VecDeque, fmt, ops::Range, sync::Arc};

use bytes::Bytes;
use darter_api::{GROUP_BYTES, Hasher, Lengths, TaskId};
use futures::{StreamExt as _, stream::BoxStream};

use super::{
    askers::Askers,
    attempts::Attempts,
    body::{STALL, begin, cut, range_start, skip_to},
    download::Download,
    metrics::{From, Metrics},
    proven::Proven,
};
use crate::{
    content::ReadError,
    limits::{Class, Direction, Limits},
    source::{Source, SourceError},
    store::PrefixHasher,
};

/// What is read through.
#[derive(Clone)]
pub(super) struct Through {
    pub(super) source: Arc<dyn Source>,
    pub(super) task: TaskId,
    /// Its size, where anybody knows it.
    pub(super) size: Option<u64>,
    pub(super) media_type: Option<String>,
    pub(super) askers: Arc<Askers>,
    pub(super) proven: Proven,
    pub(super) limits: Limits,
    pub(super) metrics: Arc<Metrics>,
}

impl fmt::Debug for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Through({})", self.task)
    }
}

/// Bytes hashed before a reader goes on: what the digest usually is behind by, some times over.
const MOST_HASHED: u64 = 64 << 20;

/// Of untold size no more is read than the swarm takes.
const MOST: u64 = Lengths::open().size();

type Stream = BoxStream<'static, Result<Bytes, SourceError>>;

struct Pass {
    through: Through,
    wants: Range<u64>,
    /// Where the next byte of the source lies in the content.
    at: u64,
    hasher: Option<Hasher>,
    body: Option<Stream>,
    attempts: Attempts,
    /// How often bytes came.
    growths: u64,
    /// Bytes of the end that wait for the verdict, in order.
    withheld: VecDeque<Bytes>,
    withheld_bytes: u64,
    /// The source's stream of a content of untold size ended.
    ended: bool,
    /// It ended there, and its digest did not match.
    doubted: Option<u64>,
    judged: bool,
    done: bool,
}

impl Through {
    /// The bytes of `wants`.
    pub(super) fn read(self, wants: Range<u64>) -> BoxStream<'static, Result<Bytes, ReadError>> {
        self.read_on(wants, None)
    }

    /// The same, of a content whose beginning has been hashed already.
    pub(super) fn read_on(
        self,
        wants: Range<u64>,
        begun: Option<Begun>,
    ) -> BoxStream<'static, Result<Bytes, ReadError>> {
        let shown = self.size.map(|size| size.saturating_sub(GROUP_BYTES));
        let needs_end = shown.is_none_or(|shown| wants.end > shown);
        let fits = |begun: &Begun| {
            let rest = begun.rest.len() as u64;
            begun.hasher.position() <= wants.start + rest && (rest == 0 || self.size.is_none())
        };
        let Begun { hasher, rest } = begun.filter(fits).unwrap_or_else(|| Begun {
            hasher: PrefixHasher::new(&self.task),
            rest: Bytes::new(),
        });
        // What goes on in mid-content has begun.
        let goes_on = u64::from(wants.start > 0);
        let pass = Pass {
            at: if needs_end {
                hasher.position()
            } else {
                wants.start
            },
            hasher: needs_end.then(|| hasher.into_hasher()),
            through: self,
            wants,
            body: None,
            attempts: Attempts::new(),
            growths: goes_on,
            withheld_bytes: rest.len() as u64,
            withheld: VecDeque::from_iter((!rest.is_empty()).then_some(rest)),
            ended: false,
            doubted: None,
            judged: false,
            done: false,
        };
        futures::stream::unfold(pass, |mut pass| async move {
            let item = pass.next().await?;
            pass.done |= item.is_err();
            Some((item, pass))
        })
        .boxed()
    }
}

/// A download's beginning.
pub(super) struct Begun {
    hasher: PrefixHasher,
    /// What of it a reader has not been given, since it might have been the end.
    rest: Bytes,
}

/// A download's beginning for a reader at `at`, hashed as far as it is on disk; less of it, where
/// that would take long or the disk fails.
pub(super) async fn begun(download: &Arc<Download>, at: u64) -> Option<Begun> {
    let known = download.verifier.known();
    let prefix = download.prefix();
    let long = prefix.saturating_sub(known.position()) > MOST_HASHED;
    let until = if long { known.position() } else { prefix };
    let download = Arc::clone(download);
    let job = tokio::task::spawn_blocking(move || {
        let mut hasher = known;
        hasher.advance(&download.partial, until)?;
        let position = hasher.position();
        let rest = match position.saturating_sub(at) {
            1..=GROUP_BYTES if download.size().is_none() => download.partial.read(at..position)?,
            _ => Bytes::new(),
        };
        std::io::Result::Ok(Begun { hasher, rest })
    });
    job.await.ok()?.ok()
}

impl Pass {
    async fn next(&mut self) -> Option<Result<Bytes, ReadError>> {
        loop {
            if self.done {
                return None;
            }
            if self.judged {
                return self.withheld.pop_front().map(Ok);
            }
            if let Some(bytes) = self.released() {
                return Some(Ok(bytes));
            }
            let end = if self.hasher.is_some() {
                self.through.size.unwrap_or(MOST)
            } else {
                self.wants.end
            };
            if self.at >= end && self.through.size.is_none() {
                let endless = SourceError::Protocol("it is too large");
                return Some(Err(ReadError::Download(Arc::new(endless))));
            }
            if self.at >= end || self.ended {
                match self.judge() {
                    Ok(()) => continue,
                    Err(error) => return Some(Err(error)),
                }
            }
            match self.pull(end).await {
                Ok(bytes) => {
                    if let Some(shown) = self.pass_on(bytes) {
                        return Some(Ok(shown));
                    }
                }
                Err(error) => return Some(Err(ReadError::Download(Arc::new(error)))),
            }
        }
    }

    fn judge(&mut self) -> Result<(), ReadError> {
        self.judged = true;
        let digest = self.hasher.take().map(Hasher::finish);
        let task = &self.through.task;
        if digest.is_some_and(|digest| !task.is_file() && digest != *task.digest()) {
            return Err(ReadError::Corrupt);
        }
        Ok(())
    }

    /// Bytes that turned out not to be the last of a content of untold size.
    fn released(&mut self) -> Option<Bytes> {
        let first = self
            .withheld
            .front()
            .filter(|_| self.through.size.is_none())?;
        let length = first.len() as u64;
        if self.withheld_bytes - length < GROUP_BYTES {
            return None;
        }
        self.withheld_bytes -= length;
        self.withheld.pop_front()
    }

    /// The source's next bytes, opened or resumed where needed.
    async fn pull(&mut self, end: u64) -> Result<Bytes, SourceError> {
        loop {
            let error = match self.next_bytes(end).await {
                Ok(bytes) => {
                    self.growths += 1;
                    return Ok(bytes);
                }
                Err(error) => error,
            };
            self.body = None;
            let pause = self.attempts.next_pause(self.growths, error.asks_for());
            match pause {
                Some(pause) if error.is_retryable() => tokio::time::sleep(pause).await,
                _ => return Err(error),
            }
        }
    }

    async fn next_bytes(&mut self, end: u64) -> Result<Bytes, SourceError> {
        let mut bytes = loop {
            let next = self.body(end).await?.next();
            match tokio::time::timeout(STALL, next).await {
                Ok(Some(bytes)) => match bytes? {
                    bytes if bytes.is_empty() => {}
                    bytes => break bytes,
                },
                Ok(None) if self.is_end() => {
                    self.ended = true;
                    return Ok(Bytes::new());
                }
                Ok(None) => return Err(cut("the body ended early")),
                Err(_) => return Err(cut("the body stalled")),
            }
        };
        bytes.truncate(usize::try_from(end - self.at).unwrap_or(usize::MAX));
        let length = bytes.len() as u64;
        let limits = &self.through.limits;
        limits
            .pass(Direction::Source, Class::Foreground, length)
            .await;
        self.through.metrics.bytes(From::Source, length);
        Ok(bytes)
    }

    /// Whether a stream that ended did so where the content does, and is not to be gone on with.
    fn is_end(&mut self) -> bool {
        let Through { task, size, .. } = &self.through;
        if size.is_some() {
            return false;
        }
        let digest = self.hasher.clone().map(Hasher::finish);
        task.is_file()
            || digest.is_none_or(|digest| digest == *task.digest())
            || self.doubted.replace(self.at) == Some(self.at)
    }

    /// What of the source is being read.
    async fn body(&mut self, end: u64) -> Result<&mut Stream, SourceError> {
        let body = match self.body.take() {
            Some(body) => body,
            None => {
                let size = self.through.size;
                let is_part = self.at > 0 || end < size.unwrap_or(MOST);
                let from = range_start(self.at, size.is_some());
                let range = is_part.then_some(from..end);
                let begun = begin(
                    &*self.through.source,
                    self.through.task.digest(),
                    range,
                    self.through.size,
                    &self.through.askers,
                    &self.through.proven,
                );
                skip_to(begun.await?, self.at)
            }
        };
        Ok(self.body.insert(body))
    }

    /// Hashes the bytes, and gives or withholds what of them is wanted.
    fn pass_on(&mut self, bytes: Bytes) -> Option<Bytes> {
        let from = self.at;
        self.at += bytes.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes);
        }
        let clip = |range: Range<u64>| {
            let start = range.start.clamp(from, self.at);
            let end = range.end.clamp(start, self.at);
            bytes.slice((start - from) as usize..(end - from) as usize)
        };
        let shown_end = if self.hasher.is_some() {
            let size = self.through.size.unwrap_or_default();
            let shown = size.saturating_sub(GROUP_BYTES);
            let late = clip(self.wants.start.max(shown)..self.wants.end);
            if !late.is_empty() {
                self.withheld_bytes += late.len() as u64;
                self.withheld.push_back(late);
            }
            shown.min(self.wants.end)
        } else {
            self.wants.end
        };
        let shown = clip(self.wants.start..shown_end);
        (!shown.is_empty()).then_some(shown)
    }
}
