//! Registries as companies have them: TLS of a private authority, users, tokens that
//! expire, blobs in an object store behind signed URLs.
//!
//! [`crate::registry`] runs the real distribution behind an [`Authority`]'s certificate and
//! a [`Tokens`] server or an htpasswd file. [`Redirecting`] is a registry of this process whose
//! blobs lie in an [`Objects`] store, which checks AWS signatures and their expiry. Everything
//! listens on loopback, counts its connections, and ends when it is dropped.

mod authority;
mod caller;
mod objects;
mod redirecting;
mod server;
mod tokens;
mod tunnel;

pub use authority::{Authority, Identity};
pub use caller::{ask, basic, bearer};
pub use objects::{Cut, Objects};
pub use redirecting::Redirecting;
pub use server::{Body, Server, full};
pub use tokens::{SERVICE, Tokens};
pub use tunnel::Tunnel;
