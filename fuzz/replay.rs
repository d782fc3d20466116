//! Runs a target over the inputs that are kept of it: seeds, and what once went wrong.
//!
//! Part of the tests of each crate that has targets, so that stable Rust runs them.

use std::path::Path;

/// Every input of `fuzz/seeds/<target>`.
pub(crate) fn replay(target: &str, run: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let dir = seeds.join(target);
    let entries = std::fs::read_dir(&dir);
    let entries = entries.unwrap_or_else(|cause| panic!("{}: {cause}", dir.display()));
    let mut inputs = 0;
    for entry in entries {
        let path = entry.expect("the directory is read").path();
        println!("{}", path.display());
        run(&std::fs::read(&path).expect("the input is read"));
        inputs += 1;
    }
    assert!(inputs > 0, "{} has no input", dir.display());
}
