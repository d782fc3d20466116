//! What the host's own file says and a manager sets over it, applied while the host runs.
//!
//! Owner of state: [`Settings`] has the last word of both; limits, slots and the host's place among
//! the seeds follow it. Failure: what makes no sense does not come so far. Addresses, directories,
//! keys, and what a registry is and how it is signed in to, are the file's
//! alone (a manager may only say which of the registries are spoken to), and so is what shapes a swarm (`[proxy.swarm]`):
//! pieces under way were asked for by it.

use std::sync::Arc;

use darter_api::configuration::{Configuration, Prefetch};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    limits::{Limits, Rates},
    transfer::{self, fair::Slots},
    upstream::Upstreams,
};

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Settings(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    said: Mutex<Said>,
    limits: Limits,
    slots: Slots,
    upstreams: Upstreams,
    seed: watch::Sender<bool>,
    prefetch: watch::Sender<Prefetch>,
}

/// What the file says.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// Bytes a second.
    pub rates: Rates,
    /// Slots, among others.
    pub transfer: transfer::Options,
    /// Whether the host is a seed.
    pub seed: bool,
    /// What becomes of contents that are read in small parts.
    pub prefetch: Prefetch,
}

#[derive(Debug)]
struct Said {
    own: Own,
    set: Configuration,
}

impl Settings {
    /// Nothing is set yet: all is as the file has it.
    pub fn new(own: Own, limits: Limits, slots: Slots, upstreams: Upstreams) -> Self {
        let (seed, prefetch) = (own.seed, own.prefetch);
        let set = Configuration::default();
        Self(Arc::new(Inner {
            said: Mutex::new(Said { own, set }),
            limits,
            slots,
            upstreams,
            seed: watch::Sender::new(seed),
            prefetch: watch::Sender::new(prefetch),
        }))
    }

    /// What becomes of contents that are read in small parts.
    pub fn prefetch(&self) -> watch::Receiver<Prefetch> {
        self.0.prefetch.subscribe()
    }

    /// Whether the host is a seed, and every change of it.
    pub fn seed(&self) -> watch::Receiver<bool> {
        self.0.seed.subscribe()
    }

    /// A manager sets this.
    pub fn set(&self, set: Configuration) {
        let mut said = self.0.said.lock();
        said.set = set;
        self.apply(&said);
    }

    /// The file says other rates now.
    pub fn reread(&self, rates: Rates) -> Rates {
        let mut said = self.0.said.lock();
        said.own.rates = rates;
        self.apply(&said);
        said.own.rates.overlaid(&said.set.peer.rates)
    }

    /// Under the lock, so that the last word stays.
    fn apply(&self, said: &Said) {
        let peer = &said.set.peer;
        self.0.limits.set(said.own.rates.overlaid(&peer.rates));
        let count = |set: Option<u32>, own: usize| set.map_or(own, |set| set as usize);
        let own = &said.own.transfer;
        self.0.slots.set(
            count(peer.upload_slots, own.upload_slots),
            count(peer.upload_queue, own.upload_queue),
        );
        self.0.upstreams.restrict(peer.upstreams.as_deref());
        let prefetch = peer.prefetch.unwrap_or(said.own.prefetch);
        self.0.prefetch.send_replace(prefetch);
        let seed = said.set.seed.unwrap_or(said.own.seed);
        self.0.seed.send_if_modified(|known| {
            let is_news = *known != seed;
            if is_news {
                tracing::info!(seed, "the host's role has changed");
            }
            *known = seed;
            is_news
        });
    }

    /// Applies what is set from now on, for as long as it is polled.
    pub async fn follow(self, mut set: watch::Receiver<Configuration>) {
        while set.changed().await.is_ok() {
            let newest = set.borrow_and_update().clone();
            self.set(newest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use darter_api::configuration::{PeerSettings, RateSettings};

    use super::*;
    use crate::upstream::UpstreamOptions;

    #[test]
    fn what_is_set_counts_over_the_file_until_it_is_not() {
        let rate = |rate| Rates {
            upload: NonZeroU64::new(rate),
            ..Rates::default()
        };
        let limits = Limits::default();
        let slots = Slots::new(4, 4);
        let own = Own {
            rates: rate(1 << 20),
            seed: true,
            ..Own::default()
        };
        let list = ["docker.io", "quay.io"].map(UpstreamOptions::parse);
        let upstreams = Upstreams::new(&list, &darter_runtime::Tasks::new()).unwrap();
        let settings = Settings::new(own, limits.clone(), slots, upstreams.clone());
        let (seed, prefetch) = (settings.seed(), settings.prefetch());
        let is_open = |name| upstreams.resolve(name).is_some();
        let holds = || *limits.configured().borrow();
        settings.set(Configuration {
            seed: Some(false),
            peer: PeerSettings {
                rates: RateSettings {
                    upload: Some(1 << 22),
                    ..RateSettings::default()
                },
                prefetch: Some(Prefetch::AfterFirstRange),
                upstreams: Some(vec!["quay.io".to_owned(), "ghcr.io".to_owned()]),
                ..PeerSettings::default()
            },
            ..Configuration::default()
        });
        assert_eq!((holds(), *seed.borrow()), (rate(1 << 22), false));
        assert_eq!(*prefetch.borrow(), Prefetch::AfterFirstRange);
        // None is added.
        let open = ["docker.io", "quay.io", "ghcr.io"].map(is_open);
        assert_eq!(open, [false, true, false]);
        assert!(upstreams.default_upstream().is_none());
        assert!(upstreams.by_address("docker.io", 443).is_none());
        assert_eq!(settings.reread(rate(1 << 21)), rate(1 << 22));
        settings.set(Configuration::default());
        assert_eq!((holds(), *seed.borrow()), (rate(1 << 21), true));
        assert_eq!(*prefetch.borrow(), Prefetch::Off);
        assert!(is_open("docker.io") && upstreams.default_upstream().is_some());
    }
}
