//! What must hold of everything that comes before a host is known: targets of
//! `hack/fuzz.sh`, and of tests over the inputs that are kept.
//!
//! Only in tests and under libFuzzer. A target takes one input and panics where something
//! does not hold.

use crate::configuration;
pub use crate::{server::fuzzing::request_head, tls::fuzzing::joining};

/// A name, and what takes an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("request_head", request_head),
    ("joining", joining),
    ("kept_configuration", kept_configuration),
];

/// The configuration that a node has kept of its manager's: valid, and written as it is read.
pub fn kept_configuration(data: &[u8]) {
    if let Some(read) = configuration::parse(data) {
        assert!(read.check().is_ok());
        let written = serde_json::to_vec(&read).expect("numbers are text");
        assert_eq!(configuration::parse(&written), Some(read));
    }
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_that_are_kept() {
        for (target, run) in TARGETS {
            replay::replay(target, *run);
        }
    }
}
