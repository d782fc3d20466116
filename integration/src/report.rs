//! Which real software a run used, and what it had to skip: said aloud, by name.
//!
//! Lines go to the file named by `DARTER_TEST_REPORT` (set by `hack/test.sh`, which
//! prints the sum) and to standard error.

use std::{io::Write as _, path::PathBuf, process::Command};

fn line(text: &str) {
    eprintln!("{text}");
    let Some(path) = std::env::var_os("DARTER_TEST_REPORT") else {
        return;
    };
    let file = std::fs::OpenOptions::new().append(true).open(path);
    // The report is for people: a test does not fail for it.
    let _ = file.and_then(|mut file| file.write_all(format!("{text}\n").as_bytes()));
}

/// Where `command` is, on PATH or in the system's directories.
pub fn find(command: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(command))
        .find(|file| file.is_file())
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|out| out.stdout.trim_ascii() == b"0")
}

fn version(command: &str) -> String {
    let output = Command::new(command).arg("--version").output();
    output.map_or_else(
        |_| String::new(),
        |out| {
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            text.lines().next().unwrap_or_default().to_owned()
        },
    )
}

/// Whether a test that needs these commands can run. Says so either way.
pub fn can_use(test: &str, commands: &[&str], needs_root: bool) -> bool {
    if needs_root && !is_root() {
        line(&format!("skipped {test}: needs root"));
        return false;
    }
    for command in commands {
        if find(command).is_none() {
            line(&format!("skipped {test}: {command} is not installed"));
            return false;
        }
    }
    for command in commands {
        line(&format!("used {command} ({})", version(command)));
    }
    true
}
