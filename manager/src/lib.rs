//! Who is a scheduler, who is a seed peer, right now; and what hosts are to have before
//! anybody pulls it.
//!
//! [`members`] keeps them in a [`database`], [`keep_alive`] hears them live (gRPC), [`jobs`]
//! has schedulers preheat, [`rest`] is for people and tools. Nothing here stands in the way of a pull: every other part starts
//! and works without a manager.

mod database;
mod jobs;
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
