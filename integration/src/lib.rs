//! Real clients against the real binary: what the tests in `tests/` are made of.
//!
//! Each process has its own root, state and socket under the test's temporary
//! directory, and dies with the test ([`process`]). [`registry`] runs distribution as
//! the upstream and reads from its log which bytes left it; [`image`] makes and pushes
//! images; [`stand`] puts a manager and peers around it; [`guarded`] asks for users, tokens and certificates; [`darter`] runs the parts of
//! Darter; [`clients`] pulls as people do; [`secrets`] must be in no log.

pub mod clients;
pub mod darter;
pub mod guarded;
pub mod http;
pub mod image;
pub mod postgres;
pub mod process;
pub mod registry;
pub mod report;
pub mod secrets;
pub mod stand;
pub mod throttle;

/// How many times a repetition runs: `long` with `hack/test.sh --long`, else `short`.
pub fn repetitions(short: usize, long: usize) -> usize {
    if std::env::var_os("DARTER_TEST_LONG").is_some() {
        long
    } else {
        short
    }
}
