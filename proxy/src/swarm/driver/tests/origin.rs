//! A source with faults.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use darter_api::{Digest, Origin, OriginKind, TaskId, UpstreamName};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use http::StatusCode;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use crate::{
    credential::Credential,
    source::{Body, Read, Refusal, Source, SourceError, Stat},
};

/// Bytes of one chunk of a body.
const CHUNK: usize = 40_000;

/// What goes wrong with one read.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// The body ends so many bytes after its beginning.
    Cut(u64),
    /// The body stops there until the switch is turned on.
    Stall(u64),
    /// The byte at this offset of the content is another one.
    Wrong(usize),
    /// The connection fails.
    Unreachable,
    /// It is not there.
    Gone,
    /// Ranges are ignored.
    NoRanges,
    /// They are, and of all of it only so many bytes come.
    NoRangesCut(u64),
    /// So many other bytes come instead.
    Page(u64),
}

/// A registry in memory. It counts.
pub(super) struct TestSource {
    contents: HashMap<Digest, Bytes>,
    tells_size: bool,
    /// Only this credential may read.
    needs: Option<Credential>,
    /// It is at no other registry.
    only_at: Option<UpstreamName>,
    /// Nobody answers there.
    dead_at: Option<UpstreamName>,
    /// What it says of contents waits until it flows.
    is_gated: bool,
    /// What was shown where.
    shown: Mutex<Vec<(UpstreamName, Credential)>>,
    faults: Mutex<VecDeque<Fault>>,
    reads: Mutex<Vec<Option<Range<u64>>>>,
    sent: Arc<Mutex<u64>>,
    pub(super) flowing: watch::Sender<bool>,
    /// Bytes a second of all bodies together, as of one link.
    pace: Option<f64>,
    /// When the link is free again.
    free: Arc<Mutex<Instant>>,
}

pub(super) fn content(size: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

pub(super) fn task_of(bytes: &[u8]) -> TaskId {
    TaskId::from(Digest::sha256(bytes))
}

pub(super) fn origin() -> Origin {
    Origin {
        upstream: "registry.test".parse().unwrap(),
        repository: "app".parse().unwrap(),
        kind: OriginKind::Blob,
        private: false,
    }
}

impl TestSource {
    pub(super) fn new(contents: impl IntoIterator<Item = Bytes>) -> Self {
        let contents = contents.into_iter();
        Self {
            contents: contents
                .map(|bytes| (Digest::sha256(&bytes), bytes))
                .collect(),
            tells_size: true,
            needs: None,
            only_at: None,
            dead_at: None,
            is_gated: false,
            shown: Mutex::default(),
            faults: Mutex::default(),
            reads: Mutex::default(),
            sent: Arc::default(),
            flowing: watch::Sender::new(false),
            pace: None,
            free: Arc::new(Mutex::new(Instant::now())),
        }
    }

    pub(super) fn without_sizes(mut self) -> Self {
        self.tells_size = false;
        self
    }

    pub(super) fn at_pace(mut self, bytes_per_second: f64) -> Self {
        self.pace = Some(bytes_per_second);
        self
    }

    pub(super) fn only_for(mut self, credential: Credential) -> Self {
        self.needs = Some(credential);
        self
    }

    pub(super) fn only_at(mut self, upstream: UpstreamName) -> Self {
        self.only_at = Some(upstream);
        self
    }

    pub(super) fn dead_at(mut self, upstream: UpstreamName) -> Self {
        self.dead_at = Some(upstream);
        self
    }

    /// Says nothing of contents until it flows.
    pub(super) fn gated(mut self) -> Self {
        self.is_gated = true;
        self
    }

    /// Where this credential was shown.
    pub(super) fn was_shown(&self, credential: &Credential) -> BTreeSet<UpstreamName> {
        let shown = self.shown.lock();
        let places = shown.iter().filter(|(_, shown)| shown == credential);
        places.map(|(place, _)| place.clone()).collect()
    }

    /// The next reads go wrong in this order.
    pub(super) fn fault(&self, fault: Fault) {
        self.faults.lock().push_back(fault);
    }

    pub(super) fn reads(&self) -> Vec<Option<Range<u64>>> {
        self.reads.lock().clone()
    }

    pub(super) fn sent(&self) -> u64 {
        *self.sent.lock()
    }

    fn admit(&self, origin: &Origin, credential: Option<&Credential>) -> Result<(), SourceError> {
        if let Some(credential) = credential {
            let shown = (origin.upstream.clone(), credential.clone());
            self.shown.lock().push(shown);
        }
        if self.dead_at.as_ref() == Some(&origin.upstream) {
            return Err(SourceError::broken("connecting", "nobody is there"));
        }
        if self
            .only_at
            .as_ref()
            .is_some_and(|place| *place != origin.upstream)
        {
            return Err(SourceError::Missing);
        }
        if self.needs.is_none() || self.needs.as_ref() == credential {
            return Ok(());
        }
        Err(SourceError::Refused(Box::new(Refusal {
            status: StatusCode::UNAUTHORIZED,
            headers: http::HeaderMap::new(),
            body: Bytes::new(),
        })))
    }

    fn stat_of(&self, digest: &Digest) -> Result<(Bytes, Stat), SourceError> {
        let bytes = self.contents.get(digest).ok_or(SourceError::Missing)?;
        let size = self.tells_size.then_some(bytes.len() as u64);
        let stat = Stat {
            size,
            media_type: None,
        };
        Ok((bytes.clone(), stat))
    }

    fn open(&self, read: &Read) -> Result<Body, SourceError> {
        self.admit(&read.origin, read.credential.as_ref())?;
        let (mut bytes, stat) = self.stat_of(&read.digest)?;
        self.reads.lock().push(read.range.clone());
        let mut range = 0..bytes.len();
        if let Some(asked) = &read.range {
            range = asked.start as usize..(asked.end as usize).min(bytes.len());
        }
        if range.start >= range.end {
            return Err(SourceError::Status(StatusCode::RANGE_NOT_SATISFIABLE));
        }
        let fault = self.faults.lock().pop_front();
        let (mut cut, mut stall) = (usize::MAX, usize::MAX);
        match fault {
            Some(Fault::Unreachable) => {
                return Err(SourceError::broken("connecting", "nobody is there"));
            }
            Some(Fault::Gone) => return Err(SourceError::Missing),
            Some(Fault::Wrong(at)) => {
                let mut wrong = bytes.to_vec();
                wrong[at] ^= 1;
                bytes = wrong.into();
            }
            Some(Fault::Cut(after)) => cut = range.start + after as usize,
            Some(Fault::Stall(after)) => stall = range.start + after as usize,
            Some(Fault::NoRanges) => range = 0..bytes.len(),
            Some(Fault::NoRangesCut(after)) => {
                range = 0..bytes.len();
                cut = after as usize;
            }
            Some(Fault::Page(size)) => {
                bytes = bytes.iter().map(|byte| !byte).collect();
                cut = range.start + size as usize;
            }
            None => {}
        }
        let body = bytes.slice(range.start..range.end.min(cut));
        let chunks: Vec<Bytes> = body.chunks(CHUNK).map(Bytes::copy_from_slice).collect();
        let state = (chunks.into_iter(), range.start, self.flowing.subscribe());
        let (pace, free) = (self.pace, Arc::clone(&self.free));
        let sent = Arc::clone(&self.sent);
        let stream = futures::stream::unfold(state, move |(mut chunks, at, mut flowing)| {
            let (sent, free) = (Arc::clone(&sent), Arc::clone(&free));
            async move {
                let chunk = chunks.next()?;
                let next = at + chunk.len();
                if next > stall {
                    let _ = flowing.wait_for(|flows| *flows).await;
                }
                if let Some(pace) = pace {
                    let took = Duration::from_secs_f64(chunk.len() as f64 / pace);
                    let due = {
                        let mut free = free.lock();
                        *free = (*free).max(Instant::now()) + took;
                        *free
                    };
                    tokio::time::sleep_until(due).await;
                }
                *sent.lock() += chunk.len() as u64;
                Some((Ok(chunk), (chunks, next, flowing)))
            }
        });
        Ok(Body {
            anonymous: read.credential.is_none(),
            stat,
            offset: range.start as u64,
            ranges: true,
            stream: stream.boxed(),
        })
    }
}

impl Source for TestSource {
    fn stat(
        &self,
        origin: &Origin,
        digest: &Digest,
        credential: Option<&Credential>,
    ) -> BoxFuture<'static, Result<Stat, SourceError>> {
        let stat = self
            .admit(origin, credential)
            .and_then(|()| self.stat_of(digest))
            .map(|(_, stat)| stat);
        let gate = self.is_gated.then(|| self.flowing.subscribe());
        async move {
            if let Some(mut gate) = gate {
                let _ = gate.wait_for(|flows| *flows).await;
            }
            stat
        }
        .boxed()
    }

    fn read(&self, read: Read) -> BoxFuture<'static, Result<Body, SourceError>> {
        let opened = self.open(&read);
        async move { opened }.boxed()
    }
}
