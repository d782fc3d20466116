//! Registries: a closed list of names, and how each is spoken to.
//!
//! What a client says (`ns`, a path, a CONNECT target) is a key into [`Upstreams`] and
//! never an address. Token realms and redirect targets are checked against what the
//! list allows ([`policy`]). TLS is always verified.
//!
//! Owner of state: [`Upstreams`] owns connections, tokens and the proxy's own credentials
//! ([`own`]); all are bounded.

mod ask_as_self;
mod expect;
mod forward;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod http_client;
mod options;
mod own;
mod policy;
mod probe;
mod pulse;
mod registry;
mod request;
mod stats;
mod token;
mod way;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use darter_api::UpstreamName;
use darter_runtime::Tasks;
use http::Uri;
use tokio::{sync::Semaphore, time::Instant};

pub(crate) use forward::strip_hop_by_hop;
pub(crate) use http_client::tls_of_nobody;
pub use options::{ConfigError, UpstreamOptions};
pub use own::OwnOptions;
pub use policy::is_public;
pub use probe::Probe;
pub(crate) use registry::{MANIFEST_TYPES, body_of};
pub use request::Ask;

use http_client::HttpClient;
use own::Own;
use policy::Policy;
use pulse::Pulse;
use stats::Stats;
use token::Tokens;

/// Questions to one upstream that are under way, readings of contents left out: more at a
/// time only wait for each other on the way.
const MOST_QUESTIONS: usize = 32;

/// One registry.
#[derive(Debug)]
pub struct Upstream {
    name: UpstreamName,
    base: Uri,
    policy: Policy,
    client: HttpClient,
    /// Credentials of the proxy's own.
    own: Option<Own>,
    /// Whether it is shown a certificate of the proxy's own.
    has_certificate: bool,
    tokens: Tokens,
    pulse: Pulse,
    stats: Stats,
    questions: Semaphore,
}

impl Upstream {
    /// Its name, as clients name it.
    pub const fn name(&self) -> &UpstreamName {
        &self.name
    }

    /// Whether it is busy answering: what waits may still come.
    pub(crate) fn is_busy(&self) -> bool {
        self.pulse.is_busy(Instant::now())
    }

    /// Whether it is asked with credentials or a certificate of the proxy's own where a caller
    /// shows none: what it gives then is for callers that the proxy knows itself.
    pub const fn has_own_credentials(&self) -> bool {
        self.own.is_some() || self.has_certificate
    }

    /// Where it is.
    pub const fn base(&self) -> &Uri {
        &self.base
    }

    pub(crate) fn is_at(&self, host: &str, port: u16) -> bool {
        let plain = self.base.scheme_str() == Some("http");
        let own = self.base.port_u16().unwrap_or(if plain { 80 } else { 443 });
        own == port
            && self
                .base
                .host()
                .is_some_and(|own| own.eq_ignore_ascii_case(host))
    }
}

/// All registries that this proxy speaks to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Upstreams(Arc<List>);

#[derive(Debug)]
struct List {
    by_name: HashMap<String, Arc<Upstream>>,
    default: Option<Arc<Upstream>>,
    /// Only these, by their own names, where a manager says so.
    open: ArcSwapOption<HashSet<String>>,
}

impl Upstreams {
    /// From the configuration; the first one is the default. Credentials are read in `tasks`.
    ///
    /// # Errors
    /// All mistakes in it.
    pub fn new(options: &[UpstreamOptions], tasks: &Tasks) -> Result<Self, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut by_name: HashMap<String, Arc<Upstream>> = HashMap::new();
        let mut default = None;
        let bases = options.iter().map(|one| one.base().parse().ok());
        let listed: Vec<Uri> = bases.flatten().collect();
        for one in options {
            match one.build(&listed, tasks) {
                Ok(upstream) => {
                    let upstream = Arc::new(upstream);
                    default.get_or_insert_with(|| Arc::clone(&upstream));
                    for name in one.names() {
                        let same = by_name.insert(name.clone(), Arc::clone(&upstream));
                        if let Some(same) = same.filter(|same| !Arc::ptr_eq(same, &upstream)) {
                            let what = format!("upstream `{}` is named `{name}`, too", same.name());
                            let name = one.name.clone();
                            errors.push(ConfigError { name, what });
                        }
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(Self(Arc::new(List {
                by_name,
                default,
                open: ArcSwapOption::empty(),
            })))
        } else {
            Err(errors)
        }
    }

    /// Only these are spoken to from now on, by the names that they have in the configuration;
    /// all of it where nothing is said. What is being read of others ends short.
    pub(crate) fn restrict(&self, names: Option<&[String]>) {
        let names = names.map(|names| Arc::new(names.iter().cloned().collect()));
        self.0.open.store(names);
    }

    fn is_open(&self, upstream: &Upstream) -> bool {
        let open = self.0.open.load();
        open.as_ref()
            .is_none_or(|names| names.contains(upstream.name.as_str()))
    }

    /// The registry of this name or alias.
    pub fn resolve(&self, name: &str) -> Option<&Arc<Upstream>> {
        let upstream = self.0.by_name.get(name)?;
        self.is_open(upstream).then_some(upstream)
    }

    /// The registry that is really at this host (an IPv6 address in brackets) and port.
    pub fn by_address(&self, host: &str, port: u16) -> Option<&Arc<Upstream>> {
        let mut all = self.0.by_name.values();
        all.find(|upstream| upstream.is_at(host, port) && self.is_open(upstream))
    }

    /// The registry for requests that name none.
    pub fn default_upstream(&self) -> Option<&Arc<Upstream>> {
        let default = self.0.default.as_ref();
        default.filter(|upstream| self.is_open(upstream))
    }

    /// The registry whose name these path components begin with, and how many they are.
    pub fn by_path<'a>(&self, path: &'a str) -> Option<(&Arc<Upstream>, &'a str)> {
        let (first, rest) = path.split_once('/')?;
        self.resolve(first).map(|upstream| (upstream, rest))
    }
}

#[cfg(test)]
mod tests;
