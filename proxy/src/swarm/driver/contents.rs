//! Opening contents: from the store, by joining a download, or by starting one.

use std::{io, sync::Arc};

use darter_api::{
    Digest, Lengths, Origin, OriginKind, Repository, TaskId, UpstreamName,
    session::{Observation, PeerMessage, Purpose, Reference},
};
use futures::future::BoxFuture;

use super::{
    Input, Shared, Swarm,
    askers::{Asker, Askers},
    download::Download,
    excerpts,
    growth::Verdict,
    live::{Entry, Hold, Phase},
    reader::{EmptyReader, GrowingReader, HeldReader, Place, StoredReader, ThroughReader},
    solo::Held,
    through::Through,
};
use crate::{
    content::{
        Content, Contents, MAX_MANIFEST_BYTES, OpenError, Progress, Provenance, ReadError, Sizing,
        Want,
    },
    credential::Credential,
    manifest::Manifest,
    source::{SourceError, Stat},
    store::Blob,
    swarm::core::event::Event,
};

/// How often a client that came too late to be asked for begins anew.
const REJOINS: usize = 3;

/// What a want turned out to be.
pub(super) enum Joined {
    Empty,
    Stored(Blob, Provenance),
    Growing(Hold, Arc<Download>),
    Through(Through),
    Held(Held),
}

impl Contents for Swarm {
    fn open(&self, want: Want) -> BoxFuture<'static, Result<Content, OpenError>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { open(shared, want).await })
    }

    fn stored(&self, task: &TaskId) -> Option<(u64, Option<String>)> {
        self.0.store.stat(task)
    }

    fn progress(&self, task: &TaskId) -> Progress {
        match self.0.live.progress(task) {
            Progress::Nothing => self.0.live.progress(&task.opened()),
            progress => progress,
        }
    }

    fn interest(&self, tasks: Vec<(TaskId, Lengths)>, origin: Origin) {
        self.0.claims.put_all(&tasks, &origin);
        // A hint: when the actor is that busy it has to do without.
        let interest = Input::Event(Event::Interest { tasks, origin });
        let _ = self.0.inbox.try_send(interest);
    }

    fn ahead(&self, read: &TaskId, origin: &Origin, credential: Option<&Credential>) {
        self.0.get_ahead(read, origin, credential);
    }

    fn observed(&self, observation: Observation) {
        let said = Event::Say(PeerMessage::Observed(observation));
        // As with interest.
        let _ = self.0.inbox.try_send(Input::Event(said));
    }

    fn lookup(
        &self,
        upstream: UpstreamName,
        repository: Repository,
        reference: Reference,
    ) -> BoxFuture<'static, Option<Observation>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { shared.lookup(upstream, repository, reference).await })
    }
}

pub(super) async fn open(shared: Arc<Shared>, want: Want) -> Result<Content, OpenError> {
    if let Some(content) = excerpts::open(&shared, &want).await {
        return Ok(content);
    }
    let manifest = want.origin.kind == OriginKind::Manifest;
    let sizing = want.sizing;
    match join(&shared, want).await? {
        Joined::Empty => Ok(Content {
            size: Some(0),
            media_type: None,
            provenance: Provenance::Cache,
            reader: Arc::new(EmptyReader),
        }),
        Joined::Stored(blob, provenance) => Ok(stored(&shared, blob, provenance, manifest)),
        Joined::Growing(hold, download) => {
            if manifest || sizing != Sizing::Unneeded {
                let mut place = Place::new(&shared, download.task);
                place.tell(0..download.lengths.pieces());
                if manifest {
                    whole_manifest(&download).await?;
                }
                has_size(&download, sizing).await?;
            }
            Ok(growing(&shared, hold, download, manifest))
        }
        Joined::Through(through) if sizing == Sizing::Needed && through.size.is_none() => {
            Err(untold(None))
        }
        Joined::Through(through) => {
            shared.metrics.streamed_through.inc();
            Ok(Content {
                size: through.size,
                media_type: through.media_type.clone(),
                provenance: Provenance::Download,
                reader: Arc::new(ThroughReader(through)),
            })
        }
        Joined::Held(held) => {
            shared.metrics.streamed_through.inc();
            Ok(from_memory(held, manifest))
        }
    }
}

fn stored(shared: &Arc<Shared>, blob: Blob, provenance: Provenance, manifest: bool) -> Content {
    let mut media_type = blob.media_type().map(str::to_owned);
    if manifest && media_type.is_none() {
        media_type = sniff(|| blob.read(0..blob.size().min(MAX_MANIFEST_BYTES)));
    }
    Content {
        size: Some(blob.size()),
        media_type,
        provenance,
        reader: Arc::new(StoredReader {
            blob,
            shared: Arc::clone(shared),
        }),
    }
}

fn from_memory(held: Held, manifest: bool) -> Content {
    let mut media_type = held.media_type.clone();
    if manifest && media_type.is_none() {
        media_type = sniff(|| Ok(held.bytes.clone()));
    }
    Content {
        size: Some(held.bytes.len() as u64),
        media_type,
        provenance: Provenance::Download,
        reader: Arc::new(HeldReader(held)),
    }
}

fn growing(shared: &Arc<Shared>, hold: Hold, download: Arc<Download>, manifest: bool) -> Content {
    let size = download.size();
    let mut media_type = download.media_type();
    if manifest && media_type.is_none() && download.verdict() == Verdict::Good {
        let size = download.lengths.size().min(MAX_MANIFEST_BYTES);
        media_type = sniff(|| download.partial.read(0..size));
    }
    Content {
        size,
        media_type,
        provenance: Provenance::Download,
        reader: Arc::new(GrowingReader {
            hold: Arc::new(hold),
            download,
            shared: Arc::clone(shared),
        }),
    }
}

/// Waits until a manifest is there: it is small, and its media type comes with it.
async fn whole_manifest(download: &Arc<Download>) -> Result<(), OpenError> {
    let verdict = download.judged().await;
    match download.ended() {
        Some(ReadError::Download(cause)) if verdict != Verdict::Good => {
            Err(OpenError::Source(cause))
        }
        Some(ReadError::Store(cause)) if verdict != Verdict::Good => Err(OpenError::Store(cause)),
        Some(ReadError::ShuttingDown) if verdict != Verdict::Good => Err(OpenError::ShuttingDown),
        _ => Ok(()),
    }
}

/// Waits until it is known where a content ends, for as long as that is wanted.
async fn has_size(download: &Arc<Download>, sizing: Sizing) -> Result<(), OpenError> {
    match sizing {
        Sizing::Unneeded => Ok(()),
        Sizing::Within(patience) => {
            let known = tokio::time::timeout(patience, is_sized(download));
            known.await.unwrap_or(Ok(()))
        }
        Sizing::Needed => is_sized(download).await,
    }
}

async fn is_sized(download: &Arc<Download>) -> Result<(), OpenError> {
    if download.sized().await.is_some() {
        return Ok(());
    }
    Err(match download.ended() {
        Some(ReadError::Download(cause)) => OpenError::Source(cause),
        Some(ReadError::Store(cause)) => OpenError::Store(cause),
        Some(ReadError::ShuttingDown) => OpenError::ShuttingDown,
        Some(ReadError::Corrupt) => untold(Some("it does not match its digest")),
        None => untold(None),
    })
}

/// What is asked for needs a size that nobody knows.
fn untold(why: Option<&'static str>) -> OpenError {
    let why = why.unwrap_or("nobody tells its size");
    OpenError::Source(Arc::new(SourceError::Protocol(why)))
}

/// What a manifest says that it is, or what its form says.
fn sniff(read: impl FnOnce() -> io::Result<bytes::Bytes>) -> Option<String> {
    let manifest = Manifest::parse(&read().ok()?).ok()?;
    Some(manifest.media_type().to_owned())
}

/// Finds out where a content is to come from, and joins it.
pub(super) async fn join(shared: &Arc<Shared>, want: Want) -> Result<Joined, OpenError> {
    let task = want.task;
    if let Some(blob) = shared.store.whole(&task) {
        return Ok(Joined::Stored(blob, Provenance::Cache));
    }
    if *task.digest() == Digest::of(task.digest().algorithm(), b"") {
        return Ok(Joined::Empty);
    }
    let mut rejoined = 0;
    loop {
        let (hold, phase) = opened(shared, &want, &want.origin).await?;
        let (hold, phase) = match phase {
            // Others hear of the place that has it.
            Phase::Endless(origin) => {
                let task = task.opened();
                let endless = Want {
                    task,
                    origin,
                    ..want.clone()
                };
                opened(shared, &endless, &want.origin).await?
            }
            phase => (hold, phase),
        };
        return match phase {
            Phase::Opening | Phase::Endless(_) => Err(OpenError::ShuttingDown),
            Phase::Open(download) => {
                let waiter = download.join(want.purpose, &shared.turns);
                Ok(Joined::Growing(hold.with(waiter), download))
            }
            Phase::Through(through) => Ok(Joined::Through(through)),
            Phase::Held(held) => Ok(Joined::Held(held)),
            Phase::Failed(error) if rejoined < REJOINS && is_others(&error, &hold, &want) => {
                rejoined += 1;
                continue;
            }
            Phase::Failed(error) => Err(error),
            Phase::Stored => match shared.store.whole(&task.closed()) {
                Some(blob) => Ok(Joined::Stored(blob, Provenance::Download)),
                None => Err(OpenError::Store(Arc::new(io::ErrorKind::NotFound.into()))),
            },
        };
    }
}

/// Waits for a download to be opened, which this client's want does if it is the first.
/// `place` is where its client asked for it.
async fn opened(
    shared: &Arc<Shared>,
    want: &Want,
    place: &Origin,
) -> Result<(Hold, Phase), OpenError> {
    if shared.tasks.token().is_cancelled() {
        return Err(OpenError::ShuttingDown);
    }
    let (hold, first) = shared.live.join(want.task);
    let entry = Arc::clone(hold.entry());
    entry.askers.add(place, want.credential.clone());
    if first {
        let (shared, entry) = (Arc::clone(shared), Arc::clone(&entry));
        let work = open_alone(Arc::clone(&shared), want.clone(), entry);
        shared.tasks.spawn("open", work);
    }
    let mut phase = entry.phase.subscribe();
    let opened = phase.wait_for(|phase| !matches!(phase, Phase::Opening));
    let phase = tokio::select! {
        opened = opened => opened.map_err(|_| OpenError::ShuttingDown)?.clone(),
        () = shared.tasks.token().cancelled() => return Err(OpenError::ShuttingDown),
    };
    Ok((hold, phase))
}

/// Whether only others were told that it is not where they asked for it, or not for them, or
/// that nobody is there.
fn is_others(error: &OpenError, hold: &Hold, want: &Want) -> bool {
    let askers = &hold.entry().askers;
    let is_answer = matches!(error, OpenError::Source(_));
    is_answer && !askers.were_heard(&want.origin, want.credential.as_ref())
}

/// Opens a download for all who wait, whoever of them stays.
async fn open_alone(shared: Arc<Shared>, want: Want, entry: Arc<Entry>) {
    let task = want.task;
    let opening = entry.opening.clone();
    let prepare = shared.prepare(want.clone(), &entry);
    let Some(prepared) = opening.run_until_cancelled(prepare).await else {
        return;
    };
    let mut phase = prepared.unwrap_or_else(Phase::Failed);
    // Whoever comes meanwhile waits for it, whoever leaves.
    let kept = shared.live.keep(&task, &entry);
    if let Phase::Held(held) = &phase
        && kept.is_some()
    {
        phase = shared.keep(want, &entry, held.clone()).await;
    }
    if let Phase::Open(download) = &phase {
        shared.verifiers.advance(download);
    }
    shared.live.opened(&task, &entry, phase);
}

impl Shared {
    async fn prepare(self: &Arc<Self>, want: Want, entry: &Entry) -> Result<Phase, OpenError> {
        let task = want.task;
        if task.is_open() {
            return self.begin(want, entry, Lengths::open(), None).await;
        }
        let manifest = want.origin.kind == OriginKind::Manifest;
        let known = want.size.or_else(|| self.claims.get(&task, &want.origin));
        let known = known.or_else(|| Some(self.store.proven_lengths(&task)?.size()));
        // A preheat's manifest has a media type that a later reader finds in it.
        let asks = manifest && want.purpose == Purpose::Pull;
        let nothing = Stat {
            size: known,
            media_type: None,
        };
        let (origin, stat) = if known.is_none() || asks {
            self.stat(&want, entry, known).await?
        } else {
            (want.origin.clone(), nothing)
        };
        // Others hear of the place that has it.
        let want = Want { origin, ..want };
        let mut size = stat.size.or(known);
        if size.is_none() && self.session.is_some() && !manifest {
            size = self.unsized_contents.ask(task).await;
        }
        let Some(size) = size else {
            return match manifest {
                true => self.read_alone(&want, entry, stat.media_type).await,
                false => Ok(Phase::Endless(want.origin)),
            };
        };
        let wrong = |what| OpenError::Source(Arc::new(SourceError::Protocol(what)));
        let lengths = Lengths::of(size).map_err(|_| wrong("it is too large"))?;
        if manifest && size > MAX_MANIFEST_BYTES {
            return Err(wrong("it is too large for a manifest"));
        }
        if lengths.pieces() == 0 {
            return Err(wrong("it is empty, which its digest is not"));
        }
        self.begin(want, entry, lengths, stat.media_type).await
    }

    /// Has the store begin it, or go on with it.
    async fn begin(
        &self,
        want: Want,
        entry: &Entry,
        lengths: Lengths,
        told: Option<String>,
    ) -> Result<Phase, OpenError> {
        let task = want.task;
        let through = || {
            let size = Some(lengths.size()).filter(|_| !task.is_open());
            let (media_type, askers) = (told.clone(), Arc::clone(&entry.askers));
            Phase::Through(self.through(task, size, media_type, askers))
        };
        if self.store.is_closed() {
            return Ok(through());
        }
        let (store, origin, media_type) = (self.store.clone(), want.origin.clone(), told.clone());
        let begin = tokio::task::spawn_blocking(move || {
            store.begin(task, lengths, Some(&origin), media_type.as_deref())
        });
        let partial = match begin.await.map_err(io::Error::other).flatten() {
            Ok(partial) => partial,
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                return Ok(Phase::Stored);
            }
            Err(cause) => {
                tracing::warn!(%task, %cause, "the store takes no more; streaming without it");
                return Ok(through());
            }
        };
        let download = Download::new(
            task,
            lengths,
            want.origin,
            want.purpose,
            partial,
            Arc::clone(&entry.askers),
            told,
        );
        self.metrics.started.inc();
        self.metrics.resumed_bytes.inc_by(download.held_bytes());
        Ok(Phase::Open(Arc::new(download)))
    }

    /// Where it is, its size and media type: from the source, else from what any host has
    /// observed.
    async fn stat(
        &self,
        want: &Want,
        entry: &Entry,
        known: Option<u64>,
    ) -> Result<(Origin, Stat), OpenError> {
        let here = |stat: Stat| (want.origin.clone(), stat);
        let error = match self.stat_source(&want.task, &entry.askers).await {
            Ok((asker, stat)) => {
                let private = want.origin.private || asker.credential.is_some();
                let origin = Origin {
                    private,
                    ..asker.origin
                };
                return Ok((origin, stat));
            }
            Err(error) => error,
        };
        let failed = |error| Err(OpenError::Source(Arc::new(error)));
        let nothing = Stat {
            size: None,
            media_type: None,
        };
        if matches!(error, SourceError::Refused(_) | SourceError::Missing) {
            return match known {
                Some(_) => Ok(here(nothing)),
                None => failed(error),
            };
        }
        let Origin {
            upstream,
            repository,
            ..
        } = want.origin.clone();
        let reference = Reference::Digest(*want.task.digest());
        let seen = self.lookup(upstream, repository, reference).await;
        let stat = seen.map_or(nothing, |seen| Stat {
            size: seen.size,
            media_type: Some(seen.media_type).filter(|text| !text.is_empty()),
        });
        match stat.size.or(known) {
            Some(_) => Ok(here(stat)),
            None => failed(error),
        }
    }

    /// What its source says of a content, and to whom of those who ask for it.
    pub(super) async fn stat_source(
        &self,
        task: &TaskId,
        askers: &Askers,
    ) -> Result<(Asker, Stat), SourceError> {
        let stat = askers.ask(|asker| {
            let credential = asker.credential.as_ref();
            self.source.stat(&asker.origin, task.digest(), credential)
        });
        stat.await
    }
}
