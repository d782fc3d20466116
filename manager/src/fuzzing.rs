//! What must hold of what is posted to a manager: a target of `hack/fuzz.sh`, and of tests over
//! the inputs that are kept.
//!
//! Only in tests and under libFuzzer. A target takes one input and panics where something
//! does not hold.

pub use crate::rest::fuzzing::posted;

/// A name, and what takes an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[("posted", posted)];

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
