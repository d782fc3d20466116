//! Who is a scheduler, who is a seed peer, right now.
//!
//! [`members`] keeps them in a database, [`keep_alive`] hears them live (gRPC), [`rest`]
//! shows them to people. Nothing here stands in the way of a pull: every other part starts
//! and works without a manager.

mod database;
mod keep_alive;
mod members;
mod metrics;
mod options;
mod rest;
mod service;

pub use database::{DatabaseUrl, OpenError};
pub use options::{KEEP_ALIVE, Options};
pub use service::{Manager, StartError};

#[cfg(test)]
mod tests;
