//! Contents that are read in small parts: only the groups that somebody reads are got.
//!
//! Such a content has no download and no swarm. Its groups are asked of a seed, which reads them
//! for all, or of the source; they lie in a file of their own ([`mod@file`]) for the next who reads
//! them. Invariants: what is not whole can't be checked against its digest, so that it stays
//! provisional: a group is given to this host's own clients alone, or by the seed that read it
//! to who asked the scheduler for one; it is never stored as a piece of the content, announced,
//! or passed on by who got it from a seed. Failure: whatever goes wrong, the content is
//! downloaded whole instead, as it is for everybody else.
//!
//! Owner of state: [`Excerpts`] owns the files, bounded in number and bytes; the least recently
//! opened goes first.

mod fetch;
mod file;
mod reader;
mod serve;
mod way;

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use darter_api::{Lengths, OriginKind, TaskId, configuration::Prefetch, session::Purpose};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::{Shared, Swarm, askers::Askers};
use crate::{
    content::{Content, Excerpt, Provenance, Sizing, Want},
    limits::Class,
};
use file::GroupFile;
use reader::ExcerptReader;
pub use serve::router;

/// Contents with such a file; each is one that is open.
const MOST_FILES: usize = 256;
/// Bytes of all of them, where the store is large.
const MOST_BYTES: u64 = 4 << 30;
/// Of the store's capacity they take, beside it, at most one part in so many.
const SHARE: u64 = 8;
/// One range of so many bytes is an excerpt still; lazy pullers ask for 50 KB to 4 MiB.
const MOST_RANGE: u64 = 4 << 20;
/// Of a content one part in so many is read as excerpts, and then all of it.
const QUARTER: u64 = 4;
/// Contents that are completed in the background at a time; others wait.
const PREFETCHES: usize = 4;

/// See the module.
pub(super) struct Excerpts {
    files: Mutex<HashMap<TaskId, Arc<GroupFile>>>,
    asked: way::Asked,
    directory: PathBuf,
    most_bytes: u64,
    openings: AtomicU64,
    prefetch: watch::Receiver<Prefetch>,
    prefetches: Arc<Semaphore>,
}

impl Excerpts {
    /// Files in this directory, beside a store of this capacity in bytes.
    pub(super) fn new(
        directory: PathBuf,
        capacity: u64,
        prefetch: watch::Receiver<Prefetch>,
    ) -> Self {
        Self {
            files: Mutex::default(),
            asked: way::Asked::default(),
            directory,
            most_bytes: MOST_BYTES.min(capacity / SHARE),
            openings: AtomicU64::default(),
            prefetch,
            prefetches: Arc::new(Semaphore::new(PREFETCHES)),
        }
    }

    /// The scheduler has said who reads a content.
    pub(super) fn answered(
        &self,
        task: &TaskId,
        seed: Option<darter_api::session::ExcerptSeed>,
        source: bool,
    ) {
        self.asked.answered(task, seed, source);
    }

    fn get(&self, task: &TaskId) -> Option<Arc<GroupFile>> {
        self.files.lock().get(task).cloned()
    }

    /// A content's file, made if need be. Blocks on the disk.
    fn open(&self, task: TaskId, lengths: Lengths) -> io::Result<Arc<GroupFile>> {
        let now = self.openings.fetch_add(1, Ordering::Relaxed);
        let known = self.get(&task).filter(|file| file.lengths == lengths);
        let file = match known {
            Some(file) => file,
            None => {
                let path = self.directory.join(format!("groups-{now}"));
                Arc::new(GroupFile::create(&path, task, lengths)?)
            }
        };
        file.touch(now);
        let mut files = self.files.lock();
        if !files.contains_key(&task) {
            make_room(&mut files, MOST_FILES - 1, self.most_bytes)?;
        }
        // Who was faster has made it already.
        let entry = files.entry(task);
        let same = |one: &Arc<GroupFile>| one.lengths == lengths;
        Ok(match entry {
            std::collections::hash_map::Entry::Occupied(entry) if same(entry.get()) => {
                Arc::clone(entry.get())
            }
            entry => Arc::clone(entry.insert_entry(file).get()),
        })
    }

    /// Room for more bytes of the contents that are open.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let most = self.most_bytes.saturating_sub(bytes);
        make_room(&mut self.files.lock(), MOST_FILES, most)
    }

    /// The store has it whole.
    fn forget(&self, task: &TaskId) {
        self.files.lock().remove(task);
    }
}

/// Drops what nobody reads, the least recently opened first, until so much is left.
fn make_room(
    files: &mut HashMap<TaskId, Arc<GroupFile>>,
    most_files: usize,
    most_bytes: u64,
) -> io::Result<()> {
    loop {
        let bytes: u64 = files.values().map(|file| file.held_bytes()).sum();
        if files.len() <= most_files && bytes <= most_bytes {
            return Ok(());
        }
        let free = files
            .iter()
            .filter(|(_, file)| Arc::strong_count(file) == 1);
        let oldest = free.min_by_key(|(_, file)| file.used.load(Ordering::Relaxed));
        let Some(oldest) = oldest.map(|(task, _)| *task) else {
            return Err(io::ErrorKind::StorageFull.into());
        };
        files.remove(&oldest);
    }
}

/// The content as one that is read in small parts; `None` when it is to be downloaded.
pub(super) async fn open(shared: &Arc<Shared>, want: &Want) -> Option<Content> {
    let excerpt = want.excerpt?;
    let kind = (want.origin.kind, want.purpose);
    if kind != (OriginKind::Blob, Purpose::Pull) || shared.store.is_closed() {
        return None;
    }
    let known = shared.excerpts.get(&want.task);
    if shared.store.stat(&want.task).is_some() || is_pulled(shared, want, known.as_deref()) {
        return None;
    }
    let askers = Arc::new(Askers::of(&want.origin, want.credential.clone()));
    let lengths = match known.map(|file| file.lengths) {
        Some(lengths) => lengths,
        None => lengths_of(shared, want, &askers).await?,
    };
    if !is_small(&excerpt, &lengths) {
        return None;
    }
    let (opening, task) = (Arc::clone(shared), want.task);
    let opened = tokio::task::spawn_blocking(move || opening.excerpts.open(task, lengths));
    let file = opened.await.ok()?.ok()?;
    if file.held_bytes() > lengths.size() / QUARTER {
        return None;
    }
    prefetch(shared, &file, want);
    let reader = ExcerptReader::new(shared, file, want.clone(), askers);
    Some(Content {
        size: Some(lengths.size()),
        media_type: None,
        provenance: Provenance::Download,
        reader: Arc::new(reader),
    })
}

/// Whether somebody waits for all of it here, so that every part comes by that.
fn is_pulled(shared: &Shared, want: &Want, known: Option<&GroupFile>) -> bool {
    match shared.live.download(&want.task) {
        Some(download) => download.class() == Class::Foreground && shared.live.is_held(&want.task),
        // What is being opened is for a client's sake, unless this module asked for it.
        None => {
            let own = known.is_some_and(|file| file.prefetched.load(Ordering::Relaxed));
            !own && shared.live.is_held(&want.task)
        }
    }
}

/// Whether so little of a content is wanted that the rest is not worth getting.
fn is_small(excerpt: &Excerpt, lengths: &Lengths) -> bool {
    let most = match excerpt.ranges {
        1 => MOST_RANGE,
        // Many ranges are what a client lacks of a content that it knows.
        _ => MOST_RANGE.max(lengths.size() / QUARTER),
    };
    !lengths.is_small() && excerpt.bytes <= most
}

async fn lengths_of(shared: &Shared, want: &Want, askers: &Askers) -> Option<Lengths> {
    let claimed = shared.claims.get(&want.task, &want.origin);
    let known = want.size.or(claimed);
    let size = match known {
        Some(size) => size,
        None => match shared.store.proven_lengths(&want.task) {
            Some(lengths) => return Some(lengths),
            None => shared.stat_source(&want.task, askers).await.ok()?.1.size?,
        },
    };
    Lengths::of(size).ok()
}

/// Begins to get all of it, once, where that is configured.
fn prefetch(shared: &Arc<Shared>, file: &Arc<GroupFile>, want: &Want) {
    let excerpts = &shared.excerpts;
    let is_off = *excerpts.prefetch.borrow() == Prefetch::Off;
    if is_off || file.prefetched.swap(true, Ordering::Relaxed) {
        return;
    }
    let want = Want {
        size: Some(file.lengths.size()),
        purpose: Purpose::Preheat,
        excerpt: None,
        sizing: Sizing::Unneeded,
        ..want.clone()
    };
    let (turns, swarm) = (Arc::clone(&excerpts.prefetches), Swarm(Arc::clone(shared)));
    shared.tasks.spawn("prefetch", async move {
        let Ok(_turn) = turns.acquire_owned().await else {
            return;
        };
        let task = want.task;
        match swarm.have(want).await {
            Ok(()) => swarm.0.excerpts.forget(&task),
            Err(error) => {
                let cause = &error as &dyn std::error::Error;
                tracing::info!(%task, cause, "what was read in part can't be completed");
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use darter_api::{Digest, GROUP_BYTES};

    use super::*;

    #[test]
    fn one_small_range_or_a_quarter_in_many_is_an_excerpt() {
        let lengths = Lengths::of(1 << 30).unwrap();
        let asks = |ranges, bytes| is_small(&Excerpt { ranges, bytes }, &lengths);
        assert!(asks(1, MOST_RANGE) && !asks(1, MOST_RANGE + 1));
        assert!(asks(2, 1 << 28) && !asks(2, (1 << 28) + 1));
        let tiny = Lengths::of(1000).unwrap();
        assert!(!is_small(
            &Excerpt {
                ranges: 1,
                bytes: 1
            },
            &tiny
        ));
    }

    #[test]
    fn files_are_bounded_and_the_oldest_unused_one_goes() {
        let directory = tempfile::tempdir().unwrap();
        let room = 10 * GROUP_BYTES;
        let excerpts = Excerpts::new(
            directory.path().into(),
            room * SHARE,
            watch::channel(Prefetch::Off).1,
        );
        let lengths = Lengths::of(100 * GROUP_BYTES).unwrap();
        let task = |number: u8| TaskId::from(Digest::sha256(&[number]));
        let fill = |file: &Arc<GroupFile>, groups: u32| {
            let mut claim = file.claim(0..groups).unwrap();
            for _ in 0..groups {
                claim.take(&vec![7; GROUP_BYTES as usize].into()).unwrap();
            }
        };
        fill(&excerpts.open(task(1), lengths).unwrap(), 6);
        let used = excerpts.open(task(2), lengths).unwrap();
        fill(&used, 3);
        excerpts.open(task(1), lengths).unwrap();
        excerpts.make_room(GROUP_BYTES).unwrap();
        assert!(excerpts.get(&task(1)).is_some());
        excerpts.make_room(2 * GROUP_BYTES).unwrap();
        assert!(excerpts.get(&task(1)).is_none() && excerpts.get(&task(2)).is_some());
        assert!(excerpts.make_room(8 * GROUP_BYTES).is_err(), "it is in use");
        drop(used);
        excerpts.make_room(8 * GROUP_BYTES).unwrap();
        assert!(excerpts.get(&task(2)).is_none());
        for number in 0..=255 {
            excerpts.open(task(number), lengths).unwrap();
        }
        assert_eq!(excerpts.files.lock().len(), MOST_FILES);
    }
}
