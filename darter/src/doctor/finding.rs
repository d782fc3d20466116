//! What a check found, for people and for scripts.

use std::{io::Write as _, process::ExitCode};

use serde::Serialize;

use crate::colour;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    /// Works, and may not for long, or not as well as it could.
    Warning,
    /// Does not work.
    Wrong,
    /// Was not looked at, and why.
    Skipped,
}

impl Level {
    /// The word, and its colour on a terminal (ECMA-48).
    const fn shown(self) -> (&'static str, &'static str) {
        match self {
            Self::Ok => ("ok", "32"),
            Self::Warning => ("warning", "33"),
            Self::Wrong => ("WRONG", "31"),
            Self::Skipped => ("skipped", "2"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) level: Level,
    found: String,
    todo: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, found.into(), None)
    }

    pub(super) fn skipped(check: &'static str, why: impl Into<String>) -> Self {
        Self::new(check, Level::Skipped, why.into(), None)
    }

    pub(super) fn warning(
        check: &'static str,
        found: impl Into<String>,
        todo: impl Into<String>,
    ) -> Self {
        Self::new(check, Level::Warning, found.into(), Some(todo.into()))
    }

    pub(super) fn wrong(
        check: &'static str,
        found: impl Into<String>,
        todo: impl Into<String>,
    ) -> Self {
        Self::new(check, Level::Wrong, found.into(), Some(todo.into()))
    }

    const fn new(check: &'static str, level: Level, found: String, todo: Option<String>) -> Self {
        Self {
            check,
            level,
            found,
            todo,
        }
    }

    fn line(&self, colour: bool) -> String {
        let (word, code) = self.level.shown();
        let word = format!("{word:7}");
        let word = if colour {
            format!("\u{1b}[{code}m{word}\u{1b}[0m")
        } else {
            word
        };
        let mut text = format!("{word}  {:13}  {}", self.check, self.found);
        if let Some(todo) = &self.todo {
            text += &format!("\n{:26}-> {todo}", "");
        }
        text
    }
}

/// Says each finding as it comes; as JSON all at the end.
pub(super) struct Report {
    findings: Vec<Finding>,
    json: bool,
    colour: bool,
}

#[derive(Serialize)]
struct Whole<'a> {
    ok: bool,
    findings: &'a [Finding],
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self {
            findings: Vec::new(),
            json,
            colour: colour::is_wanted(&std::io::stdout()),
        }
    }

    pub(super) fn add(&mut self, finding: Finding) {
        if !self.json {
            // Who reads no more (a closed pipe) still gets the exit code.
            let _ = writeln!(std::io::stdout(), "{}", finding.line(self.colour));
        }
        self.findings.push(finding);
    }

    pub(super) fn extend(&mut self, findings: Vec<Finding>) {
        for finding in findings {
            self.add(finding);
        }
    }

    pub(super) fn finish(self) -> serde_json::Result<ExitCode> {
        let wrong = self.findings.iter().any(|f| f.level == Level::Wrong);
        if self.json {
            let whole = Whole {
                ok: !wrong,
                findings: &self.findings,
            };
            let text = serde_json::to_string_pretty(&whole)?;
            let _ = writeln!(std::io::stdout(), "{text}");
        }
        Ok(if wrong {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}
