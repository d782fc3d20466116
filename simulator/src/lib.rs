//! The two pure cores over a modelled network, in virtual time.
//!
//! A [`Scenario`] says what there is and what happens; [`Scenario::run`] plays it and gives
//! a [`Report`]. Every host runs the real download core and the scheduler the real
//! scheduling core; only sockets, disks and clocks are modelled. Same scenario, same report:
//! there is no wall clock, and all randomness comes from the scenario's seed.
//!
//! [`network`] moves bytes (over [`borders`] where there are zones), [`host`] is a peer's
//! shell, [`control`] a scheduler's, [`sessions`] what they say to each other, [`world`] the
//! loop of events, [`setup`] who comes and goes, [`shell`] what commands and chunks do (of
//! [`uploads`], of the source's [`reads`], of [`links`]), [`client`] who reads, [`drain`] what clients take of it, [`outcome`] what is
//! noted, [`said`] how much is said, [`watch`] when slow hosts are found, [`trace`] what hosts wait for. [`Spec`] is a scenario as it is written in a file, [`Summary`] a report as it is
//! printed, [`svg()`] as it is drawn.

mod arrival;
mod borders;
mod client;
mod control;
mod drain;
mod host;
mod links;
mod network;
mod outcome;
mod queue;
mod reads;
mod report;
mod said;
mod scenario;
mod sessions;
mod setup;
mod shell;
mod spec;
mod summary;
mod svg;
#[cfg(test)]
mod tests;
mod trace;
mod uploads;
mod watch;
mod world;

pub use arrival::{Arrival, ArrivalError};
pub use report::{Pull, Report, Traffic};
pub use said::Said;
pub use scenario::{Action, Client, Megabits, Scenario, Who};
pub use spec::{Spec, SpecError};
pub use summary::Summary;
pub use svg::svg;
pub use watch::SlowHost;
