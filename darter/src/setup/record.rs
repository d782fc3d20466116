//! What there was before: so that `--undo` gives it back byte for byte.
//!
//! One file under the root, for its owner's eyes (configurations hold secrets). It is saved
//! before anything is changed, so that a crash leaves nothing that can't be taken back. The
//! entries of a path are a stack: each goes from one content to the next, and the walk down
//! ends where somebody else's change lies between two of them.

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Client, files::Root, plan::Change};

/// Inside the root.
pub(super) const PATH: &str = "/var/lib/darter/setup.json";
const MODE: u32 = 0o600;
/// Of a configuration file that was not there.
const NEW_FILE: u32 = 0o644;
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    version: u32,
    entries: Vec<Entry>,
    /// Directories that were made, in that order.
    directories: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    client: Client,
    path: String,
    /// `None` where there was no file.
    before: Option<String>,
    after: String,
    /// What makes the client read it.
    then: Option<String>,
}

/// What `--undo` did, by path.
#[derive(Debug, Default)]
pub(super) struct Undone {
    pub(super) restored: Vec<String>,
    pub(super) removed: Vec<String>,
    /// Somebody else has changed them.
    pub(super) left: Vec<String>,
    pub(super) then: Vec<String>,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            version: VERSION,
            entries: Vec::new(),
            directories: Vec::new(),
        }
    }
}

impl Record {
    pub(crate) fn load(root: &Root) -> Result<Self> {
        let Some(text) = root.read(PATH)? else {
            return Ok(Self::default());
        };
        let record: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is not what `setup` wrote", root.shown(PATH)))?;
        ensure!(
            record.version == VERSION,
            "{} is of another version of darter ({})",
            root.shown(PATH),
            record.version
        );
        Ok(record)
    }

    fn save(&self, root: &Root) -> Result<()> {
        root.write(PATH, &serde_json::to_string_pretty(self)?, MODE)
    }

    /// What `current` was before the changes that are recorded and still stand.
    pub(super) fn before(&self, path: &str, current: Option<String>) -> Option<String> {
        self.walk(path, current).0
    }

    /// Down the path's stack from `current`: the content reached, and how many entries, from
    /// the top, were taken back or never came to be.
    fn walk(&self, path: &str, mut current: Option<String>) -> (Option<String>, usize) {
        let mut passed = 0;
        let of_path = self.entries.iter().filter(|entry| entry.path == path);
        for entry in of_path.rev() {
            if current.as_deref() == Some(entry.after.as_str()) {
                current.clone_from(&entry.before);
            } else if current != entry.before {
                break;
            }
            passed += 1;
        }
        (current, passed)
    }

    /// Keeps what there is, then writes.
    pub(super) fn write(&mut self, root: &Root, client: Client, changes: &[Change]) -> Result<()> {
        let paths = changes.iter().map(|change| change.path.as_str());
        for path in paths.chain([PATH]) {
            for dir in root.missing_above(path) {
                if !self.directories.contains(&dir) {
                    self.directories.push(dir);
                }
            }
        }
        for change in changes {
            self.entries.push(Entry {
                client,
                path: change.path.clone(),
                before: change.now.clone(),
                after: change.after.clone(),
                then: change.then.map(str::to_owned),
            });
        }
        self.save(root)?;
        for change in changes {
            root.write(&change.path, &change.after, NEW_FILE)?;
        }
        self.collapse();
        self.save(root)
    }

    /// Makes one of two entries that follow each other without a gap.
    fn collapse(&mut self) {
        let mut kept: Vec<Entry> = Vec::new();
        for entry in std::mem::take(&mut self.entries) {
            let below = kept.iter_mut().rev().find(|e| e.path == entry.path);
            match below {
                Some(below) if entry.before.as_deref() == Some(below.after.as_str()) => {
                    below.after = entry.after;
                }
                _ => kept.push(entry),
            }
        }
        self.entries = kept;
    }

    /// Gives back what `client`'s files were.
    pub(super) fn undo(&mut self, root: &Root, client: Client) -> Result<Undone> {
        let mut undone = Undone::default();
        let mut paths: Vec<String> = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.client == client) {
            if !paths.contains(&entry.path) {
                paths.push(entry.path.clone());
            }
        }
        for path in paths.into_iter().rev() {
            self.undo_path(root, path, &mut undone)?;
        }
        self.forget_directories(root)?;
        Ok(undone)
    }

    fn undo_path(&mut self, root: &Root, path: String, undone: &mut Undone) -> Result<()> {
        let current = root.read(&path)?;
        let (reached, passed) = self.walk(&path, current.clone());
        if reached != current {
            match &reached {
                Some(content) => root.write(&path, content, NEW_FILE)?,
                None => root.remove(&path)?,
            }
            let of_path = self.entries.iter().filter(|entry| entry.path == path);
            undone.then.extend(of_path.filter_map(|e| e.then.clone()));
        }
        let all = self.entries.iter().filter(|entry| entry.path == path);
        let mut stay = all.count() - passed;
        let stuck = stay > 0;
        self.entries.retain(|entry| {
            let stays = entry.path != path || stay > 0;
            if entry.path == path {
                stay = stay.saturating_sub(1);
            }
            stays
        });
        let list = match (stuck, reached != current, reached.is_some()) {
            (true, ..) => &mut undone.left,
            (false, true, true) => &mut undone.restored,
            (false, true, false) => &mut undone.removed,
            (false, false, _) => return Ok(()),
        };
        list.push(path);
        Ok(())
    }

    /// Removes the directories that were made and are empty again, and the record when
    /// nothing is left to take back.
    fn forget_directories(&mut self, root: &Root) -> Result<()> {
        let made = std::mem::take(&mut self.directories);
        let done = self.entries.is_empty();
        if done && root.read(PATH)?.is_some() {
            root.remove(PATH)?;
        }
        let kept = made.iter().rev().filter(|dir| !root.remove_empty(dir));
        self.directories = kept.cloned().collect();
        self.directories.reverse();
        if done { Ok(()) } else { self.save(root) }
    }
}
