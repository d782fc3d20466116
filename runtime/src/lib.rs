//! What every part of Darter runs on, and nothing of what it is for.
//!
//! [`tasks`] spawns and ends work, [`identity`] keeps the node's key, [`tls`] its
//! certificate and the ways to other nodes, [`server`] accepts connections and ends them
//! cleanly, [`attempts`] counts wrong passwords, [`membership`] speaks with a manager,
//! [`configuration`] keeps what it pushes, [`operations`] answers for health and metrics.

pub mod attempts;
pub mod configuration;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod identity;
mod kept;
mod low_water;
pub mod membership;
pub mod operations;
pub mod server;
pub mod tasks;
pub mod tls;

pub use tasks::Tasks;
