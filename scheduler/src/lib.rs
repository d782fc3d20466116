//! Who takes which piece from whom.
//!
//! [`core`] decides: a pure state machine over hosts, tasks and leases. [`service`]
//! speaks gRPC with the peers and feeds it.

mod beats;
pub mod core;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod inspect;
mod managers;
mod metrics;
mod operations;
mod options;
mod preheat;
mod preheats;
pub mod service;

pub use metrics::Metrics;
pub use options::Options;
pub use service::{Home, Scheduler, StartError};
