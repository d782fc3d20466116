//! Reading whole contents again, slowly: what has rotted on disk is dropped, so that the
//! next who asks for it downloads it anew.
//!
//! A response reads a whole file without hashing it, so that this is what finds rot. What
//! the page cache holds is checked as it is there, which is what would be served.
//!
//! Owner of state: [`scrub`] owns the place of its round; a file keeps it over restarts.
//! Invariant: a scrub keeps nothing from being evicted or deleted. Failure: a content
//! that can't be read counts as rotten.

use std::{
    fs::File,
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use darter_api::{Hasher, TaskId};
use tokio::time::Instant;

use super::{
    Entry, Store,
    blob::{Whole, read_range},
};

/// Bytes read at once.
const STEP: u64 = 1 << 20;
/// A small content counts as much: opening it has its price too.
const LEAST: u64 = 64 * 1024;
/// A round begins no sooner after the one before it began.
const ROUND: Duration = Duration::from_secs(24 * 60 * 60);
/// The place of the round is noted so often.
const NOTE_EVERY: Duration = Duration::from_secs(10);

/// Scrubs all whole contents, round after round, until it is dropped.
pub async fn scrub(store: Store) {
    let rate = store.0.options.scrub_rate.as_u64();
    if rate == 0 {
        return;
    }
    loop {
        let began = Instant::now();
        let mut noted = began;
        for task in store.round() {
            scrub_slowly(&store, &task, rate).await;
            if noted.elapsed() >= NOTE_EVERY {
                store.note_place(Some(&task));
                noted = Instant::now();
            }
        }
        store.note_place(None);
        store.0.metrics.scrub_round();
        tokio::time::sleep_until(began + ROUND).await;
    }
}

async fn scrub_slowly(store: &Store, task: &TaskId, rate: u64) {
    let mut next = store.begin_scrub(task);
    while let Some(mut scrub) = next {
        let before = Instant::now();
        let step = tokio::task::spawn_blocking(move || {
            let read = scrub.step();
            (read, scrub)
        });
        let Ok((read, scrub)) = step.await else {
            tracing::error!(%task, "a scrub has panicked");
            return;
        };
        let cost = read.max(LEAST);
        let due = before + Duration::from_secs_f64(cost as f64 / rate as f64);
        next = (!scrub.over).then_some(scrub);
        tokio::time::sleep_until(due).await;
    }
}

/// One content being read again.
struct Scrub {
    store: Store,
    task: TaskId,
    whole: Weak<Whole>,
    file: Arc<File>,
    size: u64,
    at: u64,
    hasher: Hasher,
    over: bool,
}

impl Scrub {
    /// Reads on, and judges at the end; the bytes read.
    fn step(&mut self) -> u64 {
        let next = (self.at + STEP).min(self.size);
        match read_range(&self.file, self.at..next) {
            Ok(bytes) => self.hasher.update(&bytes),
            Err(cause) => {
                self.over = true;
                self.rotten(Some(&cause));
                return 0;
            }
        }
        let read = next - self.at;
        self.at = next;
        self.store.0.metrics.scrubbed(read);
        let all = self.at == self.size;
        // A file has no digest to be held against: it is found only that it can be read.
        let has_digest = !self.task.is_file();
        if all && has_digest && self.hasher.clone().finish() != *self.task.digest() {
            self.rotten(None);
        }
        // Nothing is left to judge of what was dropped meanwhile.
        self.over = all || self.whole.strong_count() == 0;
        read
    }

    fn rotten(&self, cause: Option<&io::Error>) {
        let task = &self.task;
        tracing::error!(%task, ?cause, "a stored content does not match its digest any more; it is dropped");
        self.store.0.metrics.rotten();
        self.store.drop_whole(&self.whole, task);
    }
}

impl Store {
    /// Hashes a whole content again, at once; one that fails is dropped. Whether it is
    /// right, or not here at all. Blocks as long as the disk takes.
    pub fn scrub(&self, task: &TaskId) -> bool {
        let Some(mut scrub) = self.begin_scrub(task) else {
            return true;
        };
        while !scrub.over {
            scrub.step();
        }
        self.stat(task).is_some()
    }

    fn begin_scrub(&self, task: &TaskId) -> Option<Scrub> {
        let whole = match self.0.index.get(task)?.value() {
            Entry::Whole(whole) => Arc::clone(whole),
            Entry::Growing(_) => return None,
        };
        // Not by `whole`: being scrubbed is no use, and must not make it the newest.
        let file = match File::open(self.0.layout.files(task, true).data) {
            Ok(file) => file,
            Err(cause) => {
                tracing::warn!(%task, %cause, "a stored content can't be scrubbed");
                return None;
            }
        };
        Some(Scrub {
            store: self.clone(),
            task: *task,
            file: Arc::new(file),
            size: whole.lengths.size(),
            at: 0,
            hasher: Hasher::new(task.digest().algorithm()),
            whole: Arc::downgrade(&whole),
            over: false,
        })
    }

    /// What is to be scrubbed now, in order.
    fn round(&self) -> Vec<TaskId> {
        let place = std::fs::read_to_string(self.place()).ok();
        let after: Option<TaskId> = place.and_then(|text| text.parse().ok());
        let mut round: Vec<TaskId> = self
            .0
            .index
            .iter()
            .filter(|entry| matches!(entry.value(), Entry::Whole(_)))
            .map(|entry| *entry.key())
            .filter(|task| Some(*task) > after)
            .collect();
        round.sort_unstable();
        round
    }

    /// So that a restart goes on where it was; without it the round begins anew.
    fn note_place(&self, task: Option<&TaskId>) {
        let noted = match task {
            Some(task) => std::fs::write(self.place(), task.to_string()),
            None => std::fs::remove_file(self.place()),
        };
        match noted {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(%cause, "the scrub's place can't be noted");
            }
            _ => {}
        }
    }

    fn place(&self) -> std::path::PathBuf {
        self.0.layout.root().join("scrubbed")
    }
}
