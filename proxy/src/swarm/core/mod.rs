//! The pure download core: all downloads of one host.
//!
//! [`Node`](event) knows no socket, no clock and no global randomness.

pub mod event;
