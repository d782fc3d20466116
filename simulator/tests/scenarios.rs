//! The scenario files: all can be played, and the small ones are.

use std::{fs, path::Path};

use darter_simulator::{Spec, Summary};

/// Megabytes times hosts: what a build without optimisation plays in seconds.
const SMALL: u64 = 1500;
/// Layers of a small one: each is a task of its own on every host.
const FEW: u64 = 16;

fn files() -> Vec<(String, Spec)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries = fs::read_dir(folder).expect("the folder of scenarios");
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a text");
        let name = path.display().to_string();
        let spec = Spec::parse(&text).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        (name, spec)
    };
    let mut files: Vec<(String, Spec)> = entries.map(read).collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    files
}

#[test]
fn all_make_sense() {
    for (name, spec) in files() {
        spec.scenario()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn everybody_gets_everything_in_the_small_ones() {
    let small = |spec: &Spec| {
        let bytes = spec.size.as_u64() / 1_000_000 * spec.hosts as u64;
        bytes <= SMALL && spec.layers <= FEW
    };
    let mut played = 0;
    for (name, spec) in files().into_iter().filter(|(_, spec)| small(spec)) {
        let report = spec.scenario().expect("makes sense").run();
        let summary = Summary::new(&spec, &report);
        println!("{summary}\n");
        assert!(summary.all_completed(), "{name}: {summary}");
        assert!(summary.completed + summary.lost >= spec.hosts, "{name}");
        played += 1;
    }
    assert!(played >= 5, "only {played} are small");
}
