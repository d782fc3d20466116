//! Contents that stay until a time, whoever uses them or not: preheats.
//!
//! Owner of state: [`Pins`] owns a file of lines `until digest`, appended to at each
//! change and written anew when most of it is void; the last line of a digest counts,
//! and a torn one counts for nothing. Failure: a pin that can't be written does not hold.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use darter_api::TaskId;

/// Pins at most, of some 100 bytes each.
const MOST: usize = 100_000;
/// Void lines that are not worth writing the file anew for.
const SLACK: usize = 1000;

/// The pins by content, each until a time in seconds since the Unix epoch.
#[derive(Debug)]
pub(super) struct Pins {
    until: HashMap<TaskId, u64>,
    path: PathBuf,
    file: File,
    lines: usize,
}

impl Pins {
    /// From what an earlier process left.
    pub(super) fn open(path: PathBuf, now: u64) -> io::Result<Self> {
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(cause) => return Err(cause),
        };
        let text = String::from_utf8_lossy(&text);
        let mut until: HashMap<_, _> = text.lines().filter_map(parse).collect();
        until.retain(|_, until| *until > now);
        let lines = text.lines().count();
        // A full disk must not keep the store from opening: it is written anew later.
        let file = File::options().create(true).append(true).open(&path)?;
        Ok(Self {
            until,
            path,
            file,
            lines,
        })
    }

    /// Holds a content until then, or for longer where that was said before.
    pub(super) fn pin(&mut self, task: TaskId, until: u64) -> io::Result<()> {
        let before = self.until.get(&task);
        if before.is_some_and(|before| *before >= until) {
            return Ok(());
        }
        if before.is_none() && self.until.len() >= MOST {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "too many pins",
            ));
        }
        self.append(&task, until)?;
        self.until.insert(task, until);
        Ok(())
    }

    pub(super) fn unpin(&mut self, task: &TaskId) -> io::Result<()> {
        match self.until.remove(task) {
            Some(_) => self.append(task, 0),
            None => Ok(()),
        }
    }

    pub(super) fn holds(&self, task: &TaskId, now: u64) -> bool {
        self.until.get(task).is_some_and(|until| *until > now)
    }

    /// All of them.
    pub(super) fn all(&self, now: u64) -> Vec<TaskId> {
        let held = self.until.iter().filter(|(_, until)| **until > now);
        held.map(|(task, _)| *task).collect()
    }

    /// Forgets what is over; how many are left.
    pub(super) fn expire(&mut self, now: u64) -> usize {
        self.until.retain(|_, until| *until > now);
        self.until.len()
    }

    fn append(&mut self, task: &TaskId, until: u64) -> io::Result<()> {
        if self.lines > 2 * self.until.len() + SLACK {
            self.file = write_anew(&self.path, &self.until)?;
            self.lines = self.until.len();
        }
        self.lines += 1;
        // The break comes first too: what an append before was torn off from stands alone.
        self.file
            .write_all(format!("\n{until} {task}\n").as_bytes())
    }
}

pub(super) fn parse(line: &str) -> Option<(TaskId, u64)> {
    let (until, task) = line.split_once(' ')?;
    Some((task.parse().ok()?, until.parse().ok()?))
}

fn write_anew(path: &Path, until: &HashMap<TaskId, u64>) -> io::Result<File> {
    let temporary = path.with_extension("new");
    let mut text = String::new();
    for (task, until) in until {
        text.push_str(&format!("{until} {task}\n"));
    }
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)?;
    File::options().append(true).open(path)
}

#[cfg(test)]
mod tests {
    use darter_api::Digest;

    use super::*;

    fn task(number: usize) -> TaskId {
        TaskId::from(Digest::sha256(&number.to_be_bytes()))
    }

    #[test]
    fn pins_outlive_the_process_but_not_their_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pins");
        let mut pins = Pins::open(path.clone(), 10).unwrap();
        pins.pin(task(1), 100).unwrap();
        pins.pin(task(2), 200).unwrap();
        pins.pin(task(2), 150).unwrap();
        pins.pin(task(3), 300).unwrap();
        pins.unpin(&task(3)).unwrap();
        // A process that died in the middle of a line.
        pins.file.write_all(b"\n400 sha256:0011").unwrap();
        pins.pin(task(4), 400).unwrap();
        drop(pins);

        let pins = Pins::open(path, 120).unwrap();
        let held = (1..=4).map(|number| pins.holds(&task(number), 120));
        assert_eq!(held.collect::<Vec<_>>(), [false, true, false, true]);
        assert!(!pins.holds(&task(2), 200), "its time is over");
        assert_eq!(pins.until.len(), 2);
    }

    #[test]
    fn the_file_stays_in_proportion() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pins");
        let mut pins = Pins::open(path.clone(), 0).unwrap();
        for round in 1..5000 {
            pins.pin(task(round % 3), round as u64).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() < 300_000);
        drop(pins);
        let pins = Pins::open(path, 0).unwrap();
        assert_eq!(pins.until[&task(4999 % 3)], 4999);
    }
}
