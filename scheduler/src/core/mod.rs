//! The pure core: [`Cluster`] knows every host and task, and decides.
//!
//! It has no socket, no clock and no global randomness: [`Cluster::handle`] takes the
//! time and an event and gives commands; [`Cluster::next_deadline`] says when to
//! call it with [`Event::Tick`]. The same events give the same commands.
//!
//! What a driver may count on:
//! - every join is answered at once by `Neighbours` of its task, maybe empty (so the host
//!   knows that it was heard);
//! - a seed that is to read a cold task gets `Fetch` and its `Grant` in the same breath;
//! - a lease with holes comes as several grants of one run each; grants of the same
//!   task add up until they are read, returned or revoked.

mod cluster;
mod event;
mod options;

pub use cluster::Cluster;
pub use event::{Command, Event};
pub use options::Options;
