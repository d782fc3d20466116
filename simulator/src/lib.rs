//! The two pure cores over a modelled network, in virtual time.
//!
//! A [`Scenario`] says what there is and what happens; [`Scenario::run`] plays it and gives
//! a [`Report`]. Every host runs the real download core and the scheduler the real
//! scheduling core; only sockets, disks and clocks are modelled. Same scenario, same report:
//! there is no wall clock, and all randomness comes from the scenario's seed.
//!
//! [`network`] moves bytes, [`host`] is a peer's shell, [`control`] the scheduler's,
//! [`world`] the loop of events, [`shell`] what commands and chunks do, [`client`] who
//! reads.

mod client;
mod control;
mod host;
mod network;
mod queue;
mod report;
mod scenario;
mod shell;
#[cfg(test)]
mod tests;
mod world;

pub use report::Report;
pub use scenario::{Action, Client, Megabits, Scenario, Who};
