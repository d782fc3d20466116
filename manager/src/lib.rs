//! Who is a scheduler, who is a seed peer, right now; and what hosts are to have before
//! anybody pulls it.
//!
//! [`members`] keeps them in a [`database`], apart by their [`clusters`]; [`keep_alive`] hears
//! them live (gRPC), [`settings`] are what is set for them, [`jobs`] has schedulers preheat,
//! [`accounts`] says who may have what done, [`rest`] is for people and tools. Nothing here stands
//! in the way of a pull: every other part starts and works without a manager.

mod accounts;
mod clusters;
mod credentials;
mod database;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod jobs;
mod keep_alive;
mod managers;
mod members;
mod metrics;
mod options;
mod pushes;
mod recovery;
mod rest;
mod scheduler;
mod service;
mod settings;
mod tasks;

pub use accounts::Role;
pub use credentials::StoredCredential;
pub use database::{DatabaseUrl, OpenError};
pub use jobs::Scope;
pub use options::{Access, KEEP_ALIVE, Options};
pub use pushes::PushRule;
pub use recovery::{RecoveryError, reset_root};
pub use service::{Manager, StartError};

#[cfg(test)]
mod tests;
