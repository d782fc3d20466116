//! TLS inside the cluster: who may speak, and who it is that speaks.
//!
//! A cluster has one certificate authority ([`Authority`]). A node's certificate is for
//! the node's own Ed25519 key, whose public half is its [`HostId`](darter_api::HostId):
//! whoever shows the certificate and completes a handshake is that host, and nothing else
//! has to be believed. Certificates live for days and are renewed long before they end
//! ([`renewal`]), in the running process.
//!
//! A node gets its first certificate from the authority's port ([`serve`]) by a [`Token`], which
//! carries the authority's fingerprint, so that nothing is said to anybody else; the
//! authority's [`Register`] knows members and tokens.
//!
//! Owner of state: [`Credentials`] owns the certificate that is shown now. Invariants: both
//! ends of a connection show a certificate of the cluster's authority; TLS 1.3 only; no
//! session is resumed, so that every connection has seen a certificate that was valid when it
//! began. A connection outlives the certificates it began with.

mod authority;
mod certificate;
mod connector;
mod credentials;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod join;
mod options;
mod register;
mod registrar;
pub mod renewal;
mod sparse;
mod token;

use std::sync::Arc;

pub use authority::{Authority, AuthorityError, DEFAULT_LIFE};
pub use certificate::{Certificate, CertificateError, host_of};
pub use connector::{Connector, EndpointError, Stream};
pub use credentials::{Acceptor, Credentials, CredentialsError};
pub use join::JoinError;
pub use options::{CERTIFICATE, ObtainError, Options};
pub use register::{MemberRecord, Register, RegisterError, TokenRecord};
pub use registrar::{ServeError, serve};
pub use sparse::SparseStream;
pub use token::{Fingerprint, Token, TokenError};

/// The name in every node's certificate: who a node is says its key, not its name.
const NODE_NAME: &str = "node.darter.internal";
/// The name in the certificate of the authority's own port, which no node's certificate has.
const AUTHORITY_NAME: &str = "authority.darter.internal";

/// How a part speaks with the other nodes of its cluster.
#[derive(Debug, Clone, Default)]
pub enum Security {
    /// In plain text, which anybody on the network can read and join.
    #[default]
    Plain,
    /// With mutual TLS.
    Tls(Credentials),
}

impl Security {
    /// Whether others see and can join what is said.
    pub const fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }

    /// The scheme of its URLs.
    pub const fn scheme(&self) -> &'static str {
        match self {
            Self::Plain => "http",
            Self::Tls(_) => "https",
        }
    }

    /// What connects to other nodes.
    pub fn connector(&self) -> Connector {
        match self {
            Self::Plain => Connector::plain(),
            Self::Tls(credentials) => Connector::secured(credentials),
        }
    }

    /// What shakes hands with nodes that connect.
    pub fn acceptor(&self) -> Option<Acceptor> {
        match self {
            Self::Plain => None,
            Self::Tls(credentials) => Some(credentials.acceptor()),
        }
    }
}

/// The one provider of cryptography.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(test)]
mod join_tests;
#[cfg(test)]
mod tests;
