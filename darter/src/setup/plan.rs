//! What a client's files are to hold.

use anyhow::Result;

use super::{files::Root, record::Record};

/// What there is, for planners: without what an earlier `--write` put there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing<'a> {
    pub(crate) root: &'a Root,
    record: &'a Record,
}

impl<'a> Standing<'a> {
    pub(crate) const fn new(root: &'a Root, record: &'a Record) -> Self {
        Self { root, record }
    }

    /// A file as it was before `darter setup` came, with what others changed since.
    pub(crate) fn before(&self, path: &str) -> Result<Option<String>> {
        Ok(self.record.before(path, self.root.read(path)?))
    }
}

/// One file's new content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) path: String,
    /// What is there now; planners need not say.
    pub(crate) now: Option<String>,
    pub(crate) after: String,
    /// A command that makes the client read it.
    pub(crate) then: Option<&'static str>,
}

impl Change {
    pub(crate) const fn new(path: String, after: String, then: Option<&'static str>) -> Self {
        Self {
            path,
            now: None,
            after,
            then,
        }
    }

    /// For people: where, and which lines.
    pub(crate) fn describe(&self) -> String {
        match self.now {
            None => format!("# {} (new)\n{}\n", self.path, self.after),
            Some(_) => format!("# {} (changed lines)\n{}\n", self.path, self.lines()),
        }
    }

    /// A new file whole; of others the lines that differ, as `diff` marks them.
    pub(crate) fn lines(&self) -> String {
        let Some(now) = &self.now else {
            return self.after.clone();
        };
        let (old, new): (Vec<_>, Vec<_>) = (now.lines().collect(), self.after.lines().collect());
        let same = |pair: &(&&str, &&str)| pair.0 == pair.1;
        let head = old.iter().zip(&new).take_while(same).count();
        let most = old.len().min(new.len()) - head;
        let tails = old.iter().rev().zip(new.iter().rev());
        let tail = tails.take(most).take_while(same).count();
        let mut text = String::new();
        for (mark, lines) in [('-', &old), ('+', &new)] {
            for line in &lines[head..lines.len() - tail] {
                text += &format!("{mark} {line}\n");
            }
        }
        text
    }
}

/// All of a client's files.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) changes: Vec<Change>,
    /// What people should know beside it.
    pub(crate) notes: Vec<String>,
}

impl Plan {
    /// Without the files that are so already.
    pub(super) fn pending(mut self, standing: &Standing<'_>) -> Result<Self> {
        let mut changes = Vec::new();
        for mut change in self.changes {
            change.now = standing.root.read(&change.path)?;
            if change.now.as_ref() != Some(&change.after) {
                changes.push(change);
            }
        }
        self.changes = changes;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_that_differ() {
        let lines = |now: &str, after: &str| {
            let mut change = Change::new(String::new(), after.to_owned(), None);
            change.now = Some(now.to_owned());
            change.lines()
        };
        assert_eq!(lines("a\nb\nc\n", "a\nx\ny\nc\n"), "- b\n+ x\n+ y\n");
        assert_eq!(lines("a\na\n", "a\na\na\n"), "+ a\n");
        assert_eq!(lines("a\n", ""), "- a\n");
        assert_eq!(lines("", ""), "");
    }
}
