//! Downloads that are no images: versions of files, by rules.
//!
//! A rule names hosts and paths. What a client of the proxy GETs there without credentials, and
//! what its source lets anybody keep, becomes a task of its own: named by where it is and by
//! what tells its versions apart ([`version`]), so that a file that changed is another task and
//! none is ever made of two. The source is asked with that version as a condition, also once
//! more before the last bytes of a reading are believed ([`origin`]). All else goes to the
//! source and back as it came ([`serve`]).
//!
//! A file has no digest to be held against: what peers give of it is checked against the
//! statement of the member who read it from the source, so that this member's word is what a
//! file is worth. Rules are for operators who trust the members of their cluster with it.
//!
//! Owner of state: [`Files`] owns the rules and where the versions are that were asked for
//! lately, which is bounded. A host reads a source only for a version that one of its own
//! clients asked for, or a preheat ([`ahead`]), by a rule of its own: another host's word leads
//! nowhere.

mod ahead;
mod client;
mod origin;
mod rule;
mod serve;
mod version;

use std::{sync::Arc, time::Duration};

use darter_api::{Digest, Repository, TaskId, UpstreamName, preheat::file_repository};
use http::{Uri, uri::Scheme};
use moka::sync::Cache;

pub(crate) use ahead::{Ahead, AheadError};
pub(crate) use origin::Sources;
pub use rule::{RuleError, RuleOptions};
pub(crate) use serve::Host;

use client::Client;
use rule::Rule;
use version::Version;

/// Versions that are remembered.
const PLACES: u64 = 4096;
/// How long one is that nobody asks for.
const PLACE_IDLE: Duration = Duration::from_secs(3600);

/// The rules, and the files that clients asked for. Cheap to clone.
#[derive(Clone)]
pub struct Files(Arc<Inner>);

struct Inner {
    rules: Vec<Arc<Rule>>,
    places: Cache<Digest, Arc<Place>>,
}

/// Where one version of a file is.
pub(crate) struct Place {
    task: TaskId,
    url: Uri,
    version: Version,
    client: Client,
    upstream: UpstreamName,
    repository: Repository,
}

impl Place {
    /// None where its host makes no name.
    fn new(rule: &Rule, url: &Uri, version: Version) -> Option<Self> {
        let mut identity = rule.place_of(url).into_bytes();
        identity.push(b' ');
        identity.extend(version.identity());
        Some(Self {
            task: TaskId::of_file(&identity),
            url: url.clone(),
            version,
            client: rule.client.clone(),
            upstream: url.authority()?.as_str().to_lowercase().parse().ok()?,
            repository: file_repository(),
        })
    }
}

impl Files {
    /// From the configuration.
    ///
    /// # Errors
    /// The first rule that is none.
    pub fn new(options: &[RuleOptions]) -> Result<Self, RuleError> {
        let rules = options.iter().map(|one| Rule::new(one).map(Arc::new));
        Ok(Self(Arc::new(Inner {
            rules: rules.collect::<Result<_, _>>()?,
            places: Cache::builder()
                .max_capacity(PLACES)
                .time_to_idle(PLACE_IDLE)
                .build(),
        })))
    }

    /// The rule for a host, with its port where that is not its scheme's own.
    fn rule(&self, scheme: &Scheme, host: &str) -> Option<Arc<Rule>> {
        let mut rules = self.0.rules.iter();
        let rule = rules.find(|rule| rule.has_host(host))?;
        rule.has_scheme(scheme).then(|| Arc::clone(rule))
    }

    fn remember(&self, place: Place) -> Arc<Place> {
        let place = Arc::new(place);
        let name = *place.task.digest();
        self.0.places.insert(name, Arc::clone(&place));
        place
    }

    fn place(&self, name: &Digest) -> Option<Arc<Place>> {
        self.0.places.get(name)
    }
}
