//! The groups of one content that is read in small parts.
//!
//! Owner of state: [`GroupFile`] owns a file without a name, as long as the content and with
//! holes for what was not read, and which of its groups are there or on their way. Invariants: a
//! group that is there was read from the source by this host, or came with a seed's word for it;
//! one reader at a time gets a group, the others wait for it. Failure: a reader that leaves, or
//! whose source breaks, gives its groups back, and the next one gets them. Nothing of it outlives
//! the process.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use darter_api::{GROUP_BYTES, Lengths, PieceSet, TaskId};
use darter_runtime::server::span::FileSpan;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::way::Known;
use crate::store::make_private;

/// Groups that one reader gets at once: 4 MiB.
const MOST_CLAIMED: u32 = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct GroupFile {
    pub(super) task: TaskId,
    pub(super) lengths: Lengths,
    /// Who is asked for groups; held while the scheduler is asked for that.
    pub(super) way: tokio::sync::Mutex<Option<Known>>,
    /// All of it is being got, or was.
    pub(super) prefetched: AtomicBool,
    /// When it was last opened, in openings of anything.
    pub(super) used: AtomicU64,
    file: Arc<File>,
    groups: Mutex<Groups>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Groups {
    held: PieceSet,
    coming: PieceSet,
}

impl GroupFile {
    /// An empty one; `path` is taken for a moment. Blocks on the disk.
    pub(super) fn create(path: &Path, task: TaskId, lengths: Lengths) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            make_private(directory)?;
        }
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(path)?;
        fs::remove_file(path)?;
        file.set_len(lengths.size())?;
        Ok(Self {
            task,
            lengths,
            way: tokio::sync::Mutex::default(),
            prefetched: AtomicBool::default(),
            used: AtomicU64::default(),
            file: Arc::new(file),
            groups: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Bytes that it takes on the disk.
    pub(super) fn held_bytes(&self) -> u64 {
        u64::from(self.groups.lock().held.len()) * GROUP_BYTES
    }

    /// What is there of `bytes`, from the first one on.
    pub(super) fn span(&self, bytes: Range<u64>) -> Option<FileSpan> {
        let here = self.lengths.groups_of(bytes.clone());
        let until = self.groups.lock().held.first_gap(here.start);
        let end = self.lengths.bytes_of_groups(0..until).end.min(bytes.end);
        (end > bytes.start).then(|| FileSpan::new(Arc::clone(&self.file), bytes.start..end))
    }

    /// The first groups of a run, if the very first is neither there nor on its way.
    pub(super) fn claim(self: &Arc<Self>, run: Range<u32>) -> Option<Claim> {
        let mut groups = self.groups.lock();
        let most = run.end.min(run.start.saturating_add(MOST_CLAIMED));
        let wanted = run.start..most;
        let free = |group: &u32| !groups.held.contains(*group) && !groups.coming.contains(*group);
        let end = wanted.clone().find(|group| !free(group)).unwrap_or(most);
        if end == wanted.start {
            return None;
        }
        groups.coming.insert_range(wanted.start..end);
        Some(Claim {
            file: Arc::clone(self),
            left: wanted.start..end,
        })
    }

    /// Ends when groups came, or were given back, since it was enabled. Cancel-safe.
    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    pub(super) fn touch(&self, now: u64) {
        self.used.store(now, Ordering::Relaxed);
    }
}

/// The duty to get some groups; what has not come when it drops is another one's to get.
#[derive(Debug)]
pub(super) struct Claim {
    file: Arc<GroupFile>,
    left: Range<u32>,
}

impl Claim {
    /// The groups that have not come.
    pub(super) fn left(&self) -> Range<u32> {
        self.left.clone()
    }

    /// Takes the next one.
    ///
    /// # Errors
    /// When the disk does not take it, or it has another length than the content's group.
    pub(super) fn take(&mut self, bytes: &Bytes) -> io::Result<()> {
        let group = self.left.start;
        let place = self.file.lengths.bytes_of_groups(group..group + 1);
        if self.left.is_empty() || bytes.len() as u64 != place.end - place.start {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.file.file.write_all_at(bytes, place.start)?;
        let mut groups = self.file.groups.lock();
        groups.held.insert(group);
        groups.coming.remove(group);
        drop(groups);
        self.left.start += 1;
        self.file.changed.notify_waiters();
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut groups = self.file.groups.lock();
        groups.coming.remove_range(self.left.clone());
        drop(groups);
        self.file.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use darter_api::Digest;

    use super::*;

    #[test]
    fn a_group_is_got_by_one_and_given_back_by_who_leaves() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("groups/1");
        let lengths = Lengths::of(100 * GROUP_BYTES - 1).unwrap();
        let task = TaskId::from(Digest::sha256(b"x"));
        let file = Arc::new(GroupFile::create(&path, task, lengths).unwrap());
        assert!(!path.exists());
        let mut first = file.claim(10..90).unwrap();
        assert_eq!(first.left(), 10..74);
        assert!(file.claim(20..30).is_none());
        assert_eq!(file.claim(5..30).unwrap().left(), 5..10);
        first.take(&vec![1; GROUP_BYTES as usize].into()).unwrap();
        assert!(first.take(&Bytes::from_static(b"short")).is_err());
        assert_eq!(first.left(), 11..74);
        let from = 10 * GROUP_BYTES;
        assert!(file.span(from - 1..from + 1).is_none());
        assert_eq!(file.span(from + 5..from + 9).unwrap().len(), 4);
        let span = file.span(from + 5..from + 10 * GROUP_BYTES).unwrap();
        assert_eq!(span.len(), GROUP_BYTES - 5);
        drop(first);
        assert_eq!(file.claim(11..12).unwrap().left(), 11..12);
        // The last group is shorter.
        let mut last = file.claim(99..100).unwrap();
        last.take(&vec![2; GROUP_BYTES as usize - 1].into())
            .unwrap();
        assert_eq!(file.held_bytes(), 2 * GROUP_BYTES);
        let end = lengths.size();
        assert_eq!(
            file.span(end - 3..end).unwrap().read().unwrap(),
            &[2; 3][..]
        );
    }
}
