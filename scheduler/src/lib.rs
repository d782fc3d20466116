//! The scheduler: who takes which piece from whom, and who reads the source.
//!
//! [`core`] decides and does nothing else; `service` carries its words. State
//! is soft: it is rebuilt from the hosts' hellos.

pub mod core;
