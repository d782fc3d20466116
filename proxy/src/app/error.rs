//! Why a proxy does not start.

use std::{net::SocketAddr, path::PathBuf};

use darter_runtime::{identity::IdentityError, membership::MembershipError, server::BindError};

use crate::{
    clients::UsersError, files, intercept::InterceptError, session::ListError, store, upstream,
};

/// A proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Peers beyond loopback would be spoken to in plain text, unasked.
    #[error(
        "peers would connect to {0} in plain text: be a member of a cluster ([cluster]), listen on loopback, or say `insecure = true`"
    )]
    PlainText(SocketAddr),
    /// Other peers can't be told where this one is.
    #[error("peers can't be told to connect to {0}: say `advertise = \"ADDRESS:PORT\"`")]
    Advertise(SocketAddr),
    /// The list of peers makes no sense.
    #[error("peers")]
    Peers(#[from] ListError),
    /// A file or directory can't be used.
    #[error("{what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        cause: std::io::Error,
    },
    /// The list of registries makes no sense.
    #[error("{0}")]
    Upstream(upstream::ConfigError),
    /// A port can't be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// There is no key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There are no users.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// A rule for files makes no sense.
    #[error(transparent)]
    Files(#[from] files::RuleError),
    /// The manager's URL makes no sense.
    #[error(transparent)]
    Manager(#[from] MembershipError),
    /// Listed registries can't be intercepted.
    #[error(transparent)]
    Intercept(#[from] InterceptError),
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] store::OpenError),
}
