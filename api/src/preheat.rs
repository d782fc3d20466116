//! What a manager, a scheduler and hosts say of contents that are to be there before anybody
//! pulls them.
//!
//! One host finds out what an image is made of, or which versions of files there are; then every
//! chosen host gets the list, fetches it and says of each content itself that its store holds it
//! whole, or why not. Nobody infers it.

mod authorization;
mod choice;

use std::sync::Arc;

pub use authorization::{Authorization, MOST_AUTHORIZATION};
pub use choice::{Choice, Present, Scope};

use crate::{
    digest::Digest,
    origin::{OriginKind, Repository, UpstreamName},
    session::Reference,
};

/// Contents of one wish at most: an image's manifests, configurations and layers, of all its
/// platforms.
pub const MOST_CONTENTS: usize = 2000;
/// Files in one wish.
pub const MOST_FILES: usize = 100;
/// Bytes of a file's URL.
pub const MOST_URL: usize = 4096;
/// Platforms in one wish.
pub const MOST_PLATFORMS: usize = 32;
/// Bytes of a reason; longer ones are cut.
pub const MOST_WHY: usize = 400;
/// Seconds that a content may be pinned: a year.
pub const MOST_PIN_SECONDS: u64 = 365 * 24 * 3600;
/// Seconds that a preheat may take: a day.
pub const MOST_TIMEOUT_SECONDS: u64 = 24 * 3600;

/// An image, as a wish names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// A name, alias, or host and port of a registry; each host looks it up in its own list.
    pub registry: String,
    /// The repository.
    pub repository: Repository,
    /// A tag or the digest of a manifest or index.
    pub reference: Reference,
    /// `os/architecture[/variant]`; none is all.
    pub platforms: Vec<String>,
}

/// What hosts are to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// All that an image is made of.
    Image(ImageName),
    /// Files of one host, by their URLs: each host looks them up in rules of its own.
    Files(Vec<String>),
}

impl Subject {
    /// The repository that the contents are of.
    pub fn repository(&self) -> Repository {
        match self {
            Self::Image(image) => image.repository.clone(),
            Self::Files(_) => file_repository(),
        }
    }
}

/// The repository that all files of a host are in, as the swarm calls it.
pub fn file_repository() -> Repository {
    let file = "file".parse();
    file.expect("a repository may have this name")
}

/// One content of an image, or a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Which; of a file the name of its version.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Which endpoint of the registry gives it.
    pub kind: OriginKind,
    /// Of a file: where it is.
    pub url: Option<String>,
}

/// From a scheduler to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreheatOrder {
    /// Comes back in the reports; never used twice by a scheduler process.
    pub run: u64,
    /// What to do.
    pub what: Order,
}

/// What a host is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Find out what an image is made of, and that the registry has all of it; or which version
    /// of files there is.
    Resolve {
        /// Which.
        subject: Subject,
        /// For the registry.
        authorization: Authorization,
    },
    /// Have these.
    Have(Have),
    /// Give up.
    Stop,
}

/// Contents that a host is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Have {
    /// The registry.
    pub upstream: UpstreamName,
    /// The repository.
    pub repository: Repository,
    /// The registry as the wish names it: a host whose list has another one by this name shows
    /// it nothing. None of files.
    pub registry: Option<String>,
    /// What; shared by the orders of all hosts.
    pub contents: Arc<[Content]>,
    /// For the registry, should this host read it.
    pub authorization: Authorization,
    /// Not for everybody, also where nothing to sign in with comes along: that is for a few
    /// hosts, and the others get it from these.
    pub private: bool,
    /// Contents fetched at the same time; 0 is the default.
    pub at_once: u32,
    /// Kept from eviction for so long; 0 is not at all.
    pub pin_seconds: u64,
    /// What is not here by then has failed.
    pub timeout_seconds: u64,
}

/// From a host to the scheduler that ordered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreheatReport {
    /// The order's.
    pub run: u64,
    /// What became of it.
    pub what: Report,
}

/// How an order goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// What there is to have.
    Resolved {
        /// The registry, as this host's list names it first; of files, what the swarm calls
        /// their host.
        upstream: UpstreamName,
        /// All of it: of an image its manifests first, and that which the wish names before all.
        contents: Vec<Content>,
        /// What the registry gave for the order's password: for pulling from this repository
        /// and for minutes, so that it may go to hosts that need not know the password.
        token: Authorization,
    },
    /// It can't be had.
    Unresolved {
        /// The content that is the reason, if it is one.
        digest: Option<Digest>,
        /// Why, for people.
        why: String,
        /// Another host may do better.
        elsewhere: bool,
    },
    /// The store holds these whole.
    Held(Vec<Digest>),
    /// It does not have this, and will not.
    Lacks {
        /// Which; none is all that it has not said to hold.
        digest: Option<Digest>,
        /// Why, for people.
        why: String,
    },
}

/// A URL as it may be shown and kept: a query may hold a signature, which lets others have the
/// file.
pub fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

/// A reason, cut to [`MOST_WHY`] bytes.
pub fn cut(mut why: String) -> String {
    if why.len() > MOST_WHY {
        let end = (0..=MOST_WHY).rev().find(|at| why.is_char_boundary(*at));
        why.truncate(end.unwrap_or(0));
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_short_and_queries_are_not_shown() {
        assert_eq!(cut("ä".repeat(MOST_WHY)).len(), MOST_WHY);
        assert_eq!(cut("short".to_owned()), "short");
        assert_eq!(without_query("http://h/a?sig=b?c"), "http://h/a");
        assert_eq!(without_query("http://h/a"), "http://h/a");
    }
}
