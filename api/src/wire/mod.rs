//! The protobuf form of the vocabulary, and the checked conversions.
//!
//! Everything that arrives is another host's word: a decode either yields a valid
//! value or a [`WireError`] that names the field. Counts are bounded by the message
//! size limits of the services ([`MAX_MESSAGE_BYTES`]).

mod codec;
mod common;
mod configuration;
mod errand;
mod excerpt;
mod link;
mod membership;
mod preheat;
mod session;

/// The generated types and services of `darter.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated from proto/darter/v1, where the comments are"
)]
pub mod v1 {
    tonic::include_proto!("darter.v1");
}

/// The largest message of a session or link, either way.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// What a host signs to prove its id on a session: this, the nonce, the epoch.
pub const SESSION_DOMAIN: &[u8] = b"darter session v1\0";
/// What a host signs to prove its id on a link: this, the other's nonce, its own and
/// the other's id.
pub const LINK_DOMAIN: &[u8] = b"darter link v1\0";

/// Why a message of another host is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The field is not set.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// The field's value is not a valid one.
    #[error("`{0}` is not valid")]
    Invalid(&'static str),
}

/// What a host signs to prove its id on a session.
pub fn session_challenge(nonce: &[u8], epoch: u64) -> Vec<u8> {
    [SESSION_DOMAIN, nonce, &epoch.to_be_bytes()].concat()
}

/// What a host signs to prove its id on a link.
pub fn link_challenge(nonce: &[u8], own: &crate::HostId, other: &crate::HostId) -> Vec<u8> {
    [LINK_DOMAIN, nonce, own.as_bytes(), other.as_bytes()].concat()
}

#[cfg(test)]
mod tests;
