//! Which real software a run used, and what it had to skip: said aloud, by name.
//!
//! Lines go to the file named by `DARTER_TEST_REPORT` (set by `hack/test.sh`, which
//! prints the sum) and to standard error.

use std::{io::Write as _, path::PathBuf, process::Command};

fn line(text: &str) {
    eprintln!("{text}");
    record(text);
}

fn record(text: &str) {
    let Some(path) = std::env::var_os("DARTER_TEST_REPORT") else {
        return;
    };
    let file = std::fs::OpenOptions::new().append(true).open(path);
    // The report is for people: a test does not fail for it.
    let _ = file.and_then(|mut file| file.write_all(format!("{text}\n").as_bytes()));
}

/// A log of Darter's was searched for secrets, and has none.
pub fn searched(bytes: usize) {
    record(&format!("searched {bytes}"));
}

/// Where `command` is, on PATH or in the system's directories.
pub fn find(command: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(command))
        .find(|file| file.is_file())
}

/// Where `hack/tools.sh` has put a client that the system does not have, or has too old.
pub fn tool(name: &str) -> Option<PathBuf> {
    let given = std::env::var_os("DARTER_TEST_TOOLS").map(PathBuf::from);
    let usual = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/bin"));
    let tool = given.unwrap_or(usual).join(name);
    tool.is_file().then_some(tool)
}

/// Whether a test that needs these of `hack/tools.sh`'s can run. Says so either way.
pub fn has_tools(test: &str, tools: &[&str]) -> bool {
    for name in tools {
        let Some(path) = tool(name) else {
            line(&format!(
                "skipped {test}: {name} is not built (hack/tools.sh)"
            ));
            return false;
        };
        let version = std::fs::read_to_string(path.with_extension("version"));
        let version = version.unwrap_or_default();
        line(&format!("used {name} ({})", version.trim()));
    }
    true
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

/// Says that a test is skipped, and why.
pub fn skip(test: &str, why: &str) {
    line(&format!("skipped {test}: {why}"));
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
