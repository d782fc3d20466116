//! The digest of a growing content, which follows its contiguous prefix.
//!
//! Owner of state: one [`Verifier`] a download owns its hasher; a job on a blocking thread
//! takes it, goes on as far as bytes are there, and puts it back. Few jobs run at the same
//! time. A mismatch is believed only after the whole file was hashed once more, since a
//! piece may have been written again after it was hashed.

use std::{io, sync::Arc};

use darter_api::TaskId;
use darter_runtime::Tasks;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{blocking, download::Download, growth::Verdict};
use crate::store::PrefixHasher;

/// A job begins when so much is there to hash, or the end.
const STEP: u64 = 1 << 20;

/// Runs hashing jobs of all downloads.
#[derive(Debug, Clone)]
pub(super) struct Verifiers {
    places: Arc<Semaphore>,
    pub(super) tasks: Tasks,
}

/// One download's hasher.
#[derive(Debug)]
pub(super) struct Verifier(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Where the hasher stands; also while a job has it.
    at: u64,
    hasher: Option<PrefixHasher>,
    /// As it was put back last.
    known: PrefixHasher,
    /// A job has a hasher of bytes that were taken back since.
    is_stale: bool,
}

impl Verifier {
    pub(super) fn new(task: &TaskId) -> Self {
        let known = PrefixHasher::new(task);
        let hasher = Some(known.clone());
        Self(Mutex::new(State {
            at: 0,
            hasher,
            known,
            is_stale: false,
        }))
    }

    /// How far the content was hashed when that was last known.
    pub(super) fn known(&self) -> PrefixHasher {
        self.0.lock().known.clone()
    }

    /// The hasher, if it is worth a job.
    fn take(&self, download: &Download) -> Option<PrefixHasher> {
        if download.verdict() != Verdict::Pending {
            return None;
        }
        let mut state = self.0.lock();
        let (prefix, size) = (download.prefix(), download.stated_size());
        // What turns out to be the end may have been hashed by then.
        let due = size == Some(prefix) || prefix >= state.at + STEP;
        due.then(|| state.hasher.take()).flatten()
    }

    /// What was hashed is taken back.
    pub(super) fn begin_anew(&self, task: &TaskId) {
        let mut state = self.0.lock();
        state.at = 0;
        state.known = PrefixHasher::new(task);
        state.is_stale = state.hasher.is_none();
        state.hasher = state.hasher.is_some().then(|| PrefixHasher::new(task));
    }

    fn put_back(&self, hasher: PrefixHasher) {
        let mut state = self.0.lock();
        let hasher = match std::mem::take(&mut state.is_stale) {
            true => state.known.clone(),
            false => hasher,
        };
        state.at = hasher.position();
        state.known = hasher.clone();
        state.hasher = Some(hasher);
    }
}

impl Verifiers {
    /// As many jobs at the same time as there are processors.
    pub(super) fn new(tasks: Tasks) -> Self {
        let places = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            places: Arc::new(Semaphore::new(places)),
            tasks,
        }
    }

    /// Bytes came: hashes them, when they are enough.
    pub(super) fn advance(&self, download: &Arc<Download>) {
        let Some(hasher) = download.verifier.take(download) else {
            return;
        };
        let (download, places) = (Arc::clone(download), Arc::clone(&self.places));
        let tasks = self.tasks.clone();
        self.tasks.spawn("digest", async move {
            let _place = places.acquire().await;
            let job = blocking(&tasks, "hashing", move || {
                follow(&download, hasher);
                Ok(())
            });
            if let Err(cause) = job.await {
                tracing::error!(%cause, "hashing failed");
            }
        });
    }
}

/// Hashes as long as there is enough to hash.
fn follow(download: &Download, mut hasher: PrefixHasher) {
    loop {
        let prefix = download.prefix();
        if let Err(cause) = hasher.advance(&download.partial, prefix) {
            tracing::warn!(task = %download.task, %cause, "a download can't be read back");
            download.judge(Verdict::Bad);
            download
                .verifier
                .put_back(PrefixHasher::new(&download.task));
            return;
        }
        if download.stated_size() == Some(prefix) {
            // Of a file every piece was proven, or came from its source; that is all there is.
            let good = download.task.is_file()
                || hasher.finish() == *download.task.digest()
                || hash_again(download, prefix).unwrap_or(false);
            download.judge(if good { Verdict::Good } else { Verdict::Bad });
            download
                .verifier
                .put_back(PrefixHasher::new(&download.task));
            return;
        }
        download.verifier.put_back(hasher);
        // What came between the last look and the putting back is hashed now.
        match download.verifier.take(download) {
            Some(again) => hasher = again,
            None => return,
        }
    }
}

fn hash_again(download: &Download, size: u64) -> io::Result<bool> {
    let mut hasher = PrefixHasher::new(&download.task);
    hasher.advance(&download.partial, size)?;
    Ok(hasher.finish() == *download.task.digest())
}
