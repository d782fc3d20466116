//! The peer: a registry mirror and proxy whose blob GETs are swarm downloads.
//!
//! A request enters by [`mirror`] or [`intercept`]; [`rights`] asks whether the
//! caller may read, [`manifest`] what an image is made of, and [`clients`] who is let in by the proxy itself; [`swarm`] gets the bytes from peers over [`transfer`] or from a
//! [`source`], which for images is a registry reached through [`upstream`], for [`files`] a web server; [`store`]
//! keeps them.

pub mod app;
pub mod clients;
pub mod content;
pub mod credential;
pub mod errands;
pub mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod intercept;
pub mod limits;
pub mod manifest;
pub mod mirror;
pub mod preheat;
pub mod rights;
pub mod session;
pub mod settings;
pub mod source;
pub mod store;
pub mod swarm;
pub mod transfer;
pub mod upstream;
